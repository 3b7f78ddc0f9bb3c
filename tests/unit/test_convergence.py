"""Whether a copy gets in step with its guest: a simulated background mirror, cluster by cluster."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from decide_support import make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.base.units import MiB
from blockferry.hosts.inventory import JobInfo
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move.decide import allowed_pause_s
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView
from blockferry.storage_move.observe import Memory, Observer
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.convergence import Divergence, assess
from blockferry.storage_move.overlays.passes import CopyProgress
from blockferry.storage_move.pace.latency import Interval
from blockferry.storage_move.pace.rules import Pace, Sample

LOOK_S = 0.25


@dataclass
class Mirror:
    """QEMU's background copy of a disk of `size` clusters; the guest writes to the first `hot` of them at random."""

    size: int
    copies: float  # clusters a second
    writes: float  # the same
    hot: int
    seed: int = 1
    told: list[Divergence] = field(default_factory=list)
    told_at_s: list[float] = field(default_factory=list)
    bulk_s: float | None = None
    in_step_s: float | None = None

    def run(self, seconds: float, react: bool = False) -> Mirror:
        """Until it is in step, or (`react`) until there is reason enough to act."""
        chance = random.Random(self.seed)
        dirty = [True] * self.size
        left, at, copied, now_s = self.size, 0, 0, 0.0
        progress = CopyProgress().sample(0.0, 0, self.size)
        while now_s < seconds and self.in_step_s is None:
            now_s += LOOK_S
            for _copy in range(round(self.copies * LOOK_S)):
                if not left:
                    break
                while not dirty[at]:
                    at = (at + 1) % self.size
                dirty[at] = False
                left, copied = left - 1, copied + 1
            for _write in range(round(self.writes * LOOK_S)):
                place = chance.randrange(self.hot)
                left += not dirty[place]
                dirty[place] = True
            progress = progress.sample(now_s, copied, copied + left)
            self.bulk_s = progress.bulk_s if self.bulk_s is None else self.bulk_s
            if progress.bulk_s is not None and progress.expected_drain_s <= allowed_pause_s(len(progress.passes)):
                self.in_step_s = now_s
            elif found := assess("vda", progress, ready=progress.bulk_s is not None):
                self.told.append(found)
                self.told_at_s.append(now_s)
                if found.sure and react:
                    break
        return self


def test_a_guest_that_writes_twice_as_fast_is_told_of_before_the_bulk_is_over() -> None:
    mirror = Mirror(20000, copies=500, writes=1000, hot=20000).run(60, react=True)
    assert mirror.told[-1].sure
    assert mirror.bulk_s is None
    assert mirror.told_at_s[0] < 0.5 * 20000 / 500  # spoken of even earlier
    assert "the guest changes" in mirror.told[-1].sentence
    # Clusters that are written twice in a look count once, so the rate is not quite the guest's own.
    assert 450 < mirror.told[-1].dirty_rate < 1300


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_a_guest_that_writes_more_slowly_is_not_spoken_of(share: float) -> None:
    mirror = Mirror(20000, copies=500, writes=500 * share, hot=20000).run(400)
    assert mirror.in_step_s is not None
    assert not [divergence for divergence in mirror.told if divergence.sure]


def test_a_hot_spot_is_not_overrated() -> None:
    """Writes without end, but always to the same place: what is dirty is never more than that."""
    mirror = Mirror(20000, copies=500, writes=5000, hot=100).run(200)
    assert mirror.in_step_s is not None
    assert not [divergence for divergence in mirror.told if divergence.sure]


def test_a_hot_spot_larger_than_the_longest_pause_is_acted_on() -> None:
    mirror = Mirror(8000, copies=500, writes=5000, hot=2000).run(300, react=True)
    assert mirror.in_step_s is None
    assert mirror.told[-1].sure


@given(
    share=st.floats(0.05, 4.0),
    hot=st.sampled_from([50, 1000, 8000]),
    seed=st.integers(0, 100),
)
@settings(max_examples=30, deadline=None)
def test_either_it_gets_in_step_or_it_is_told(share: float, hot: int, seed: int) -> None:
    mirror = Mirror(8000, copies=500, writes=500 * share, hot=hot, seed=seed).run(600, react=True)
    assert (mirror.in_step_s is not None) != bool(mirror.told and mirror.told[-1].sure)
    if share < 0.8:
        assert mirror.in_step_s is not None


