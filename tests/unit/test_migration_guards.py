"""The guards on both hosts of a migration: the real programs and processes, and a virsh of paper for two hosts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockferry.base.errors import HostUnreachable
from blockferry.hosts.helper import migration_guards
from blockferry.hosts.helper.migration_guards import DestinationGuard, SourceGuard
from blockferry.hosts.helper.program import arrival_calls, stalled_link
from blockferry.hosts.helper.program.stalled_link import Probes, StallWatch
from blockferry.hosts.runner import LocalRunner, SshRunner
from lab.process import wait_until

PEER = "qemu+ssh://kvm2/system"
MARK = "urn:blockferry:move:1"

pytestmark = pytest.mark.slow

VIRSH = """\
#!/bin/sh
# virsh -q -c URI COMMAND ...: the VM's state and reason on a host are the file "HOST"; "absent": libvirt has none.
case "$3" in qemu:///system) host=source ;; {peer}) host=dest ;; *) exit 7 ;; esac
cd {folder}
state=$(cat $host 2>/dev/null) || exit 1
case "$4" in
  uri) echo "$3" ;;
  list) [ "$state" = absent ] || echo {uuid} ;;
  domstats) [ "$state" != absent ] || exit 1
    echo "  state.state=${{state% *}}"; echo "  state.reason=${{state#* }}" ;;
  metadata) [ "$state" != absent ] && [ -f $host.mark ] && echo "<move id=\\"$(cat $host.mark)\\" journal=\\"j\\"/>" ;;
  resume) [ "$state" = "3 1" ] || exit 1
    [ ! -f image ] || [ "$(stat -c %u:%g image)" = 64055:108 ] || exit 1
    printf '1 5' >$host ;;
  dumpxml) [ $host = dest ] || exit 1; cat domain.xml ;;
  destroy) kill "$(cat qemu)"; printf '5 1' >$host ;;
  undefine) [ "$5" = --keep-nvram ] || exit 8; case "$state" in 5*) printf absent >$host ;; *) exit 1 ;; esac ;;
  qemu-monitor-command) echo '{{"return": {{"status": "'$(cat qmp)'", "running": false}}, "id": "libvirt-7"}}' ;;
  *) exit 9 ;;
