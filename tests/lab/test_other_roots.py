"""Hosts with another distribution's root file system, and hosts that are reached over a network."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Disk, Host, Lab
from lab.roots import root

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def desk(lab_session: Lab) -> Host:
    """A host with this machine's programs."""
    return lab_session.host("desk", network=True)


@pytest.fixture(scope="module")
def other(lab_session: Lab) -> Iterator[Host]:
    host = lab_session.host("kvm-13", root="debian13", network=True)
    yield host
    host.power_loss()


def test_a_host_of_another_distribution(lab_session: Lab, desk: Host, other: Host) -> None:
    assert "VERSION_CODENAME=trixie" in other.run(["cat", "/etc/os-release"]).stdout
    versions = other.virsh("version")
    assert "QEMU 10.0" in versions, versions
    assert "libvirt 11.3" in versions, versions
    assert "not found" not in other.run(["sh", "-c", "ldd /usr/bin/qemu-system-x86_64"]).stdout
    assert other.run(["test", "-e", "/dev/kvm"], check=False).returncode == 1
    # Nothing of this machine is there, but the lab.
    here = Path(__file__).parents[2]
    assert other.run(["test", "-e", here], check=False).returncode == 1
    assert other.run(["test", "-e", lab_session.directory]).returncode == 0
    outside = subprocess.run(["virsh", "-c", other.uri, "hostname"], capture_output=True, text=True, check=True)
    assert outside.stdout.strip() == "kvm-13"
    before = sorted(path.name for path in root("debian13").iterdir())
    other.run(["touch", "/of-this-host", "/usr/of-this-host"])
    assert sorted(path.name for path in root("debian13").iterdir()) == before, "its tree is not written to"


@pytest.mark.skipif(
    not os.environ.get("BLOCKFERRY_HOSTS"),
    reason="run by `make compat`: guests of QEMU 10 did not always boot below a busy machine's emulation",
)
def test_a_guest_on_another_distribution(lab_session: Lab, other: Host) -> None:
    """A datastore that is mounted while the host is up, QEMU as that distribution's user, the judge in between."""
    store = lab_session.datastore("late-13", fs="ext4", size="512MiB")
    other.attach(store)
    guest = lab_session.guest(other, "guest13", [Disk("vda", store, size="64MiB", fill="16MiB")], start=True)
    try:
        guest.judge.start(rate=50)
        guest.judge.wait_writes(50)
        assert guest.judge.verify_live().ok
        owner = Path(f"/proc/{other.qemu_pid('guest13')}").stat()
        assert owner.st_uid == other.qemu_owner.uid != 0
        guest.judge.stop()
        guest.poweroff()
        verdict = guest.judge.check_image("vda", guest.sources(inactive=True)["vda"], "qcow2")
        assert verdict.ok, str(verdict)
    finally:
        lab_session.remove_guest(guest)


def test_what_a_power_loss_leaves_of_it(desk: Host, other: Host) -> None:
    other.run(["touch", "/of-this-boot"])
    uuid = other.virsh("capabilities").split("<uuid>")[1].split("<")[0]
    other.power_loss()
    assert desk.run(["ssh", "-o", "ConnectTimeout=5", "kvm-13", "true"], check=False, timeout=60).returncode == 255
    other.boot()
    assert other.run(["test", "-e", "/of-this-boot"], check=False).returncode == 1
    assert other.virsh("capabilities").split("<uuid>")[1].split("<")[0] == uuid
    assert desk.run(["ssh", "-v", "kvm-13", "hostname"]).stdout.strip() == "kvm-13"


def test_no_startup_files_of_this_machine_are_read(desk: Host, other: Host) -> None:
    """They may wait for a lock that a host of before has left behind."""
    for file in ("/root/.bashrc", "/root/.profile"):
        assert desk.run(["sh", "-c", f"[ ! -s {file} ]"], check=False).returncode == 0, file
    assert "pyenv" not in other.run(["ssh", "desk", "echo $PATH; type pyenv"], check=False).stdout


def test_ssh_from_host_to_host(desk: Host, other: Host) -> None:
    assert other.ssh_uri == "qemu+ssh://root@kvm-13/system"
    assert desk.run(["virsh", "-c", other.ssh_uri, "hostname"]).stdout.strip() == "kvm-13"
    assert other.run(["ssh", "desk", "hostname"]).stdout.strip() == "desk"
    assert other.run(["getent", "hosts", "kvm-13"]).stdout.split()[0] != "127.0.1.1"


def test_a_link_that_is_cut(desk: Host, other: Host) -> None:
    """Nothing gets through and nobody is told; what was connected goes on once the link is whole."""
    with desk.popen(
        ["ssh", "kvm-13", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as link:
        assert link.stdin is not None
        assert link.stdout is not None
        link.stdin.write("before\n")
        link.stdin.flush()
        assert link.stdout.readline() == "before\n"
        other.cut_network()
        try:
            link.stdin.write("meanwhile\n")
            link.stdin.flush()
            lost = desk.run(["ssh", "-o", "ConnectTimeout=3", "kvm-13", "true"], check=False, timeout=60)
            assert lost.returncode == 255
            assert link.poll() is None, "the connection stays open"
        finally:
            other.mend_network()
        assert link.stdout.readline() == "meanwhile\n"
        link.stdin.close()
        assert link.wait(60) == 0


def test_a_lab_that_is_opened_again_has_its_network(lab_session: Lab, desk: Host, other: Host) -> None:
    again = Lab.open(directory=lab_session.directory).hosts["kvm-13"]
    assert again.tree == other.tree
    again.cut_network()
    again.mend_network()
    assert desk.run(["ssh", "kvm-13", "hostname"]).stdout.strip() == "kvm-13"
