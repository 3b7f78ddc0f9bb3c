"""What can be asked of a move, as people and programs write it, and the request that is made of it.

The names are those of the command line, with `_` for `-`; values carry their units ("200MiB/s", "7d", "20ms").
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypedDict

from blockferry.base import units
from blockferry.base.config import Config
from blockferry.base.errors import UsageError, nearest
from blockferry.hosts import exports
from blockferry.hosts.fencing import Fencing
from blockferry.storage_move.request import (
    ANY_TEMPLATE,
    COPY_BUFFER,
    FORMATS,
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

Duration = str | timedelta
"""A time with its unit: "90s", "7d", "20ms"; or a timedelta."""


class MoveOptions(TypedDict, total=False):
    """The options of `check` and `move`. What is left out, or None, is as configured, else as said here."""

    to: str | None
    """Datastore for the home and for every disk that `disks` does not name."""
    disks: Mapping[str, str] | None
    """Target -> datastore, or the address of an export (nbd://host/name); without `to` only these disks move."""
    home: str | None
    """Datastore of the home; left out: that of `to`."""
    format: str | None
    """Image format: qcow2, raw, vmdk; left out: as it is."""
    provision: str | Provision | None
    """What is allocated beyond what holds data: same (the default), thin, thick."""
    preallocation: str | Preallocation | None
    """What of a new image is made beforehand: off, metadata, falloc, full; left out: what `provision` needs."""
    cluster_size: str | int | None
    """Cluster size of new qcow2 images ("128KiB", or bytes); left out: as it is."""
    method: str | Method | None
    """How the bulk gets across: auto, mirror, changed-blocks, snapshot, clone, cold."""
    chain: str | ChainPolicy | None
    """What becomes of backing chains: flatten (the default), keep, copy, share."""
    template: str | None
    """What layers may be replaced by at the destination: auto (the default), none, or the path of an image."""
    firmware: str | Firmware | None
    """UEFI variables of a running VM: next-boot (the default), now, leave."""
    bandwidth: str | int | None
    """Limit of all disks together: "200MiB/s", or bytes per second; 0: none."""
    verify: bool | None
    """Compare new and old disks before the old ones are given up; False if not configured."""
    trim: bool | None
    """Have the guest give back what it does not use before it is copied; False if not configured."""
    guest_latency: Duration | None
    """The p99 of the guest's writes stays below this while it is copied: "20ms"."""
    guest_slowdown: str | float | None
    """The same as a multiple of what it was before: "1.5x", or 1.5."""
    if_not_converging: str | IfNotConverging | None
    """When the guest writes as fast as it is copied: auto, mirror, throttle, wait, stop."""
    paused: str | PausedPolicy | None
    """A VM that QEMU paused because its storage failed: keep (the default), resume."""
    hang_limit: Duration | None
    """Cut the destination off when the guest's writes wait for it longer: "5s" (the default), or "never"."""
    on_break: str | OnBreak | None
    """What becomes of a copy that breaks: auto (the default), keep, remove."""
    from_scratch: bool | None
    """Do not resume a broken copy that was kept, copy all of it anew."""
    use_kept: bool | None
    """Write only what differs into the VM's old disk that quarantine keeps at the destination."""
    keep_source: Duration | bool | None
    """Keep the old disks for so long ("7d"), for ever ("forever" or True), or delete them (False)."""


def move_request(vm: str, options: MoveOptions, config: Config) -> MoveRequest:
    """Return the request that these options make, the rest as configured.

    Raises UsageError where a value cannot be read or two options contradict each other, TypeError for an unknown name.
    """
    asked = read_options(options)
    if "to" not in asked and not asked.get("disks"):
        raise UsageError("No destination is named.", "Add --to DATASTORE, or --disk vdb=DATASTORE.")
    provision = asked.get("provision", Provision.SAME)
    _see_preallocation(asked.get("preallocation"), provision)
    _see_template(asked.get("template", ANY_TEMPLATE), asked.get("chain", ChainPolicy.FLATTEN))
    if asked.get("use_kept") and asked.get("from_scratch"):
        raise UsageError("--use-kept and --from-scratch contradict each other.", "Give one of them.")
    fields = {
        "to": None,
        "method": Method(config.method),
        "bandwidth": config.bandwidth,
        "verify": config.verify,
        "use_kept": config.use_kept and not asked.get("from_scratch"),
        "if_not_converging": IfNotConverging(config.if_not_converging),
        **{name: value for name, value in asked.items() if name not in _NOT_FIELDS},
    }
    contract = _contract(asked.get("guest_latency"), asked.get("guest_slowdown"), config)
    if contract is not None and fields["if_not_converging"] is IfNotConverging.THROTTLE:
        raise UsageError(
            "A latency contract forbids what --if-not-converging throttle does: it slows the guest's writes.",
            "Use --if-not-converging mirror, wait or stop, or leave out the contract.",
        )
    return MoveRequest(
        vm=vm,
        **fields,
        source=source_policy(asked.get("keep_source"), config),
        contract=contract,
        trim=_trim(asked=asked.get("trim"), config=config),
        hang=_fencing(asked.get("hang_limit"), config),
        buffer=config.copy_buffer or COPY_BUFFER,
    )


def read_duration_s(value: Duration) -> float:
    """Seconds, more than 0. Raises ValueError with a sentence for people."""
    return read_duration(value, units.parse_duration_s)


def read_rate(value: str | int) -> int:
    """Bytes per second, 0 for no limit. Raises ValueError with a sentence for people."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"{value} is not a rate; write bytes per second, or 0 for unlimited")
        return value
    return units.parse_rate(_text(value))


def read_options(options: MoveOptions) -> dict[str, Any]:
    """Return the options that were given, with their values understood.

    Raises UsageError for a value that cannot be read, TypeError for an unknown name.
    """
    asked = {}
    for name, value in options.items():
        if name not in _READERS:
            guess = nearest(name, _READERS, limit=1)
            hint = f"; did you mean {guess[0]!r}" if guess else ""
            raise TypeError(f"a move has no option {name!r}{hint}")
        if value is None:
            continue
        try:
            asked[name] = _READERS[name](value)
        except ValueError as error:
            option = "--disk" if name == "disks" else "--" + name.replace("_", "-")
            raise UsageError(f"{option}: {error}.", f"`blockferry move --help` tells what {option} takes.") from None
    return asked


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither True nor False")
    return value


def _word(known: tuple[str, ...], value: object) -> str:
    if not isinstance(value, str) or value not in known:
        guess = nearest(str(value), known, limit=1)
        hint = f"did you mean {guess[0]!r}" if guess else f"known are {', '.join(known)}"
        raise ValueError(f"{value!r} is not known ({hint})")
    return value


def _member(kind: type[enum.Enum]) -> Callable[[object], enum.Enum]:
    words = tuple(one.value for one in kind)

    def read(value: object) -> enum.Enum:
        return value if isinstance(value, kind) else kind(_word(words, value))

    return read


def _disks(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} does not map disks to datastores; write it like {{'vdb': 'archive'}}")
    return {_text(target): _place(_text(place)) for target, place in value.items()}


def _place(place: str) -> str:
    return exports.parse(place).uri if exports.is_export(place) else place


def _template(value: object) -> str:
    if _text(value) not in (ANY_TEMPLATE, NO_TEMPLATE) and not str(value).startswith("/"):
        raise ValueError(f"{value!r} is no absolute path; write auto, none, or like /srv/ssd/golden.qcow2")
    return str(value)


def read_duration(value: object, parse: Callable[[str], float]) -> float:
    if isinstance(value, timedelta):
        return parse(f"{value.total_seconds():.6f}s")
    if not isinstance(value, str):
        raise ValueError(f'{value!r} has no unit; write it like "90s", or give a timedelta')
    return parse(value)


def _keep_source(value: object) -> float:
    """Seconds: infinite for ever, 0 for not at all."""
    if isinstance(value, bool):
        return math.inf if value else 0.0
    if isinstance(value, str) and value.strip().lower() in ("forever", "ever"):
        return math.inf
    return read_duration(value, units.parse_duration_s)


def _slowdown(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'{value!r} is not a factor; write it like "1.5x"')
    return units.parse_factor(str(value))


_READERS: dict[str, Callable[[Any], Any]] = {
    "to": _text,
    "disks": _disks,
    "home": _text,
    "format": lambda value: _word(FORMATS, value),
    "provision": _member(Provision),
    "preallocation": _member(Preallocation),
    "cluster_size": lambda value: units.parse_cluster_size(str(value)),
    "method": _member(Method),
    "chain": _member(ChainPolicy),
    "template": _template,
    "firmware": _member(Firmware),
    "bandwidth": read_rate,
    "verify": _flag,
    "trim": _flag,
    "guest_latency": lambda value: read_duration(value, units.parse_latency_s),
    "guest_slowdown": _slowdown,
    "if_not_converging": _member(IfNotConverging),
    "paused": _member(PausedPolicy),
    "hang_limit": lambda value: read_duration(value, units.parse_limit_s),
    "on_break": _member(OnBreak),
    "from_scratch": _flag,
    "use_kept": _flag,
    "keep_source": _keep_source,
}
"""Option -> what its value means. Raises ValueError with a sentence."""

_NOT_FIELDS = ("guest_latency", "guest_slowdown", "hang_limit", "keep_source", "trim")
"""Options that make a field of the request together with the configuration; all others are fields of that name."""


def source_policy(keep_s: float | None, config: Config) -> SourcePolicy:
    """Return what becomes of old disks. `keep_s`: seconds, 0 for not at all, None: as configured."""
    explicit = keep_s == 0.0
    if keep_s is None:
        keep_s = config.keep_source_s
    if not keep_s:
        return SourcePolicy(delete=True, explicit=explicit)
    return SourcePolicy(delete=False, keep_s=None if math.isinf(keep_s) else keep_s)


def _trim(*, asked: bool | None, config: Config) -> Trim:
    """What is only configured must not stand in the way of a guest that cannot."""
    if asked is None:
        return Trim.IF_POSSIBLE if config.trim else Trim.NO
    return Trim.YES if asked else Trim.NO


def _fencing(limit_s: float | None, config: Config) -> Fencing:
    limit_s = config.hang_limit_s if limit_s is None else limit_s
    return Fencing(None if math.isinf(limit_s) else limit_s, config.fence)


def _see_preallocation(asked: Preallocation | None, provision: Provision) -> None:
    if asked is None:
        return
    reserves = asked in (Preallocation.FALLOC, Preallocation.FULL)
    if provision is not Provision.SAME and reserves is not (provision is Provision.THICK):
        raise UsageError(
            f"--preallocation {asked.value} and --provision {provision.value} contradict each other.",
            "Give one of them.",
        )


def _see_template(template: str, chain: ChainPolicy) -> None:
    if template not in (ANY_TEMPLATE, NO_TEMPLATE) and not chain.reuses:
        raise UsageError(
            f"--template {template} does not go with --chain {chain.value}, where no layer goes to the destination.",
            "Use --chain keep or --chain copy.",
        )


def _contract(latency_s: float | None, slowdown: float | None, config: Config) -> LatencyContract | None:
    if latency_s is not None and slowdown is not None:
        raise UsageError("--guest-latency and --guest-slowdown contradict each other.", "Give one of them.")
    if latency_s is None and slowdown is None:
        latency_s, slowdown = config.guest_latency_s, config.guest_slowdown
    if latency_s is not None:
        return LatencyContract(latency_s=latency_s)
    return None if slowdown is None else LatencyContract(slowdown=slowdown)