esac
"""
DOMAIN = """<domain><seclabel type='dynamic' model='dac'><label>+64055:+108</label></seclabel><devices>
<disk type='file' device='disk'><source file='{folder}/image'/><target dev='vda'/></disk>
<disk type='file' device='disk'><source file='{folder}/goes-along'/><target dev='vdb'/></disk></devices></domain>"""
RUNS, STANDS, OFF, COMES_IN, GONE = "1 1", "3 1", "5 1", "3 2", "absent"
HANDED_OVER = "3 2"
MIGRATED = "5 4"


class PaperPair:
    """One VM on two hosts."""

    def __init__(self, folder: Path) -> None:
        self.uuid, self.move = str(uuids.uuid4()), uuids.uuid4().hex[:8]
        self.folder = folder
        self.set(source=RUNS, dest=COMES_IN)
        for host in ("source", "dest"):
            (folder / f"{host}.mark").write_text(self.move)
        (folder / "qmp").write_text("running")
        self.qemu: subprocess.Popen[bytes] | None = None

    def set(self, **states: str) -> None:
        for host, state in states.items():
            new = self.folder / "new"
            new.write_text(state)
            new.replace(self.folder / host)

    def state(self, host: str) -> str:
        return (self.folder / host).read_text()

    def start_qemu(self) -> None:
        argv = [sys.executable, "-c", "import time; time.sleep(600)", "-uuid", self.uuid]
        self.qemu = subprocess.Popen(argv)
        (self.folder / "qemu").write_text(str(self.qemu.pid))

    def end_qemu(self) -> None:
        if self.qemu is not None:
            self.qemu.kill()
            self.qemu.wait()

    def wait_running(self) -> None:
        wait_until(lambda: self.state("dest").startswith("1"), "the guest to run", timeout=120)

    def stays(self, seconds: float = 2.0) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert not self.state("dest").startswith("1")
            time.sleep(0.1)

    def processes(self) -> str:
        found = subprocess.run(["pgrep", "-f", f"{self.move} {self.uuid}"], capture_output=True, text=True, check=False)
        return found.stdout


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PaperPair]:
    found = PaperPair(tmp_path)
    program = tmp_path / "bin" / "virsh"
    program.parent.mkdir()
    program.write_text(VIRSH.format(folder=tmp_path, uuid=found.uuid, peer=PEER))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    yield found
    found.end_qemu()
    arrival_calls.forget(found.move)


@pytest.fixture
def runner(pair: PaperPair) -> Iterator[LocalRunner]:
    found = LocalRunner()
    yield found
    found.helper.close()


@pytest.fixture
def source(runner: LocalRunner, pair: PaperPair) -> Iterator[SourceGuard]:
    wish: dict[str, Any] = {"peer": PEER, "address": "127.0.0.1", "resume": True, "grace_s": 1.5, "targets": ["vda"]}
    found = SourceGuard(runner, "qemu+ssh://kvm1/system", pair.uuid, (MARK, pair.move), **wish)
    pair.start_qemu()
    assert found.start(), found.problem
    yield found
    found.done()
    pair.end_qemu()
    pair.set(source=GONE, dest=RUNS)
    wait_until(lambda: not pair.processes(), "the guard's end", timeout=60)


@pytest.fixture
def dest(runner: LocalRunner, pair: PaperPair) -> Iterator[DestinationGuard]:
    found = DestinationGuard(runner, "qemu:///system", pair.uuid, (MARK, pair.move))
    pair.set(source=STANDS)  # the paper virsh takes this machine for the source: here it is the destination
    assert found.start(), found.problem
    yield found
    found.done()


def test_nothing_is_left_at_the_source_and_nobody_is_there(source: SourceGuard, pair: PaperPair) -> None:
    source.leave()
    pair.stays(1)
    pair.set(dest=STANDS)
    pair.stays()
    pair.end_qemu()
    pair.stays(1)
    pair.set(source=GONE)
    pair.wait_running()
    wait_until(lambda: not pair.processes(), "the guard's end", timeout=60)
    pair.set(dest=STANDS)
    pair.stays()  # a pause after that is its owner's


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_image_that_stays_was_given_back(source: SourceGuard, pair: PaperPair) -> None:
    """The source's libvirt has given it to its first owner; the QEMU at the destination cannot open it."""
    for name in ("image", "goes-along"):
        (pair.folder / name).write_text("x")
        (pair.folder / name).chmod(0o600)
    (pair.folder / "domain.xml").write_text(DOMAIN.format(folder=pair.folder))
    pair.set(dest=STANDS)
    pair.end_qemu()
    pair.set(source=GONE)
    pair.wait_running()
    assert (pair.folder / "image").stat().st_uid == 64055
    assert (pair.folder / "image").stat().st_mode & 0o777 == 0o600
    assert (pair.folder / "goes-along").stat().st_uid == 0


def test_somebody_is_there_and_does_nothing(source: SourceGuard, pair: PaperPair, runner: LocalRunner) -> None:
    """blockferry is frozen: it has its time, then the guard acts, and says so."""
    pair.set(source=GONE, dest=STANDS)
    pair.end_qemu()
    pair.wait_running()
    wait_until(lambda: migration_guards.acted(runner, pair.move), "the note", timeout=60)
    source.hear()
    assert source.resumed


def test_blockferry_has_let_it_run(source: SourceGuard, pair: PaperPair) -> None:
    source.done()
    wait_until(lambda: not pair.processes(), "the guard's end", timeout=60)
    pair.set(source=GONE, dest=STANDS)
    pair.end_qemu()
    pair.stays()


@pytest.mark.parametrize("left", [OFF, RUNS, HANDED_OVER])
def test_something_is_left_at_the_source(source: SourceGuard, pair: PaperPair, left: str) -> None:
    """Off for another reason: it may have run on after it was copied. Then nobody but a person decides."""
    pair.set(source=left, dest=STANDS)
    if left == OFF:
        pair.end_qemu()
    source.leave()
    pair.stays(3)
    assert pair.state("source") == left


def test_libvirt_has_lost_it_and_its_qemu_lives(source: SourceGuard, pair: PaperPair) -> None:
    pair.set(source=GONE, dest=STANDS)
    source.leave()
    pair.stays(3)


def test_libvirt_does_not_answer_at_the_source(source: SourceGuard, pair: PaperPair) -> None:
    pair.set(dest=STANDS)
    (pair.folder / "source").unlink()
    pair.end_qemu()
    source.leave()
    pair.stays(3)
    pair.set(source=GONE)
    pair.wait_running()


