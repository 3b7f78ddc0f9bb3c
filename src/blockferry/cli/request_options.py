"""The options of `move` and `check`, and the request that they make.

What the values mean is read in blockferry.client; here they are only checked, so that click can name the option.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import click

from blockferry.base.config import COMPRESSION, MOST_CHANNELS, Config
from blockferry.base.errors import UsageError
from blockferry.cli import types
from blockferry.client import (
    FORMATS,
    AnyMoveOptions,
    AnyRequest,
    ChainPolicy,
    Firmware,
    IfNotConverging,
    Method,
    OnBreak,
    PausedPolicy,
    Preallocation,
    Provision,
    any_request,
)

LOOKING = "Looking at the VM and its datastores"
"""What is shown on a terminal while a request is checked."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _one_of(kind: type[enum.Enum]) -> click.Choice[str]:
    return click.Choice([item.value for item in kind])


VM = click.argument("vm", type=types.VmName())
VM_OR_ALL: tuple[Decorator, ...] = (
    click.argument("vm", metavar="[VM]", required=False, type=types.VmName()),
    click.option(
        "--all-on",
        metavar="HOST|DATASTORE",
        help="Instead of VM: all VMs on this host (with --to-host), or all with a disk on this datastore (with --to).",
    ),
    click.option(
        "--parallel",
        type=click.IntRange(1),
        metavar="N",
        help="With --all-on: how many moves run at a time; default: 2. --bandwidth is for each of them.",
    ),
    click.option(
        "--skip-refused",
        is_flag=True,
        help="With --all-on: move the others when some cannot go; else nothing is begun.",
    ),
)
PLACES: tuple[Decorator, ...] = (
    click.option("--to", type=types.DatastoreName(), help="Datastore for the home and all disks."),
    click.option(
        "--to-host",
        type=types.HostName(),
        help="The host that VM goes to: a configured name, a name for ssh, or a libvirt URI. --to and --disk are its "
        "datastores then, for disks that it does not share.",
    ),
    click.option(
        "--disk",
        "disks",
        type=types.DiskTo(),
        multiple=True,
        help="A disk with a datastore of its own (vdb=archive); may be repeated. Without --to only these move.",
    ),
    click.option("--home", type=types.DatastoreName(), help="Datastore for the home; default: as --to."),
)
"""Which VM, and where to."""

IMAGES: tuple[Decorator, ...] = (
    click.option("--format", "format_", type=click.Choice(FORMATS), help="Image format; default: as it is."),
    click.option(
        "--provision",
        type=_one_of(Provision),
        help="What is allocated beyond what holds data; default: same.",
    ),
    click.option(
        "--preallocation",
        type=_one_of(Preallocation),
        help="What of a new image is made beforehand: nothing, a qcow2's tables, all space reserved, or "
        "all of it written; default: what --provision needs.",
    ),
    click.option(
        "--cluster-size",
        type=types.ClusterSize(),
        help="Cluster size of new qcow2 images, like 128KiB; default: as it is, else QEMU's 64 KiB.",
    ),
)
"""How the new images are made."""

COPYING: tuple[Decorator, ...] = (
    click.option(
        "--method",
        type=_one_of(Method),
        help="How the bulk gets across; default: as configured, else auto, and it says why.",
    ),
    click.option(
        "--chain",
        type=_one_of(ChainPolicy),
        help="What becomes of backing chains: one image (flatten, the default); the VM's own layers go along "
        "and those that others use stay (keep); all layers go along (copy); only the top layer goes (share).",
    ),
    click.option(
        "--template",
        type=types.TemplateWord(),
        help="An image at the destination that takes the place of a layer with the same content: auto (one of "
        "the layer's name, the default), none, or its path.",
    ),
    click.option(
        "--firmware",
        type=_one_of(Firmware),
        help="UEFI variables of a running VM: follow once it has been powered off (next-boot, the default), "
        "move at once with the VM saved and restored (now), or stay (leave).",
    ),
    click.option("--bandwidth", type=types.Rate(), help="Limit for all disks together, like 200MiB/s; 0: none."),
    click.option(
        "--verify/--no-verify",
        default=None,
        help="Compare the new disks with the old ones as they were at the switch, before the old ones are "
        "given up; default: as configured, else no.",
    ),
    click.option(
        "--trim/--no-trim",
        default=None,
        help="Have the guest (its agent) give back what it does not use before it is copied, and again at "
        "the end; default: as configured, else no.",
    ),
)
"""What is copied, and how."""

