"""The program: its commands, and the one place where errors become sentences and exit statuses."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from blockferry import __version__
from blockferry.base import lazy
from blockferry.base.errors import BlockferryError, Interrupted, UsageError
from blockferry.cli.app import App
from blockferry.cli.command import PROGRAM, VARIABLE, global_options, write_examples

if TYPE_CHECKING:
    import traceback
else:
    traceback = lazy.module("traceback")


class CommandEntry(NamedTuple):
    """Where a command is defined, and its line in the program's help: known without loading it."""

    module: str  # below blockferry.cli; the command is its attribute of the command's name
    short_help: str


SECTIONS: dict[str, dict[str, CommandEntry]] = {
    "Look": {
        "hosts": CommandEntry("fleet_listing", "List the configured hosts: who is up, load, memory, datastores, VMs."),
        "vms": CommandEntry("listing", "List VMs with state, disks, where they live, sizes."),
        "datastores": CommandEntry("listing", "List datastores (storage pools) with their space."),
        "check": CommandEntry("check", "Say whether VM can be moved, and how."),
        "doctor": CommandEntry("doctor", "Look a host over: is it fit for moves."),
    },
    "Move": {
        "move": CommandEntry("move", "Move VM, running or off, to another datastore, or to another host."),
        "watch": CommandEntry("control", "Follow a move until its end."),
        "speed": CommandEntry("control", "Change the limit of a running copy."),
        "cancel": CommandEntry("control", "Cancel a move; VM stays on its old disks."),
        "resume": CommandEntry("move", "Resume interrupted moves."),
    },
    "Track": {
        "cbt": CommandEntry(
            "tracking", "Changed-block tracking: points, since which `changes` can tell what a VM has written."
        ),
        "changes": CommandEntry("tracking", "Tell which areas of VM's disks have changed since a point."),
    },
    "Remember": {
        "moves": CommandEntry("moves", "List the moves that are under way."),
        "show": CommandEntry("moves", "Tell the whole story of a move."),
        "history": CommandEntry("moves", "List the moves that have ended, the latest first."),
        "orphans": CommandEntry("orphans", "List (or remove) what earlier moves left."),
        "quarantine": CommandEntry(
            "quarantine", "Old disks that are kept for a time: list, go back to them, let them go."
        ),
    },
    "Help": {
        "explain": CommandEntry("explain", "Say what a code means, and what to do."),
        "completion": CommandEntry("completion", "Print the completion script for a shell."),
    },
}
HIDDEN = {"run-move": CommandEntry("move", "")}
SHOWN = {name: entry for entries in SECTIONS.values() for name, entry in entries.items()}
BUG_STATUS = 1
COLLECT_EVERY = 20_000
"""New objects until Python looks for garbage in circles: 14 times while a move is loaded. Its own 700: 183 times."""
EXAMPLES = ("blockferry vms", "blockferry check web01 --to ssd", "blockferry move web01 --to ssd")


class CommandLine(click.Group):
    """The command group with commands in sections, and errors told once, for all commands.

    A command's module is loaded when the command is used: loading all of them takes longer than `--help` may.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SHOWN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.load(cmd_name)

    def load(self, name: str) -> click.Command | None:
        """Return the command of this name; None: there is none."""
        if name not in self.commands:
            entry = SHOWN.get(name) or HIDDEN.get(name)
            if entry is None:
                return None
            module = importlib.import_module(f"blockferry.cli.{entry.module}")
            self.add_command(getattr(module, name.replace("-", "_")), name)
        return self.commands[name]

    def load_all(self) -> dict[str, click.Command]:
        """Return every command by its name, hidden ones too: for documents and tests."""
        return {name: command for name in (*SHOWN, *HIDDEN) if (command := self.load(name)) is not None}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, entries in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, entry.short_help) for name, entry in entries.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, EXAMPLES)

    def main(  # type: ignore[override]  # ours never returns, and has no mode in which it does
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the program and exit with its status."""
        typed = list(sys.argv[1:] if args is None else args)
        app = extra.setdefault("obj", App())
        extra.pop("standalone_mode", None)
        try:
            if VARIABLE in os.environ:  # the shell asks what may come next
                importlib.import_module("blockferry.cli.completion")  # click is told of our script for bash
            status = super().main(typed, PROGRAM, complete_var=VARIABLE, standalone_mode=False, **extra)
            status = status if isinstance(status, int) else 0
        except Exception as error:  # noqa: BLE001 - the last place there is
            status = _tell(app, error, as_json=app.json or "--json" in typed)
        finally:
            with contextlib.suppress(OSError):
                app.close()
        sys.exit(status)


def _tell(app: App, error: Exception, *, as_json: bool) -> int:
    """Print the error; the exit status. A terminal or pipe that is gone is no reason to fail once more."""
    try:
        match error:
            case BlockferryError():
                _print(app, error, as_json=as_json)
                return error.exit_status
            case click.exceptions.Abort():
                _print(app, Interrupted("`blockferry moves` shows what is under way."), as_json=as_json)
                return Interrupted.exit_status
            case click.ClickException():
                if as_json:
                    _print(app, UsageError(error.format_message()), as_json=True)
                else:
                    error.show()
                return UsageError.exit_status
            case OSError(errno=errno.EPIPE):  # `blockferry vms | head`
                _discard_output()
                return 0
            case _:
                _print_bug(app, error, as_json=as_json)
                return BUG_STATUS
    except OSError:
        _discard_output()
        return error.exit_status if isinstance(error, BlockferryError) else BUG_STATUS


def _print(app: App, error: BlockferryError, *, as_json: bool) -> None:
    if as_json:
        app.out.document(
            "error",
            code=error.code,
            message=error.sentence,
            hint=error.hint,
            facts=error.facts,
            exit_status=error.exit_status,
        )
    else:
        app.err.line(f"blockferry: {error.code}: {error.sentence}")
        if error.hint:
            app.err.line(error.hint, indent=2)


def _print_bug(app: App, error: Exception, *, as_json: bool) -> None:
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    hint = "This is a bug in blockferry; `blockferry -v` shows where. Please report it. Moves under way are safe."
    if app.verbose:
        traceback.print_exception(error)
    if as_json:
        app.out.document("error", code="BUG", message=what, hint=hint, facts={}, exit_status=BUG_STATUS)
    else:
        app.err.line(f"blockferry: BUG: {what}")
        app.err.line(hint, indent=2)


def _discard_output() -> None:
    """Let what Python still has to flush at its exit go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


@click.group(
    cls=CommandLine,
    params=global_options(root=True),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=False,
)
@click.version_option(__version__, prog_name="blockferry", message="%(prog)s %(version)s")
@click.pass_context
def root(ctx: click.Context) -> None:
    """Move running VMs on KVM/libvirt: their storage to another datastore, or themselves to another host.

    The global options are taken before and after the command. Exit statuses: docs/exit-statuses.md.
    """
    ctx.ensure_object(App)


def run() -> NoReturn:
    """The entry point of the command `blockferry`."""
    gc.set_threshold(COLLECT_EVERY, 20, 20)
    for stream in (sys.stdout, sys.stderr):
        # A file name that is no text in this locale is shown with escapes instead of breaking the command.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        root.main()
    except SystemExit as end:
        # Without Python's own way out: it takes a tenth of a second to throw away what the system throws away.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else BUG_STATUS)