def test_another_vm_stands_there(source: SourceGuard, pair: PaperPair) -> None:
    (pair.folder / "dest.mark").write_text("another")
    pair.set(source=GONE, dest=STANDS)
    pair.end_qemu()
    source.leave()
    pair.stays(3)


def test_libvirt_has_not_removed_the_definition(source: SourceGuard, pair: PaperPair) -> None:
    """It says itself that the VM has gone to another host."""
    pair.set(source=MIGRATED, dest=COMES_IN)
    pair.end_qemu()
    source.leave()
    pair.stays(2)
    assert pair.state("source") == MIGRATED
    pair.set(dest=STANDS)
    pair.wait_running()
    assert pair.state("source") == GONE


@pytest.mark.parametrize("noted", [False, True])
def test_a_qemu_that_has_handed_its_guest_over(source: SourceGuard, pair: PaperPair, noted: bool) -> None:
    """It is ended only after blockferry has noted the proof."""
    (pair.folder / "qmp").write_text("postmigrate")
    pair.set(source=HANDED_OVER, dest=STANDS)
    if noted:
        source.handed()
    source.leave()
    if noted:
        pair.wait_running()
        assert pair.state("source") == GONE
    else:
        pair.stays(3)
        assert pair.state("source") == HANDED_OVER


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("again", [OFF, HANDED_OVER])
def test_it_comes_back_after_it_had_gone(source: SourceGuard, pair: PaperPair, again: str, marked: bool) -> None:
    """What was noted was said of what is gone."""
    (pair.folder / "qmp").write_text("postmigrate")
    source.handed()
    pair.set(source=GONE, dest=STANDS)
    pair.end_qemu()
    pair.wait_running()
    if not marked:
        (pair.folder / "source.mark").unlink()
    if again == HANDED_OVER:
        pair.start_qemu()
    pair.set(source=again)
    wait_until(lambda: not pair.processes(), "the guard's end", timeout=60)
    assert pair.state("source") == again


@pytest.mark.parametrize("left", [OFF, HANDED_OVER])
def test_noted_but_without_our_mark(source: SourceGuard, pair: PaperPair, left: str) -> None:
    (pair.folder / "qmp").write_text("postmigrate")
    (pair.folder / "source.mark").unlink()
    pair.set(source=left, dest=STANDS)
    if left == OFF:
        pair.end_qemu()
    source.handed()
    pair.stays(4)
    assert pair.state("source") == left


def test_noted_but_it_runs_again(source: SourceGuard, pair: PaperPair) -> None:
    pair.set(dest=STANDS)
    source.handed()
    source.leave()
    pair.stays(3)
    assert pair.state("source") == RUNS


def test_the_guard_at_the_destination_acts_only_when_armed(dest: DestinationGuard, pair: PaperPair) -> None:
    dest.leave()
    wait_until(lambda: not pair.processes(), "the guard's end", timeout=60)
    assert pair.state("source") == STANDS


def test_the_guard_at_the_destination_is_armed(dest: DestinationGuard, pair: PaperPair, runner: LocalRunner) -> None:
    assert dest.arm(600)
    time.sleep(0.5)
    assert pair.state("source") == STANDS
    dest.leave()
    wait_until(lambda: pair.state("source").startswith("1"), "the guest to run", timeout=60)
    wait_until(lambda: migration_guards.acted(runner, pair.move), "the note", timeout=60)
    migration_guards.forget(runner, pair.move)
    assert not migration_guards.acted(runner, pair.move)


def test_its_owner_has_paused_it_after_it_ran(dest: DestinationGuard, pair: PaperPair, runner: LocalRunner) -> None:
    migration_guards.note_acted(runner, pair.move)
    assert dest.arm(0.1)
    time.sleep(2)
    assert pair.state("source") == STANDS


def test_it_runs_already_at_the_destination(dest: DestinationGuard, pair: PaperPair, runner: LocalRunner) -> None:
    """blockferry was killed right after it had let it run: the guard notes that, and a pause is its owner's."""
    assert dest.arm(600)
    pair.set(source=RUNS)
    dest.leave()
    wait_until(lambda: migration_guards.acted(runner, pair.move), "the note", timeout=60)
    wait_until(lambda: not pair.processes(), "the guard's end", timeout=60)


def test_it_runs_already_as_seen_from_the_source(source: SourceGuard, pair: PaperPair, runner: LocalRunner) -> None:
    pair.set(source=GONE, dest=RUNS)
    pair.end_qemu()
    source.leave()
    wait_until(lambda: migration_guards.acted(runner, pair.move), "the note", timeout=60)
    wait_until(lambda: not pair.processes(), "the guard's end", timeout=60)