OTHER_HOST: tuple[Decorator, ...] = (
    click.option(
        "--downtime",
        type=types.Downtime(),
        help="With --to-host: how long the guest may stand still for the last of its memory, like 300ms; default: "
        "QEMU's limit.",
    ),
    click.option(
        "--auto-converge",
        is_flag=True,
        help="With --to-host: have QEMU slow a guest that changes its memory as fast as it is sent.",
    ),
    click.option(
        "--channels",
        type=click.IntRange(1, MOST_CHANNELS),
        help="With --to-host: connections that the VM's memory is sent over at once; for fast links; default: one.",
    ),
    click.option(
        "--compress",
        type=click.Choice(COMPRESSION),
        help="With --to-host: compress the memory that is sent, for slow links: xbzrle (what changes again and again), "
        "zlib, zstd (all of it; libvirt 9.4 or newer on both hosts).",
    ),
    click.option(
        "--storage-first",
        is_flag=True,
        help="With --to-host: copy the disks of a running VM before it goes, while overlays take its writes; a broken "
        "copy goes on where it was.",
    ),
    click.option(
        "--map-network",
        type=types.NetworkTo(),
        multiple=True,
        help="With --to-host: a network, bridge or device of VM with its name on the other host (lan=dmz); may be "
        "repeated. Others have the same name there.",
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="With --to-host: by which the VM's host sends memory and disks to the other; default: as configured, else "
        "the name in its URI.",
    ),
    click.option(
        "--peer-uri",
        metavar="URI",
        help="With --to-host: by which libvirt on the VM's host reaches that of the other; default: as configured, "
        "else its URI.",
    ),
)
"""How a VM gets to another host."""

GUEST: tuple[Decorator, ...] = (
    click.option(
        "--guest-latency",
        type=types.Latency(),
        help="Let the copy's speed follow the guest: the p99 of its writes stays below this, like 20ms.",
    ),
    click.option(
        "--guest-slowdown",
        type=types.Factor(),
        help="The same, as a multiple of what it is before the copy, like 1.5x.",
    ),
    click.option(
        "--if-not-converging",
        type=_one_of(IfNotConverging),
        help="When the guest changes its disk as fast as it is copied; default: as configured, else auto.",
    ),
    click.option(
        "--paused",
        type=_one_of(PausedPolicy),
        help="A VM that QEMU has paused because its storage failed (a full datastore): it stays paused (keep, "
        "the default), or runs again once its disks are at the destination (resume).",
    ),
    click.option(
        "--hang-limit",
        type=types.Limit(),
        help="Cut the destination off when the guest's writes wait for it longer than this, like 5s, or never; "
        "default: as configured, else 5s.",
    ),
)
"""What the guest may suffer by it."""

LEFTOVERS: tuple[Decorator, ...] = (
    click.option(
        "--on-break",
        type=_one_of(OnBreak),
        help="What becomes of a copy that breaks; auto: kept if large, not with mirror or when cancelled.",
    ),
    click.option("--from-scratch", is_flag=True, help="Do not go on from a copy that broke, copy all of it anew."),
    click.option(
        "--use-kept/--no-use-kept",
        default=None,
        help="Write only what differs into the VM's old disk that quarantine keeps at the destination, which cannot be "
        "gone back to then; default: as configured, else no.",
    ),
    click.option(
        "--keep-source",
        type=types.Duration(),
        help="Keep the old disks for that long (7d, 12h, forever).",
    ),
    click.option(
        "--delete-source",
        is_flag=True,
        help="Delete the old disks once nothing needs them; the default if not configured, but for those on a "
        "network or cluster file system, which other hosts may use.",
    ),
)
"""What becomes of broken copies and of the old disks."""


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with VM, --to and all that says how; `to_request` takes what click makes of them."""
    return _decorated(command, (VM,))


def batch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command that takes --all-on in the place of VM."""
    return _decorated(command, VM_OR_ALL)


def _decorated(command: Callable[..., Any], first: tuple[Decorator, ...]) -> Callable[..., Any]:
    for decorate in reversed((*first, *PLACES, *IMAGES, *COPYING, *OTHER_HOST, *GUEST, *LEFTOVERS)):
        command = decorate(command)
    return command


def to_request(*, vm: str | None, **options: Any) -> AnyRequest:
    """What was asked, the rest as configured. Raises UsageError where it contradicts itself, ConfigInvalid."""
    if vm is None:
        raise UsageError("Which VM is to be moved?", "Write it like `blockferry move web01 --to ssd`.")
    return any_request(vm, to_options(**options), Config.load())


def to_options(
    *,
    disks: tuple[tuple[str, str], ...],
    map_network: tuple[tuple[str, str], ...],
    format_: str | None,
    keep_source: str | None,
    delete_source: bool,
    **options: Any,
) -> AnyMoveOptions:
    """What was asked. Raises UsageError where it contradicts itself."""
    if keep_source is not None and delete_source:
        raise UsageError("--keep-source and --delete-source contradict each other.", "Give one of them.")
    twice = [target for target, count in Counter(target for target, _ in disks).items() if count > 1]
    if twice:
        raise UsageError(f"--disk names {twice[0]} twice.", "Give each disk one datastore.")
    networks = [old for old, count in Counter(old for old, _ in map_network).items() if count > 1]
    if networks:
        raise UsageError(f"--map-network names {networks[0]} twice.", "Give each network one name.")
    kept = False if delete_source else keep_source
    return cast(
        AnyMoveOptions,
        {**options, "disks": dict(disks), "map_network": dict(map_network), "format": format_, "keep_source": kept},
    )
