"""Calls of a process that runs a move no more: the real helper, and a virsh of paper."""

from __future__ import annotations

import os
import subprocess
import threading
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockferry.base.errors import BlockferryError, LeaseLost, LibvirtFailed, MoveNotHeld
from blockferry.hosts.helper import files
from blockferry.hosts.helper.holding import HeldRunner, HeldVm, Holding
from blockferry.hosts.helper.program import holder_calls
from blockferry.hosts.runner import LocalRunner
from lab.process import wait_until

URI = "qemu:///system"
XML = "<domain><name>web01</name><graphics passwd='geheim'/></domain>"

VIRSH = """\
#!/bin/sh
# virsh -q -k 0 -c URI COMMAND ..., or without -k: what was done stands in "done", one command a line.
cd {folder}
[ "$2" = -k ] && shift 2
case "$4" in
  list) [ -f defined ] && echo {uuid}; exit 0 ;;
  dumpxml) cat defined ;;
  undefine) [ "$5" = --keep-nvram ] || exit 8; ls kept >undefined-with; rm defined; echo undefine >>done ;;
  define) cat "$5" >defined; echo define >>done ;;
  domjobabort) echo domjobabort >>done ;;
  domjobinfo) [ -f backup ] && echo "Operation:        Backup"
    [ -f under-way ] && echo "Operation:        Outgoing migration"; exit 0 ;;
  migrate) echo "migrate $6" >>done; cat "$6" >sent
    while [ ! -f over ]; do sleep 0.05; done
    [ "$(cat over)" = ok ] || {{ echo "error: $(cat over)" >&2; exit 1; }} ;;
  *) exit 9 ;;
esac
"""


class Manager:
    """A process that runs the move with this lease; `lost`: another one has taken it over."""

    def __init__(self, runner: LocalRunner, move: str, token: int, uuid: str) -> None:
        self.lost = False
        self.checks = 0
        self.points: list[str] = []
        self.at_point: Callable[[], None] = lambda: None
        self.holding = Holding(move, token, self.check, self.point)
        self.runner = runner
        self.held = HeldRunner(runner, self.holding)
        self.vm = HeldVm(runner, self.holding, URI, uuid, "web01")

    def check(self) -> None:
        self.checks += 1
        if self.lost:
            raise LeaseLost("m", "another")

    def point(self, name: str) -> None:
        self.points.append(name)
        self.at_point()

    def frozen_while(self, act: Callable[[], None]) -> None:
        """The process is frozen between its look at the lease and its call, and meanwhile this happens."""

        def happens() -> None:
            act()
            self.lost = True

        self.at_point = happens


class Pair:
    def __init__(self, folder: Path, runner: LocalRunner) -> None:
        self.move, self.uuid = uuids.uuid4().hex[:8], str(uuids.uuid4())
        self.folder = folder
        self.old, self.new = (Manager(runner, self.move, token, self.uuid) for token in (5, 6))

    def taken_over(self) -> None:
        self.new.holding.ensure(self.new.runner)

    def done(self) -> list[str]:
        path = self.folder / "done"
        return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    runner = LocalRunner()
    found = Pair(tmp_path, runner)
    program = tmp_path / "bin" / "virsh"
    program.parent.mkdir()
    program.write_text(VIRSH.format(folder=tmp_path, uuid=found.uuid))
    program.chmod(0o755)
    (tmp_path / "defined").write_text(XML)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    yield found
    runner.helper.close()
    holder_calls.forget(found.move, holder_calls.noted(found.move) or [])
    Path(holder_calls.kept_path(found.move, found.uuid)).unlink(missing_ok=True)


