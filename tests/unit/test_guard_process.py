"""The guard's two ends, with its real process beside a VM of paper."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import guard_child
import pytest

import blockferry
from blockferry.safety import guard
from blockferry.safety.guard import Guard
from blockferry.storage_move.pace.record import Throttle
from blockferry.storage_move.pace.throttle_rules import limited

pytestmark = pytest.mark.slow

FREE: dict[str, int | str] = {"total_bytes_sec": 0, "read_bytes_sec": 0, "write_bytes_sec": 0, "group_name": ""}
SLOWED = Throttle(1000, 1, FREE, (2000,))


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    file = tmp_path / "limits"
    file.write_text(json.dumps({"vda": FREE}))
    return file


@pytest.fixture
def one(limits: Path) -> Iterator[Guard]:
    found = Guard("test:///default", "uuid", "web01")
    found._argv = [sys.executable, guard_child.__file__, str(limits)]
    with found:
        assert found.works()
        yield found


def process_of(one: Guard) -> int:
    assert one._process is not None
    return one._process.pid


def test_a_late_answer_is_not_taken_for_that_to_the_next_question(one: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one.arm(60)
    os.kill(process_of(one), signal.SIGSTOP)
    try:
        monkeypatch.setattr(guard, "RUN_S", 0.2)
        assert one.let_run() is None  # no answer in time; it says later that it was too late
    finally:
        os.kill(process_of(one), signal.SIGCONT)
    monkeypatch.setattr(guard, "RUN_S", 20.0)
    assert one.let_run() is True
    assert one.let_run() is False  # so a pause that is seen now is its owner's
    assert one.works()


@pytest.fixture
def many_files() -> Iterator[None]:
    """More open files than select(2) can take: descriptors from here on are above 1,023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held: list[int] = []
    try:
        while not held or held[-1] < 1100:
            held.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_is_heard_also_with_more_than_1023_open_files(many_files: None, limits: Path) -> None:
    """select(2) raised ValueError, in the middle of a switch."""
    found = Guard("test:///default", "uuid", "web01")
    found._argv = [sys.executable, guard_child.__file__, str(limits)]
    with found:
        assert found.arm(60)
        assert found._process is not None
        assert found._process.stdout is not None
        assert found._process.stdout.fileno() > 1023
        assert found.let_run() is True


def test_a_line_that_is_no_order_does_not_end_the_guard(one: Guard) -> None:
    first = process_of(one)
    for words in ("arm soon", "limits [", "hold 3", "what", "limits 3"):
        one._asked += 1
        assert one._process is not None
        assert one._process.stdin is not None
        one._process.stdin.write(f"{one._asked} {words}\n".encode())
    assert one.arm(60)
    assert process_of(one) == first


def test_no_module_uses_select() -> None:
    """It takes no descriptor above 1,023; `images.process.readable` and poll(2) do."""
    found = [path for path in Path(blockferry.__file__).parent.rglob("*.py") if "select.select(" in path.read_text()]
    assert found == []


def test_it_is_told_of_limits_once_and_a_new_process_again(one: Guard) -> None:
    assert one.restore_limits("vda", SLOWED)
    asked = one._asked
    assert one.restore_limits("vda", SLOWED)
    assert one._asked == asked
    first = process_of(one)
    assert one._process is not None
    one._process.kill()
    one._process.wait()
    assert one.restore_limits("vda", SLOWED)
    assert process_of(one) != first
    assert one._asked > asked


@pytest.mark.parametrize("slowed", [True, False])
def test_what_is_left_behind_is_put_back(one: Guard, limits: Path, slowed: bool) -> None:
    """Without `limits_are_back` we are gone: what is ours is taken back, what somebody else has set is not."""
    assert one.restore_limits("vda", SLOWED)
    now = {**FREE, **limited(FREE, 2000 if slowed else 3000)}
    limits.write_text(json.dumps({"vda": now}))
    one.__exit__(None, None, None)
    assert json.loads(limits.read_text())["vda"] == (FREE if slowed else now)
