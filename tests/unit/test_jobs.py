"""What is common to all jobs, shown by a kind of job that is no storage move (boxes.py): killed, parked, cancelled."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import boxes
import pytest
import sqlalchemy as sa
from boxes import BoxJournal, BoxPlan, BoxRecord
from journal_support import Child, Children, make_plan

from blockferry.base.errors import MoveBusy, MoveNotFound
from blockferry.jobs import unexpected_errors
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.record import Record
from blockferry.store import Owner
from blockferry.store.listed import PartialFiles

pytestmark = pytest.mark.slow

pytest_plugins = ("journal_plugin",)

BOXES = ("nails", "screws")
FORWARD = ("box-named", "box-copied", "box-removed", "boxes-done")


@pytest.fixture
def shelves() -> Iterator[tuple[Path, Path]]:
    base = Path(tempfile.mkdtemp(prefix="bf-box-"))
    old, new = base / "old", base / "new"
    old.mkdir()
    new.mkdir()
    for box in BOXES:
        (old / box).write_text(box)
    yield old, new
    shutil.rmtree(base)


@pytest.fixture
def journal(url: str) -> Iterator[BoxJournal]:
    with closing(BoxJournal.open(url)) as opened:
        yield opened


@pytest.fixture
def job(journal: BoxJournal, shelves: tuple[Path, Path]) -> str:
    plan = BoxPlan("b1", BOXES, str(shelves[0]), str(shelves[1]))
    return journal.add_job(plan, BoxRecord(), "{}", "alice").id


@contextmanager
def away(url: str) -> Iterator[None]:
    """The journal cannot be written: somebody holds its lock."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
        return
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as other:
        other.execute(sa.text("LOCK TABLE moves IN ACCESS EXCLUSIVE MODE"))
        yield


def names(shelf: Path) -> set[str]:
    return {path.name for path in shelf.iterdir()}


def is_moved(shelves: tuple[Path, Path]) -> bool:
    old, new = shelves
    return names(old) == set() and {path.name: path.read_text() for path in new.iterdir()} == {
        one: one for one in BOXES
    }


def runner(children: Children, url: str, job: str, wish: str = "", pauses: bool = False) -> Child:
    child = children("boxes", url, job, wish, pauses)
    assert child.hear() == "ready"
    return child


def await_death(child: Child) -> None:
    assert child.hear() is None
    child.process.join()


def test_it_runs(journal: BoxJournal, job: str, shelves: tuple[Path, Path]) -> None:
    assert boxes.run(journal, job) is Outcome.MOVED
    assert is_moved(shelves)
    done = journal.get(job)
    assert (done.state, done.owner, done.plan.boxes) == ("moved", None, BOXES)
    assert done.report is not None
    assert (done.report.boxes, set(done.report.phases)) == (2, {"copy", "clean up"})
    assert [event.text for event in journal.events(job)] == ["copy", "clean up", "moved"]
    assert journal.finished(10) == (done,)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("point", FORWARD)
def test_it_is_killed_anywhere_and_another_process_goes_on(
    url: str, children: Children, journal: BoxJournal, job: str, shelves: tuple[Path, Path], point: str, nth: int
) -> None:
    if (point, nth) == ("boxes-done", 2):
        pytest.skip("it ends once")
    await_death(runner(children, url, job, f"{point}@{nth}:kill"))
    left = journal.get(job)
    assert left.state == "interrupted"
    assert names(shelves[0]) | names(shelves[1]) == set(BOXES), "no box is lost at any instant"
    assert runner(children, url, job).hear() == "moved"
    assert is_moved(shelves)
    assert journal.get(job).deaths == 1


@pytest.mark.parametrize("point", ["box-taken-back", "boxes-done"])
def test_it_is_killed_on_the_way_back(
    url: str, children: Children, journal: BoxJournal, job: str, shelves: tuple[Path, Path], point: str
) -> None:
    await_death(runner(children, url, job, "box-copied@2:kill"))
    journal.want(job, Wanted.CANCEL)
    await_death(runner(children, url, job, f"{point}:kill"))
    assert runner(children, url, job).hear() == "cancelled"
    assert (names(shelves[0]), names(shelves[1])) == (set(BOXES), set())
    assert journal.get(job).state == "cancelled"


