"""The generated parts of docs/: `python -m blockferry.cli.docs` writes them; a test tells when they are stale."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from blockferry.base import errors
from blockferry.cli import explain, main
from blockferry.cli.command import Command, Commands
from blockferry.client import CATALOGUE, Severity
from blockferry.hosts.defects import DEFECTS, EVER, Defect, dotted

NOTICE = "<!-- Written by `python -m blockferry.cli.docs`; do not edit. -->"

_ROOT_STATUSES = (
    (0, "Done. For `move` and `watch`: the VM was moved. For `check`: it can be moved. For `--detach`: it was begun."),
    (1, "A bug in blockferry, or something that it did not expect; `-v` shows where. Moves under way are safe."),
)

_OUTPUT = """\
## Output

Results go to standard output; progress, notes, warnings and errors go to standard error.

On a terminal there are tables, colours (unless `NO_COLOR` is set) and, while a move runs, a live view with a row for
each disk. Otherwise there are none of these: one record per line, the same columns whatever the width, set apart by
two spaces or more, `-` where there is nothing; a running move prints a line at each change of phase and every 10 s.
For programs there is `--json`.

## JSON

`--json` prints one document on one line, and nothing else, on standard output. Every document is an object with
`"version": 1` and a `"kind"`. Sizes are bytes, rates bytes per second, durations seconds, times seconds since the
epoch; `null` is what is not known. Fields may be added in any release; when one changes its meaning or goes away,
`version` grows.

