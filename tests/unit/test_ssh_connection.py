"""The shared ssh connection, over a real sshd: made once for many commands, and again when it has ended or broken."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blockferry.images.runner import SshRunner

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class Server:
    """A private sshd of this user on localhost. `program` is an ssh that knows its key, port and host key."""

    program: Path
    log: Path

    def logins(self) -> int:
        return self.log.read_text().count("Accepted publickey")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if os.geteuid() != 0 or not Path(SSHD).exists() or not shutil.which("ssh"):
        pytest.skip("needs root and openssh-server")
    home = tmp_path_factory.mktemp("sshd")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / key)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\n"
        "StrictModes no\nUsePAM yes\nPermitRootLogin prohibit-password\nPidFile none\nLogLevel VERBOSE\n"
    )
    (home / "config").write_text(
        f"Host *\nPort {port}\nUser root\nIdentityFile {home}/user\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {home}/known\nStrictHostKeyChecking no\n"
    )
    program = home / "ssh"
    program.write_text(f'#!/bin/sh\nexec ssh -F {home}/config "$@"\n')
    program.chmod(0o755)
    log = home / "log"
    server = subprocess.Popen([SSHD, "-D", "-f", str(home / "sshd_config"), "-E", str(log)])
    try:
        deadline = time.monotonic() + 20
        while not log.exists() or "Server listening" not in log.read_text():
            assert time.monotonic() < deadline, "sshd does not come up"
            assert server.poll() is None, log.read_text() if log.exists() else "sshd has ended"
            time.sleep(0.05)
        yield Server(program, log)
    finally:
        server.terminate()
        server.wait(20)


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
