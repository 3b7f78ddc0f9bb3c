"""What can be asked of a move to another host, as people and programs write it, and the request that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from blockferry.base import units
from blockferry.base.config import COMPRESSION, MOST_CHANNELS, Config
from blockferry.base.errors import UsageError
from blockferry.base.host_entries import HostEntry
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.hosts import exports
from blockferry.storage_move import move_options
from blockferry.storage_move.move_options import Duration, MoveOptions
from blockferry.storage_move.request import Provision


class AnyMoveOptions(MoveOptions, total=False):
    """The options of `check` and `move`. With `to_host` the VM goes to another host; without, its storage moves.

    With `to_host` only these others mean something: `to`, `disks`, `bandwidth`, `keep_source`, and of `provision` same,
    thin and thick. `to` is then a datastore of that host, for the disks that it does not share; left out, all disks
    are to be on storage that both hosts have.
    """

    to_host: str | None
    """The host that the VM goes to: a name of the configuration, a name for ssh, or a libvirt URI."""
    address: str | None
    """By which the source's QEMU reaches that host; left out: as configured, else the name in its URI."""
    peer_uri: str | None
    """By which the source's libvirt reaches that of the other host; left out: as configured, else its URI."""
    downtime: Duration | None
    """How long the guest may stand still for the last of its memory ("300ms"); left out: QEMU's own limit."""
    map_network: Mapping[str, str] | None
    """Network, bridge or device of the VM -> what it is called on that host; what is not named has the same name."""
    auto_converge: bool | None
    """Have QEMU slow a guest that changes its memory as fast as it is sent."""
    channels: int | None
    """Connections that the guest's memory is sent over at once; left out: one."""
    compress: str | None
    """Compression of the memory that is sent: "xbzrle", "zlib" or "zstd"; left out: none."""
    storage_first: bool | None
    """Copy the disks of a running VM before it goes, in parts that a break does not cost, while overlays take its
    writes."""


OWN = ("address", "peer_uri", "downtime", "auto_converge", "map_network", "channels", "compress", "storage_first")
"""Options that only a move to another host has, beside `to_host`."""

_SWITCHES = ("auto_converge", "storage_first", "use_kept", "from_scratch", "verify", "trim")
"""Options of which False asks for nothing on the way to another host."""

_COMMON = ("to", "disks", "bandwidth", "keep_source", "provision")
"""Those of a storage move that mean the same here."""


def host_move_request(vm: str, options: AnyMoveOptions, config: Config) -> HostMoveRequest:
    """Return the request that these options make, the rest as configured.

    Raises UsageError for values that cannot be read, options that mean nothing here, and a host that cannot be named
    so; TypeError for an unknown name.
    """
    given = {name: value for name, value in options.items() if _is_given(name, value)}
    to_host = str(given.pop("to_host"))
    entry = entry_of(config, to_host)
    own: dict[str, Any] = {name: given.pop(name) for name in OWN if name in given}
    asked = move_options.read_options(cast(MoveOptions, given))
    foreign = next((name for name in asked if name not in _COMMON), None)
    if foreign is not None:
        option = _option(foreign)
        raise UsageError(f"{option} does not go with --to-host.", f"Leave {option} out.")
    disks: Mapping[str, str] = asked.get("disks", {})
    for target, place in disks.items():
        if exports.is_export(place):
            raise UsageError(f"--disk {target}={place}: a disk cannot go to an export on its way to another host.")
    return HostMoveRequest(
        vm=vm,
        to_host=to_host,
        to=asked.get("to", ""),
        disks=disks,
        address=_text("address", own) or entry.address,
        peer=_text("peer_uri", own) or entry.peer_uri,
        source=move_options.source_policy(asked.get("keep_source"), config),
        bandwidth=asked.get("bandwidth", config.bandwidth),
        downtime_ms=_downtime_ms(own.get("downtime")),
        auto_converge=bool(own.get("auto_converge", False)),
        channels=_channels(own),
        compression=_compression(own),
        storage_first=bool(own.get("storage_first", False)),
        thick=asked.get("provision") is Provision.THICK,
        tls=config.tls,
        require_tls=config.require_tls,
        networks=_networks(own.get("map_network")),
    )


def entry_of(config: Config, to_host: str) -> HostEntry:
    """Return the host that is meant: one of the configuration, one that ssh reaches by that name, or a libvirt URI.

    Raises UsageError for what can be no host.
    """
    configured = next((host for host in config.hosts if to_host in (host.name, host.uri)), None)
    return configured or config.address(to_host)


def without_host(options: AnyMoveOptions) -> MoveOptions:
    """Return the options of a storage move. Raises UsageError for one that only a move to another host has."""
    foreign = next((name for name in OWN if _is_given(name, options.get(name))), None)
    if foreign is not None:
        raise UsageError(f"{_option(foreign)} goes only with --to-host.", "Add --to-host HOST, or leave it out.")
    return cast(MoveOptions, {name: value for name, value in options.items() if name not in (*OWN, "to_host")})


def _is_given(name: str, value: object) -> bool:
    """False for an option that was left out, and for a switch of which no is what happens anyway.

    No and 0 are answers elsewhere: no old disks are kept, no limit of the bandwidth.
    """
    return value is not None and value != {} and not (name in _SWITCHES and value is False)


def _option(name: str) -> str:
    return "--disk" if name == "disks" else "--" + name.replace("_", "-")


def _text(name: str, own: Mapping[str, Any]) -> str:
    value = own.get(name, "")
    if not isinstance(value, str):
        raise UsageError(f"{_option(name)}: {value!r} is not a text.")
    return value


def _channels(own: Mapping[str, Any]) -> int:
    """Raises UsageError. zlib and zstd are methods of several connections, xbzrle is one of a single one."""
    value = own.get("channels")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_CHANNELS):
        raise UsageError(
            f"--channels: {value!r} is no number from 1 to {MOST_CHANNELS}.", "Write it like --channels 4."
        )
    packed = own.get("compress") in ("zlib", "zstd")
    if packed and value == 1:
        raise UsageError(
            f"--compress {own['compress']} needs more than one channel.", "Add --channels 4, or take --compress xbzrle."
        )
    return int(value or (2 if packed else 0)) if value != 1 else 0


def _compression(own: Mapping[str, Any]) -> str:
    value = own.get("compress")
    if value is None:
        return ""
    if value not in COMPRESSION:
        raise UsageError(f"--compress: {value!r} is no method.", f"Take one of {', '.join(COMPRESSION)}.")
    if value == "xbzrle" and own.get("channels") not in (None, 1):
        raise UsageError(
            "--compress xbzrle goes with one channel only.", "Leave out --channels, or take --compress zstd."
        )
    return str(value)


def _networks(value: object) -> Mapping[str, str]:
    """Raises UsageError for what is no mapping of names to names."""
    if value is None:
        return {}
    named = dict(value) if isinstance(value, Mapping) else {}
    if not named or not all(isinstance(name, str) and name for pair in named.items() for name in pair):
        raise UsageError(
            f"--map-network: {value!r} does not map names to names.", "Write it like --map-network lan=lan2."
        )
    return {old: new for old, new in named.items() if old != new}


def _downtime_ms(value: Duration | None) -> int:
    if value is None:
        return 0
    try:
        return round(move_options.read_duration(value, units.parse_downtime_s) * 1000)
    except ValueError as error:
        raise UsageError(f"--downtime: {error}.", "Write it like --downtime 300ms.") from None
