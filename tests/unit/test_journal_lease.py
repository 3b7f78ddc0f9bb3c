"""Who runs a move: claims, takeovers, fencing, parking; with real processes that race, freeze and die."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from journal_support import Children, make_plan

from blockferry.base.errors import BlockferryError, LeaseLost, MoveBusy, MoveParked, UsageError
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import Progress, Report
from blockferry.storage_move.switch.record import ConfigurationRecord
from blockferry.store import Lease, LeaseKeeper, Owner
from blockferry.store.claiming import DEATHS_UNTIL_PARKED

pytestmark = pytest.mark.slow

pytest_plugins = ("journal_plugin",)

REPORT = Report(Outcome.MOVED, 1.0)
ELSEWHERE = Owner("kvm9", "another boot", 1, 1, "root")


@pytest.fixture
def move(journal: MoveJournal) -> str:
    return journal.add(make_plan("a1"), Record(), "{}", "alice").id


def acts(journal: MoveJournal, lease: Lease) -> dict[str, Callable[[], None]]:
    """Everything that needs a lease."""
    return {
        "renew": lease.renew,
        "write": lambda: journal.write(lease, Record(failure="too late")),
        "progress": lambda: journal.progress(lease, Progress("too late")),
        "park": lambda: journal.park(lease, "too late"),
        "finish": lambda: journal.finish(lease, Record(outcome=Outcome.FAILED), REPORT),
    }


def all_refused(journal: MoveJournal, lease: Lease, owner: str) -> bool:
    before = journal.get(lease.move)
    for name, act in acts(journal, lease).items():
        with pytest.raises(LeaseLost) as lost:
            act()
        assert lost.value.owner == owner, name
    return journal.get(lease.move) == before


def test_one_at_a_time(journal: MoveJournal, move: str) -> None:
    mine = journal.claim(move, Owner.here())
    summary = journal.get(move)
    assert (summary.state, summary.owner, summary.owner_alive) == ("running", str(Owner.here()), True)
    with pytest.raises(MoveBusy, match=f"pid {os.getpid()}"):
        journal.claim(move, ELSEWHERE)
    with pytest.raises(MoveBusy):
        journal.claim(move, Owner.here())  # another thread of this process is another manager
    mine.renew()
    mine.release()
    assert journal.get(move).owner is None
    assert journal.claim(move, ELSEWHERE).token > mine.token
    assert journal.get(move).deaths == 0


def test_a_released_lease_is_void(journal: MoveJournal, move: str) -> None:
    lease = journal.claim(move, Owner.here())
    lease.release()
    assert all_refused(journal, lease, "nobody")
    later = journal.claim(move, ELSEWHERE)
    lease.release()  # harmless: it is not the newest
    assert all_refused(journal, lease, str(ELSEWHERE))
    journal.write(later, Record(configuration=ConfigurationRecord(marked=True)))


def test_a_lease_ends_with_its_move(journal: MoveJournal, move: str) -> None:
    lease = journal.claim(move, Owner.here())
    journal.finish(lease, Record(outcome=Outcome.MOVED), REPORT)
    assert all_refused(journal, lease, "nobody")
    lease.release()
    with pytest.raises(UsageError, match="over: moved"):
        journal.claim(move, Owner.here())


def test_another_machine_is_judged_by_its_lease_alone(journal: MoveJournal, move: str) -> None:
    theirs = journal.claim(move, ELSEWHERE, ttl_s=0.8)
    assert journal.get(move).owner_alive
    with pytest.raises(MoveBusy):
        journal.claim(move, Owner.here())
    time.sleep(0.9)
    assert not journal.get(move).owner_alive
    theirs.renew()  # silent for long, but nobody has taken over
    with pytest.raises(MoveBusy):
        journal.claim(move, Owner.here())
    time.sleep(0.9)
    journal.claim(move, Owner.here())
    assert journal.get(move).deaths == 1
    assert all_refused(journal, theirs, str(Owner.here()))


def test_kill_9_is_taken_over_at_once(journal: MoveJournal, move: str, url: str, children: Children) -> None:
    child = children("hold", url, move, 3600.0)
    assert child.hear() == "claimed"
    assert journal.get(move).state == "running"
    with pytest.raises(MoveBusy, match=f"pid {child.pid}"):
        journal.claim(move, Owner.here())
    child.process.kill()
    _until(lambda: not journal.get(move).owner_alive)
    assert journal.get(move).state == "interrupted"
    lease = journal.claim(move, Owner.here())
    journal.write(lease, Record(configuration=ConfigurationRecord(marked=True)))
    assert journal.get(move).deaths == 1
    assert f"pid {child.pid} has died" in journal.events(move)[-1].text


def test_a_frozen_manager_wakes_late(journal: MoveJournal, move: str, url: str, children: Children) -> None:
    child = children("hold", url, move, 0.8)
    assert child.hear() == "claimed"
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(MoveBusy):
        journal.claim(move, Owner.here())  # it lives, as far as anybody can tell
    time.sleep(0.9)
    lease = journal.claim(move, Owner.here())
    assert journal.get(move).deaths == 0, "it is frozen, and has not died"
    assert f"pid {child.pid} lives" in journal.events(move)[-1].text
    journal.write(lease, Record(configuration=ConfigurationRecord(marked=True)))
    os.kill(child.pid, signal.SIGCONT)
    child.say("I was here")
    assert str(child.hear()).startswith(f"LEASE_LOST Move {move} is now run by {Owner.here()}")
    assert journal.read(move) == Record(configuration=ConfigurationRecord(marked=True))


def test_one_that_waits_for_its_journal_has_not_died(journal: MoveJournal, move: str) -> None:
    """Five outages parked a move whose managers all lived."""
    for _outage in range(DEATHS_UNTIL_PARKED + 1):
        lease = journal.claim(move, Owner.here(), ttl_s=0.05)
        time.sleep(0.1)
    summary = journal.get(move)
    assert (summary.deaths, summary.parked) == (0, None)
    told = [event for event in journal.events(move) if event.kind == "warning"]
    assert len(told) == DEATHS_UNTIL_PARKED
    assert all(f"{Owner.here()} runs the move now. Nothing is lost" in event.text for event in told)
    journal.claim(move, ELSEWHERE)
    with pytest.raises(LeaseLost, match="nothing is lost"):
        lease.renew()


def _until(true: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ------------------------------------------------------------ races


def test_each_move_is_claimed_once(journal: MoveJournal, url: str, children: Children) -> None:
    moves = [journal.add(make_plan(f"m{number}"), Record(), "{}", "alice").id for number in range(15)]
    racers = [children("claim", url, moves) for _ in range(3)]
    assert [racer.hear() for racer in racers] == ["ready"] * 3
    for racer in racers:
        racer.say()
    won = [racer.hear() for racer in racers]
    assert Counter(move for some in won for move in some) == Counter(moves)
    owners = Counter(
        move_summary.owner
        for move_summary in journal.unfinished()
        if move_summary.owner_alive and move_summary.deaths == 0
    )
    assert sum(owners.values()) == len(moves)


def test_each_vm_is_added_once(journal: MoveJournal, url: str, children: Children) -> None:
    vms = [f"vm{number}" for number in range(15)]
    racers = [children("add", url, [make_plan(f"{name}{vm}", vm) for vm in vms]) for name in "pqr"]
    assert [racer.hear() for racer in racers] == ["ready"] * 3
    for racer in racers:
        racer.say()
    won = [racer.hear() for racer in racers]
    assert Counter(vm for some in won for vm in some) == Counter(vms)
    assert sorted(move_summary.plan.uuid for move_summary in journal.unfinished()) == sorted(vms)


def test_a_row_held_by_a_frozen_transaction(journal: MoveJournal, url: str) -> None:
    """PostgreSQL only: nobody waits for a manager that froze in the middle of a transaction."""
    if not url.startswith("postgresql"):
        pytest.skip("SQLite has one lock for all, for milliseconds")
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    other = sa.create_engine(url, poolclass=sa.NullPool)
    with other.begin() as connection:
        connection.execute(sa.text("UPDATE moves SET deaths = deaths"))
        started = time.monotonic()
        with pytest.raises(MoveBusy, match="another process"):
            journal.claim("a1", Owner.here())
        assert time.monotonic() - started < 5
        journal.event("a1", "user", "asked while it was held")
    with other.begin() as connection:  # a line of the story being written does not stand in the way
        connection.execute(sa.text("INSERT INTO events (move, at, kind, text) VALUES ('a1', 1, 'user', 'x')"))
        journal.claim("a1", Owner.here())
    other.dispose()


# ------------------------------------------------------------ the keeper


def test_the_keeper_renews(journal: MoveJournal, move: str) -> None:
    lease = journal.claim(move, Owner.here(), ttl_s=0.8)
    with LeaseKeeper(journal, lease) as keeper:
        for _ in range(12):
            time.sleep(0.1)
            keeper.check()
            assert journal.get(move).owner_alive
    assert not keeper.lost.is_set()


def test_the_keeper_notices_that_it_lost(journal: MoveJournal, move: str) -> None:
    lease = journal.claim(move, Owner.here(), ttl_s=0.2)
    time.sleep(0.25)
    journal.claim(move, ELSEWHERE)
    with LeaseKeeper(journal, lease) as keeper:
        assert keeper.lost.wait(5)
        with pytest.raises(LeaseLost, match="kvm9"):
            keeper.check()


def test_a_lease_is_as_old_as_its_claim(journal: MoveJournal, move: str) -> None:
    """Not as its keeper: what lies between them may have taken long, and somebody else may have it by now."""
    lease = journal.claim(move, Owner.here(), ttl_s=0.2)
    time.sleep(0.25)
    keeper = LeaseKeeper(journal, lease)
    assert not keeper.holds
    journal.claim(move, ELSEWHERE)
    with pytest.raises(LeaseLost, match="kvm9"):
        keeper.check()


def test_one_that_wakes_late_asks_before_it_acts(journal: MoveJournal, move: str) -> None:
    lease = journal.claim(move, Owner.here(), ttl_s=0.2)
    keeper = LeaseKeeper(journal, lease)  # its thread does not run: as frozen as this one
    time.sleep(0.25)
    keeper.check()  # nobody has taken over: renewed
    time.sleep(0.25)
    journal.claim(move, ELSEWHERE)
    with pytest.raises(LeaseLost, match="kvm9"):
        keeper.check()


# ------------------------------------------------------------ who is dead


def test_who_is_surely_dead() -> None:
    here = Owner.here()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not here.surely_dead
    assert replace(here, pid=gone.pid).surely_dead
    assert replace(here, started=here.started - 1).surely_dead  # a later process with the same number
    assert replace(here, started=here.started - 1, namespace="").surely_dead  # noted by the first version
    assert not replace(here, pid=gone.pid, namespace="pid:[1]").surely_dead  # another container: not ours to see
    assert not replace(here, pid=gone.pid, boot="another").surely_dead  # another machine of the same name
    assert not replace(here, pid=gone.pid, host="another").surely_dead
    assert here.surely_alive
    assert not replace(here, pid=gone.pid).surely_alive
    assert not replace(here, started=here.started - 1).surely_alive
    assert not replace(here, namespace="pid:[1]").surely_alive
    assert not replace(here, boot="another").surely_alive


def test_a_zombie_is_dead() -> None:
    zombie = subprocess.Popen(["sleep", "60"])
    owner = replace(Owner.here(), pid=zombie.pid, started=_started(zombie.pid))
    assert not owner.surely_dead
    zombie.kill()
    _until(lambda: owner.surely_dead)
    zombie.wait()


def _started(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


# ------------------------------------------------------------ parking


def test_parked_by_its_runner(journal: MoveJournal, move: str) -> None:
    lease = journal.claim(move, Owner.here())
    journal.park(lease, "a job that is not ours\0")
    lease.release()
    summary = journal.get(move)
    assert (summary.state, summary.parked) == ("parked", "a job that is not ours\\x00")
    assert journal.unpark(journal.claim(move, Owner.here())).parked is None


def test_only_who_runs_a_move_takes_it_out_of_parking(journal: MoveJournal, move: str) -> None:
    """A manager was taken over between its claim and this; its successor has parked the move for a reason."""
    frozen = journal.claim(move, replace(Owner.here(), started=1))
    successor = journal.claim(move, Owner.here())
    journal.park(successor, "a job that is not ours")
    with pytest.raises(LeaseLost):
        journal.unpark(frozen)
    assert journal.get(move).parked == "a job that is not ours"


def test_a_move_that_kills_its_managers(journal: MoveJournal, move: str) -> None:
    dead = replace(Owner.here(), started=1)
    for deaths in range(DEATHS_UNTIL_PARKED):
        assert (
            journal.unpark(journal.claim(move, dead)).deaths == deaths
        )  # nothing was parked: the deaths go on counting
    with pytest.raises(MoveParked, match="5 processes that ran it have died"):
        journal.claim(move, Owner.here())
    summary = journal.get(move)
    assert (summary.state, summary.owner, summary.deaths) == ("parked", None, DEATHS_UNTIL_PARKED)
    assert journal.events(move)[-1].kind == "error"
    lease = journal.claim(move, Owner.here())  # its user says: go on
    assert journal.unpark(lease).deaths == 0
    journal.write(lease, Record(configuration=ConfigurationRecord(marked=True)))


def test_every_refusal_is_an_error_with_a_sentence(journal: MoveJournal, move: str) -> None:
    journal.claim(move, Owner.here())
    with pytest.raises(BlockferryError) as refused:
        journal.claim(move, ELSEWHERE)
    assert refused.value.sentence.startswith("vm-a1 is already being moved")
