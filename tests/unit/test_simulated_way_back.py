"""Moves into an old disk that quarantine had kept (`--use-kept`), by the real effects on the simulated host.

Wherever a process dies: the old disk is in quarantine again, as it was, or it is written to, and a copy of this move
like any other. What somebody else has done to the file before that is never written over, and never removed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
from effort import EVERYTHING
from simulated_host.files import REGION, Image, Inode, Regions
from simulated_host.machine import HOST_UUID, Machine
from simulated_host.moves import Run, SimulatedJournal, Wish, build, check_end, happening, installed

from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.overlays.plan import PartialPlan
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, OnBreak

OLD = "/ssd/web01/vda.qcow2"
NEVER = 10**6
"""A write that the guest never makes."""


@pytest.fixture(scope="module", autouse=True)
def machine_time() -> Iterator[None]:
    with installed():
        yield


WISHES = {
    "off": Wish(runs=False),
    "snapshot": Wish(1, Method.SNAPSHOT),
    "changed-blocks": Wish(),
    "start race": Wish(1, start_race=True),
    "raw to qcow2, off": Wish(source_format="raw", runs=False),
    "removed at a break": Wish(1, Method.SNAPSHOT, on_break=OnBreak.REMOVE),
}


class WayBack:
    """A move whose first disk has an old disk at the destination: all of it but one region is as at the source."""

    def __init__(self, wish: Wish) -> None:
        machine, plan = build(wish, 1)
        source = machine.files.find(plan.disk("vda").source.path).image
        assert source is not None
        machine.files.create("/ssd/web01", 0o711, "directory")
        self.inode = machine.files.create(OLD, 0o644)
        first = {**dict.fromkeys(range(3), NEVER), **{region: region + 1 for region in range(2)}}
        self.inode.image = Image("qcow2", source.size, None, first)
        self.inode.flush()
        self.row = Kept(
            OLD, "m0", "web01", "ssd", 9e9, self.inode.allocated, "kept as asked; nothing here uses it", HOST_UUID, 1.0,
            "qcow2", KeptFingerprint(self.inode.number, self.inode.size, self.inode.mtime),
        )  # fmt: skip
        self.as_kept = copy.deepcopy(self.inode.image)
        self.run = Run(machine, self._planned(plan), SimulatedJournal(self._record()))

    def _planned(self, plan: Plan) -> Plan:
        disk = plan.disk("vda")
        assert disk.dest.path == OLD
        disk = replace(disk, partial=PartialPlan("m0", self.row.size, self.row))
        return replace(plan, disks=tuple(disk if one.target == "vda" else one for one in plan.disks))

    @staticmethod
    def _record() -> str:
        return msgspec.json.encode(Record(created=(OLD,), disks={"vda": DiskRecord(partial=True)})).decode()

    @property
    def machine(self) -> Machine:
        return self.run.machine

    @property
    def story(self) -> str:
        return "\n".join([*self.run.journal.story, *self.run.deaths])

    @property
    def taken_over(self) -> bool:
        return self.run.journal.read().disk("vda").taken_over

    def now(self) -> Inode | None:
        return self.machine.files.get(OLD)

    def alter(self) -> Regions:
        """Somebody else writes to the old disk; what it holds then."""
        assert self.inode.image is not None
        self.inode.image.regions[0] = NEVER + 1
        self.inode.flush()
        self.machine.files.touch(self.inode)
        return dict(self.inode.image.regions)

    def check_end(self, outcome: Outcome | None) -> None:
        check_end(self.run, outcome)
        if outcome is None:
            return
        kept = [row for row in self.run.journal.kept if row.path == OLD]
        if outcome is Outcome.MOVED:
            assert not kept, f"it is the VM's disk, and no old one\n{self.story}"
        elif self.taken_over:
            assert not kept, f"it was written to, and is no old disk any more\n{self.story}"
        else:
            assert kept == [self.row], f"not given back\n{self.story}"
            assert self.now() is self.inode, f"the old disk is gone\n{self.story}"


def points(name: str) -> range:
    quiet = WayBack(WISHES[name])
    quiet.run.to_the_end()
    return range(1, quiet.run.points[0] + 1, 1 if EVERYTHING else 4)


@pytest.mark.parametrize("name", WISHES)
def test_only_what_differs_is_written_into_the_old_disk(name: str) -> None:
    back = WayBack(WISHES[name])
    outcome = back.run.to_the_end()
    back.check_end(outcome)
    assert outcome is Outcome.MOVED, back.story
    assert back.now() is back.inode, "another file was made"
    assert back.taken_over
    written = [line for line in back.run.journal.story if "brought in step" in line]
    assert written, back.story
    if not WISHES[name].runs:
        assert f", {REGION // 2**20}.0 MiB written" in written[0], written


@pytest.mark.slow
@pytest.mark.parametrize("name", WISHES)
def test_killed_at_every_point(name: str) -> None:
    for point in points(name):
        back = WayBack(WISHES[name])
        outcome = back.run.to_the_end([point])
        back.check_end(outcome)
        assert outcome is Outcome.MOVED, f"point {point}\n{back.story}"


@pytest.mark.slow
@pytest.mark.parametrize("name", WISHES)
def test_cancelled_at_every_point(name: str) -> None:
    """Killed twice on the way back as well. Before the first write the old disk is what it was, and kept as it was."""
    given_back = written = 0
    for point in points(name):
        back = WayBack(WISHES[name])
        outcome = back.run.process(point)
        if outcome is None:
            back.run.journal.wanted = Wanted.CANCEL
            outcome = back.run.to_the_end([point % 5 + 1, point % 7 + 1])
        back.check_end(outcome)
        assert outcome in (Outcome.MOVED, Outcome.CANCELLED), f"point {point}\n{back.story}"
        if outcome is Outcome.CANCELLED and not back.taken_over:
            assert back.inode.image == back.as_kept, f"point {point}: it was written to\n{back.story}"
            given_back += 1
        elif outcome is Outcome.CANCELLED:
            written += 1
    assert given_back
    assert written


@pytest.mark.slow
@pytest.mark.parametrize("name", WISHES)
def test_what_somebody_has_written_to_it_meanwhile_is_left_alone(name: str) -> None:
    """The move dies; before the next process takes it up somebody uses the old disk, which is not written to yet."""
    tried = 0
    for point in points(name):
        back = WayBack(WISHES[name])
        if back.run.process(point) is not None or back.taken_over:
            break
        theirs = back.alter()
        outcome = back.run.to_the_end()
        back.check_end(outcome)
        assert outcome is Outcome.FAILED, f"point {point}\n{back.story}"
        assert back.inode.image is not None
        assert back.inode.image.regions == theirs, f"point {point}: written over\n{back.story}"
        assert "changed since it was kept" in back.story
        tried += 1
    assert tried


def test_another_file_of_its_name_is_left_alone() -> None:
    back = WayBack(WISHES["snapshot"])
    assert back.run.process(3) is None
    back.machine.files.unlink(OLD)
    other = back.machine.files.create(OLD, 0o644)
    other.image = copy.deepcopy(back.as_kept)
    other.flush()
    outcome = back.run.to_the_end()
    check_end(back.run, outcome)
    assert outcome is Outcome.FAILED, back.story
    assert back.now() is other
    assert other.image == back.as_kept


@pytest.mark.slow
@pytest.mark.parametrize("event", ["power off", "qemu dies", "power fails", "libvirtd restarts"])
@pytest.mark.parametrize("name", ["snapshot", "changed-blocks", "off"])
def test_something_happens_at_every_point(name: str, event: str) -> None:
    first = sum(map(ord, name + event)) % 3
    for point in points(name)[first :: 1 if EVERYTHING else 4]:
        back = WayBack(WISHES[name])
        again = happening(back.run, "power on")
        happens = {point: happening(back.run, event), **dict.fromkeys(range(point + 9, 1000, 23), again)}
        outcome = back.run.process(None, happens)
        if outcome is None and not back.run.journal.parked:
            outcome = back.run.to_the_end()
        back.check_end(outcome)
