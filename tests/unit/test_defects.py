"""The table of known defects: ranges, what follows from them, and that the pre-check asks it."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockferry.base.units import GiB
from blockferry.hosts.defects import (
    DEFECTS,
    EVER,
    Case,
    Component,
    Harm,
    Remedy,
    Span,
    Version,
    Versions,
    against_synchronous,
    met,
    present,
    starts_suspended,
)
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Vm
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck import rules as precheck_rules
from blockferry.storage_move.precheck.finding import Finding, Severity
from blockferry.storage_move.request import ChainPolicy, Method, MoveRequest

versions = st.tuples(st.integers(5, 12), st.integers(0, 12), st.integers(0, 25))
cases = st.builds(
    Case,
    live=st.booleans(),
    synchronous=st.booleans(),
    shallow=st.booleans(),
    source_format=st.sampled_from(("raw", "qcow2", "vmdk")),
    bus=st.sampled_from(("virtio", "scsi", "sata", "ide")),
    iothread=st.booleans(),
    discard=st.booleans(),
    io=st.sampled_from((None, "native", "io_uring")),
    copy_on_read=st.booleans(),
)
LIBVIRT = (9, 0, 0)


@pytest.mark.parametrize(
    ("since", "fixed", "inside", "outside"),
    [
        ((8, 0, 0), (11, 0, 0), [(8, 0, 0), (8, 2, 7), (10, 99, 99)], [(7, 2, 22), (11, 0, 0), (11, 0, 1)]),
        ((8, 1, 0), None, [(8, 1, 0), (99, 0, 0)], [(8, 0, 99)]),
        (EVER, (7, 2, 0), [(0, 0, 0), (7, 1, 99)], [(7, 2, 0)]),
    ],
)
def test_spans(since: Version, fixed: Version | None, inside: list[Version], outside: list[Version]) -> None:
    span = Span(since, fixed)
    assert all(span.holds(one) for one in inside)
    assert not any(span.holds(one) for one in outside)


@given(versions, versions, versions)
def test_a_span_is_an_interval(since: Version, fixed: Version, version: Version) -> None:
    assert Span(since, fixed).holds(version) == (since <= version < fixed)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda one: one.id)
def test_entries_are_whole(defect: object) -> None:
    one = next(known for known in DEFECTS if known is defect)
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+", one.id)
    assert one.references
    assert all(url.startswith(("https://", "measured.md#")) for url in one.references)
    assert len(set(one.references)) == len(one.references)
    assert one.what.endswith(".")
    assert one.instead.endswith(".")
    assert one.touches
    assert one.known_from
    for earlier, later in zip(one.spans, one.spans[1:], strict=False):
        assert earlier.fixed is not None
        assert earlier.fixed <= later.since
    for span in one.spans:
        assert span.fixed is None or span.since < span.fixed
        assert one.affects(span.since)
        assert span.fixed is None or not one.affects(span.fixed)


def test_ids_are_unique() -> None:
    assert len({defect.id for defect in DEFECTS}) == len(DEFECTS)


@given(versions, versions, cases)
def test_what_is_met_is_present_and_concerns(libvirt: Version, qemu: Version, case: Case) -> None:
    host = Versions(libvirt, qemu)
    for defect in met(host, case):
        assert defect in present(host)
        assert defect.affects(qemu if defect.component is Component.QEMU else libvirt)
        assert defect.concerns(case)


@given(versions, versions, cases)
def test_a_cold_copy_meets_none(libvirt: Version, qemu: Version, case: Case) -> None:
    assert met(Versions(libvirt, qemu), dataclasses.replace(case, live=False)) == ()


@given(versions, versions, cases)
def test_no_copy_that_is_made_can_lose_data_untold(libvirt: Version, qemu: Version, case: Case) -> None:
    """Whoever obeys the table (background where told so, suspended start) is left with what is told or refused."""
    host = Versions(libvirt, qemu)
    synchronous = case.synchronous and not case.shallow and against_synchronous(host) is None
    made = dataclasses.replace(case, synchronous=synchronous)
    for defect in met(host, made):
        if defect.harm in (Harm.LOSES_DATA, Harm.KILLS_VM) and defect.remedy is Remedy.START_SUSPENDED:
            assert starts_suspended(host, made)
        assert defect.remedy is not Remedy.NO_SYNCHRONOUS


@pytest.mark.parametrize(
    ("qemu", "synchronous"),
    [
        ((6, 0, 0), False),
        ((7, 1, 99), False),
        ((7, 2, 0), True),
        ((7, 2, 22), True),
        ((10, 0, 9), True),
        ((10, 1, 0), False),
        ((10, 2, 1), False),
        ((11, 0, 0), True),
    ],
)
def test_where_mirror_can_be_trusted(qemu: Version, synchronous: bool) -> None:
    assert (against_synchronous(Versions(LIBVIRT, qemu)) is None) is synchronous


# ------------------------------------------------------------ the pre-check asks the table


def checked(
    qemu: Version,
    method: Method = Method.AUTO,
    state: PowerState = PowerState.RUNNING,
    running: Version | None = None,
    **disk: object,
) -> tuple[dict[str, Severity], Plan | None]:
    """(id of each known defect told -> how, the plan) for a VM with one qcow2 disk."""
    found, plan = looked_at(qemu, method, state, running, **disk)  # type: ignore[arg-type]
    told = {finding.text.split(":")[0]: finding.severity for finding in found if finding.code == "KNOWN_DEFECT"}
    return told, plan


def looked_at(
    qemu: Version,
    method: Method = Method.AUTO,
    state: PowerState = PowerState.RUNNING,
    running: Version | None = None,
    problem: str = "",
    **disk: object,
) -> tuple[tuple[Finding, ...], Plan | None]:
    """What the pre-check says. `qemu`: the installed one; `running`: the VM's own, `problem`: why it is not known."""
    source = DiskSource("file", "/old/web01/vda.qcow2", str(disk.pop("format", "qcow2")))
    one = Disk("vda", "disk", "virtio", source if state.active else None, source)
    one = dataclasses.replace(one, **disk)  # type: ignore[arg-type]
    stores = (
        Datastore("old", "u1", "dir", True, "/old", 100 * GiB, 50 * GiB),
        Datastore("ssd", "u2", "dir", True, "/ssd", 100 * GiB, 50 * GiB),
    )
    facts = Facts(
        uri="qemu:///system",
        vm=Vm("web01", "uuid", state, True, (one,)),
        datastores=stores,
        libvirt=LIBVIRT,
        qemu=qemu,
        chains={"vda": (Image("/old/web01/vda.qcow2", source.format, GiB, GiB),)},
        available={"ssd": 50 * GiB},
        running_qemu=running,
        running_qemu_problem=problem,
    )
    return precheck_rules.precheck(MoveRequest("web01", "ssd", method=method, chain=ChainPolicy.FLATTEN), facts, "abcd")


