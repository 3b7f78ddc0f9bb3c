"""What nobody has foreseen: told with its traceback, counted over processes, then the move stands still."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import cast

import libvirt
import pytest
import sqlalchemy as sa
from journal_support import make_plan

from blockferry.base.config import Config
from blockferry.base.errors import JournalFailed, LeaseLost, LibvirtFailed
from blockferry.client import connect
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt import connection
from blockferry.hosts.process import reap
from blockferry.jobs import lease_keeping, unexpected_errors
from blockferry.jobs.handle import JobHandle
from blockferry.jobs.outcome import Wanted
from blockferry.moves import move_host
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.record import Record
from blockferry.store import LeaseKeeper, Owner, database, postgresql, sqlite

pytest_plugins = ("journal_plugin",)
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@on_sqlite
def test_the_lease_is_released_after_a_bug_is_counted(journal: MoveJournal) -> None:
    """It was released before, so that the count could not be written, and such a move failed again for ever."""
    journal.add(make_plan("m1"), Record(), "{}", "admin")
    for count in range(1, unexpected_errors.LIMIT + 1):
        lease = journal.claim("m1", Owner.here())
        with pytest.raises(KeyError), lease_keeping.parking_bugs(journal, lease):
            raise KeyError("x")
        assert journal.read("m1").unexpected == count
        assert journal.get("m1").owner is None
    assert journal.get("m1").parked is not None
    with lease_keeping.parking_bugs(journal, journal.claim("m1", Owner.here())):
        pass
    assert journal.get("m1").owner is None, "nobody else releases it"


@on_sqlite
@pytest.mark.parametrize("error", [LibvirtFailed("look", "no answer", "VIR_ERR_RPC"), KeyError("x")])
def test_what_goes_wrong_right_after_the_claim_leaves_no_claim_behind(
    journal: MoveJournal, url: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt's first answer was asked for outside of what releases the lease: the move stayed taken by nobody."""
    journal.add(make_plan("m1"), Record(), "{}", "admin")

    class Elsewhere:
        uri = "test:///"

        def expect(self, see: object) -> None:
            if see is not None:
                raise error

        def close(self) -> None:
            pass

    with connect("qemu:///system", journal=url, config=Config()) as client:
        monkeypatch.setattr(move_host, "site_of", lambda _env, _one: cast(Host, Elsewhere()))
        with pytest.raises(type(error)):
            client.run("m1", lambda _: None)
    assert journal.get("m1").owner is None
    assert journal.claim("m1", Owner.here())
    assert journal.read("m1").unexpected == isinstance(error, KeyError)


@pytest.mark.parametrize(
    ("state", "passing"), [("55P03", True), ("40P01", True), ("40001", True), ("55006", False), ("42P01", False)]
)
def test_a_lock_that_was_not_to_be_had_passes(state: str, passing: bool) -> None:
    class Refused(Exception):
        sqlstate = state

    assert database._passing(sa.exc.DBAPIError("SELECT 1", {}, Refused())) is passing


def test_a_silent_server_is_given_up() -> None:
    assert int(postgresql._CONNECT["tcp_user_timeout"]) == 20000


def once(journal: MoveJournal) -> str | None:
    lease = journal.claim("m1", Owner.here())
    try:
        raise KeyError("postgresql://m:s3cret@db/j")
    except KeyError as error:
        return unexpected_errors.note(
            "move m1", error, lambda: journal.read("m1"), lambda record: journal.write(lease, record),
            lambda kind, text: journal.event("m1", kind, text),
        )  # fmt: skip
    finally:
        journal.release(lease)


@on_sqlite
def test_the_third_time_parks(journal: MoveJournal) -> None:
    journal.add(make_plan("m1"), Record(), "{}", "admin")
    found = []
    for _process in range(unexpected_errors.LIMIT):
        found.append(once(journal))
    assert [one is None for one in found] == [True, True, False]
    assert "KeyError" in str(found[-1])
    story = [event.text for event in journal.events("m1") if event.kind == "error"]
    assert len(story) == unexpected_errors.LIMIT
    assert all("Traceback" in text and "s3cret" not in text for text in story)
    assert journal.read("m1").unexpected == unexpected_errors.LIMIT


@on_sqlite
def test_a_short_outage_is_bridged_and_a_long_one_ends_the_effect(
    journal: MoveJournal, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's file is locked by somebody else: lines wait, wishes are as last known, until the lease is over."""
    monkeypatch.setattr(sqlite, "BUSY_MS", 50)
    path = url.removeprefix("sqlite:///")
    with closing(MoveJournal.open(url)) as impatient:
        impatient.add(make_plan("m1"), Record(bandwidth=7), "{}", "admin")
        lease = impatient.claim("m1", Owner.here(), ttl_s=1.2)
        with LeaseKeeper(impatient, lease) as keeper:
            line = JobHandle(impatient, lease, keeper, lambda _: None, threading.Event(), impatient.get("m1"))
            assert not line.should_stop()
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                line.log_event("warning", "first")
                line.log_event("warning", "second")
                with pytest.raises(JournalFailed) as failed:
                    keeper.regain()
                assert failed.value.passing
                assert line.bandwidth() == 7
                deadline = time.monotonic() + 10
                while keeper.holds:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                assert line.should_stop()  # another process may run the move by now
                other.execute("ROLLBACK")
            keeper.regain()
            assert keeper.holds
            assert not line.should_stop()
            line.log_event("warning", "third")
            assert [event.text for event in impatient.events("m1")] == ["first", "second", "third"]
            impatient.want("m1", Wanted.CANCEL)
            assert line.should_stop()
            impatient.release(lease)
            with pytest.raises(LeaseLost):
                keeper.regain()


@on_sqlite
def test_only_what_may_be_over_by_itself_is_waited_for(journal: MoveJournal, url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    kept = path.with_name("kept")
    os.rename(path, kept)
    with pytest.raises(JournalFailed) as failed:
        journal.unfinished()
    assert not failed.value.passing
    os.rename(kept, path)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP TABLE kept")
    with pytest.raises(JournalFailed) as failed:
        journal.kept_sources()
    assert not failed.value.passing


def test_the_event_loop_survives_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    enough = threading.Event()

    class Stop(BaseException):
        pass

    def once() -> None:
        rounds.append(1)
        if len(rounds) == 3:
            enough.set()
            raise Stop
        raise libvirt.libvirtError("a callback has failed")

    monkeypatch.setattr(libvirt, "virEventRunDefaultImpl", once)
    with pytest.raises(Stop):
        connection._run_loop()
    assert enough.is_set()


def test_a_child_that_is_left_to_itself_is_no_zombie_at_its_end() -> None:
    child = subprocess.Popen(["sleep", "0.2"])
    reap(child)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child.pid}").exists():
        assert time.monotonic() < deadline, "it is a zombie"
        time.sleep(0.02)
