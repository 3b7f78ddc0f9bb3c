"""Which QEMU a VM runs in, asked of real processes; and that the pre-check goes by it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from blockferry.hosts.images import qemu_img
from blockferry.hosts.qemu_process import QemuProgram, program_of
from blockferry.hosts.runner import LocalRunner

QEMU = shutil.which("qemu-system-x86_64") or "/usr/libexec/qemu-kvm"
URI = "qemu:///session"

pytestmark = pytest.mark.skipif(not os.path.exists(QEMU), reason="there is no QEMU")


class Host:
    """A user's libvirt as far as its pid files go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pids = directory / "libvirt" / "qemu" / "run"
        self.pids.mkdir(parents=True)
        self.runner = LocalRunner(URI)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, program: Path | str, *words: str) -> str:
        """The UUID of a VM `web01` in a process of this program."""
        uuid = str(uuid4())
        process = subprocess.Popen([str(program), *words, uuid], stdin=subprocess.DEVNULL)
        self.processes.append(process)
        (self.pids / "web01.pid").write_text(f"{process.pid}\n")
        wanted = os.path.realpath(program)
        until = time.monotonic() + 20
        while os.readlink(f"/proc/{process.pid}/exe") != wanted and time.monotonic() < until:
            time.sleep(0.01)
        return uuid

    def start_qemu(self, program: Path | str) -> str:
        """A QEMU that waits for its configuration for ever: a copy of its program would not find its modules."""
        pipe = self.directory / "config"
        os.mkfifo(pipe)
        return self.start(program, "-readconfig", str(pipe), "-uuid")

    def ask(self, uuid: str) -> QemuProgram:
        return program_of(self.runner, URI, "web01", uuid)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    host = Host(tmp_path)
    yield host
    for process in host.processes:
        process.kill()
        process.wait()


def test_a_running_qemu_tells_its_version(host: Host) -> None:
    uuid = host.start_qemu(QEMU)
    found = host.ask(uuid)
    assert found == QemuProgram(found.version)
    assert found.version is not None
    assert found.version[:2] == qemu_img.version(host.runner)[:2]


def test_also_one_whose_file_is_gone(host: Host) -> None:
    copy = host.directory / "qemu-system-x86_64"
    shutil.copy(QEMU, copy)
    copy.chmod(0o755)
    uuid = host.start_qemu(copy)
    copy.unlink()
    found = host.ask(uuid)
    assert found.version is not None
    assert found.replaced


def test_what_others_could_have_written_is_not_run(host: Host) -> None:
    """Found by thinking: a QEMU out of which a guest has broken would choose what we run as root."""
    copy = host.directory / "qemu-system-x86_64"
    shutil.copy(QEMU, copy)
    copy.chmod(0o775)
    found = host.ask(host.start_qemu(copy))
    assert found.version is None
    assert "written by others" in found.problem


def test_what_is_not_called_qemu_is_not_run(host: Host) -> None:
    found = host.ask(host.start("/bin/sh", "-c", "read -r _ </dev/zero"))
    assert found.version is None
    assert "is not called QEMU" in found.problem


def test_a_program_that_does_not_tell(host: Host) -> None:
    copy = host.directory / "qemu-like"
    shutil.copy("/bin/sleep", copy)
    copy.chmod(0o755)
    uuid = str(uuid4())
    process = subprocess.Popen(["sh", "-c", 'exec -a "$2" "$1" 60', "sh", str(copy), uuid], executable="/bin/bash")
    host.processes.append(process)
    (host.pids / "web01.pid").write_text(str(process.pid))
    until = time.monotonic() + 20
    while os.readlink(f"/proc/{process.pid}/exe") != str(copy) and time.monotonic() < until:
        time.sleep(0.01)
    found = host.ask(uuid)
    assert found == QemuProgram(None, problem="its program does not tell it")


def test_another_s_process_and_none(host: Host) -> None:
    host.start_qemu(QEMU)
    found = host.ask(str(uuid4()))
    assert found.version is None
    assert "is not the VM's" in found.problem
    (host.pids / "web01.pid").unlink()
    found = host.ask(str(uuid4()))
    assert found.version is None
    assert "web01.pid" in found.problem
