"""Where the small files of a VM go at another host: UEFI variables, state of its TPM. Nothing is touched."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Iterator

from blockferry.base.errors import BlockferryError
from blockferry.host_move import state_files
from blockferry.host_move.host_plan import StateFile, TravellingDisk
from blockferry.host_move.precheck.host_move_facts import Sharing, TpmSeen, VariablesSeen
from blockferry.hosts.helper import files
from blockferry.hosts.host import Host
from blockferry.hosts.inventory import Vm
from blockferry.hosts.libvirt import capabilities
from blockferry.hosts.vm_needs import VmNeeds
from blockferry.safety.shared_directory import SharedDirectories

MOST_NAMES = 8
"""So many names of a file are tried at the destination."""


def look(
    vm: Vm, needs: VmNeeds, source: Host, dest: Host, directories: SharedDirectories,
    disks: Iterable[TravellingDisk], taken: frozenset[str],
) -> VariablesSeen | None:  # fmt: skip
    """Return what is known of the VM's UEFI variables, and the place that they would go to; None: it has none.

    `disks`: those that go along; `taken`: paths that other moves make. Raises HostUnreachable, HostCommandFailed.
    """
    path = posixpath.normpath(vm.nvram or vm.config_nvram or "")
    if not path.startswith("/"):
        return None
    loaders = _loaders(needs, source, dest)
    file_stat = files.stat_one(source.runner, path)
    sharing = _sharing(path, source, dest, directories)
    if file_stat is None or sharing is Sharing.SAME:
        return VariablesSeen(path, None if file_stat is None else file_stat.size, sharing, loaders=loaders)
    directory = _directory(path, dest, tuple(disks))
    if not directory:
        return VariablesSeen(path, file_stat.size, sharing, loaders=loaders)
    names = list(itertools.islice(_names(directory, path), MOST_NAMES))
    free = (name for name in names if name not in taken and not files.is_there(dest.runner, name))
    return VariablesSeen(path, file_stat.size, sharing, next(free, ""), names[0], loaders)


def look_at_tpm(vm: Vm, source: Host, dest: Host) -> TpmSeen | None:
    """Return the state of the VM's emulated TPM; None: it has none. Raises HostUnreachable, HostCommandFailed."""
    if not vm.tpm:
        return None
    there = tuple(state_files.tpm_files(dest.runner, vm.uuid))
    return TpmSeen(state_files.tpm_directory(vm.uuid), state_files.tpm_files(source.runner, vm.uuid), there)


def travelling(variables: VariablesSeen | None, tpm: TpmSeen | None, *, active: bool) -> tuple[StateFile, ...]:
    """Return the files that go along, of what was seen and not refused. `active`: the VM is not off."""
    found = []
    if variables is not None and variables.travels and variables.size is not None:
        found.append(StateFile("nvram", variables.path, variables.dest, variables.size))
    if tpm is not None:
        found += [StateFile("tpm", path, path, size, sent=active) for path, size in tpm.files.items()]
    return tuple(found)


def _sharing(path: str, source: Host, dest: Host, directories: SharedDirectories) -> Sharing | None:
    """Whether both hosts have the same file; None: it is not there at the destination, or that could not be tried."""
    if files.stat_one(dest.runner, path) is None:
        return None
    directory = posixpath.dirname(path)
    try:
        return Sharing.SAME if directories.same(source, directory, dest, directory) else Sharing.OTHER
    except BlockferryError:
        return Sharing.OTHER


def _directory(path: str, dest: Host, disks: tuple[TravellingDisk, ...]) -> str:
    """Beside the new image of a disk whose old one it lay beside; else where it was, if the destination has that; else
    beside the first disk. "" when there is no place."""
    directory = posixpath.dirname(path)
    beside = [disk for disk in disks if posixpath.dirname(disk.source) == directory]
    if beside:
        return posixpath.dirname(beside[0].dest)
    seen = files.stat_one(dest.runner, directory)
    if seen is not None and seen.kind == "directory":
        return directory
    return posixpath.dirname(disks[0].dest) if disks else ""


def _names(directory: str, path: str) -> Iterator[str]:
    """Its old name, then numbered ones, without end."""
    stem, ending = posixpath.splitext(posixpath.basename(path))
    yield posixpath.join(directory, stem + ending)
    yield from (posixpath.join(directory, f"{stem}-{number}{ending}") for number in itertools.count(2))


def _loaders(needs: VmNeeds, source: Host, dest: Host) -> dict[str, tuple[int | None, int | None]]:
    """The firmware that the XML names; where libvirt chooses it at the start, all that the source's libvirt knows."""
    paths = [needs.loader] if needs.loader else []
    if not paths:
        ours = capabilities.hypervisor(source.connection, needs, capabilities.of_host(source.connection))
        paths = sorted(path for path in ours.loaders if path.startswith("/"))
    here, there = files.stat_many(source.runner, paths), files.stat_many(dest.runner, paths)
    return {path: (_size(here[path]), _size(there[path])) for path in paths}


def _size(file_stat: files.FileStat | None) -> int | None:
    return None if file_stat is None else file_stat.size