def test_the_lab_s_versions_move_by_mirror_without_a_word() -> None:
    told, plan = checked((7, 2, 22), Method.MIRROR)
    assert told == {}
    assert plan is not None
    assert plan.synchronous
    assert not plan.disks[0].start.suspended


def test_an_iothread_before_8_starts_suspended() -> None:
    _, plan = checked((7, 2, 22), iothread=True)
    assert plan is not None
    assert plan.disks[0].start.suspended


def test_the_race_starts_suspended_until_it_is_cured() -> None:
    for qemu, suspended in (((8, 0, 0), True), ((10, 0, 3), True), ((10, 0, 13), False), ((11, 0, 0), False)):
        _, plan = checked(qemu)
        assert plan is not None
        assert plan.disks[0].start.suspended is suspended


BRANCHES: list[tuple[str, Version | None, Version | None]] = [
    # the last release of a branch that has it (None: the branch never had it), the first that has not (None: unknown)
    ("QEMU_3273", None, (7, 2, 22)),
    ("QEMU_3273", (8, 2, 99), None),
    ("QEMU_3273", (9, 2, 99), None),
    ("QEMU_3273", (10, 0, 8), (10, 0, 9)),
    ("QEMU_3273", (10, 1, 99), None),
    ("QEMU_3273", (10, 2, 1), (10, 2, 2)),
    ("QEMU_3273", None, (11, 0, 0)),
    ("QEMU_3273", None, (11, 1, 3)),
    ("QEMU_IDE_TRIM_DRAIN", (10, 0, 9), (10, 0, 10)),
    ("QEMU_IDE_TRIM_DRAIN", (11, 1, 3), None),
    ("QEMU_DISCARD_WRITE_RACE", (10, 0, 10), (10, 0, 11)),
    ("QEMU_DISCARD_WRITE_RACE", (11, 0, 1), (11, 0, 2)),
    ("QEMU_DISCARD_WRITE_RACE", None, (11, 1, 0)),
]


@pytest.mark.parametrize(("id", "last", "first"), BRANCHES)
def test_stable_branches(id: str, last: Version | None, first: Version | None) -> None:
    """A stable release may be mended before a newer one is: docs/design/start-race.md says what was read."""
    [defect] = [one for one in DEFECTS if one.id == id]
    assert last is None or defect.affects(last)
    assert first is None or not any(defect.affects((*first[:2], first[2] + later)) for later in range(20))


def test_where_mirror_crashes_the_copy_goes_in_the_background() -> None:
    told, plan = checked((10, 1, 2))
    assert plan is not None
    assert plan.method is Method.CHANGED_BLOCKS
    assert "mirror cannot be trusted" in plan.method_reason
    assert plan.pace.background_only
    assert not dataclasses.replace(plan, method=Method.MIRROR).synchronous
    assert told == {}
    told, plan = checked((10, 1, 2), Method.MIRROR)
    assert plan is None
    assert told == {"QEMU_ACTIVE_MIRROR_ZEROES": Severity.ERROR}


def test_a_live_move_is_refused_where_any_mirror_crashes() -> None:
    told, plan = checked((6, 1, 0))
    assert plan is None
    assert told["QEMU_MIRROR_CONFLICT_CRASH"] is Severity.ERROR
    told, plan = checked((6, 1, 0), state=PowerState.OFF)
    assert told == {}
    assert plan is not None
    assert plan.method is Method.COLD


