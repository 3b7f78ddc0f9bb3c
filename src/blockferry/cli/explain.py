"""`explain`: what a code means."""

from __future__ import annotations

import inspect
from typing import Any

import click
from click.shell_completion import CompletionItem

from blockferry.base import errors
from blockferry.cli import types
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.cli.output import Cell, Column
from blockferry.host_move.precheck.catalogue import EVERY_FINDING as CATALOGUE


class CodeName(types.ParamType):
    name = "code"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return types.matching(codes(), _normal(incomplete))


def codes() -> tuple[str, ...]:
    return tuple(sorted({*CATALOGUE, *(kind.code for kind in errors.all_errors())}))


def title(kind: type[errors.BlockferryError]) -> str:
    """The first sentence of an error's description, without its full stop."""
    return paragraphs(kind)[0].split(". ")[0].rstrip(".")


def paragraphs(kind: type[errors.BlockferryError]) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(kind.__doc__ or "").split("\n\n")]


@click.command(cls=Command, examples=("blockferry explain", "blockferry explain DESTINATION_FULL"))
@click.argument("code", required=False, type=CodeName())
@pass_app
def explain(app: App, code: str | None) -> None:
    """Say what a code means, and what to do.

    CODE is that of an error or of a finding of the pre-check; without it all are listed.
    """
    if code is None:
        _list(app)
        return
    asked = _normal(code)
    if asked not in codes():
        raise errors.CodeNotFound(asked, errors.nearest(asked, codes()))
    kinds = [kind for kind in errors.all_errors() if kind.code == asked]
    if app.json:
        app.out.document("codes", codes=[entry for entry in _entries() if entry["code"] == asked])
        return
    finding_kind = CATALOGUE.get(asked)
    if finding_kind is not None:
        app.out.line(f"{finding_kind.code} ({finding_kind.severity.value} of the pre-check): {finding_kind.title}.")
        app.out.line(finding_kind.why, indent=2)
        if finding_kind.remedy:
            app.out.line(finding_kind.remedy, indent=2)
    for kind in kinds:
        first, *rest = paragraphs(kind)
        app.out.line(f"{kind.code} (error, exit status {kind.exit_status}): {first}")
        for paragraph in rest:
            app.out.line(paragraph, indent=2)


def _list(app: App) -> None:
    if app.json:
        app.out.document("codes", codes=_entries())
        return
    rows: list[tuple[Cell, ...]] = [(entry["code"], entry["severity"], entry["title"]) for entry in _entries()]
    app.out.table((Column("CODE"), Column("KIND"), Column("MEANING", fold=True)), rows)


def _entries() -> list[dict[str, Any]]:
    """All codes; `exit_status` is that of the command which meets the error."""
    entries: list[dict[str, Any]] = [
        {
            "code": kind.code,
            "source": "pre-check",
            "severity": kind.severity.value,
            "title": kind.title,
            "why": kind.why,
            "remedy": kind.remedy,
            "exit_status": errors.Refused.exit_status if kind.severity.value == "error" else None,
        }
        for kind in CATALOGUE.values()
    ]
    entries.extend(
        {
            "code": kind.code,
            "source": "command",
            "severity": f"exit status {kind.exit_status}",
            "title": title(kind),
            "why": "\n\n".join(paragraphs(kind)),
            "remedy": "",
            "exit_status": kind.exit_status,
        }
        for kind in errors.all_errors()
    )
    return sorted(entries, key=lambda entry: (entry["source"], entry["code"]))


def _normal(code: str) -> str:
    return code.strip().upper().replace("-", "_")
