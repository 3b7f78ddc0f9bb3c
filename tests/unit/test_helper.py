"""The helper on a host: real processes, a real sshd, calls that hang, cut connections, kill -9 of either side."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ssh_server import Server, sshd

from blockferry.base.errors import (
    HelperEnded,
    HostCallFailed,
    HostCommandFailed,
    HostUnreachable,
    NoAnswer,
    OutcomeUnknown,
)
from blockferry.hosts.helper import channel, text
from blockferry.hosts.helper.channel import Channel
from blockferry.hosts.helper.program import keeping, serving
from blockferry.hosts.helper.session import Pending, Session
from blockferry.hosts.helper.transport import Local, Ssh, Transport

pytestmark = pytest.mark.slow

__all__ = ["sshd"]

PROGRAM = Path(keeping.__file__).parent


@pytest.fixture
def local() -> Iterator[Session]:
    session = Session(Local())
    yield session
    session.close()


@pytest.fixture(scope="module")
def sessions() -> Iterator[dict[str, Session]]:
    """One for each way: signing in at an sshd takes long on a busy machine."""
    made: dict[str, Session] = {}
    yield made
    for session in made.values():
        session.close()


@pytest.fixture(params=["local", "ssh"])
def session(request: pytest.FixtureRequest, sessions: dict[str, Session]) -> Session:
    if request.param not in sessions:
        sessions[request.param] = Session(transport_of(request))
    return sessions[request.param]


def transport_of(request: pytest.FixtureRequest) -> Transport:
    if request.param == "local":
        return Local()
    server: Server = request.getfixturevalue("sshd")
    return Ssh("127.0.0.1", program=str(server.program))


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    """Whoever opens it waits in the kernel until somebody writes, as at storage that does not answer."""
    path = tmp_path / "hangs"
    os.mkfifo(path)
    return str(path)


def feed(fifo: str, data: bytes, *waiting: Pending) -> None:
    """Let go whoever reads it; as soon as somebody does."""

    def done() -> bool:
        for pending in waiting:
            pending.wait(0.02)
        with contextlib.suppress(OSError):
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, data)
            os.close(descriptor)
            return True
        return False

    eventually(done)


def eventually(check: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    return True


def helper_of(session: Session) -> int:
    """The helper's own process id, which it says when it greets."""
    one = session.connection()
    eventually(lambda: one.greeted)
    return int(one.hello["pid"])


# ---------------------------------------------------------------- calls


def test_a_call_that_hangs_holds_up_no_other(session: Session, fifo: str, tmp_path: Path) -> None:
    hanging = [session.begin("files.read", path=fifo) for _ in range(20)]
    assert session.call("files.there", path=str(tmp_path)) is True
    with pytest.raises(NoAnswer, match="hangs"):
        session.call("files.read", path=fifo, timeout_s=0.2)
    assert not any(pending.wait(0.0) for pending in hanging)


def test_answers_come_in_any_order(session: Session, fifo: str) -> None:
    first = session.begin("files.read", path=fifo)
    second = session.begin("files.names", path=os.path.dirname(fifo))
    assert second.wait(60)
    assert second.result() == ["hangs"]
    assert not first.wait(0.0)
    feed(fifo, b"\0\xff")
    assert first.wait(60)
    assert first.result() == "AP8="


def test_a_failure_is_a_number_with_its_name(session: Session, tmp_path: Path) -> None:
    with pytest.raises(HostCallFailed) as failed:
        session.call("files.read", path=str(tmp_path / "absent"))
    assert (failed.value.errno, failed.value.errno_name) == (2, "ENOENT")
    assert str(tmp_path / "absent") in failed.value.sentence
    with pytest.raises(HostCommandFailed, match="it knows no call named"):
        session.call("files.no_such_call")
    with pytest.raises(HostCommandFailed, match="TypeError"):
        session.call("files.read", nonsense=1)


def test_a_hundred_thousand_names_in_one_call(local: Session, tmp_path: Path) -> None:
    names = [f"{tmp_path}/disk {number:06} of a datastore with long names.qcow2" for number in range(100_000)]
    Path(names[77_777]).touch()
    found = local.call("files.stat", paths=names)
    assert [number for number, one in enumerate(found) if "errno" not in one] == [77_777]


