"""What goes wrong around a move: the journal is away, a bug of ours, secrets that everybody could read."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Datastore, Host
from lab.namespaces import HostProcess
from lab.process import wait_until
from tests.system.bare import Bare, bare
from tests.system.postgres import Postgres, PostgresLine, postgres
from tests.system.voyage import LIMIT_S, Line

pytestmark = pytest.mark.lab

SLOW = ("--bandwidth", "8MiB/s")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as one:
        yield one


@pytest.fixture
def pg(server: Postgres, lab_host: Host, tmp_path: Path, stores: tuple[Datastore, ...]) -> PostgresLine:
    line = PostgresLine(lab_host, tmp_path, stores)
    line.url = server.url
    return line


def done(server: Postgres, vm: str) -> tuple[bool, int]:
    """(whether its move is over, bytes copied)."""
    if server.run("SELECT to_regclass('moves')") == [(None,)]:
        return False, 0
    found = server.run("SELECT finished IS NOT NULL, progress FROM moves WHERE vm = %s ORDER BY created DESC", vm)
    if not found:
        return False, 0
    over, progress = found[0]
    return bool(over), sum(disk["done"] for disk in json.loads(str(progress)).get("disks", []))


def story(server: Postgres, vm: str) -> str:
    rows = server.run("SELECT text FROM events JOIN moves ON moves.id = move WHERE vm = %s ORDER BY number", vm)
    return "\n".join(str(text) for (text,) in rows)


def assert_moved(vm: Bare, to: Datastore) -> None:
    assert vm.source() == str(to.home(vm.name) / vm.path.name)
    assert not vm.path.exists()


def copying(server: Postgres, line: Line, vm: str) -> HostProcess:
    """A slow move of the VM, once it has copied something."""
    process = line.start("move", vm, "--to", "ssd", *SLOW)
    wait_until(lambda: done(server, vm)[1] > 0, "the copy", timeout=LIMIT_S, step=0.1)
    return process


def end_well(line: Line, process: HostProcess) -> None:
    said = line.end(process)
    assert said.status == 0, str(said)


def test_the_journal_goes_away_and_comes_back_in_the_middle_of_a_move(
    server: Postgres, pg: PostgresLine, lab_host: Host, old_san: Datastore, ssd: Datastore
) -> None:
    with bare(lab_host, old_san, "outage1", mib=64) as vm:
        process = copying(server, pg, vm.name)
        server.stop()
        try:
            job = lab_host.virsh("blockjob", vm.name, "vda", "--raw")
            wait_until(
                lambda: lab_host.virsh("blockjob", vm.name, "vda", "--raw") != job, "the copy to go on", timeout=LIMIT_S
            )
            time.sleep(3)  # several rounds of the loop: one of them misses the journal
            assert process.poll() is None, pg.end(process)
            assert lab_host.vm_state(vm.name) == "running"
        finally:
            server.start()
        end_well(pg, process)
        assert_moved(vm, ssd)
        assert "the journal did not answer" in story(server, vm.name)


def test_the_journal_goes_away_while_the_vm_is_suspended(
    server: Postgres, pg: PostgresLine, lab_host: Host, old_san: Datastore, ssd: Datastore
) -> None:
    """The guest runs again before anything is waited for, and the switch is made, or made later, when it is back."""
    with bare(lab_host, old_san, "outage2") as vm:
        process = pg.start("move", vm.name, "--to", "ssd", point="suspended-to-switch:sleep=2,resumed:sleep=1")
        wait_until(lambda: lab_host.vm_state(vm.name) == "paused", "the suspension", timeout=LIMIT_S, step=0.05)
        server.stop()
        try:
            wait_until(lambda: lab_host.vm_state(vm.name) == "running", "the guest to run", timeout=LIMIT_S, step=0.1)
            assert process.poll() is None, pg.end(process)
        finally:
            server.start()
        end_well(pg, process)
        assert_moved(vm, ssd)


def test_a_terminal_that_closes_while_the_journal_is_away_leaves_the_move_to_a_worker_that_waits(
    server: Postgres, pg: PostgresLine, lab_host: Host, old_san: Datastore, ssd: Datastore
) -> None:
    """The worker ended at once, or was not even started, and the move was nobody's."""
    with bare(lab_host, old_san, "outage5", mib=64) as vm:
        process = copying(server, pg, vm.name)
        server.stop()
        try:
            process.send_signal(signal.SIGHUP)
            said = pg.end(process)
            assert (said.status, said.code) == (130, "INTERRUPTED"), str(said)
            assert "goes on in the background as soon as the journal answers" in said.document["message"]
        finally:
            server.start()
        # No other command of ours: that would take the move up.
        wait_until(lambda: done(server, vm.name)[0], "the end of the move", timeout=LIMIT_S, step=0.2)
        assert_moved(vm, ssd)
        assert server.run("SELECT deaths < 2, parked FROM moves WHERE vm = %s", vm.name) == [(True, None)]


def test_no_process_shows_the_journals_password(
    server: Postgres, pg: PostgresLine, lab_host: Host, old_san: Datastore, ssd: Datastore, tmp_path: Path
) -> None:
    secret = "s3cret-of-the-journal"
    log = tmp_path / "log" / "blockferry.log"
    pg.url, pg.more = server.with_password("secretive", secret), {"BLOCKFERRY_LOG": str(log)}
    with bare(lab_host, old_san, "outage3", mib=64) as vm:
        move = pg.must("move", vm.name, "--to", "ssd", *SLOW, "--detach").move["id"]
        wait_until(lambda: done(server, vm.name)[1] > 0, "the copy", timeout=LIMIT_S, step=0.1)
        shown = [line for line in command_lines() if "blockferry" in line]
        assert any("run-move" in line and move in line for line in shown)
        assert any("blockferry.safety.guard" in line for line in shown)
        assert [line for line in shown if secret in line] == []
        wait_until(lambda: done(server, vm.name)[0], "the end of the move", timeout=LIMIT_S, step=0.2)
        assert_moved(vm, ssd)
        words = log.read_text()
        assert move in words
        assert "StartCopy" in words
        assert secret not in words

        # The same without it in the URL: libpq's own file of passwords.
        (tmp_path / "pgpass").write_text(f"*:*:journal:secretive:{secret}\n")
        (tmp_path / "pgpass").chmod(0o600)
        pg.url, pg.more = pg.url.replace(f":{secret}", ""), {"PGPASSFILE": str(tmp_path / "pgpass")}
        back = pg.must("move", vm.name, "--to", "old-san", "--detach").move["id"]
        wait_until(lambda: done(server, vm.name)[0], f"the end of move {back}", timeout=LIMIT_S, step=0.2)
        assert vm.source() == str(vm.path)


def command_lines() -> list[str]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                found.append(Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def test_a_bug_is_told_counted_and_parked(line: Line, lab_host: Host, old_san: Datastore, ssd: Datastore) -> None:
    with bare(lab_host, old_san, "outage4", mib=64) as vm:
        point = "copying@1:bug,copying@2:bug,copying@3:bug"
        said = line.do("move", vm.name, "--to", "ssd", *SLOW, point=point)
        assert (said.status, said.code) == (9, "MOVE_PARKED"), str(said)
        [move] = line.unfinished()
        told = [text for text in line.story(move) if "Traceback" in text]
        assert len(told) == 3
        assert all("RuntimeError: a test asked for this bug" in text for text in told)
        assert "goes on in the background" not in line.must("moves").err
        line.must("resume", move)
        assert_moved(vm, ssd)
        assert line.do("resume", move).status == 0  # it is over: status by its outcome
