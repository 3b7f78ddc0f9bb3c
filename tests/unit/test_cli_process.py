"""The program as a process: signals, terminals that go away, pipes that close."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cli_fake
import pytest

pytestmark = pytest.mark.slow

ARGS = [sys.executable, cli_fake.__file__, "move", "web01", "--to", "ssd"]
SLOW = {"FAKE_STEPS": "100", "FAKE_STEP_S": "0.1"}


def environment(log: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "FAKE_LOG": str(log), "TERM": "xterm", **extra}


def begun(log: Path) -> list[str]:
    """Wait until the move runs; then what was asked of the client."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        asked = log.read_text().split("\n") if log.exists() else []
        if "run 3f2a" in asked:
            return asked
        time.sleep(0.01)
    raise AssertionError("the move did not begin")


def asked(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if not line.startswith("move")]


@contextlib.contextmanager
def started(log: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*ARGS, *args],
        env=environment(log, **SLOW),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            begun(log)
            yield process
        finally:
            process.kill()


def test_sigint_without_a_terminal_cancels_and_waits(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(log) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 6
    assert asked(log) == ["run 3f2a", "cancel 3f2a"]
    assert "blockferry: MOVE_CANCELLED" in err
    assert out == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_leave_the_move_to_the_background(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with started(log, "--json") as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert asked(log) == ["run 3f2a", "left 3f2a", "start 3f2a"]
    assert '"code":"INTERRUPTED"' in out.splitlines()[-1]


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGTERM)])
def test_the_worker_leaves_in_good_order_when_its_session_ends(
    tmp_path: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    """systemd sends SIGTERM and at once SIGHUP to what runs in a session; the second must not undo the first."""
    log = tmp_path / "log"
    argv = [sys.executable, cli_fake.__file__, "run-move", "3f2a"]
    env = environment(log, FAKE_MOVES="1", **SLOW)
    with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        begun(log)
        for number in numbers:
            process.send_signal(number)
        try:
            process.communicate(timeout=8)
        finally:
            process.kill()
    assert asked(log) == ["run 3f2a", "left 3f2a"]
    assert process.returncode == 130


def test_a_reader_that_is_gone_before_the_first_line_leaves_the_move_to_the_background(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reader, writer = os.pipe()
    os.close(reader)
    argv = [*ARGS, "--json"]
    done = subprocess.run(argv, env=environment(log), stdin=subprocess.DEVNULL, stdout=writer, timeout=20, check=False)
    os.close(writer)
    assert done.returncode == 130
    assert asked(log) == ["start 3f2a"]


def test_a_reader_that_goes_away_leaves_the_move_to_the_background(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(log, "--json") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(timeout=10)
    assert asked(log) == ["run 3f2a", "left 3f2a", "start 3f2a"]


class Terminal:
    """The program on a pseudo-terminal of its own, as in a window."""

    def __init__(self, log: Path, *words: str, **extra: str) -> None:
        """`words`: the command in place of the move."""
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(ARGS[0], [*ARGS[:2], *(words or ARGS[2:])], environment(log, **(extra or SLOW)))

    def until(self, words: str) -> None:
        deadline = time.monotonic() + 60  # of a busy machine
        while words not in " ".join(self.text.split()):  # the terminal wraps lines
            assert time.monotonic() < deadline, self.text
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:  # the other side has ended
                    break
        assert words in " ".join(self.text.split()), self.text

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("move web01 --to ssd", "Looking at the VM and its datastores"),
        ("check web01 --to ssd", "Looking at the VM and its datastores"),
        ("vms", "Looking at the VMs"),
        ("datastores", "Looking at the datastores"),
        ("doctor", "Looking the host over"),
        ("orphans", "Looking for what earlier moves left"),
        ("quarantine list", "Looking at what is kept"),
    ],
)
def test_something_is_shown_while_the_host_does_not_answer(tmp_path: Path, command: str, words: str) -> None:
    """As when libvirt is slow: the service answers never here."""
    window = Terminal(tmp_path / "log", *command.split(), FAKE_HANGS_S="3600")
    try:
        window.until(words)
    finally:
        os.kill(window.pid, signal.SIGKILL)
    assert window.status() == -signal.SIGKILL


def test_ctrl_c_on_a_terminal_asks_and_cancels(tmp_path: Path) -> None:
    window = Terminal(tmp_path / "log")
    window.until("copying")
    window.press("\x03")
    window.until("[c]ancel the move")
    window.text = ""
    window.press("\r")
    window.until("copying")
    window.press("\x03")
    window.until("[c]ancel the move")
    window.press("c\r")
    window.until("MOVE_CANCELLED")
    assert window.status() == 6
    assert asked(tmp_path / "log") == ["run 3f2a", "cancel 3f2a"]


def test_a_wish_to_cancel_that_comes_too_late_does_not_end_the_command(tmp_path: Path) -> None:
    window = Terminal(tmp_path / "log", FAKE_SWITCHED="1", FAKE_STEPS="30", FAKE_STEP_S="0.1")
    window.until("copying")
    window.press("\x03")
    window.until("[c]ancel the move")
    window.press("c\r")
    window.until("cannot be cancelled any more")
    window.until("was moved")
    assert window.status() == 0
    assert asked(tmp_path / "log") == ["run 3f2a", "cancel 3f2a"]


@pytest.mark.parametrize("keys", ["d\r", "\x03"])
def test_ctrl_c_on_a_terminal_detaches(tmp_path: Path, keys: str) -> None:
    window = Terminal(tmp_path / "log")
    window.until("copying")
    window.press("\x03")
    window.until("[c]ancel the move")
    window.press(keys)
    window.until("goes on in the background")
    assert window.status() == 130
    assert asked(tmp_path / "log") == ["run 3f2a", "left 3f2a", "start 3f2a"]


def test_a_closed_window_leaves_the_move_to_the_background(tmp_path: Path) -> None:
    window = Terminal(tmp_path / "log")
    window.until("copying")
    os.close(window.fd)
    assert window.status() == 130
    assert asked(tmp_path / "log") == ["run 3f2a", "left 3f2a", "start 3f2a"]


def test_a_move_on_a_terminal_ends_with_its_report(tmp_path: Path) -> None:
    window = Terminal(tmp_path / "log", FAKE_STEPS="4", FAKE_STEP_S="0.1")
    window.until("was moved to ssd")
    assert window.status() == 0
    assert "━" in window.text


def test_a_closed_pipe_is_no_error() -> None:
    pipe = f"'{sys.executable}' '{cli_fake.__file__}' vms | true"
    done = subprocess.run(["sh", "-c", pipe], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.replace("broken sda: No such file\n", "") == ""