def test_a_call_of_the_one_who_runs_the_move(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_text("x")
    assert files.remove_file(pair.old.held, str(path))
    assert not path.exists()
    assert pair.old.points == ["calling-remove"]
    assert pair.old.held.run(["echo", "a b"]).text == "a b\n"


@pytest.mark.parametrize("over", [False, True])
def test_another_process_has_taken_the_move_over(pair: Pair, tmp_path: Path, *, over: bool) -> None:
    """Also when that one has ended the move, and nothing of it is left on the host."""
    path = tmp_path / "image"
    path.write_text("x")

    def taken_over() -> None:
        pair.taken_over()
        if over:
            pair.new.holding.forget(pair.new.runner)
            assert holder_calls.noted(pair.move) is None

    pair.old.frozen_while(taken_over)
    with pytest.raises(LeaseLost):
        files.remove_file(pair.old.held, str(path))
    assert path.exists()


def test_the_definition_stays_when_another_process_has_taken_the_move_over(pair: Pair) -> None:
    pair.old.frozen_while(pair.taken_over)
    with pytest.raises(LeaseLost):
        pair.old.vm.undefine()
    assert pair.done() == []


def test_an_old_one_cannot_hold_it_again(pair: Pair) -> None:
    pair.old.holding.ensure(pair.old.runner)
    pair.taken_over()
    pair.old.holding.doubt()
    with pytest.raises(MoveNotHeld):
        pair.old.holding.ensure(pair.old.runner)
    assert holder_calls.noted(pair.move) == [6, 0]


def test_the_host_was_started_again(pair: Pair, tmp_path: Path) -> None:
    """Its notes are gone: whoever holds the lease says once more that it runs the move."""
    path = tmp_path / "image"
    path.write_text("x")
    pair.old.holding.ensure(pair.old.runner)
    os.unlink(holder_calls.note_path(pair.move))
    assert files.remove_file(pair.old.held, str(path))
    assert not path.exists()


def test_a_call_of_which_nobody_knows_what_became(pair: Pair, tmp_path: Path) -> None:
    """What the same process has sent before is refused, too."""
    pair.old.holding.ensure(pair.old.runner)
    before = pair.old.holding.number
    pair.old.holding.doubt()
    pair.old.holding.ensure(pair.old.runner)
    said = pair.old.runner.call(
        "holder.run", move=pair.move, number=before, argv=["touch", str(tmp_path / "a")], data=""
    )
    assert said == {"refused": holder_calls.OLD}
    assert not (tmp_path / "a").exists()


def test_a_call_that_is_being_carried_out_is_waited_for(pair: Pair, tmp_path: Path) -> None:
    """Also when its helper has ended: what it has begun may be carried out yet."""
    other = LocalRunner()
    early = Manager(other, pair.move, 5, pair.uuid)
    script = f"echo $$ >{tmp_path}/pid; while [ ! -f {tmp_path}/go ]; do sleep 0.05; done; echo x >{tmp_path}/late"
    problems: list[BlockferryError] = []

    def call() -> None:
        try:
            early.held.run(["setsid", "-w", "sh", "-c", script])
        except BlockferryError as error:
            problems.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until((tmp_path / "pid").exists, "the call", timeout=60)
    other.helper.close()
    thread.join(60)
    assert problems
    assert pair.new.runner.call("holder.hold", move=pair.move, number=[6, 0]) == holder_calls.BUSY
    with pytest.raises(MoveNotHeld):
        pair.new.holding.ensure(pair.new.runner)
    (tmp_path / "go").touch()
    wait_until(
        lambda: pair.new.runner.call("holder.hold", move=pair.move, number=[6, 0]) == holder_calls.HOLDER,
        "the lock",
        timeout=60,
    )
    assert (tmp_path / "late").exists()


def test_a_definition_is_kept_before_it_is_removed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair.old.vm.kept()[1] is None
    pair.old.vm.undefine()
    path, xml = pair.old.vm.kept()
    assert xml == XML
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert pair.done() == ["undefine"]
    pair.old.vm.undefine()  # there is none any more
    assert pair.old.vm.kept()[1] == XML
    pair.old.vm.define(xml)
    assert (pair.folder / "defined").read_text() == XML
    pair.old.vm.drop()
    assert pair.old.vm.kept()[1] is None


def test_libvirt_refuses(pair: Pair) -> None:
    with pytest.raises(LibvirtFailed) as caught:
        pair.old.vm.resume()
    assert "status 9" in caught.value.sentence


# ------------------------------------------------------------ migrations


class Call:
    """A migration call in a thread of its own."""

    def __init__(self, manager: Manager, uuid: str) -> None:
        self.problem: BlockferryError | None = None
        self._thread = threading.Thread(target=self._run, args=(manager, uuid), daemon=True)
        self._thread.start()

    def _run(self, manager: Manager, uuid: str) -> None:
        words = ["migrate", "--xml", "@live"]
        try:
            manager.holding.migrate(manager.runner, URI, uuid, "web01", words, {"live": "<domain/>"})
        except BlockferryError as error:
            self.problem = error

    def end(self) -> BlockferryError | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.problem


def test_nobody_takes_over_until_a_migration_is_under_way(pair: Pair) -> None:
    call = Call(pair.old, pair.uuid)
    wait_until((pair.folder / "sent").exists, "virsh", timeout=60)
    assert holder_calls.hold(pair.move, [6, 0]) == holder_calls.BUSY
    (pair.folder / "under-way").touch()
    wait_until(lambda: holder_calls.hold(pair.move, [6, 0]) == holder_calls.HOLDER, "the lock", timeout=60)
    (pair.folder / "over").write_text("ok")
    assert call.end() is None
    assert (pair.folder / "sent").read_text() == "<domain/>"


def test_a_migration_fails(pair: Pair) -> None:
    (pair.folder / "over").write_text("operation failed: no room")
    problem = Call(pair.old, pair.uuid).end()
    assert isinstance(problem, LibvirtFailed)
    assert "no room" in problem.sentence
    assert holder_calls.hold(pair.move, [6, 0]) == holder_calls.HOLDER


def test_a_migration_of_an_old_one_is_never_begun(pair: Pair) -> None:
    pair.old.frozen_while(pair.taken_over)
    assert isinstance(Call(pair.old, pair.uuid).end(), LeaseLost)
    assert pair.done() == []


def test_what_libvirt_calls_an_outgoing_migration() -> None:
    """virsh's word, of the virsh that is installed here."""
    found = subprocess.run(["sh", "-c", "strings -a $(command -v virsh)"], capture_output=True, text=True, check=True)
    assert holder_calls.OUTGOING in found.stdout.splitlines()


@pytest.mark.parametrize(("job", "ended"), [("under-way", True), ("backup", False), ("", False)])
def test_only_a_migration_is_ended(pair: Pair, job: str, *, ended: bool) -> None:
    """A backup that somebody has begun meanwhile goes on."""
    if job:
        (pair.folder / job).touch()
    pair.old.vm.abort()
    assert pair.done() == (["domjobabort"] if ended else [])
    assert pair.old.points == ["calling-domjobabort"]


def test_a_definition_is_kept_before_libvirt_removes_it(pair: Pair) -> None:
    pair.old.vm.keep()
    assert pair.old.vm.kept()[1] == XML
    assert pair.done() == []
    (pair.folder / "defined").unlink()
    with pytest.raises(LibvirtFailed):
        pair.old.vm.keep()
    assert pair.old.vm.kept()[1] == XML
    pair.old.frozen_while(pair.taken_over)
    pair.taken_over()
    with pytest.raises(MoveNotHeld):
        pair.old.vm.keep()
