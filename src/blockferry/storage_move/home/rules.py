"""What a VM's home is, which of its files go along with a move, and which stay. Pure; docs/home.md has the table.

A home is a directory with the VM's name that holds a file which the VM names. The directory of a datastore is never a
home. A file goes along only when it is known to belong to the VM, and when every XML that names it can be changed; all
other files stay where they are, and the plan says so.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from blockferry.hosts.file_use import FileUse
from blockferry.hosts.inventory import Datastore, Vm, datastore_of
from blockferry.storage_move.destination.placement import directory_name, is_in_home
from blockferry.storage_move.facts import SmallFile
from blockferry.storage_move.home.plan import StayingFile

CONFIG_LABELS = ("cidata", "config-2")
"""Volume names by which cloud-init finds its configuration medium (its NoCloud and ConfigDrive data sources)."""

UNNAMED = "no XML of the VM names it"


@dataclass(frozen=True, slots=True)
class HomeEntry:
    """Something below a home's directory. `kind`: file, directory, link, other; bytes."""

    path: str
    kind: str
    size: int = 0
    label: str = ""  # volume name of an ISO 9660 image
    ours: bool = False  # metadata that blockferry has written for this VM
    written_by: str = ""  # the process that has it open for writing


def candidates(vm: Vm, stores: tuple[Datastore, ...], named: Collection[str]) -> list[str]:
    """The directories that may be the VM's home, the likeliest first; without those of datastores, by their names.

    `named`: every path that the VM names. The directory of its name that holds one of its disks; else one that holds
    another file of it; else, for disks that lie flat in a datastore, the directory of its name there.
    """
    paths = [disk.source.path for disk in vm.disks if disk.source is not None and disk.source.path]
    found = [
        posixpath.dirname(path)
        for path in (*paths, *sorted(named))
        if is_in_home(path, vm.name) and datastore_of(path, stores) is not None
    ]
    for store in stores:
        if store.active and store.is_directory and store.path and any(store.holds(path) for path in paths):
            found.append(posixpath.join(store.path, directory_name(vm.name)))
    of_stores = {posixpath.normpath(store.path) for store in stores if store.path}
    return [path for path in dict.fromkeys(found) if posixpath.normpath(path) not in of_stores]


def sort_out(
    vm: Vm,
    home: str | None,
    entries: Collection[HomeEntry],
    uses: Mapping[str, tuple[FileUse, ...]],
    others: Mapping[str, str],
    images: Collection[str],
    apart: Collection[str] = (),
    unknown: str = "",
) -> tuple[tuple[SmallFile, ...], tuple[StayingFile, ...]]:
    """The files that go along, and those that stay, each with the reason.

    `uses`: path -> the places of this VM's XMLs that name it. `others`: path -> who else names it. `images`: the files
    of the VM's disks, which are no home files. `apart`: directories below the home that are datastores. `unknown`: a
    place of the VM's XMLs whose file cannot be told, a clause; then only what is named goes along.
    """
    known = _HomeContext(vm, home, uses, others, images, apart, unknown)
    if home is not None and home in uses:
        return (), (StayingFile(home, f"it is {uses[home][0].what}"),)
    going, staying = [], []
    whole = {
        home_entry.path
        for home_entry in entries
        if home_entry.kind == "directory" and (home_entry.path in apart or home_entry.path in uses)
    }
    for entry in sorted(entries, key=lambda home_entry: home_entry.path):
        if entry.ours or any(_below(entry.path, one) for one in whole):
            continue
        if entry.kind == "directory" and entry.path not in whole:
            continue  # what is in it is looked at by itself
        if entry.path in images and entry.kind != "link":
            continue
        if why := _why_it_stays(entry, known):
            staying.append(StayingFile(entry.path, why))
        else:
            going.append(SmallFile(entry.path, entry.size))
    return tuple(going), tuple(staying)


@dataclass(frozen=True, slots=True)
class _HomeContext:
    """The arguments of `sort_out` that hold for all entries."""

    vm: Vm
    home: str | None
    uses: Mapping[str, tuple[FileUse, ...]]
    others: Mapping[str, str]
    images: Collection[str]
    apart: Collection[str]
    unknown: str

    @property
    def shared(self) -> bool:
        """Whether another VM names a file in the home."""
        return any(self.home is not None and _below(path, self.home) for path in self.others)


def _why_it_stays(entry: HomeEntry, known: _HomeContext) -> str:
    """The reason as a clause; "" when the file goes along."""
    own = known.uses.get(entry.path, ())
    if entry.path in known.apart:
        return "it is the directory of a datastore"
    if entry.path in known.others:
        return known.others[entry.path]
    if entry.kind != "file":
        what = {"link": "a symbolic link", "directory": "a directory"}.get(entry.kind, "no plain file")
        return f"it is {what}" + (f", {own[0].what}" if own else "")
    if entry.path in (known.vm.nvram, known.vm.config_nvram):
        return ""  # the UEFI variables have rules of their own (storage_move/firmware/rules.py)
    for use in own:
        if use.fixed:
            return f"it is {use.what}, and {use.fixed}"
    inside = known.home is not None and _below(entry.path, known.home)
    if (not own or not inside) and (why := _why_not_the_vm_s(entry, known)):
        return why
    return f"{entry.written_by} has it open for writing" if entry.written_by else ""


def _why_not_the_vm_s(entry: HomeEntry, known: _HomeContext) -> str:
    """Why a file is not known to be the VM's own: no XML names it, or it lies flat in a datastore; "" when it is."""
    inside = known.home is not None and _below(entry.path, known.home)
    if not (is_recognised if inside else is_config_medium)(known.vm.name, entry):
        return UNNAMED
    if inside and known.shared:
        return f"{UNNAMED}, and another VM names a file in {known.home}"
    return f"{UNNAMED}, and {known.unknown}" if known.unknown else ""


def is_recognised(vm: str, entry: HomeEntry) -> bool:
    """Whether a file in the VM's home is the VM's by its name or content, although no XML names it (any more)."""
    name, own = posixpath.basename(entry.path), directory_name(vm)
    return name in (f"{own}_VARS.fd", f"{own}.save") or is_config_medium(vm, entry)


def is_config_medium(vm: str, entry: HomeEntry) -> bool:
    """Whether a file is a configuration medium of cloud-init, or has a name that tools give to the one of this VM."""
    stem, ending = posixpath.splitext(posixpath.basename(entry.path))
    own = directory_name(vm)
    words = ("cidata", "cloud-init", "cloudinit", "config", "seed", "ci")
    named = {f"{own}{separator}{word}" for separator in "-_." for word in words}
    return ending in (".iso", ".img") and (entry.label.lower() in CONFIG_LABELS or stem in named)


def destination(home: str, old_home: str | None, path: str) -> str:
    """Where a file of the old home goes: to the same place below the new home; from elsewhere right into it."""
    if old_home is not None and _below(path, old_home):
        return posixpath.join(home, posixpath.relpath(path, old_home))
    return posixpath.join(home, posixpath.basename(path))


def _below(path: str, directory: str) -> bool:
    return posixpath.normpath(path).startswith(posixpath.normpath(directory).rstrip("/") + "/")
