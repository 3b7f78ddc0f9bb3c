"""Values on the command line: sizes, durations, names; each knows how to complete itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from blockferry.base import units
from blockferry.cli.app import App

COMPLETION_TIMEOUT_S = 1.5

if TYPE_CHECKING:
    from blockferry.client import Client  # for its type only: a Tab key does not wait for it

    ParamType = click.ParamType[Any]  # generic since click 8.5 only
else:
    ParamType = click.ParamType


def ask_quietly(ctx: click.Context, question: Callable[[Client], Iterable[str]]) -> tuple[str, ...]:
    """What the client answers within a moment, else nothing: a Tab key never waits and never shows an error."""
    app = ctx.ensure_object(App)
    answers: list[str] = []

    def work() -> None:
        # Whatever goes wrong here (no libvirt, no permission, no journal) is told by the command itself later.
        with contextlib.suppress(Exception):
            answers.extend(question(app.client(tend=False)))

    asking = threading.Thread(target=work, daemon=True)
    asking.start()
    asking.join(COMPLETION_TIMEOUT_S)
    return tuple(answers) if not asking.is_alive() else ()


def matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class VmName(ParamType):
    name = "vm"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return matching(ask_quietly(ctx, lambda client: client.vm_names()), incomplete)


class DatastoreName(ParamType):
    name = "datastore"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return matching(ask_quietly(ctx, lambda client: client.datastore_names()), incomplete)


class HostName(ParamType):
    """A configured host, a name for ssh, or a libvirt URI."""

    name = "host|uri"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return matching(ask_quietly(ctx, lambda client: [host.name for host in client.config.hosts]), incomplete)


class MoveName(ParamType):
    """A move by its VM, its id, or the beginning of either. `ended`: completion offers moves that have ended, too."""

    name = "vm|id"

    def __init__(self, *, ended: bool = False) -> None:
        self.ended = ended

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        def question(client: Client) -> Iterable[str]:
            moves = client.moves()
            offered = (*moves, *client.history(20)) if self.ended else moves
            return dict.fromkeys(word for move in offered for word in (move.plan.vm, move.id))

        return matching(ask_quietly(ctx, question), incomplete)


class TemplateWord(ParamType):
    """`auto`, `none`, or the absolute path of an image on the host."""

    name = "auto|none|path"


class DiskTo(ParamType):
    """`vdb=archive`: one disk to a datastore of its own; or to an export of an NBD, iSCSI or RBD server."""

    name = "disk=datastore|nbd://host/export"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        target, equals, datastore = value.partition("=")
        if not (target and equals and datastore):
            self.fail(f"{value!r} does not name a disk and a datastore; write it like vdb=archive", param, ctx)
        return target, datastore

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # While the option has no value yet, click has put the words before it aside instead of parsing them.
        vm = ctx.params.get("vm") or next(iter(ctx.args), None)

        def question(client: Client) -> Iterable[str]:
            disks = client.disk_names(vm) if vm else ()
            return [f"{disk}={datastore}" for disk in disks for datastore in client.datastore_names()]

        return matching(ask_quietly(ctx, question), incomplete)


class NetworkTo(ParamType):
    """`lan=dmz`: a network of the VM, and its name at the destination."""

    name = "old=new"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        old, equals, new = value.partition("=")
        if not (old and equals and new):
            self.fail(f"{value!r} does not name two networks; write it like lan=dmz", param, ctx)
        return old, new


class _Checked(ParamType):
    """A value with its unit. It is only checked, so that click can name the option; the text is handed on.

    What `parse` raises is the message.
    """

    parse: Callable[[str], object]

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


class Rate(_Checked):
    """Bytes per second, 0 for no limit."""

    name = "rate"
    parse = staticmethod(units.parse_rate)


class ClusterSize(_Checked):
    """Bytes of a qcow2's cluster, as QEMU takes them."""

    name = "size"
    parse = staticmethod(units.parse_cluster_size)


class Limit(_Checked):
    """For how long a destination may hang; or `never`."""

    name = "duration|never"
    parse = staticmethod(units.parse_limit_s)


class Latency(_Checked):
    """How long a write may take."""

    name = "duration"
    parse = staticmethod(units.parse_latency_s)


class Downtime(_Checked):
    """How long a guest may stand still at the switch to another host."""

    name = "duration"
    parse = staticmethod(units.parse_downtime_s)


class Factor(_Checked):
    """`1.5x`."""

    name = "factor"
    parse = staticmethod(units.parse_factor)


def _duration_or_forever(text: str) -> None:
    if text.lower() in ("forever", "ever"):
        return
    try:
        units.parse_duration_s(text)
    except ValueError as error:
        raise ValueError(f"{error}, or forever") from None


class Duration(_Checked):
    """`7d`, or `forever`."""

    name = "duration"
    parse = staticmethod(_duration_or_forever)
