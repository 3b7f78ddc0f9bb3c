"""The kind of command that all of ours are: the global options are taken before and after its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from blockferry.base import lazy
from blockferry.base.errors import BlockferryError
from blockferry.cli.app import App, load_config

if TYPE_CHECKING:
    from click import shell_completion
else:  # `--help` does not wait for these
    shell_completion = lazy.module("click.shell_completion")

PROGRAM = "blockferry"
VARIABLE = "_BLOCKFERRY_COMPLETE"
"""The environment variable by which a shell's completion script asks."""

COLORS = ("auto", "always", "never")


def _keep(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that stores an option in the App; what was not given leaves what was said before."""

    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(App), field, value)

    return callback


def _host_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[shell_completion.CompletionItem]:
    """The configured hosts. A configuration that cannot be read is told by the command itself."""
    try:
        names = [host.name for host in load_config().hosts]
    except BlockferryError:
        return []
    return [shell_completion.CompletionItem(name) for name in names if name.startswith(incomplete)]


def _name_host(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback of --uri and --host, of which one counts: see App.name_host."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value:
            typed = ctx.get_parameter_source(param.name or field) is ParameterSource.COMMANDLINE
            ctx.ensure_object(App).name_host(**{field: value}, typed=typed)

    return callback


def global_options(*, root: bool) -> list[click.Parameter]:
    """The options that every command takes. In a command's help only --json is shown: the rest is in the root's.

    Only the root reads the environment: a variable must not override what was typed before the command.
    """
    return [
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_keep("json"),
            help="Print JSON (docs/commands.md tells its form).",
        ),
        click.Option(
            ["--uri"],
            metavar="URI",
            expose_value=False,
            callback=_name_host("uri"),
            hidden=not root,
            envvar="BLOCKFERRY_URI" if root else None,
            help="The libvirt to talk to, as in virsh -c; default: libvirt's own (qemu:///system for root).",
        ),
        click.Option(
            ["--host"],
            metavar="NAME",
            expose_value=False,
            callback=_name_host("host"),
            hidden=not root,
            envvar="BLOCKFERRY_HOST" if root else None,
            shell_complete=_host_names,
            help="The same by name: a host of blockferry.toml, or else one that ssh reaches (qemu+ssh://NAME/system).",
        ),
        click.Option(
            ["--journal"],
            metavar="URL",
            expose_value=False,
            callback=_keep("journal"),
            hidden=not root,
            envvar="BLOCKFERRY_JOURNAL" if root else None,
            help="The database that remembers moves, like sqlite:////var/lib/blockferry/journal.db.",
        ),
        click.Option(
            ["--color"],
            type=click.Choice(COLORS),
            expose_value=False,
            callback=_keep("color"),
            hidden=not root,
            help="Colours and tables; auto: on a terminal, unless NO_COLOR is set.",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_keep("verbose"),
            hidden=not root,
            help="Say more: the log on standard error (-vv: with every command run), tracebacks of bugs.",
        ),
    ]


class Command(click.Command):
    """A command with examples in its help."""

    def __init__(
        self,
        name: str | None,
        *,
        params: list[click.Parameter] | None = None,
        examples: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(name, params=[*(params or []), *global_options(root=False)], **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)


class Commands(click.Group):
    """A command that has commands of its own, which take the global options as well."""

    def __init__(
        self,
        name: str | None = None,
        *,
        params: list[click.Parameter] | None = None,
        examples: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(name, params=[*(params or []), *global_options(root=False)], **kwargs)
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, examples: tuple[str, ...]) -> None:
    if examples:
        with formatter.section("Examples" if len(examples) > 1 else "Example"):
            for example in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