def test_every_point_is_walked() -> None:
    assert {*FORWARD, "box-taken-back"} == set(boxes.point.names)


def test_it_is_cancelled_while_it_runs(
    url: str, children: Children, journal: BoxJournal, job: str, shelves: tuple[Path, Path]
) -> None:
    child = runner(children, url, job, pauses=True)
    assert child.hear() == "half"
    with pytest.raises(MoveBusy):
        journal.claim(job, Owner.here())
    journal.want(job, Wanted.CANCEL)
    child.say()
    assert child.hear() == "cancelled"
    assert (names(shelves[0]), names(shelves[1])) == (set(BOXES), set())


def test_an_effect_that_fails_turns_back(
    url: str, children: Children, journal: BoxJournal, shelves: tuple[Path, Path]
) -> None:
    old, new = shelves
    (old / "too heavy").write_text("an anvil")
    plan = BoxPlan("b1", ("nails", "too heavy"), str(old), str(new))
    journal.add_job(plan, BoxRecord(), "{}", "alice")
    assert runner(children, url, "b1").hear() == "failed"
    assert (names(old), names(new)) == ({*BOXES, "too heavy"}, set())
    assert "cannot be carried" in str(journal.get("b1").record.failure)


def test_an_unexpected_error_parks_it_the_third_time(
    url: str, children: Children, journal: BoxJournal, job: str, shelves: tuple[Path, Path]
) -> None:
    """Counted over processes: two die of a bug each, the third parks; then its user looks, and it goes on."""
    bugs = ",".join(f"box-copied@{nth}:bug" for nth in range(1, unexpected_errors.LIMIT + 1))
    await_death(runner(children, url, job, "box-copied:bug,box-copied@2:kill"))
    assert journal.read(job).unexpected == 1
    assert runner(children, url, job, bugs).hear() == "MOVE_PARKED"
    parked = journal.get(job)
    assert (parked.state, parked.record.unexpected) == ("parked", unexpected_errors.LIMIT)
    assert sum("Traceback" in event.text for event in journal.events(job)) == unexpected_errors.LIMIT
    assert names(shelves[0]) == set(BOXES)
    assert runner(children, url, job).hear() == "moved"
    assert is_moved(shelves)


def test_it_waits_for_a_store_that_is_away(
    url: str, children: Children, journal: BoxJournal, job: str, shelves: tuple[Path, Path]
) -> None:
    child = runner(children, url, job, pauses=True)
    assert child.hear() == "half"
    with away(url):
        child.say()
        assert child.hear() == "away"
        assert names(shelves[0]) == set(BOXES), "nothing is begun meanwhile"
    assert child.hear() == "moved"
    assert is_moved(shelves)
    assert any("the journal did not answer" in event.text for event in journal.events(job))


def test_two_kinds_of_jobs_are_in_one_journal(url: str, journal: BoxJournal, job: str) -> None:
    with closing(MoveJournal.open(url)) as moves:
        moves.add(make_plan("m1"), Record(), "{}", "alice")
        assert [move_summary.id for move_summary in moves.unfinished()] == ["m1"]
        assert [one.id for one in journal.unfinished()] == [job]
        for look in (moves.get, moves.read, moves.find):
            with pytest.raises(MoveNotFound):
                look(job)
        with pytest.raises(MoveNotFound):
            moves.claim(job, Owner.here())
        with pytest.raises(MoveNotFound):
            moves.want(job, Wanted.CANCEL)
        with pytest.raises(MoveNotFound):
            moves.set_bandwidth(job, 1)
        assert (journal.get(job).record.wanted, journal.get(job).record.bandwidth) == (Wanted.GO, 0)
        assert moves.partial_files() == journal.partial_files() == PartialFiles(frozenset(), frozenset())


def test_a_plan_of_an_older_version_is_read(
    url: str, children: Children, journal: BoxJournal, job: str, shelves: tuple[Path, Path]
) -> None:
    old, new = shelves
    plan = f'{{"job": "{job}", "box": "nails", "source": "{old}", "dest": "{new}", "version": 1}}'
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE moves SET plan = :plan"), {"plan": plan})
    assert journal.get(job).plan.boxes == ("nails",)
    assert runner(children, url, job).hear() == "moved"
    assert (names(old), names(new)) == ({"screws"}, {"nails"})
