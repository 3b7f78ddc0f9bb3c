"""Everything of a move that is no disk: home, NVRAM, managed save, vTPM. Reasons against it, and its plan. Pure."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from blockferry.base.units import format_duration, format_rate, format_size
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move.destination import placement
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.firmware.plan import ManagedSavePlan, NvramPlan
from blockferry.storage_move.home import rules as home_rules
from blockferry.storage_move.home.plan import HomeFile, HomePlan
from blockferry.storage_move.precheck import space
from blockferry.storage_move.precheck.destinations import named
from blockferry.storage_move.precheck.draft import Draft
from blockferry.storage_move.precheck.finding import finding
from blockferry.storage_move.request import (
    Firmware,
    MoveRequest,
)

VTPM_DIRECTORY = "/var/lib/libvirt/swtpm"
"""Where libvirt's system instance keeps the state of emulated TPMs, one directory a VM (libvirt's swtpmStorageDir)."""


def home_plan(request: MoveRequest, facts: Facts, draft: Draft) -> HomePlan | None:
    """Where the metadata and small files go; None when the home stays."""
    name = request.home or request.to
    if name is None:
        return None
    store = named(name, facts)
    if not store.is_directory:
        return None
    vm = facts.vm
    dest = placement.home_directory(store, vm.name)
    if facts.home_source == dest:
        return None
    files: list[HomeFile] = []
    inserted = {
        disk.source.path: disk.target
        for disk in vm.disks
        if disk.device in ("cdrom", "floppy") and disk.source is not None and disk.source.path
    }
    for small in facts.home_files:
        if small.path == vm.nvram:
            continue
        role = "iso" if small.path in inserted else "file"
        new = home_rules.destination(dest, facts.home_source, small.path)
        if new in facts.existing or new in {file.dest for file in files}:
            draft.findings.append(finding("NAME_COLLISION", f"{new} is there already; {small.path} would go there."))
        files.append(HomeFile(small.path, new, role, small.size, inserted.get(small.path)))
    carried = {file.source for file in files}
    for path, target in inserted.items():
        if path not in carried:
            draft.findings.append(finding("CDROM_STAYS", f"{path}, inserted in {target}, stays where it is."))
    if stays := facts.home_stays:
        names = ", ".join(posixpath.basename(stay.path) for stay in stays[:5])
        more = f" and {len(stays) - 5} more" if len(stays) > 5 else ""
        draft.findings.append(finding("HOME_FILES_STAY", f"In the old home {facts.home_source} stay {names}{more}."))
    return HomePlan(store.name, dest, facts.home_source, tuple(files), facts.home_stays)


def nvram_plan(request: MoveRequest, facts: Facts, home: HomePlan | None, draft: Draft) -> NvramPlan | None:
    """Where the UEFI variables go, None when they stay; a finding says which and why."""
    vm = facts.vm
    if vm.nvram is None:
        return None
    small = next((home_file for home_file in facts.home_files if home_file.path == vm.nvram), None)
    planned = facts.following if facts.following is not None and facts.following.source == vm.nvram else None
    if home is not None and small is not None:
        planned = NvramPlan(vm.nvram, home_rules.destination(home.dest, facts.home_source, vm.nvram), small.size)
        if planned.dest == posixpath.normpath(vm.nvram):
            return None  # the home comes to where they are
        if planned.dest in facts.existing:
            text = f"{planned.dest} is there already; the UEFI variables of {vm.name} would go there."
            draft.findings.append(finding("NAME_COLLISION", text))
    why = ""
    if request.firmware is Firmware.LEAVE:
        why = "as asked"
    elif not vm.persistent:
        why = "the VM is transient: when it is off there is nothing that could be pointed elsewhere"
    elif vm.config_nvram is None:
        why = "the configuration leaves their place to libvirt"
    elif vm.config_nvram != vm.nvram:
        why = f"the next start would use {vm.config_nvram}"
    elif planned is None:
        why = "its home does not move" if home is None else "the file is another VM's, too, or cannot be found"
    if why or planned is None:
        text = f"The UEFI variables of {vm.name} stay in {vm.nvram}: {why}."
        draft.findings.append(finding("NVRAM_STAYS", text))
        return None
    if request.firmware is Firmware.NOW and vm.state.active:
        return replace(planned, now=_managed_save_plan(facts, draft))
    if vm.state.active or vm.has_managed_save:
        text = f"The UEFI variables of {vm.name} stay in {vm.nvram} until it has been powered off, then they follow."
        draft.findings.append(finding("NVRAM_FOLLOWS", text))
    return planned


SAVE_OVERHEAD_S = 1.0
"""Ending a QEMU, copying the variables, starting another one."""


def _managed_save_plan(facts: Facts, draft: Draft) -> ManagedSavePlan | None:
    """How the VM is held for its UEFI variables; None, with the reason among the findings, when it cannot be."""
    vm, room = facts.vm, facts.save_room
    why = ""
    if vm.unsavable:
        why = f"it has {vm.unsavable}"
    elif vm.state is PowerState.CRASHED:
        why = "its guest has crashed"
    elif room is None or room.problem:
        why = "the place for saved states cannot be looked at" + (f": {room.problem}" if room else "")
    if why or room is None:
        draft.findings.append(finding("FIRMWARE_NOT_NOW", f"{vm.name} cannot be saved and restored: {why}."))
        return None
    needed = space.for_memory(vm.memory)
    if room.free < needed:
        text = f"{vm.name} needs {format_size(needed)} in {room.directory} for its memory; {format_size(room.free)}"
        draft.findings.append(finding("FIRMWARE_NO_ROOM", f"{text} are free."))
        return None
    expected_s = 2 * vm.memory / room.rate + SAVE_OVERHEAD_S
    text = (
        f"{vm.name} stands still for up to about {format_duration(expected_s)} for its UEFI variables: "
        f"{format_size(vm.memory)} are saved to {room.directory} and loaded again, at {format_rate(room.rate)} as "
        "measured."
    )
    draft.findings.append(finding("FIRMWARE_NOW", text))
    return ManagedSavePlan(f"{room.directory}/{vm.name}.save", vm.memory, room.rate, expected_s)


def vtpm_left_behind(facts: Facts, draft: Draft) -> str | None:
    """Where the state of an emulated TPM is: libvirt's swtpm keeps it on the host, by the VM's UUID."""
    if not facts.vm.tpm:
        return None
    path = f"{VTPM_DIRECTORY}/{facts.vm.uuid}"
    text = f"The state of the vTPM of {facts.vm.name} stays in {path}; it is the host's, and the VM finds it there."
    draft.findings.append(finding("TPM_STAYS", text))
    return path