def test_a_live_move_of_a_disk_with_copy_on_read_is_refused() -> None:
    """QEMU went on with the old image after the second switch of one run, and the new one was stale."""
    for qemu in ((6, 0, 0), (7, 2, 22), (11, 0, 0)):
        for method in (Method.AUTO, Method.MIRROR, Method.CHANGED_BLOCKS, Method.SNAPSHOT):
            told, plan = checked(qemu, method, copy_on_read=True)
            assert told["LIBVIRT_COPY_ON_READ"] is Severity.ERROR
            assert plan is None
        told, plan = checked(qemu, state=PowerState.OFF, copy_on_read=True)
        assert told == {}
        assert plan is not None


@pytest.mark.parametrize(
    ("qemu", "disk", "id"),
    [
        ((8, 1, 2), {"iothread": True}, "QEMU_STOP_IOTHREAD_DEADLOCK"),
        ((8, 1, 2), {"iothread": True, "bus": "scsi"}, "QEMU_DRAIN_IOTHREAD_STUCK"),
        ((7, 2, 22), {"bus": "sata", "discard": "unmap"}, "QEMU_IDE_TRIM_DRAIN"),
        ((7, 2, 5), {"bus": "sata"}, "CVE_2023_5088"),
        ((7, 0, 0), {"io": "io_uring"}, "QEMU_IO_URING_SHORT_READ"),
    ],
)
def test_what_cannot_be_avoided_is_told(qemu: Version, disk: dict[str, object], id: str) -> None:
    told, plan = checked(qemu, **disk)  # type: ignore[arg-type]
    assert told[id] is Severity.WARNING
    assert plan is not None


# ------------------------------------------------------------ a VM that runs has its own QEMU


def test_defects_are_those_of_the_vm_s_own_qemu() -> None:
    disk = {"bus": "sata"}
    assert "CVE_2023_5088" in checked((8, 2, 5), running=(7, 2, 5), **disk)[0]  # type: ignore[arg-type]
    assert "CVE_2023_5088" not in checked((7, 2, 5), running=(7, 2, 22), **disk)[0]  # type: ignore[arg-type]
    told, plan = checked((6, 2, 0), running=(6, 1, 0))
    assert told["QEMU_MIRROR_CONFLICT_CRASH"] is Severity.ERROR
    assert plan is None


def test_the_vm_s_own_qemu_decides_whether_mirror_can_be_trusted() -> None:
    told, plan = checked((11, 0, 0), Method.MIRROR, running=(10, 1, 2))
    assert told == {"QEMU_ACTIVE_MIRROR_ZEROES": Severity.ERROR}
    assert plan is None
    _, plan = checked((11, 0, 0), running=(10, 1, 2))
    assert plan is not None
    assert plan.pace.background_only
    told, plan = checked((10, 1, 2), Method.MIRROR, running=(10, 0, 3))
    assert told == {}
    assert plan is not None
    assert plan.synchronous


@pytest.mark.parametrize(
    ("installed", "running", "suspended"),
    [
        ((7, 2, 22), (7, 2, 22), False),
        ((11, 0, 0), (10, 0, 3), True),
        ((8, 2, 0), (7, 2, 22), True),  # a VM that is powered off and started in the middle goes on in the installed
        ((11, 0, 0), (7, 2, 22), False),
    ],
)
def test_a_copy_starts_suspended_if_either_qemu_needs_it(installed: Version, running: Version, suspended: bool) -> None:
    _, plan = checked(installed, running=running)
    assert plan is not None
    assert plan.disks[0].start.suspended is suspended
    assert plan.disks[0].start.overlay_suspended is suspended


def test_another_qemu_is_told_and_so_is_one_that_is_not_known() -> None:
    def codes(**more: object) -> dict[str, Finding]:
        return {finding.code: finding for finding in looked_at((8, 2, 0), **more)[0]}  # type: ignore[arg-type]

    assert not codes(running=(8, 2, 0)).keys() & {"OTHER_QEMU", "QEMU_UNKNOWN"}
    assert not codes(state=PowerState.OFF).keys() & {"OTHER_QEMU", "QEMU_UNKNOWN"}
    other = codes(running=(7, 2, 5))["OTHER_QEMU"]
    assert other.severity is Severity.INFO
    assert "web01 runs in QEMU 7.2.5" in other.text
    unknown = codes(problem="no process")["QEMU_UNKNOWN"]
    assert unknown.severity is Severity.WARNING
    assert "(no process)" in unknown.text
    assert "8.2.0" in unknown.text


def test_neither_qemu_may_be_too_old() -> None:
    for installed, running in (((5, 2, 0), (7, 2, 22)), ((7, 2, 22), (5, 2, 0))):
        found, plan = looked_at(installed, running=running)
        assert plan is None
        (text,) = [finding.text for finding in found if finding.code == "TOO_OLD"]
        assert "5.2.0" in text
