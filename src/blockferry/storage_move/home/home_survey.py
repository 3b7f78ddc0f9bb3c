"""Looking at a VM's home for the pre-check: where it is, what is in it, who names that. Rules: home/rules.py."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from blockferry.base.errors import BlockferryError
from blockferry.base.units import MiB
from blockferry.hosts import file_use
from blockferry.hosts.helper import files, image_users
from blockferry.hosts.inventory import Datastore, Image, Vm
from blockferry.hosts.libvirt import xml_home_files
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.runner import Runner
from blockferry.storage_move.facts import SmallFile
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.home import rules as home_rules
from blockferry.storage_move.home.plan import StayingFile
from blockferry.storage_move.home.rules import HomeEntry

DEPTH = 5
LOOK_S = 30
LABEL_UP_TO = 64 * MiB
"""A configuration medium is smaller; only of such files is the volume name read."""


@dataclass(frozen=True, slots=True)
class Home:
    """The VM's home as it is now. `source`: its directory, which need not exist; None when the VM has none."""

    source: str | None
    files: tuple[SmallFile, ...] = ()
    stays: tuple[StayingFile, ...] = ()


def look(
    runner: Runner,
    connection: Connection,
    vm: Vm,
    stores: tuple[Datastore, ...],
    chains: Mapping[str, tuple[Image, ...]],
) -> Home:
    """Where the VM's home is, and what becomes of each file there. Raises HostUnreachable, LibvirtFailed."""
    own = xml_home_files.of_vm(connection, vm.uuid)
    source = _source(runner, vm, stores, own.places)
    apart: tuple[str, ...] = ()
    entries: list[HomeEntry] = []
    if source is not None:
        apart = _datastores_below(runner, source, stores)
        entries = _entries(runner, [source], DEPTH)
    inside = {entry.path for entry in entries}
    flat = [path for path in (*_media(vm), *(one for one in (vm.nvram,) if one)) if path not in inside]
    entries += [entry for entry in _entries(runner, flat, 0) if entry.kind == "file"]
    if not entries:
        return Home(source)
    entries = [_closer(runner, vm, source, entry) for entry in entries]
    uses = _by_every_name(runner, source, own.places)
    others = xml_home_files.of_others(connection, vm.uuid)
    images = {path for chain in chains.values() for image in chain for path in (image.path, *image.parts)}
    images |= {disk.source.path for disk in vm.disks if disk.device == "disk" and disk.source and disk.source.path}
    going, _ = home_rules.sort_out(vm, source, entries, uses, others, images, apart, own.unknown)
    writers = {small_file.path: _writer(runner, small_file.path) for small_file in going if small_file.path != vm.nvram}
    entries = [replace(entry, written_by=writers.get(entry.path, "")) for entry in entries]
    going, staying = home_rules.sort_out(vm, source, entries, uses, others, images, apart, own.unknown)
    return Home(source, going, tuple(staying_file for staying_file in staying if staying_file.path not in flat))


def _media(vm: Vm) -> list[str]:
    sources = [disk.source for disk in vm.disks if disk.device in ("cdrom", "floppy")]
    return [source.path for source in sources if source is not None and source.path]


def _source(runner: Runner, vm: Vm, stores: tuple[Datastore, ...], named: Collection[str]) -> str | None:
    """The first candidate that is not the directory of a datastore by another name; in doubt it counts as one."""
    for path in home_rules.candidates(vm, stores, named):
        if not home_effects.is_datastore(runner, path, stores):
            return path
    return None


def _datastores_below(runner: Runner, source: str, stores: Iterable[Datastore]) -> tuple[str, ...]:
    """The directories below the home that are datastores, as paths below `source`."""
    paths = [store.path for store in stores if store.path]
    real, *reals = _reals(runner, [source, *paths])
    found = []
    for path in (*paths, *reals):
        for root in (source, real):
            if posixpath.normpath(path).startswith(root.rstrip("/") + "/"):
                found.append(posixpath.join(source, posixpath.relpath(path, root)))
    return tuple(dict.fromkeys(found))


def _entries(runner: Runner, paths: list[str], depth: int) -> list[HomeEntry]:
    """What is there, without following links but for a home that is one. What is gone is left out."""
    if not paths:
        return []
    return [HomeEntry(path, kind, size) for path, kind, size in files.entries(runner, paths, depth, LOOK_S)]


def _closer(runner: Runner, vm: Vm, source: str | None, entry: HomeEntry) -> HomeEntry:
    """With what only the content tells."""
    if entry.kind != "file":
        return entry
    if entry.path.endswith(".xml") and posixpath.dirname(entry.path) == source:
        return replace(entry, ours=home_effects.is_ours(runner, entry.path, vm.uuid))
    if entry.path.endswith((".iso", ".img")) and entry.size <= LABEL_UP_TO:
        return replace(entry, label=_label(runner, entry.path))
    return entry


def _label(runner: Runner, path: str) -> str:
    """The volume name of an ISO 9660 image, "" for any other file (ECMA-119, 8.4: the primary volume descriptor)."""
    words = ["dd", f"if={path}", "bs=2048", "skip=16", "count=1", "status=none"]
    sector = runner.run(words, check=False, timeout_s=LOOK_S).stdout
    if len(sector) < 72 or sector[:6] != b"\x01CD001":
        return ""
    return sector[40:72].decode("ascii", "replace").strip()


def _writer(runner: Runner, path: str) -> str:
    try:
        return image_users.writer(runner, path)
    except BlockferryError:
        return "somebody, as far as can be told,"


def _by_every_name(
    runner: Runner, source: str | None, places: Mapping[str, tuple[file_use.FileUse, ...]]
) -> dict[str, tuple[file_use.FileUse, ...]]:
    """The same with the names that lead to the home by another path: such a name cannot be told from it by words."""
    found = dict(places)
    if source is None:
        return found
    outside = [path for path in places if not path.startswith(source.rstrip("/") + "/")]
    real, *reals = _reals(runner, [source, *outside])
    for path, resolved in zip(outside, reals, strict=True):
        if resolved == real or resolved.startswith(real + "/"):
            name = posixpath.normpath(posixpath.join(source, posixpath.relpath(resolved, real)))
            if name != path:
                uses = tuple(replace(use, fixed=use.fixed or f"it is named as {path}") for use in places[path])
                found[name] = (*found.get(name, ()), *uses)
    return found


def _reals(runner: Runner, paths: list[str]) -> list[str]:
    """Each without links, in order; as it is where that cannot be told."""
    absolute = [path for path in paths if path.startswith("/")]
    found = dict(zip(absolute, files.realpaths(runner, absolute, LOOK_S), strict=True))
    return [found.get(path, path) for path in paths]
