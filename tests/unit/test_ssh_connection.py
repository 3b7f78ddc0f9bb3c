"""The shared ssh connection, over a real sshd: made once for many commands, and again when it has ended or broken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest
from ssh_server import Server, sshd

from blockferry.hosts.runner import SshRunner

pytestmark = pytest.mark.slow

__all__ = ["sshd"]


def three(runner: SshRunner) -> None:
    for number in range(3):
        assert runner.run(["printf", str(number)]).text == str(number)


def test_the_connection_is_made_again_when_it_has_ended_or_broken(sshd: Server) -> None:
    runner = SshRunner("127.0.0.1", program=str(sshd.program))
    path = f"{runner._directory}/s"
    try:
        three(runner)
        assert sshd.logins() == 1, "all commands share one connection"
        # As after a minute without a command: it ends by itself.
        subprocess.run([str(sshd.program), "-o", f"ControlPath={path}", "-O", "exit", "127.0.0.1"], check=True)
        three(runner)
        assert sshd.logins() == 2
        # It breaks, and its socket stays.
        os.kill(master(path), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while answers(path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        three(runner)
        assert sshd.logins() == 3
    finally:
        runner.close()


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        return link.connect_ex(path) == 0


def master(path: str) -> int:
    """The process that holds the shared connection."""
    argv = ["ssh", "-o", f"ControlPath={path}", "-O", "check", "127.0.0.1"]
    words = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    return int(words.split("pid=")[1].split(")")[0])
