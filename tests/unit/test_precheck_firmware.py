"""What the pre-check says of UEFI variables, vTPM and snapshots: a table over requests and facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockferry.base.units import GiB
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Snapshot, Vm
from blockferry.hosts.libvirt import domain_xml
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move import checkpoint_notes
from blockferry.storage_move.facts import Facts, SaveRoom, SmallFile
from blockferry.storage_move.firmware.plan import ManagedSavePlan, NvramPlan
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck import rules as precheck_rules
from blockferry.storage_move.request import ChainPolicy, Firmware, Method, MoveRequest, Provision

TOP, BASE, VARS = "/old/web01/vda.s1", "/old/web01/vda.qcow2", "/old/web01/web01_VARS.fd"
SOURCE = DiskSource("file", TOP, "qcow2")
REQUEST = MoveRequest("web01", "ssd")
OF_THE_VM = ("persistent", "nvram", "config_nvram", "tpm", "memory", "unsavable")
OFF, RUNNING = PowerState.OFF, PowerState.RUNNING


def facts(state: PowerState = RUNNING, **more: object) -> Facts:
    vm_more = {name: more.pop(name) for name in list(more) if name in OF_THE_VM}
    vm = Vm(
        "web01",
        "uuid",
        state,
        True,
        (Disk("vda", "disk", "virtio", SOURCE if state.active else None, SOURCE),),
        nvram=VARS,
        config_nvram=VARS,
    )
    return replace(
        Facts(
            uri="qemu:///system",
            vm=replace(vm, **vm_more),  # type: ignore[arg-type]
            datastores=(
                Datastore("old", "u1", "dir", True, "/old", 100 * GiB, 50 * GiB),
                Datastore("ssd", "u2", "dir", True, "/ssd", 100 * GiB, 50 * GiB),
            ),
            libvirt=(9, 0, 0),
            qemu=(7, 2, 22),
            chains={"vda": (Image(TOP, "qcow2", GiB, GiB),)},
            available={"ssd": 50 * GiB},
            home_source="/old/web01",
            home_files=(SmallFile(VARS, 540672),),
        ),
        **more,  # type: ignore[arg-type]
    )


def check(request: MoveRequest, known: Facts) -> tuple[dict[str, str], Plan | None]:
    """(code -> sentence and remedy, plan)."""
    found, plan = precheck_rules.precheck(request, known, "abcd")
    return {finding.code: f"{finding.text} {finding.remedy}" for finding in found}, plan


FOLLOWING = NvramPlan(VARS, "/other/web01/web01_VARS.fd", 540672)


@pytest.mark.parametrize(
    ("request_", "known", "code", "dest"),
    [
        (REQUEST, facts(), "NVRAM_FOLLOWS", "/ssd/web01/web01_VARS.fd"),
        (REQUEST, facts(OFF), None, "/ssd/web01/web01_VARS.fd"),
        (replace(REQUEST, firmware=Firmware.LEAVE), facts(), "NVRAM_STAYS", None),
        (MoveRequest("web01", None, {"vda": "ssd"}), facts(), "NVRAM_STAYS", None),
        (MoveRequest("web01", None, {"vda": "ssd"}), facts(following=FOLLOWING), "NVRAM_FOLLOWS", FOLLOWING.dest),
        (REQUEST, facts(following=FOLLOWING), "NVRAM_FOLLOWS", "/ssd/web01/web01_VARS.fd"),
        (replace(REQUEST, firmware=Firmware.LEAVE), facts(following=FOLLOWING), "NVRAM_STAYS", None),
        (REQUEST, facts(home_files=()), "NVRAM_STAYS", None),
        (REQUEST, facts(persistent=False), "NVRAM_STAYS", None),
        (REQUEST, facts(config_nvram="/elsewhere"), "NVRAM_STAYS", None),
        (REQUEST, facts(config_nvram=None), "NVRAM_STAYS", None),
        (REQUEST, facts(nvram=None, config_nvram=None), None, None),
        (
            REQUEST,
            facts(nvram="/ssd/web01/x", config_nvram="/ssd/web01/x", home_files=(SmallFile("/ssd/web01/x", 1),)),
            None,
            None,
        ),
    ],
)
def test_uefi_variables(request_: MoveRequest, known: Facts, code: str | None, dest: str | None) -> None:
    codes, plan = check(request_, known)
    assert plan is not None, codes
    assert (plan.firmware.nvram.dest if plan.firmware.nvram else None) == dest
    assert {one for one in codes if one.startswith("NVRAM")} == ({code} if code else set())
    assert all(file.role != "nvram" for file in (plan.home.files if plan.home else ()))


ROOM = SaveRoom("/save", 8 * GiB, 256.0 * 1024**2)
AT_ONCE = replace(REQUEST, firmware=Firmware.NOW)


@pytest.mark.parametrize(
    ("known", "code", "words"),
    [
        (facts(memory=GiB, save_room=ROOM), "FIRMWARE_NOW", "up to about 9.0 s"),
        (facts(memory=GiB, save_room=ROOM), "FIRMWARE_NOW", "1.0 GiB are saved to /save and loaded again"),
        (facts(memory=8 * GiB, save_room=ROOM), "FIRMWARE_NO_ROOM", "8.0 GiB are free"),
        (facts(memory=GiB, save_room=replace(ROOM, problem="no")), "FIRMWARE_NOT_NOW", "cannot be looked at: no"),
        (facts(memory=GiB, save_room=ROOM, unsavable="a pig"), "FIRMWARE_NOT_NOW", "it has a pig"),
        (facts(OFF, memory=GiB), None, ""),
        (facts(memory=GiB, save_room=ROOM, persistent=False), "NVRAM_STAYS", "transient"),
    ],
)
def test_uefi_variables_at_once(known: Facts, code: str | None, words: str) -> None:
    codes, plan = check(AT_ONCE, known)
    assert words in codes.get(code or "", "")
    assert {one for one in codes if one.startswith(("NVRAM", "FIRMWARE"))} == ({code} if code else set())
    assert (plan is None) == (code in ("FIRMWARE_NO_ROOM", "FIRMWARE_NOT_NOW"))
    if code == "FIRMWARE_NOW":
        assert plan is not None
        assert plan.firmware.nvram is not None
        assert plan.firmware.nvram.now == ManagedSavePlan("/save/web01.save", GiB, 256.0 * 1024**2, 9.0)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", "passed through"),
        ("<interface type='hostdev'/>", "network device"),
        ("<filesystem type='mount'><driver type='virtiofs'/></filesystem>", "virtiofs"),
        ("<filesystem type='mount'/><interface type='network'/>", ""),
    ],
)
def test_what_cannot_be_saved_is_seen_in_the_xml(device: str, words: str) -> None:
    found = domain_xml.parse(f"<domain><name>web01</name><devices>{device}</devices></domain>").unsavable
    assert words in found
    assert bool(words) == bool(found)


def test_uefi_variables_never_overwrite_somebody_s_file() -> None:
    codes, plan = check(REQUEST, facts(existing=frozenset({"/ssd/web01/web01_VARS.fd"})))
    assert "NAME_COLLISION" in codes
    assert plan is None


def test_a_vtpm_stays_and_the_plan_says_where() -> None:
    codes, plan = check(REQUEST, facts(tpm=True))
    assert plan is not None
    assert plan.firmware.vtpm == "/var/lib/libvirt/swtpm/uuid"
    assert plan.firmware.vtpm in codes["TPM_STAYS"]


CHAIN = {"vda": (Image(TOP, "qcow2", GiB, GiB), Image(BASE, "qcow2", GiB, GiB))}
HELD = {"vda": (Image(TOP, "qcow2", GiB, GiB, internal_snapshots=("s1",)),)}
EXTERNAL = (Snapshot("s1", external=("vda",), files=(BASE, TOP, VARS)),)
INTERNAL = (Snapshot("s1", internal=("vda",), files=(TOP, VARS)),)
KEEP = replace(REQUEST, chain=ChainPolicy.KEEP)


@pytest.mark.parametrize(
    ("request_", "known", "code", "words"),
    [
        (REQUEST, facts(chains=CHAIN, snapshots=EXTERNAL), "SNAPSHOTS", "Add --chain keep"),
        (KEEP, facts(chains=CHAIN, snapshots=EXTERNAL), None, ""),
        (KEEP, facts(OFF, chains=CHAIN, snapshots=EXTERNAL), None, ""),
        (KEEP, facts(snapshots=(replace(EXTERNAL[0], files=(TOP, "/old/b")),)), "SNAPSHOTS", "names /old/b"),
        (KEEP, facts(chains=CHAIN, snapshots=(replace(EXTERNAL[0], memory="/m"),)), "SNAPSHOTS", "memory in /m"),
        (REQUEST, facts(chains=HELD, snapshots=INTERNAL), "SNAPSHOTS", "Power it off"),
        (REQUEST, facts(chains=HELD), "INTERNAL_SNAPSHOTS", "Power it off"),
        (REQUEST, facts(OFF, chains=HELD, snapshots=INTERNAL), None, ""),
        (replace(REQUEST, format="raw"), facts(OFF, chains=HELD), "INTERNAL_SNAPSHOTS", "raw cannot hold"),
        (replace(REQUEST, provision=Provision.THICK), facts(OFF, chains=HELD), "INTERNAL_SNAPSHOTS", "thick"),
        (KEEP, facts(OFF, chains={"vda": (*HELD["vda"], *CHAIN["vda"][1:])}), "INTERNAL_SNAPSHOTS", "backing chain"),
    ],
)
def test_snapshots(request_: MoveRequest, known: Facts, code: str | None, words: str) -> None:
    codes, plan = check(request_, known)
    refused = {one for one in codes if one in ("SNAPSHOTS", "INTERNAL_SNAPSHOTS")}
    if code is None:
        assert plan is not None, codes
        assert refused == set()
        assert plan.domain.snapshots == tuple(snapshot.name for snapshot in known.snapshots)
        assert plan.disks[0].copy.as_is == (known.chains is HELD)
    else:
        assert plan is None
        assert code in refused
        assert words in codes[code]


def test_a_kept_chain_s_files_have_new_names() -> None:
    _, plan = check(KEEP, facts(OFF, chains=CHAIN, snapshots=EXTERNAL))
    assert plan is not None
    assert plan.method is Method.COLD
    assert set(plan.new_names) == {TOP, BASE}
    xml = (
        f"<domainsnapshot><name>s1</name><disks><disk name='vda' snapshot='external'><source file='{TOP}'/></disk>"
        f"</disks><domain><os><nvram>{VARS}</nvram></os><devices><disk><source file='{BASE}'/></disk></devices>"
        "</domain></domainsnapshot>"
    )
    assert domain_xml.snapshot(xml) == EXTERNAL[0]
    renamed = domain_xml.rename(xml, plan.new_names)
    assert domain_xml.paths(renamed) == {VARS, *plan.new_names.values()}


def with_checkpoint(state: PowerState = RUNNING, format: str = "qcow2", bitmaps: tuple[str, ...] = ()) -> Facts:
    known = facts(state)
    return replace(
        known,
        vm=replace(known.vm, checkpoints=("monday",)),
        chains={"vda": (Image(TOP, format, GiB, GiB, bitmaps=bitmaps),)},
    )


@pytest.mark.parametrize("bitmaps", [("monday",), ()])
def test_bitmaps_of_a_running_vm_count_also_before_qemu_has_saved_them(bitmaps: tuple[str, ...]) -> None:
    """An overlay would inherit them and the copied base would not: libvirt's answers would be too short."""
    known = with_checkpoint(bitmaps=bitmaps)
    for method in (Method.MIRROR, Method.CHANGED_BLOCKS):
        codes, plan = check(replace(REQUEST, method=method), known)
        assert plan is not None, codes
        assert plan.domain.checkpoints == ("monday",)
        assert "monday" in codes["CHECKPOINTS_VOID"]
        [disk] = plan.disks
        assert disk.source.has_bitmaps
        assert not disk.copy.resumable
        assert not disk.overlays.source
    codes, plan = check(replace(REQUEST, method=Method.SNAPSHOT), known)
    assert plan is None
    assert "bitmaps of checkpoints" in codes["METHOD_SNAPSHOT"]
    codes, plan = check(replace(REQUEST, format="raw"), known)
    assert plan is None
    assert "monday" in codes["CHECKPOINTS_LOST"]


def test_checkpoints_of_other_disks_are_no_hindrance() -> None:
    for known in (with_checkpoint(format="raw"), with_checkpoint(OFF)):
        codes, plan = check(REQUEST, known)
        assert plan is not None, codes
        assert plan.domain.checkpoints == ()
        assert not {"CHECKPOINTS_VOID", "CHECKPOINTS_LOST"} & set(codes)


def test_the_report_tells_of_points_that_are_void() -> None:
    [said] = checkpoint_notes.after_move(("monday",), Outcome.MOVED)
    assert "monday" in said
    assert checkpoint_notes.after_move(("monday",), Outcome.CANCELLED) == ()
    assert checkpoint_notes.after_move((), Outcome.MOVED) == ()