def test_nothing_is_said_without_evidence() -> None:
    assert assess("vda", CopyProgress(), ready=False) is None
    assert assess("vda", CopyProgress().sample(0, 0, 100), ready=False) is None


def test_a_commit_that_is_outrun_has_no_limit_nor_has_one_on_the_way_back() -> None:
    view = DiskView("vda", DiskSide.DESTINATION, DiskSide.DESTINATION, DiskJob.COMMIT)
    assert overlays_rules.commit_speed(view, 3000, outrun=False) == 3000
    assert overlays_rules.commit_speed(view, 3000, outrun=True) == 0
    assert overlays_rules.commit_speed(replace(view, live=DiskSide.SOURCE), 3000, outrun=False) == 0


@pytest.mark.parametrize(("writes", "outrun"), [(10.0, False), (45.0, True), (200.0, True)])
def test_a_commit_that_the_guest_outruns_is_seen_from_outside(writes: float, outrun: bool) -> None:
    """A small overlay at first, which grows by what the guest writes while it is committed."""
    plan = make_plan()
    observer, memory = Observer(plan, LocalRunner("test:///")), Memory()
    overlay = DiskView("vda", DiskSide.DESTINATION, DiskSide.DESTINATION, DiskJob.COMMIT)
    copied, end, told, sure = 0.0, 20.0, False, False
    for look in range(100):
        found = observer.outrun_commits(
            (replace(overlay, info=JobInfo(int(copied), int(end), 0)),), memory, look * LOOK_S
        )
        told = told or bool(found)
        sure = sure or any(overlays_rules.lifted(one, contract=True) for one in found)
        copied = min(end, copied + 40 * LOOK_S)
        end += writes * LOOK_S
    assert told is outrun
    assert sure is outrun  # so it ends under a latency contract, too
    assert observer.outrun_commits((replace(overlay, job=DiskJob.NONE),), memory, 100.0) == ()
    assert memory.commits == {}


@pytest.mark.parametrize(
    ("sure", "contract", "lifted"),
    [(False, False, True), (True, False, True), (False, True, False), (True, True, True)],
)
def test_a_limit_that_follows_the_guest_is_not_lifted_on_suspicion(sure: bool, contract: bool, lifted: bool) -> None:
    assert overlays_rules.lifted(Divergence("vda", 9.0, 3.0, sure), contract=contract) is lifted


def test_what_is_told_of_a_commit_that_is_outrun() -> None:
    found = Divergence("vda", 9.0 * MiB, 3.0 * MiB, sure=True)
    grows = "the overlay of vda grows as fast as it is committed (the guest changes 9.0 MiB/s of it, and 3.0 MiB/s"
    limited = overlays_rules.outrun_words(found, 4 * MiB, contract=False)
    assert limited == f"{grows} are committed under a limit of 4.0 MiB/s); its limit is lifted"
    assert "the contract of the guest's writes does not hold" in overlays_rules.outrun_words(
        found, 4 * MiB, contract=True
    )
    unlimited = overlays_rules.outrun_words(found, 0, contract=True)
    assert unlimited == f"{grows} are committed); it ends when the guest writes less"


def test_a_commit_under_a_contract_comes_back_after_one_slow_moment() -> None:
    """What is committed counts as copied: a pace that sees nothing made falls to its least, and stays near it."""
    observer, memory = Observer(make_plan(), LocalRunner("test:///")), Memory()
    overlay = DiskView("vda", DiskSide.DESTINATION, DiskSide.DESTINATION, DiskJob.COMMIT)
    now, copied, made = Pace(0.020, speed=200 * MiB), 0, 0
    for look in range(200):
        copied += now.speed // 10
        observer.outrun_commits((replace(overlay, info=JobInfo(copied, 1 << 50, 0)),), memory, look / 10)
        slow = look == 20
        interval = Interval(0.1, 20, 0.5 if slow else 0.001)
        before, now = now.speed, now.step(look / 10, Sample(0.1, (interval,), memory.made - made), 0)
        made = memory.made
        if slow:
            assert now.speed < before
    assert now.speed > 100 * MiB
