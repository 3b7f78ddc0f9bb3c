"""UEFI variables that go to another host: what the pre-check says of them, and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from test_host_check import codes, vm

from blockferry.base.units import MiB
from blockferry.host_move import state_planning
from blockferry.host_move.host_plan import StateFile
from blockferry.host_move.precheck.host_move_facts import HostFacts, Sharing, VariablesSeen
from blockferry.hosts.libvirt import needs_xml

PATH, CODE = "/var/lib/libvirt/qemu/nvram/web01_VARS.fd", "/usr/share/OVMF/OVMF_CODE_4M.fd"
SAME = {CODE: (3653632, 3653632)}


def uefi(
    size: int | None = 540672, sharing: Sharing | None = None, dest: str = PATH, tried: str = PATH,
    loaders: Mapping[str, tuple[int | None, int | None]] = SAME,
) -> HostFacts:  # fmt: skip
    facts = vm(nvram=PATH, config_nvram=PATH)
    return replace(facts, variables=VariablesSeen(PATH, size, sharing, dest, tried, loaders))


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (uefi(dest="", tried=""), "UEFI_VARIABLES"),  # no such directory
        (uefi(size=65 * MiB), "UEFI_VARIABLES"),
        (uefi(size=None, sharing=Sharing.OTHER), "UEFI_VARIABLES"),  # libvirt would use a file that is somebody's
        (uefi(dest=""), "NAME_COLLISION"),
        (uefi(dest=PATH.replace("VARS", "VARS-2")), "NAME_TAKEN"),
        (uefi(loaders={CODE: (3653632, 1966080)}), "FIRMWARE_DIFFERS"),
        (uefi(loaders={CODE: (3653632, None)}), "FIRMWARE_DIFFERS"),  # libvirt chooses it, and has none of them
    ],
)
def test_what_the_check_says_of_them(facts: HostFacts, code: str) -> None:
    assert codes(facts) == [code]


def test_variables_that_simply_go_along_or_stay() -> None:
    assert codes(uefi()) == []
    assert codes(uefi(sharing=Sharing.OTHER)) == []
    assert codes(uefi(sharing=Sharing.SAME, dest="", tried="")) == []
    assert codes(uefi(size=None, dest="", tried="")) == []  # made from the template at the first start


def test_a_firmware_that_is_missing_is_told_by_its_path() -> None:
    """PATH_MISSING names it; that it differs is not said besides."""
    facts = uefi(loaders={CODE: (3653632, None)})
    assert codes(replace(facts, needs=replace(facts.needs, loader=CODE))) == []


def test_what_travels() -> None:
    assert state_planning.travelling(uefi().variables) == (StateFile("nvram", PATH, PATH, 540672),)
    assert state_planning.travelling(uefi(sharing=Sharing.SAME).variables) == ()
    assert state_planning.travelling(uefi(size=None).variables) == ()
    assert state_planning.travelling(None) == ()


@pytest.mark.parametrize(
    ("inside", "odd"),
    [
        (f"<loader type='pflash'>{CODE}</loader><nvram>{PATH}</nvram>", ""),
        (f"<nvram type='file'><source file='{PATH}'/></nvram>", ""),
        ("<nvram type='block'><source dev='/dev/vg/vars'/></nvram>", "no file (<nvram type='block'>)"),
        ("<nvram type='network'><source protocol='nbd'/></nvram>", "no file (<nvram type='network'>)"),
        ("<varstore path='/v'/>", "a store that QEMU keeps itself (<varstore>)"),
    ],
)
def test_variables_that_are_in_no_file(inside: str, odd: str) -> None:
    needs = needs_xml.parse(f"<domain type='kvm'><os><type arch='x86_64'>hvm</type>{inside}</os></domain>")
    assert needs.odd_variables == odd
    assert needs.loader == (CODE if "loader" in inside else "")
