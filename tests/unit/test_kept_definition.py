"""The source keeps the VM's definition until the destination's is on the disk there. Real: files and the helper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blockferry.base.errors import HostCallFailed
from blockferry.host_move import kept_definition
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_plan import HostMovePlan
from blockferry.hosts.helper.holding import Holding
from blockferry.hosts.helper.program import holder_calls
from blockferry.hosts.host import Host
from blockferry.hosts.runner import LocalRunner

UUID = "u1"


class Noting(LocalRunner):
    """This machine, and what was asked of it."""

    def __init__(self, fails_at: str = "") -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fails_at = fails_at

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        self.asked.append(f"{do} {words.get('path', '')}".strip())
        if do == "files.flush" and words["path"] == self.fails_at:
            raise HostCallFailed("fsync", 5, "Input/output error")
        return super().call(do, timeout_s=timeout_s, repeat=repeat, **words)


class Settling:
    """A move that is to be settled; the source keeps the definition."""

    def __init__(self, folder: Path) -> None:
        move = f"kept-test-{os.getpid()}"
        self.runner, self.config = Noting(), folder / "qemu"
        self.config.mkdir()
        plan = HostMovePlan(
            move, "web01", UUID, "qemu:///system", "h1", "kvm1", "qemu:///system", "h2", "kvm2",
            "qemu:///system", "127.0.0.1", (),
        )  # fmt: skip
        self.holding = Holding(move, 1, lambda: None, lambda _: None)
        host = cast(Host, SimpleNamespace(runner=self.runner, uri="qemu:///system"))
        nothing: Any = lambda *_: None  # noqa: E731
        self.context = HostMoveContext(
            plan=plan, source=host, dest=host, save=nothing, log_event=nothing, check=nothing,
            should_stop=lambda: False, bandwidth=lambda: 0, claims=nothing, dest_claims=nothing, quarantine=nothing,
            holding=self.holding,
        )  # fmt: skip
        self.kept = Path(holder_calls.kept_path(move, UUID))

    def keep(self) -> None:
        holder_calls.keep(self.context.plan.move, UUID, "<domain/>")

    def define(self, uuid: str = UUID) -> Path:
        path = self.config / "web01.xml"
        path.write_text(f"<domain><uuid>{uuid}</uuid></domain>")
        return path


@pytest.fixture
def settling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settling]:
    found = Settling(tmp_path)
    monkeypatch.setattr(kept_definition, "CONFIG", str(found.config))
    monkeypatch.setattr(HostMoveContext, "dest_vm", SimpleNamespace(drop=lambda: None))  # it is the same machine here
    found.keep()
    yield found
    found.kept.unlink(missing_ok=True)
    found.holding.forget(found.runner)
    found.runner.helper.close()


def test_it_goes_once_the_destination_s_is_on_the_disk(settling: Settling) -> None:
    path = settling.define()
    assert kept_definition.give_up(settling.context) == ""
    assert not settling.kept.exists()
    flushed, asked = [f"files.flush {path}", f"files.flush {settling.config}"], settling.runner.asked
    assert [one for one in asked if one in flushed or one == "holder.drop"] == [*flushed, "holder.drop"]


@pytest.mark.parametrize("there", ["nothing", "another VM's", "unreadable"])
def test_it_stays_where_that_cannot_be_proven(settling: Settling, there: str) -> None:
    if there == "another VM's":
        settling.define("u2")
    elif there == "unreadable":
        (settling.config / "web01.xml").mkdir()
    said = kept_definition.give_up(settling.context)
    assert str(settling.kept) in said
    assert settling.kept.read_text() == "<domain/>"
    settling.kept.unlink()  # of a move that a blockferry began which kept none
    assert kept_definition.give_up(settling.context) == ""


@pytest.mark.parametrize("what", ["file", "directory"])
def test_it_stays_when_the_destination_s_cannot_be_flushed(settling: Settling, what: str) -> None:
    path = settling.define()
    settling.runner.fails_at = str(path if what == "file" else settling.config)
    with pytest.raises(HostCallFailed):
        kept_definition.give_up(settling.context)
    assert settling.kept.exists()
