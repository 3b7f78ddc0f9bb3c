"""The database under the journal: opened, upgraded, killed, full, gone, of something else."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from journal_support import Children, make_plan

from blockferry.base.errors import JournalFailed, MoveNotFound, UsageError
from blockferry.base.units import GiB, MiB
from blockferry.cli import main
from blockferry.cli.app import App
from blockferry.hosts.kept import Kept
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.disk_record import Copy, Stage
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import SourcePolicy
from blockferry.storage_move.switch.record import ConfigurationRecord, SwitchRecord
from blockferry.storage_move.templates.plan import LayerPlan
from blockferry.store import Owner, journal_filesystem, schema, sqlite, upgrade

pytestmark = pytest.mark.slow

pytest_plugins = ("journal_plugin",)

VERSION_1 = Path(__file__).parent / "data" / "journal-v1.sql"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "blockferry" / "journal.db"


def opened(path: Path) -> MoveJournal:
    return MoveJournal.open(f"sqlite:///{path}")


# ------------------------------------------------------------ opening


def test_made_for_its_owner_only(path: Path) -> None:
    opened(path).close()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_opened_by_many_at_once(url: str, children: Children) -> None:
    racers = [children("open", url) for _ in range(4)]
    assert [racer.hear() for racer in racers] == ["ready"] * 4
    for racer in racers:
        racer.say()
    assert [racer.hear() for racer in racers] == [0] * 4


def test_opened_by_many_threads(path: Path) -> None:
    journals: list[MoveJournal] = []
    threads = [threading.Thread(target=lambda: journals.append(opened(path))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journals) == 6
    for journal in journals:
        journal.close()


def test_threads_share_a_journal(journal: MoveJournal) -> None:
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                journal.event("a1", "action", f"{number} {turn}")
                journal.read("a1")
        except Exception as error:  # noqa: BLE001 - told below, by the thread that may
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(journal.events("a1")) == 80


def test_the_schema_is_what_the_migrations_make(journal: MoveJournal, url: str) -> None:
    config = upgrade.configuration()
    assert ScriptDirectory.from_config(config).get_current_head() == schema.VERSION
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "no database URL"),
        ("mysql://db/x", "only SQLite and PostgreSQL"),
        ("sqlite://", "plain file"),
        ("sqlite:///:memory:", "plain file"),
        ("sqlite:////proc/nowhere/journal.db", "directory cannot be made"),
        ("sqlite:////proc/version/x/journal.db", "directory cannot be made"),
        ("sqlite:////proc/version/journal.db", "not a directory"),
        ("sqlite:////tmp", "not a plain file"),
        ("postgresql://manager:secret@127.0.0.1:1/x", "Connection refused"),
        ("postgresql+psycopg://manager:secret@db:port/x", "no database URL"),
    ],
)
def test_what_cannot_be_opened(url: str, words: str) -> None:
    with pytest.raises(JournalFailed, match=words) as failed:
        MoveJournal.open(url)
    assert "secret" not in str(failed.value)


def test_names_hide_passwords(journal: MoveJournal, url: str) -> None:
    assert journal.url == url
    assert journal.name == (url.removeprefix("sqlite:///") if url.startswith("sqlite") else url)
    if url.startswith("postgresql"):
        with closing(MoveJournal.open(url.replace("manager@", "manager:secret@"))) as guarded:
            assert "secret" not in guarded.url + guarded.name


def test_a_file_of_something_else(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(JournalFailed, match="no SQLite database"):
        opened(path)
    assert path.read_text().startswith("Dear diary")


def test_a_database_of_another_program(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE diary (page TEXT)")
    theirs.close()
    with pytest.raises(JournalFailed, match=r"another program .*diary"):
        opened(path)


def test_a_newer_schema(journal: MoveJournal, url: str) -> None:
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(JournalFailed, match=r"version 0999 .*newer"):
        MoveJournal.open(url)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
def test_a_journal_of_another_user(children: Children) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        opened(Path(name) / "journal.db").close()
        child = children("open as nobody", f"sqlite:///{name}/journal.db")
        assert "run as root" in str(child.hear())
        child = children("open as nobody", f"sqlite:///{name}/new.db")
        assert "cannot be made (Permission denied)" in str(child.hear())


def test_looking_makes_no_journal(path: Path) -> None:
    with closing(MoveJournal.open(f"sqlite:///{path}", make=False)) as journal:
        assert journal.missing
        assert (journal.unfinished(), journal.finished(10), journal.kept_sources()) == ((), (), ())
        with pytest.raises(MoveNotFound):
            journal.get("a1")
        with pytest.raises(UsageError, match="No move is under way"):
            journal.find(None)
    assert not path.parent.exists()
    opened(path).close()
    with closing(MoveJournal.open(f"sqlite:///{path}", make=False)) as journal:
        assert not journal.missing


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
def test_a_journal_that_only_root_may_see_is_not_taken_for_none(children: Children) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        opened(Path(name) / "private/journal.db").close()
        for file in ("journal.db", "not-there.db"):
            child = children("look as nobody", f"sqlite:///{name}/private/{file}")
            assert "run as root" in str(child.hear())
        child = children("look as nobody", f"sqlite:///{name}/not-there.db")
        assert child.hear() == "missing"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
@pytest.mark.parametrize("mode", [0o700, 0o755], ids=["directory closed", "file closed"])
def test_a_user_is_told_of_root_s_journal(children: Children, mode: int) -> None:
    """Whose own is not there: "No move is under way" would be a lie, root's moves are."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        system, state = Path(name) / "system/journal.db", f"{name}/state"
        nobody = children("ask as nobody", str(system), state)

        def ask(what: str) -> object:
            nobody.say(what)
            return nobody.hear(timeout_s=120)

        assert ask("moves") == ask("history") == ()  # a machine without root's journal: there is nothing to be told
        assert "readable" not in str(ask("find"))
        assert ask("other") == []
        opened(system).close()
        system.parent.chmod(mode)
        for what in ("moves", "history", "find"):
            said = str(ask(what))
            assert f"{system} cannot be used: it is root's and not readable by you: run as root" in said
        assert ask("other") == [f"root's journal {system} is not readable by you; moves in it are not shown"]
        assert not Path(state).exists()


