"""What stands against taking a VM's UEFI variables to another host. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from blockferry.base.units import MiB, format_size
from blockferry.host_move.precheck.catalogue import finding
from blockferry.host_move.precheck.host_move_facts import HostFacts, Sharing, VariablesSeen
from blockferry.storage_move.precheck.finding import Finding

LARGEST = 64 * MiB
"""Bytes of the largest file that is taken along: that of AAVMF, the firmware of ARM. It passes the manager."""


def findings(facts: HostFacts) -> Iterator[Finding]:
    """Yield what is wrong with the variables, their place, and the firmware that reads them."""
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
    if not any(other is not None for _, other in seen.loaders.values()) and not facts.needs.loader:
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
