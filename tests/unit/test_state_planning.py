"""UEFI variables that go to another host: what the pre-check says of them, and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from test_host_check import PLAIN, codes, vm

from blockferry.base.units import MiB
from blockferry.host_move import state_planning
from blockferry.host_move.host_plan import StateFile
from blockferry.host_move.precheck.host_move_facts import HostFacts, Sharing, TpmSeen, VariablesSeen
from blockferry.hosts.defects import Version
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt import needs_xml

PATH, CODE = "/var/lib/libvirt/qemu/nvram/web01_VARS.fd", "/usr/share/OVMF/OVMF_CODE_4M.fd"
TPM = "/var/lib/libvirt/swtpm/u1"
SAME = {CODE: (3653632, 3653632)}


def uefi(
    size: int | None = 540672, sharing: Sharing | None = None, dest: str = PATH, tried: str = PATH,
    loaders: Mapping[str, tuple[int | None, int | None]] = SAME,
) -> HostFacts:  # fmt: skip
    facts = vm(nvram=PATH, config_nvram=PATH)
    return replace(facts, variables=VariablesSeen(PATH, size, sharing, dest, tried, loaders))


def with_tpm(
    files: Mapping[str, int] | None = None, there: tuple[str, ...] = (), state: PowerState = PowerState.RUNNING,
    libvirt: Version = (9, 0, 0),
) -> HostFacts:  # fmt: skip
    facts = vm(state=state, tpm=True)
    seen = TpmSeen(TPM, files if files is not None else {f"{TPM}/tpm2/state": 6098}, there)
    return replace(facts, tpm=seen, source=replace(facts.source, libvirt=libvirt))


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
    def travelling(facts: HostFacts, *, active: bool = True) -> tuple[StateFile, ...]:
        return state_planning.travelling(facts.variables, facts.tpm, active=active)

    assert travelling(uefi()) == (StateFile("nvram", PATH, PATH, 540672),)
    assert travelling(uefi(sharing=Sharing.SAME)) == ()
    assert travelling(uefi(size=None)) == ()
    assert travelling(PLAIN) == ()
    for active in (True, False):
        state = StateFile("tpm", f"{TPM}/tpm2/state", f"{TPM}/tpm2/state", 6098, sent=active)
        assert travelling(with_tpm(), active=active) == (state,)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (with_tpm(there=(f"{TPM}/tpm2/state",)), "TPM_TAKEN"),
        (with_tpm(files={f"{TPM}/tpm2/state": 65 * MiB}), "TPM_STATE"),
        (with_tpm(state=PowerState.OFF, libvirt=(8, 8, 0)), "TPM_STATE"),
    ],
)
def test_what_the_check_says_of_a_tpm(facts: HostFacts, code: str) -> None:
    assert codes(facts) == [code]


def test_a_tpm_that_simply_goes_along() -> None:
    assert codes(with_tpm()) == []
    assert codes(with_tpm(libvirt=(8, 8, 0))) == []  # of a running VM libvirt sends it
    assert codes(with_tpm(state=PowerState.OFF)) == []


@pytest.mark.parametrize(
    ("backend", "odd"),
    [
        ("<backend type='emulator' version='2.0'/>", ""),
        ("<backend type='emulator'><encryption secret='s'/></backend>", "encrypted"),
        ("<backend type='emulator'><source type='dir' path='/t'/></backend>", "a place of its own"),
        ("<backend type='external'><source type='unix' path='/s'/></backend>", "no emulated one"),
        ("<backend type='passthrough'><device path='/dev/tpm0'/></backend>", "no emulated one"),
    ],
)
def test_a_tpm_whose_state_cannot_go(backend: str, odd: str) -> None:
    os_xml = "<os><type arch='x86_64'>hvm</type></os>"
    xml = f"<domain type='kvm'>{os_xml}<devices><tpm model='tpm-crb'>{backend}</tpm></devices></domain>"
    needs = needs_xml.parse(xml)
    assert odd in needs.odd_tpm
    assert bool(odd) == bool(needs.odd_tpm)
    if odd:
        facts = vm(state=PowerState.OFF)
        refused = replace(facts, needs=replace(facts.needs, tpm="external", odd_tpm=needs.odd_tpm))
        assert codes(refused) == ["TPM_STATE"]


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