@pytest.mark.parametrize(
    "words",
    ["moves", "history", "show web01", "watch web01", "cancel web01", "speed web01 5MiB/s", "resume", "resume web01"],
)
@pytest.mark.parametrize("journal", ["banana", "made/by/nobody/journal.db"])
def test_a_command_that_only_looks_makes_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, journal: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main.root, ["--journal", journal, *words.split()], obj=App())
    assert result.exit_code in (0, UsageError.exit_status, MoveNotFound.exit_status), result.output
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------ network file systems


MOUNTS = r"""/dev/sda1 / ext4 rw 0 0
proc /proc proc rw 0 0
nas:/vol /srv nfs4 rw 0 0
/dev/sdb1 /srv/local xfs rw 0 0
me@kvm2:/ /mnt/with\040space fuse.sshfs rw 0 0
tmpfs /var ext4 rw 0 0
nas:/var /var cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("directory", "kind", "remote"),
    [
        ("/", "ext4", False),
        ("/srv", "nfs4", True),
        ("/srv/a/b", "nfs4", True),
        ("/srvx", "ext4", False),
        ("/srv/local/a", "xfs", False),
        ("/mnt/with space/a", "fuse.sshfs", True),
        ("/var/lib", "cifs", True),  # mounted over
    ],
)
def test_network_file_systems_are_known(directory: str, kind: str, remote: bool) -> None:
    assert journal_filesystem.filesystem_in(MOUNTS, Path(directory)) == kind
    assert journal_filesystem.is_remote(kind) is remote


def test_this_file_system_is_known(tmp_path: Path) -> None:
    told = subprocess.run(["findmnt", "-nro", "FSTYPE", "-T", str(tmp_path)], capture_output=True, text=True)
    assert journal_filesystem.filesystem_of(tmp_path) == told.stdout.strip()


# ------------------------------------------------------------ bad days


def test_killed_in_the_middle_of_writing(journal: MoveJournal, url: str, children: Children) -> None:
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    chance = random.Random(4711)
    said = 0
    for life in range(4):
        child = children("scribble", url, "a1")
        for _ in range(chance.randint(3, 12)):
            number = child.hear()
        time.sleep(chance.uniform(0, 0.005))  # it dies anywhere between two words, and in the middle of one
        child.process.kill()
        while number is not None:
            assert isinstance(number, int)
            said, number = number, child.hear()
        child.process.join()
        record = journal.read("a1")
        assert record.switch.attempts in (said, said + 1), f"life {life}"
        assert record.created == tuple(map(str, range(record.switch.attempts % 500)))
        if url.startswith("sqlite"):
            with sqlite3.connect(url.removeprefix("sqlite:///")) as raw:
                assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
            raw.close()
    assert said > 10
    assert journal.get("a1").deaths == 3


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    where = tmp_path / "tiny"
    where.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(where)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount here: {done.stderr.decode().strip()}")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def fill(where: Path) -> None:
    ballast = os.open(where / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(ballast, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017 - the only way out of the loop
    finally:
        os.close(ballast)


def test_a_full_disk(tiny: Path) -> None:
    journal = opened(tiny / "journal.db")
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    lease = journal.claim("a1", Owner.here())
    fill(tiny)
    written, problem = Record(), None
    while problem is None:
        try:
            record = Record(failure=f"{written.failure} x")
            journal.write(lease, record)
            written = record
        except JournalFailed as error:
            problem = error.problem
    assert problem == "its disk is full"
    assert journal.read("a1") == written  # reading goes on, and nothing is half written
    (tiny / "ballast").unlink()
    journal.write(lease, Record(configuration=ConfigurationRecord(marked=True)))
    assert journal.read("a1") == Record(configuration=ConfigurationRecord(marked=True))
    journal.close()


def test_no_room_even_to_begin(tiny: Path) -> None:
    fill(tiny)
    with pytest.raises(JournalFailed, match=r"(?i)full|no space|cannot be made"):
        opened(tiny / "journal.db")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_vanished(path: Path, replaced: bool) -> None:
    journal = opened(path)
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    lease = journal.claim("a1", Owner.here())
    if replaced:
        shutil.copy(path, path.with_name("backup"))
        path.with_name("backup").rename(path)
    else:
        path.unlink()
    for call in (lambda: journal.write(lease, Record()), journal.unfinished, lambda: journal.read("a1")):
        with pytest.raises(JournalFailed, match="removed or replaced"):
            call()
    assert path.exists() is replaced  # no new one was made in its place
    journal.close()


def test_held_by_another_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 200)
    journal = opened(path)
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalFailed, match="kept it locked"):
        journal.want("a1", Wanted.CANCEL)
    assert journal.read("a1").wanted is Wanted.GO  # readers do not wait
    other.execute("ROLLBACK")
    other.close()
    assert journal.want("a1", Wanted.CANCEL).record.wanted is Wanted.CANCEL
    journal.close()


# ------------------------------------------------------------ promises


def test_schema_version_1_is_understood(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as raw:
        raw.executescript(VERSION_1.read_text())
    raw.close()
    journal = opened(path)
    copying, parked = journal.unfinished()
    assert copying.id == "3fa10001"
    assert copying.state == "interrupted"
    assert copying.owner == "root@kvm1 pid 4711"
    assert copying.plan.source == SourcePolicy(delete=False, keep_s=604800.0)
    assert copying.plan.disk("vdb").chain.layers == (
        LayerPlan("/old-san/base.raw", "raw", "/ssd/base.raw", "raw", GiB, GiB // 2),
    )
    assert {target: disk.copy for target, disk in copying.record.disks.items()} == {
        "vda": Copy(Stage.CLEAN, 7, 1),
        "vdb": Copy(Stage.STARTED, 7, 2, reverse=True),
    }
    assert copying.record.bandwidth == 50 * MiB  # the user's column, not the record's own
    assert copying.progress.done == 3 * GiB
    assert [event.kind for event in journal.events("3fa10001")] == ["phase", "action", "user"]
    assert (parked.state, parked.record.wanted) == ("parked", Wanted.CANCEL)
    assert parked.record.failure == "no space left on ssd"
    (moved,) = journal.finished(10)
    assert moved.report is not None
    assert (moved.state, moved.report.outcome, moved.report.switch_stall_s) == ("moved", Outcome.MOVED, 0.021)
    assert journal.kept_sources() == (
        Kept("/old-san/db01/vda.qcow2", "3fb20002", "db01", "old-san", 1.79e9, 8 * GiB, "kept as asked"),
    )
    assert len(journal.identity()) == 36
    with sqlite3.connect(path) as raw:  # a process of version 1 that is still running goes on with its own words
        words = (
            "INSERT INTO kept (path, move, vm, datastore, expires, size, why) VALUES ('/b', 'm', 'v', '', NULL, 1, 'x')"
        )
        raw.execute(words)
    raw.close()
    assert [(kept_source.path, kept_source.host) for kept_source in journal.kept_sources()] == [
        ("/b", ""),
        ("/old-san/db01/vda.qcow2", ""),
    ]
    for move in ("m2", "m"):
        journal.add_kept(Kept("/b", move, "v", "", None, 2, "y", f"kvm{move}"))
        rows = [(row.host, row.move) for row in journal.kept_sources() if row.path == "/b"]
        # The move of the row tells that it is the same file, known better now. Another one may be another host's.
        assert rows == ([("", "m"), ("kvmm2", "m2")] if move == "m2" else [("kvmm", "m"), ("kvmm2", "m2")])
    lease = journal.claim("3fa10001", Owner.here())  # and it can go on
    journal.write(lease, Record(switch=SwitchRecord(done=True)))
    assert journal.get("3fa10001").deaths == 1
    journal.close()