def test_any_name_arrives_and_comes_back(session: Session, tmp_path: Path) -> None:
    names = [b"two\nlines", b"\xff\xfe no UTF-8 \x80", "ü\U0001f600".encode(), b'"quote\\', b"-rf", b"\xed\xa0\x80"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    found = session.call("files.names", path=str(tmp_path))
    assert sorted(map(os.fsencode, found)) == sorted(names)
    for name in found:
        assert session.call("files.remove", path=f"{tmp_path}/{name}", repeat=False) is True
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- ends


def test_a_killed_helper_is_replaced_and_what_may_be_repeated_is(session: Session, fifo: str) -> None:
    pending = session.begin("files.read", path=fifo)
    os.kill(helper_of(session), signal.SIGKILL)
    feed(fifo, b"x", pending)
    assert pending.wait(60)
    assert pending.result() == "eA=="


def test_what_must_not_be_repeated_has_an_unknown_outcome(session: Session, fifo: str) -> None:
    pending = session.begin("files.read", path=fifo, repeat=False)
    os.kill(helper_of(session), signal.SIGKILL)
    assert pending.wait(60)
    with pytest.raises(OutcomeUnknown, match="is not known"):
        pending.result()


def test_a_helper_that_was_killed_is_not_libvirt(local: Session, fifo: str) -> None:
    pending = local.begin("files.read", path=fifo, repeat=False)
    used = local.connection()
    os.kill(helper_of(local), signal.SIGKILL)
    assert pending.wait(60)
    error = used.problem()
    assert isinstance(error, HelperEnded)
    assert "killed by signal 9" in error.sentence
    assert "libvirt" not in f"{error.sentence} {error.hint}"


def test_a_helper_that_said_no_word_may_have_done_it(local: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first words, and what it has done, may have crossed with the end of the link."""
    monkeypatch.setattr(Channel, "_take", lambda _self, _line: None)
    pending = local.begin("files.there", repeat=False, path="/")
    os.kill(local.connection().pid, signal.SIGKILL)
    assert pending.wait(60)
    with pytest.raises(OutcomeUnknown):
        pending.result()


def test_twice_is_enough(local: Session, fifo: str) -> None:
    """What kills the helper does not kill one after the other."""
    pending = local.begin("files.read", path=fifo)
    first = helper_of(local)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not pending.wait(0.05) and helper_of(local) != first)
    os.kill(helper_of(local), signal.SIGKILL)
    assert pending.wait(60)
    with pytest.raises(HostUnreachable):
        pending.result()


USER = """\
import sys
from blockferry.hosts.helper.session import Session
from blockferry.hosts.helper.transport import Local, Ssh
session = Session(Ssh("127.0.0.1", program=sys.argv[2]) if len(sys.argv) > 2 else Local())
pending = session.begin("files.read", path=sys.argv[1])
session.call("files.there", path="/")
print(session.connection().hello["pid"], flush=True)
pending.wait(None)
"""


@pytest.mark.parametrize("way", ["local", "ssh"])
def test_the_helper_ends_when_we_are_killed(way: str, fifo: str, request: pytest.FixtureRequest) -> None:
    words = [str(request.getfixturevalue("sshd").program)] if way == "ssh" else []
    argv = [sys.executable, "-c", USER, fifo, *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as us:
        assert us.stdout is not None
        helper = int(us.stdout.readline())
        assert not gone(helper)
        us.kill()
    eventually(lambda: gone(helper))


CHILDREN = """\
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from blockferry.hosts.helper.program import keeping
keeper = keeping.start()
mine = subprocess.Popen(["sleep", "600"])
stubborn = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
away = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(mine.pid, stubborn.pid, away.pid, flush=True)
mine.wait()
"""


def test_what_the_helper_started_dies_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not what has a session of its own, which is meant to stay."""
    source = str(Path(channel.__file__).parents[3])
    argv = [sys.executable, "-c", CHILDREN.replace("keeper =", "keeping.KILL_AFTER_S = 0.5; keeper ="), source]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as helper:
        assert helper.stdout is not None
        mine, stubborn, away = map(int, helper.stdout.readline().split())
        helper.kill()
    try:
        eventually(lambda: gone(mine) and gone(stubborn))
        assert not gone(away)
    finally:
        os.kill(away, signal.SIGKILL)


# ---------------------------------------------------------------- connections


def test_a_connection_that_is_cut_is_made_again(sshd: Server, fifo: str) -> None:
    session = Session(Ssh("127.0.0.1", program=str(sshd.program)))
    try:
        pending = session.begin("files.read", path=fifo)
        before, helper = session.connection(), helper_of(session)
        os.kill(before.pid, signal.SIGKILL)  # ssh, not the helper
        eventually(lambda: session.connection() is not before and session.connection().greeted)
        eventually(lambda: gone(helper))
        feed(fifo, b"x", pending)
        assert pending.wait(60)
        assert pending.result() == "eA=="
    finally:
        session.close()


def test_a_link_that_says_nothing_any_more_is_noticed(
    sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a cable is drawn: no end of file, no error, no answer."""
    monkeypatch.setattr(channel, "BEAT_S", 0.1)
    monkeypatch.setattr(channel, "SILENT_S", 2.0)
    session = Session(Ssh("127.0.0.1", program=str(sshd.program)))
    try:
        helper_of(session)
        before = session.connection()
        os.kill(before.pid, signal.SIGSTOP)
        assert session.call("files.there", path=str(tmp_path)) is True
        assert session.connection() is not before
    finally:
        session.close()


def test_a_helper_that_hears_nothing_ends_itself(fifo: str) -> None:
    """The other side of a drawn cable: sshd would keep it for hours."""
    transport = replace(Local(), silence_s=0.3)
    argv, begin = transport.command(text.ARGV), text.program(0.3)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        helper.stdin.write(begin + b'{"id":1,"do":"files.read","with":{"path":"%s"}}\n' % fifo.encode())
        helper.stdin.flush()
        assert b"hello" in helper.stdout.readline()
        assert helper.wait(60) == 0


class Said(serving.Output):
    """What a helper says, kept."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.words: list[dict[str, Any]] = []

    def send(self, words: dict[str, Any]) -> None:
        self.words.append(words)


def test_what_was_said_before_a_long_silence_is_not_done_unasked(tmp_path: Path) -> None:
    """A link had stalled: whoever said it has given this helper up, and does something else with that name now."""
    path, said = tmp_path / "new.qcow2", Said()
    path.touch()
    remove = b'{"id":1,"do":"files.remove","with":{"path":"%s"}}' % os.fsencode(path)
    helper = serving.Serving(said, lambda: None, silence_s=120.0)
    helper.heard_at -= 21
    helper.take(remove)
    helper.take(b'{"ping":1}')
    assert said.words == [{"there": 1}]
    helper.heard_at -= 21
    helper.take(b'{"there":1}')  # it had stalled, too
    helper.take(b'{"there":1}')
    assert said.words == [{"there": 1}, {"there": 2}]
    assert path.exists()
    helper.take(b'{"there":2}')
    eventually(lambda: {"id": 1, "result": True} in said.words)
    assert not path.exists()
    helper.take(b'{"ping":2}')
    assert said.words[-1] == {"pong": 2}


def test_whoever_is_still_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every word comes after what this helper takes for a long silence."""
    monkeypatch.setattr(channel, "BEAT_S", 1.0)
    session = Session(replace(Local(), silence_s=3.0))
    try:
        assert session.call("files.there", path=str(tmp_path)) is True
        used = session.connection()
        heard = used.heard
        eventually(lambda: used.heard > heard + 3)
        assert session.call("files.there", path=str(tmp_path), timeout_s=30) is True
        assert session.connection() is used
    finally:
        session.close()


def test_a_host_that_cannot_be_reached(sshd: Server, tmp_path: Path) -> None:
    nobody = tmp_path / "ssh"
    nobody.write_text(f'#!/bin/sh\nexec {sshd.program} -o Port=1 "$@"\n')
    nobody.chmod(0o755)
    session = Session(Ssh("127.0.0.1", program=str(nobody)))
    with pytest.raises(HostUnreachable, match="Connection refused"):
        session.call("files.there", path="/")
    with pytest.raises(HostCommandFailed, match="No such file"):
        Session(Ssh("127.0.0.1", program="/no/such/ssh")).call("files.there", path="/")


def test_a_host_without_python(tmp_path: Path) -> None:
    """The shell on the other side says so."""
    poor = tmp_path / "ssh"
    poor.write_text("#!/bin/sh\necho 'env: /usr/bin/python3: No such file or directory' >&2\nexit 127\n")
    poor.chmod(0o755)
    with pytest.raises(HostCommandFailed, match="python3: No such file") as failed:
        Session(Ssh("kvm2", program=str(poor))).call("files.there", path="/")
    assert failed.value.status == 127


def test_a_shell_that_talks_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    talks = tmp_path / "ssh"
    talks.write_text('#!/bin/sh\necho "Welcome to kvm2"\necho "{}"\necho "[1]"\nexec /usr/bin/python3 "$@"\n')
    talks.chmod(0o755)

    class Talking(Local):
        def command(self, argv: object) -> list[str]:
            return [str(talks), *text.ARGV[1:]]

    session = Session(Talking())
    assert session.call("files.there", path="/") is True
    session.close()


# ---------------------------------------------------------------- the program


@pytest.mark.parametrize("path", sorted(PROGRAM.rglob("*.py")), ids=lambda path: path.name)
def test_the_program_runs_on_hosts_with_an_older_python(path: Path) -> None:
    """Python 3.9: its grammar, and no `strict` of zip, which is a failure only when it is run."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "zip" and call.keywords]


def test_the_program_needs_only_itself_and_the_standard_library() -> None:
    for path in sorted(PROGRAM.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name.startswith("blockferry.hosts.helper.program")
                assert own or name.partition(".")[0] in {*sys.stdlib_module_names, "nbd"}, (path.name, name)


def test_nothing_is_left_on_the_host(sshd: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program comes by standard input, and Python writes none of it down."""
    begin = time.time()
    session = Session(Ssh("127.0.0.1", program=str(sshd.program)))
    session.call("files.there", path="/")
    session.close()
    caches = [path for path in Path.home().glob(".cache/*blockferry*") if path.stat().st_mtime >= begin]
    assert caches == []


# ---------------------------------------------------------------- processes of their own


def test_a_module_runs_by_itself_takes_orders_and_ends_with_us(session: Session, tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(os.urandom(1 << 20))
    wish: dict[str, Any] = {"source": str(image), "source_format": "raw", "dest": str(image), "dest_format": "raw"}
    wish |= {"write": False, "block": 512, "rate": 1024, "chunk": 65536}  # as good as never
    with session.start("comparing", wish, about=str(image)) as running:
        assert b'"done": false' in (running.read(60) or b"")
        assert not running.over
        running.order("0")
        said = b""
        while chunk := running.read(60):
            said += chunk
        assert b'"done": true' in said
        assert running.wait() == (0, "")
    with session.start("comparing", wish, about=str(image)) as running:
        assert running.read(60)
    assert running.over, "it is ended when nobody wants it any more"


def test_what_fails_by_itself_says_why(session: Session) -> None:
    wish: dict[str, Any] = {
        "source": "/no/such/image",
        "source_format": "raw",
        "dest": "/none",
        "dest_format": "raw",
        "write": False,
    }
    with session.start("comparing", {**wish, "block": 512, "rate": 0, "chunk": 65536}) as running:
        assert running.read(60) == b""
        status, words = running.wait()
    assert status != 0
    assert words


def test_a_process_of_ours_dies_with_its_helper(local: Session, tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(os.urandom(1 << 20))
    wish: dict[str, Any] = {"source": str(image), "source_format": "raw", "dest": str(image), "dest_format": "raw"}
    wish |= {"write": False, "block": 512, "rate": 1024, "chunk": 65536}
    running = local.start("comparing", wish, about=str(image))
    assert running.read(60)
    mine = [pid for pid in keeping.members(os.getsid(helper_of(local))) if str(image) in words_of(pid)]
    assert len(mine) >= 2, "the comparison and two qemu-nbd"
    os.kill(helper_of(local), signal.SIGKILL)
    eventually(lambda: all(map(gone, mine)))
    while running.read(60):
        pass
    with pytest.raises(HostUnreachable):
        running.wait()


def words_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    return ""
