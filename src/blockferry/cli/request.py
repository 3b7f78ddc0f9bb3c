"""The options of `move` and `check`, and the request that they make."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import click

from blockferry.base.config import Config
from blockferry.base.errors import UsageError
from blockferry.cli import types
from blockferry.hosts.fencing import Fencing
from blockferry.storage_move.request import (
    ANY_TEMPLATE,
    COPY_BUFFER,
    NO_TEMPLATE,
    ChainPolicy,
    Firmware,
    IfNotConverging,
    LatencyContract,
    Method,
    MoveRequest,
    OnBreak,
    PausedPolicy,
    Preallocation,
    Provision,
    SourcePolicy,
    Trim,
)

LOOKING = "Looking at the VM and its datastores"
"""What is shown on a terminal while a request is checked."""

FORMATS = ("qcow2", "raw", "vmdk")


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a command with VM, --to and all that says how; `to_request` takes what click makes of them."""
    for decorate in reversed(
        (
            click.argument("vm", type=types.VmName()),
            click.option("--to", type=types.DatastoreName(), help="Datastore for the home and all disks."),
            click.option(
                "--disk",
                "disks",
                type=types.DiskTo(),
                multiple=True,
                help="A disk with a datastore of its own (vdb=archive); may be repeated. Without --to only these move.",
            ),
            click.option("--home", type=types.DatastoreName(), help="Datastore for the home; default: as --to."),
            click.option("--format", "format_", type=click.Choice(FORMATS), help="Image format; default: as it is."),
            click.option(
                "--provision",
                type=click.Choice([item.value for item in Provision]),
                default=Provision.SAME.value,
                help="What is allocated beyond what holds data; default: same.",
            ),
            click.option(
                "--preallocation",
                type=click.Choice([item.value for item in Preallocation]),
                help="What of a new image is made beforehand: nothing, a qcow2's tables, all space reserved, or "
                "all of it written; default: what --provision needs.",
            ),
            click.option(
                "--cluster-size",
                type=types.ClusterSize(),
                help="Cluster size of new qcow2 images, like 128KiB; default: as it is, else QEMU's 64 KiB.",
            ),
            click.option(
                "--method",
                type=click.Choice([item.value for item in Method]),
                help="How the bulk gets across; default: as configured, else auto, and it says why.",
            ),
            click.option(
                "--chain",
                type=click.Choice([item.value for item in ChainPolicy]),
                default=ChainPolicy.FLATTEN.value,
                help="What becomes of backing chains: one image (flatten, the default); the VM's own layers go along "
                "and those that others use stay (keep); all layers go along (copy); only the top layer goes (share).",
            ),
            click.option(
                "--template",
                type=types.TemplateWord(),
                default=ANY_TEMPLATE,
                help="An image at the destination that takes the place of a layer with the same content: auto (one of "
                "the layer's name, the default), none, or its path.",
            ),
            click.option(
                "--firmware",
                type=click.Choice([item.value for item in Firmware]),
                default=Firmware.NEXT_BOOT.value,
                help="UEFI variables of a running VM: follow once it has been powered off (next-boot, the default), "
                "move at once with the VM saved and restored (now), or stay (leave).",
            ),
            click.option(
                "--bandwidth", type=types.Rate(), help="Limit for all disks together, like 200MiB/s; 0: none."
            ),
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
                type=click.Choice([item.value for item in IfNotConverging]),
                help="When the guest changes its disk as fast as it is copied; default: as configured, else auto.",
            ),
            click.option(
                "--paused",
                type=click.Choice([item.value for item in PausedPolicy]),
                default=PausedPolicy.KEEP.value,
                help="A VM that QEMU has paused because its storage failed (a full datastore): it stays paused (keep, "
                "the default), or runs again once its disks are at the destination (resume).",
            ),
            click.option(
                "--hang-limit",
                type=types.Limit(),
                help="Cut the destination off when the guest's writes wait for it longer than this, like 5s, or never; "
                "default: as configured, else 5s.",
            ),
            click.option(
                "--on-break",
                type=click.Choice([item.value for item in OnBreak]),
                default=OnBreak.AUTO.value,
                help="What becomes of a copy that breaks; auto: kept if large, not with mirror or when cancelled.",
            ),
            click.option(
                "--from-scratch", is_flag=True, help="Do not go on from a copy that broke, copy all of it anew."
            ),
            click.option(
                "--use-kept",
                is_flag=True,
                help="Write only what differs into the VM's old disk that quarantine keeps at the destination; it is "
                "no old disk any more then.",
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
    ):
        command = decorate(command)
    return command


def to_request(
    *,
    vm: str,
    to: str | None,
    disks: tuple[tuple[str, str], ...],
    home: str | None,
    format_: str | None,
    provision: str,
    preallocation: str | None,
    cluster_size: int | None,
    method: str | None,
    chain: str,
    template: str,
    firmware: str,
    bandwidth: int | None,
    guest_latency: float | None,
    guest_slowdown: float | None,
    if_not_converging: str | None,
    paused: str,
    hang_limit: float | None,
    keep_source: float | None,
    delete_source: bool,
    verify: bool | None,
    trim: bool | None,
    on_break: str,
    from_scratch: bool,
    use_kept: bool,
) -> MoveRequest:
    """What was asked, the rest as configured. Raises UsageError where it contradicts itself, ConfigInvalid."""
    if to is None and not disks:
        raise UsageError("It is not said where to.", "Add --to DATASTORE, or --disk vdb=DATASTORE.")
    if keep_source is not None and delete_source:
        raise UsageError("--keep-source and --delete-source contradict each other.", "Give one of them.")
    twice = [target for target, count in Counter(target for target, _ in disks).items() if count > 1]
    if twice:
        raise UsageError(f"--disk names {twice[0]} twice.", "Give each disk one datastore.")
    config = Config.load()
    if keep_source is None and not delete_source:
        keep_source = config.keep_source_s
    if keep_source is None:
        source = SourcePolicy(delete=True, explicit=delete_source)
    else:
        source = SourcePolicy(delete=False, keep_s=None if math.isinf(keep_source) else keep_source)
    if template not in (ANY_TEMPLATE, NO_TEMPLATE) and not ChainPolicy(chain).reuses:
        raise UsageError(
            f"--template {template} does not go with --chain {chain}, where no layer goes to the destination.",
            "Use --chain keep or --chain copy.",
        )
    if use_kept and from_scratch:
        raise UsageError("--use-kept and --from-scratch contradict each other.", "Give one of them.")
    contract = _contract(guest_latency, guest_slowdown, config)
    policy = IfNotConverging(if_not_converging or config.if_not_converging)
    if contract is not None and policy is IfNotConverging.THROTTLE:
        raise UsageError(
            "A latency contract forbids what --if-not-converging throttle does: it slows the guest's writes.",
            "Use --if-not-converging mirror, wait or stop, or leave out the contract.",
        )
    return MoveRequest(
        vm=vm,
        to=to,
        disks=dict(disks),
        home=home,
        format=format_,
        provision=Provision(provision),
        preallocation=_preallocation(preallocation, Provision(provision)),
        cluster_size=cluster_size,
        method=Method(method or config.method),
        chain=ChainPolicy(chain),
        template=template,
        bandwidth=config.bandwidth if bandwidth is None else bandwidth,
        source=source,
        verify=config.verify if verify is None else verify,
        contract=contract,
        if_not_converging=policy,
        on_break=OnBreak(on_break),
        from_scratch=from_scratch,
        use_kept=use_kept,
        firmware=Firmware(firmware),
        trim=_trim(trim, config),
        paused=PausedPolicy(paused),
        hang=_fencing(hang_limit, config),
        buffer=config.copy_buffer or COPY_BUFFER,
    )


def _trim(asked: bool | None, config: Config) -> Trim:
    """What is only configured must not stand in the way of a guest that cannot."""
    if asked is None:
        return Trim.IF_POSSIBLE if config.trim else Trim.NO
    return Trim.YES if asked else Trim.NO


def _fencing(limit_s: float | None, config: Config) -> Fencing:
    limit_s = config.hang_limit_s if limit_s is None else limit_s
    return Fencing(None if math.isinf(limit_s) else limit_s, config.fence)


def _preallocation(asked: str | None, provision: Provision) -> Preallocation | None:
    if asked is None:
        return None
    reserves = Preallocation(asked) in (Preallocation.FALLOC, Preallocation.FULL)
    if provision is not Provision.SAME and reserves is not (provision is Provision.THICK):
        raise UsageError(
            f"--preallocation {asked} and --provision {provision.value} contradict each other.", "Give one of them."
        )
    return Preallocation(asked)


def _contract(latency_s: float | None, slowdown: float | None, config: Config) -> LatencyContract | None:
    if latency_s is not None and slowdown is not None:
        raise UsageError("--guest-latency and --guest-slowdown contradict each other.", "Give one of them.")
    if latency_s is None and slowdown is None:
        latency_s, slowdown = config.guest_latency_s, config.guest_slowdown
    if latency_s is not None:
        return LatencyContract(latency_s=latency_s)
    return None if slowdown is None else LatencyContract(slowdown=slowdown)