| command | kind | content |
|---|---|---|
| `vms` | `vms` | `uri`, `vms`: VMs with their disks |
| `datastores` | `datastores` | `uri`, `datastores` |
| `check` | `check` | `refused`, `changed`, `check`: `findings`, `plan` (or null), `estimates`, `space`, `seconds` |
| `move --all-on` | `batch` | `on`, `refused`, `silent`, `vms`: `vm`, `host`, `check`, `refused`, `reasons`, `move` |
| the same, at its end | `batch-end` | `on`, `ends`: `vm`, `host`, `state`, `move`, `text`, `code`, `exit_status` |
| `doctor` | `doctor` | `uri`, `healthy`, `checks`: `area`, `level` (`ok`, `warning`, `error`), `text`, `remedy` |
| `hosts prepare` | `preparation` | `healthy`, `preparation`: `host`, `uri`, `checks` as of `doctor`, `commands` |
| `moves`, `history` | `moves`, `history` | `moves` |
| `show` | `move` | `move`, `events` |
| `cancel`, `speed`, `resume` of several | `cancel`, `speed`, `resumed` | `move` or `moves` |
| `orphans` | `orphans` | `orphans`; `unsearched`: a sentence for each datastore or host that could not be searched |
| `orphans --remove` | `removed` | `removed`: `path`, `host`, whether it is `gone`, and what was done (`text`) |
| `quarantine list` | `quarantine` | `kept`: `kept` (the journal's row), `found`, `expired`, `altered`, `doubt` |
| `quarantine purge` | `purged` | `purged`: `path`, `gone`, `text` |
| `quarantine restore --dry-run` | `restorable` | `restorable`: as `restored`; `text`: what would be lost |
| `quarantine restore` | `restored` | `restored`: `swap`, `since`, `losses`; `text`: what was done |
| `cbt status` | `tracking` | `tracking`: `points` (`good`, and of each disk why not), `untrackable` |
| `cbt enable`, `cbt point` | `point` | `id`, `created`, `disks`, `made` (false: there was a good one) |
| `cbt disable`, `cbt drop` | `dropped` | `dropped`: ids |
| `changes` | `changes` | `changes`: `since`, `until`, `disks` with `areas` ([more](changed-blocks-tracking.md)) |
| `explain` | `codes` | `codes` |

A move is an object with `kind` (`storage-move`, `host-move`), `id`, `state` (`running`, `interrupted`, `parked`,
`waiting`, `moved`, `cancelled`, `failed`), `plan`, `record`, `progress`, `report`, `created`, `finished`, `owner`,
`owner_alive`, `parked` and `deaths`.

`move`, `watch`, `resume` and `cancel` of a running move print JSON lines while it runs, a document on each line:

| kind | content |
|---|---|
| `started` | `move`; the first line (and with `--detach` the only one) |
| `event` | `event`: `at`, `kind` (`phase`, `action`, `warning`, `error`, `user`), `text` |
| `progress` | `id`, `vm`, `state`, `progress`: `phase`, `total`, `done`, `rate`, `seconds_left`, `disks` |
| `report` | `changed`: true; `move`, with its `report`; the last line when the VM was moved |
| `unchanged` | `vm`, `changed`: false; the only line when all that was asked for is there already (exit status 0) |
| `cancel` | `move`; the last line of `cancel` when it was cancelled |
| `error` | the last line otherwise |

The progress of a move to another host has `stats` instead of `disks`.

An error is a document on standard output, too, so that a program has one stream to read: `code`, `message`, `hint`,
`facts`, `exit_status`. The exit status of the command is the same as without `--json`.

## Signals

While `move` (or `resume`, or `cancel`) runs a move itself:

| what happens | what the command does |
|---|---|
| Ctrl-C on a terminal | asks: cancel, detach, or go on; a second Ctrl-C detaches |
| SIGINT without a terminal | cancels the move and waits until all is as before; a second one detaches |
| SIGTERM, SIGHUP, the terminal is closed | leaves the move to a background process, exit status 130 |
| SIGKILL, power failure | the next `blockferry` command takes the move up again in the background |

`watch` only looks: ending it does not touch the move.

## Completion

`blockferry completion bash|zsh|fish` prints a script; commands, options, VMs, datastores, disks and moves are
completed. Where libvirt does not answer within a moment there are no names, and no error.
"""


def render() -> dict[str, str]:
    """File name below docs/ -> content."""
    return {
        "commands.md": _commands(),
        "defects.md": _defects(),
        "errors.md": _errors(),
        "exit-statuses.md": _statuses(),
    }


def _commands() -> str:
    root = main.root
    lines = ["# Commands", "", NOTICE, "", f"{_first(root)} `blockferry COMMAND --help` says the same in short.", ""]
    lines += ["## Global options", "", "They are taken before and after the command.", ""]
    lines += [*_options(root), ""]
    lines += [
        "| variable | stands for |",
        "|---|---|",
        "| `BLOCKFERRY_URI` | `--uri` |",
        "| `BLOCKFERRY_HOST` | `--host` |",
    ]
    lines += ["| `BLOCKFERRY_JOURNAL` | `--journal` |", "| `NO_COLOR` | `--color never` |", ""]
    known = root.load_all()
    for section, entries in main.SECTIONS.items():
        lines += [f"## {section}", ""]
        for command in (known[name] for name in entries):
            lines += _command(command, command.name or "")
            for name, one in command.commands.items() if isinstance(command, click.Group) else ():
                lines += _command(one, f"{command.name} {name}")
    return "\n".join(lines) + "\n" + _OUTPUT


def _command(command: click.Command, name: str) -> list[str]:
    ctx = click.Context(command, info_name=f"blockferry {name}")
    lines = [f"### {name}", "", f"    {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}", ""]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [" ".join(paragraph.split()), ""]
    options = _options(command)
    if options:
        lines += [*options, ""]
    if isinstance(command, Command | Commands) and command.examples:
        lines += ["```", *command.examples, "```", ""]
    return lines


def _options(command: click.Command) -> list[str]:
    ctx = click.Context(command)
    records = [
        param.get_help_record(ctx)
        for param in command.params
        if isinstance(param, click.Option) and (command is main.root or "--json" not in param.opts)
    ]
    rows = [
        f"| `{name.replace('|', chr(92) + '|')}` | {' '.join(text.split())} |"
        for name, text in (record for record in records if record is not None)
    ]
    return ["| option | |", "|---|---|", *rows] if rows else []


def _first(command: click.Command) -> str:
    return (command.help or "").split("\n\n")[0].replace("\n", " ")


def _errors() -> str:
    lines = ["# Errors and findings", "", NOTICE, ""]
    lines += [
        "Every error and every finding of the pre-check has a code; `blockferry explain CODE` says this, too.",
        "",
    ]
    lines += ["## Errors", "", "What ends a command. The exit status says the same to a program.", ""]
    for kind in errors.all_errors():
        lines += [f"### {kind.code}", "", f"Exit status {kind.exit_status}.", ""]
        for paragraph in explain.paragraphs(kind):
            lines += [paragraph, ""]
    headings = {
        Severity.ERROR: ("Findings that refuse a move", "Nothing was touched; exit status 4."),
        Severity.WARNING: ("Warnings", "They are shown, and the move goes on."),
        Severity.INFO: ("Notes", "Good to know."),
    }
    for severity, (heading, text) in headings.items():
        lines += [f"## {heading}", "", text, ""]
        for finding in CATALOGUE.values():
            if finding.severity is severity:
                lines += [f"### {finding.code}", "", f"**{_escaped(finding.title)}.** {_escaped(finding.why)}", ""]
                if finding.remedy:
                    lines += [f"What to do: {_escaped(finding.remedy)}", ""]
    return "\n".join(lines).rstrip() + "\n"


_DEFECTS = """\
Defects of QEMU and libvirt that can lose data, kill a VM or make it hang in what blockferry does, and what it does
about each. `blockferry doctor` shows those of a host, `blockferry check` those that a move can meet (finding
[KNOWN_DEFECT](errors.md#known_defect)). The table is src/blockferry/hosts/defects.py.

The versions are those of releases. A distribution's package may carry a fix that its version does not show; where that
was looked up it is said below, but what is done goes by the version all the same. Where a fix may have come to a
stable branch and nobody has looked it up, the branch counts as affected.

A running VM has the QEMU that it was started with: `check`, `move` and `doctor` ask its own process, and go by that
(finding [OTHER_QEMU](errors.md#other_qemu)); where it cannot be told, by the installed one, and say so. Copies are
started suspended if either of the two needs it. After an update, power-cycle the VM.
"""


def _defects() -> str:
    lines = ["# Known defects of QEMU and libvirt", "", NOTICE, "", _DEFECTS]
    lines += ["| defect | affected | at its worst it | what we do |", "|---|---|---|---|"]
    lines += [
        f"| [{defect.id}](#{defect.id.lower()}) | {affected(defect)} | {defect.harm.value} | {defect.remedy.value} |"
        for defect in DEFECTS
    ]
    for defect in DEFECTS:
        lines += [
            "",
            f"## {defect.id}",
            "",
            f"**{defect.component.value}: {_escaped(defect.title)}.** {_escaped(defect.what)}",
            "",
        ]
        lines += [
            "| | |",
            "|---|---|",
            f"| affected | {affected(defect)} |",
            f"| touches | {_escaped(defect.touches)} |",
        ]
        lines += [f"| what we do | {_escaped(defect.instead)} |"]
        lines += [f"| distributions | {_escaped(defect.distributions)} |"] if defect.distributions else []
        links = ", ".join(f"[{at}]({url})" for at, url in enumerate(defect.references, 1))
        lines += [f"| known from | {_escaped(defect.known_from)} References: {links} |"]
    return "\n".join(lines) + "\n"


def affected(defect: Defect) -> str:
    """The affected versions in words."""
    words = []
    for span in defect.spans:
        since = "" if span.since == EVER else f"from {dotted(span.since)} "
        until = f"before {dotted(span.fixed)}" if span.fixed else "on, no fixed release known" if since else "all"
        words.append(since + until)
    return f"{defect.component.value} {'; '.join(words)}"


def _statuses() -> str:
    lines = ["# Exit statuses", "", NOTICE, "", "They are a promise: a status keeps its meaning.", ""]
    lines += ["| status | meaning | codes |", "|---|---|---|"]
    lines += [f"| {status} | {text} | |" for status, text in _ROOT_STATUSES]
    kinds: dict[int, list[type[errors.BlockferryError]]] = {}
    for kind in errors.all_errors():
        kinds.setdefault(kind.exit_status, []).append(kind)
    for status, members in sorted(kinds.items()):
        meaning = _MEANINGS.get(status, "")
        codes = ", ".join(f"[{kind.code}](errors.md#{kind.code.lower()})" for kind in members)
        lines.append(f"| {status} | {meaning} | {codes} |")
    lines += ["", _OF_MANY]
    return "\n".join(lines) + "\n"


_OF_MANY = """\
`move --all-on` moves many VMs and ends with the worst status of them, in the order 1, 5, 11, 8, 7, 9, 3, 6, 4,
130, 2, 0. "Nothing was touched" is then said of the VM with that status; others may have been moved, and
`--json` tells of each. Before anything is begun: 4 when a VM is refused, 7 when a configured host did not
answer; with `--skip-refused` the others move, and the status at the end is no better."""

_MEANINGS = {
    2: "The command line or the configuration makes no sense. Nothing was touched.",
    3: "Something that was named does not exist. Nothing was touched.",
    4: "The pre-check refused the move. Nothing was touched.",
    5: "The move failed; the VM is where the sentence says.",
    6: "The move was cancelled as asked.",
    7: "libvirt, a host or a program on it did not do what was needed.",
    8: "The journal cannot be used, or another process has taken over.",
    9: "Somebody else is at it, or the move stands still until something is put right.",
    12: "What has changed since that point cannot be told any more: everything may have.",
    11: "The VM was moved, but its copy was not verified as asked, or differs. The old disks are kept.",
    10: "`doctor` or `hosts prepare` found errors. Nothing was touched.",
    130: "The command was interrupted; the move goes on in the background.",
}


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;")


def write(directory: Path) -> None:
    for name, text in render().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
