"""A real sshd of this user on localhost, for tests of what goes over ssh."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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