def test_a_host_that_cannot_be_asked_is_a_doubt() -> None:
    """Not a no: the pause that is seen may be the owner's."""
    away = SshRunner("127.0.0.1", "nobody", 1)
    try:
        with pytest.raises(HostUnreachable):
            migration_guards.acted(away, "m1")
    finally:
        away.close()


# ------------------------------------------------------------ the link


def test_addresses_as_the_kernel_writes_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as link:
        port = link.getsockname()[1]
        rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()]
        assert f"{stalled_link.encoded('127.0.0.1')}:{port:04X}" in {row[1] for row in rows}
        assert str(os.fstat(link.fileno()).st_ino) in stalled_link.sockets(os.getpid())
        assert not stalled_link.resending(os.getpid(), stalled_link.resolved("127.0.0.1"))
    assert stalled_link.encoded("::1") == "00000000000000000000000001000000"


def test_a_refusal_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()
    assert is_answered(taken)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert is_answered(server.getsockname())


def is_answered(remote: tuple[str, int]) -> bool:
    probes = Probes()
    until = time.monotonic() + 30
    while not probes.answered_at and time.monotonic() < until:
        probes.send(remote, time.monotonic())
        probes.look(7.0)
    probes.end()
    return bool(probes.answered_at)


class PaperQemu:
    """What QEMU would say to `query-yank`, and what it was told to yank."""

    def __init__(self, *known: dict[str, Any]) -> None:
        self.known, self.yanked = list(known), []  # type: list[dict[str, Any]], list[dict[str, Any]]

    def query(self, command: dict[str, Any], _seconds: float) -> Any:
        if command["execute"] == "query-yank":
            return self.known
        self.yanked += command["arguments"]["instances"]
        return {}


MEMORY = {"type": "migration"}
COPY = {"type": "block-node", "node-name": "migration-vda-storage"}
OWN_DISK = {"type": "block-node", "node-name": "libvirt-1-storage"}


def watched(monkeypatch: pytest.MonkeyPatch, qemu: PaperQemu, remote: tuple[str, int], limit_s: float) -> float | None:
    """Watch a connection that sends in vain, for so long; what came of it."""
    monkeypatch.setattr(stalled_link, "resending", lambda _pid, _addresses: {"1": remote})
    watch = StallWatch({}, qemu.query)
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if (seconds := watch.look(1)) is not None:
            return seconds
        time.sleep(0.05)
    watch.probes.end()
    return None


def test_no_probe_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = PaperQemu(MEMORY, COPY, OWN_DISK)
    monkeypatch.setattr(Probes, "send", lambda *_: None)
    seconds = watched(monkeypatch, qemu, ("192.0.2.1", 9), 60)
    assert seconds is not None
    assert seconds >= stalled_link.SILENT_S
    assert qemu.yanked == [MEMORY, COPY]


def test_the_link_loses_much_but_works(monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = PaperQemu(MEMORY)
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        assert watched(monkeypatch, qemu, server.getsockname(), 2 * stalled_link.SILENT_S) is None
    assert not qemu.yanked


def test_disks_are_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest runs on meanwhile, and a copy that is ended begins anew."""
    qemu = PaperQemu(COPY, OWN_DISK)
    monkeypatch.setattr(Probes, "send", lambda *_: None)
    assert watched(monkeypatch, qemu, ("192.0.2.1", 9), 2 * stalled_link.SILENT_S) is None
    monkeypatch.setattr(stalled_link, "DISKS_SILENT_S", 2.0)
    assert watched(monkeypatch, qemu, ("192.0.2.1", 9), 60) is not None
    assert qemu.yanked == [COPY]


def test_what_does_not_migrate_is_never_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probes, "send", lambda *_: None)
    monkeypatch.setattr(stalled_link, "DISKS_SILENT_S", 1.0)
    qemu = PaperQemu(OWN_DISK, {"type": "chardev", "id": "charserial0"})
    assert watched(monkeypatch, qemu, ("192.0.2.1", 9), 3) is None
    assert not qemu.yanked


@pytest.mark.parametrize("text", [None, "", "no json", '{"error": {"class": "GenericError"}}', "[]"])
def test_an_answer_that_is_none(text: str | None) -> None:
    assert stalled_link.answered(text) is None
