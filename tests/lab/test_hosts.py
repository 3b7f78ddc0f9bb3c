"""Hosts and datastores: apart from each other and from the machine, and nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import Datastore, Disk, GuestRefused, Host, Lab, sweep
from lab.process import ProcessId, wait_until
from lab.pytest_plugin import MakeGuest
from lab.qemuuser import Profile
from lab.sizes import MIB
from lab.state import ROOT

pytestmark = pytest.mark.lab


def leftovers(directory: Path) -> list[object]:
    found: list[object] = [*sweep.inits(directory), *sweep.mounts(directory), *sweep.loops(directory)]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(directory).encode() in (entry / "cmdline").read_bytes():
                    found.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    return [*found, *([directory] if directory.exists() else [])]


def test_a_host_is_itself(lab_session: Lab, lab_host: Host) -> None:
    other = lab_session.host("kvm-other")
    assert lab_host.run(["hostname"]).stdout.strip() == "kvm1"
    assert other.run(["virsh", "-c", "qemu:///system", "hostname"]).stdout.strip() == "kvm-other"
    outside = subprocess.run(["virsh", "-c", other.uri, "hostname"], capture_output=True, text=True, check=True)
    assert outside.stdout.strip() == "kvm-other"
    assert "ssd" in lab_host.virsh("pool-list", "--name")
    assert "ssd" not in other.virsh("pool-list", "--name")
    uuids = [host.virsh("capabilities").split("<uuid>")[1].split("<")[0] for host in (lab_host, other)]
    assert uuids[0] != uuids[1]
    other.power_loss()
    assert not other.socket.exists() or not other.up()
    assert lab_host.virsh("hostname").strip() == "kvm1"


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs", "dir"])
def test_datastores_come_and_go_on_a_running_host(lab_session: Lab, lab_host: Host, fs: str) -> None:
    store = lab_session.datastore(f"late-{fs}", fs=fs, size="512MiB")
    lab_host.attach(store)
    assert store.name in lab_host.virsh("pool-list", "--name")
    lab_host.run(["touch", store.path / "from-inside"])
    assert (store.path / "from-inside").exists()
    if fs == "dir":
        return
    store.fill("16MiB")
    assert store.free_bytes() < 64 * MIB
    store.unfill()
    assert store.free_bytes() > 256 * MIB
    store.remount(read_only=True)
    assert lab_host.run(["touch", store.path / "no"], check=False).returncode != 0
    store.remount(read_only=False)
    lab_host.run(["touch", store.path / "yes"])
    lab_host.detach(store)
    store.umount()
    assert not lab_host.run(["ls", store.path]).stdout.strip()
    store.mount()
    assert "yes" in lab_host.run(["ls", store.path]).stdout


def test_a_cdrom_in_the_home(lab_session: Lab, make_guest: MakeGuest, ssd: Datastore) -> None:
    image = lab_session.directory / "tmp/medium.iso"  # pytest's own directories are closed to QEMU's user
    image.write_bytes(b"a medium".ljust(64 * 2048, b"\0"))
    cdrom = (
        f"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{image}'/>"
        "<target dev='sda' bus='scsi'/><readonly/></disk><controller type='scsi' model='virtio-scsi'/>"
    )
    guest = make_guest([Disk("vda", ssd, size="32MiB")], extra_devices=cdrom, start=True)
    assert guest.sh("dd if=/dev/sr0 bs=2048 count=1 2>/dev/null | head -c 8") == "a medium"


def _qemu_ids(host: Host, vm: str) -> tuple[int, int]:
    words = {line.split(":")[0]: line.split()[1:] for line in _status(host.qemu_pid(vm))}
    return int(words["Uid"][0]), int(words["Gid"][0])


def _status(pid: int) -> list[str]:
    return [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(("Uid", "Gid"))]


@pytest.mark.parametrize(
    ("profile", "while_it_runs", "afterwards"),
    [("default", "qemu", "root"), ("fixed", "qemu", "qemu"), ("root", "root", "root")],
)
def test_as_whom_qemu_runs(
    lab_session: Lab, make_guest: MakeGuest, ssd: Datastore, profile: Profile, while_it_runs: str, afterwards: str
) -> None:
    host = lab_session.host(f"kvm-{profile}", profile=profile)
    host.attach(ssd)
    qemu, root = (host.qemu_owner.uid, host.qemu_owner.gid), (0, 0)
    assert (qemu == root) is (profile == "root")
    owners = {"qemu": qemu, "root": root}
    guest = make_guest([Disk("vda", ssd, size="32MiB")], host=host, start=True)
    assert _qemu_ids(host, guest.name) == qemu
    image = Path(guest.disk("vda").path)
    assert (image.stat().st_uid, image.stat().st_gid) == owners[while_it_runs]
    guest.judge.start()
    guest.judge.wait_writes(20)
    guest.judge.stop()
    guest.poweroff()
    assert (image.stat().st_uid, image.stat().st_gid) == owners[afterwards]
    assert guest.judge.check_image("vda", image, "qcow2").ok
    host.power_loss()


def test_commands_in_the_guest(make_guest: MakeGuest, ssd: Datastore) -> None:
    guest = make_guest([Disk("vda", ssd, size="32MiB")], start=True)
    assert guest.sh("echo out; echo err >&2") == "out\nerr\n"
    with pytest.raises(GuestRefused, match="exit status 3"):
        guest.sh("exit 3")
    began = time.monotonic()
    with pytest.raises(GuestRefused, match="killed after 1 s"):
        guest.sh("sleep 100", timeout=1)
    assert time.monotonic() - began < 6
    assert len(guest.sh("seq 100000")) == 588895


_CRASHING = """
import os, sys, time
from lab import Disk, Lab
lab = Lab.create(sys.argv[1])
store = lab.datastore("ssd", fs="xfs", size="512MiB")
host = lab.host("kvm1")
host.attach(store)
guest = lab.guest(host, "web01", [Disk("vda", store, size="32MiB")], start=True)
guest.judge.start()
print("up", flush=True)
time.sleep(600)
"""


def test_a_crashed_run_is_swept_and_a_living_one_is_not(lab_session: Lab, lab_host: Host) -> None:
    name = f"crash-{lab_session.name}"[:20]
    directory = ROOT / name
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", _CRASHING, name], cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert directory not in sweep.gc()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert leftovers(directory)
    assert directory in sweep.gc()
    assert leftovers(directory) == []
    assert lab_host.virsh("hostname").strip() == "kvm1"


def test_a_lab_ends_with_nothing_left_even_after_an_exception(ssd: Datastore) -> None:
    directory = None

    def fail_inside() -> None:
        nonlocal directory
        with Lab.create() as lab:
            directory = lab.directory
            store = lab.datastore("ssd", fs="btrfs", size="512MiB")
            host = lab.host("kvm1")
            host.attach(store)
            lab.guest(host, "web01", [Disk("vda", store, size="32MiB")], start=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert directory is not None
    assert leftovers(directory) == []
    assert ssd.mounted()


def test_a_lab_opened_by_another_process(lab_session: Lab, make_guest: MakeGuest, ssd: Datastore) -> None:
    guest = make_guest([Disk("vda", ssd, size="32MiB")], start=True)
    again = Lab.open(directory=lab_session.directory)
    assert again.guests[guest.name].sh("echo here") == "here\n"
    assert again.hosts["kvm1"].virsh("hostname").strip() == "kvm1"
    assert again.datastores["ssd"].path == ssd.path


def test_a_lab_started_by_hand_is_kept_until_down() -> None:
    root = Path(__file__).parents[2]
    words = [sys.executable, "-m", "lab", "--lab", "hand"]
    try:
        subprocess.run([*words, "up", "--guests", "0"], cwd=root, check=True, capture_output=True)
        assert ROOT / "hand" not in sweep.gc()
        done = subprocess.run([*words, "run", "kvm1", "--", "hostname"], cwd=root, capture_output=True, text=True)
        assert done.stdout == "kvm1\n"
        assert json.loads((ROOT / "hand/state.json").read_text())["owner"] is None
    finally:
        subprocess.run([*words, "down"], cwd=root, check=True)
    assert leftovers(ROOT / "hand") == []


def test_a_recycled_pid_is_not_the_owner() -> None:
    me = ProcessId.own()
    assert me.alive()
    assert not ProcessId(me.pid, me.start_ticks - 1).alive()


def test_a_host_has_no_kvm(lab_host: Host) -> None:
    """Where QEMU's user cannot open /dev/kvm, libvirt asks QEMU anew at every define: 13 seconds instead of 0.1."""
    assert lab_host.run(["test", "-e", "/dev/kvm"], check=False).returncode == 1
    assert lab_host.run(["test", "-c", "/dev/null"], check=False).returncode == 0


def test_a_command_that_stood_still_is_continued_and_can_be_killed(lab_host: Host) -> None:
    """nsenter stops itself a little after its child: a SIGCONT before that, or a SIGKILL after it, left it standing."""
    process = lab_host.popen(["sleep", "1000"])
    for _ in range(20):
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: not stands_still(process.pid), "nsenter going on")
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: stands_still(process.pid), "nsenter standing still")
    process.kill()
    assert process.wait(timeout=10) != 0


def stands_still(pid: int) -> bool:
    return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()
