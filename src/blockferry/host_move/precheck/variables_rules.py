"""What stands against taking a VM's UEFI variables and the state of its TPM to another host. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from blockferry.base.units import MiB, format_size
from blockferry.host_move.precheck.catalogue import finding
from blockferry.host_move.precheck.host_move_facts import HostFacts, Sharing, VariablesSeen
from blockferry.storage_move.precheck.finding import Finding

LARGEST = 64 * MiB
"""Bytes of the largest file that is taken along: that of AAVMF, the firmware of ARM. It passes the manager."""


KEEPS_TPM = (8, 9, 0)
"""libvirt from this version on can remove a definition and leave the state of its TPM."""


def findings(facts: HostFacts) -> Iterator[Finding]:
    """Yield what is wrong with either."""
    yield from _variables(facts)
    yield from _tpm(facts)


def _tpm(facts: HostFacts) -> Iterator[Finding]:
    name, here, there = facts.vm.name, facts.source, facts.destination.hostname
    if facts.needs.odd_tpm:
        if facts.needs.tpm != "passthrough" or not facts.vm.state.active:  # of a running one DEVICE_UNMOVABLE is said
            yield finding("TPM_STATE", f"The TPM of {name} {facts.needs.odd_tpm}.")
        return
    if facts.tpm is None:
        return
    if facts.tpm.there:
        yield finding("TPM_TAKEN", f"{there} has {facts.tpm.there[0]}, of the TPM of a VM with the UUID of {name}.")
    if not facts.vm.state.active and here.libvirt < KEEPS_TPM:
        text = f"libvirt on {here.hostname} would remove the state of the TPM of {name} with its definition."
        yield finding("TPM_STATE", text, "Move the VM while it runs, or update libvirt.")
    large = [path for path, size in facts.tpm.files.items() if size > LARGEST]
    if large:
        yield finding("TPM_STATE", f"{large[0]}, of the TPM of {name}, has more than {format_size(LARGEST)}.")


def _variables(facts: HostFacts) -> Iterator[Finding]:
    name, there = facts.vm.name, facts.destination.hostname
    if facts.needs.odd_variables:
        yield finding("UEFI_VARIABLES", f"The UEFI variables of {name} are in {facts.needs.odd_variables}.")
        return
    vm, seen = facts.vm, facts.variables
    if vm.nvram and vm.config_nvram and posixpath.normpath(vm.nvram) != posixpath.normpath(vm.config_nvram):
        text = f"The UEFI variables of {name} are in {vm.nvram}, and in {vm.config_nvram} at its next start."
        yield finding("CONFIG_DIFFERS", text)
    if seen is None:
        return
    for path, (here, other) in seen.loaders.items():
        if here is not None and other is not None and here != other:
            text = f"The firmware {path} has {here} bytes on {facts.source.hostname} and {other} on {there}."
            yield finding("FIRMWARE_DIFFERS", text)
    if seen.loaders and not facts.needs.loader and all(other is None for _, other in seen.loaders.values()):
        yield finding("FIRMWARE_DIFFERS", f"{there} has none of the firmware files of {facts.source.hostname}.")
    yield from _place(facts, seen)


def _place(facts: HostFacts, seen: VariablesSeen) -> Iterator[Finding]:
    name, there = facts.vm.name, facts.destination.hostname
    if seen.size is None:
        if seen.sharing is Sharing.OTHER:
            text = f"{seen.path}, the UEFI variables of {name}, is not on {facts.source.hostname}, but on {there}."
            yield finding("UEFI_VARIABLES", text, "Remove that file if nothing needs it.")
        return
    if not seen.travels:
        return
    if seen.size > LARGEST:
        text = f"{seen.path}, the UEFI variables of {name}, has {format_size(seen.size)}; up to {format_size(LARGEST)} "
        yield finding("UEFI_VARIABLES", f"{text}go along.")
    elif not seen.dest and not seen.tried:
        text = f"{there} has no directory {posixpath.dirname(seen.path)} for the UEFI variables of {name}."
        yield finding("UEFI_VARIABLES", text, f"On {there}: `mkdir -p {posixpath.dirname(seen.path)}`.")
    elif not seen.dest:
        yield finding("NAME_COLLISION", f"The UEFI variables of {name} have no free name on {there}: {seen.tried}.")
    elif seen.dest != seen.tried:
        text = f"{seen.tried} is there already, or made by another move; the UEFI variables go to {seen.dest}."
        yield finding("NAME_TAKEN", text)
