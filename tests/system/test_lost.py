"""libvirtd is killed while it concludes a block job, and forgets the VM at its restart while the VM's QEMU runs.

Bare VMs, whose QEMU is made to write as a guest would; and in one test a guest with the judge. Each case: libvirt loses
the VM; nothing is copied cold and nothing is removed; the guest runs; the configuration names what QEMU writes to; when
QEMU has ended, `blockferry resume` ends the move, and what was written last is in the disks that the VM has then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Datastore, Guest, Host, Lab, LabError, losing
from lab.namespaces import HostProcess
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import MARK, Line, Said, Voyage, disk_sources, small_disks

pytestmark = pytest.mark.lab

_XML = """\
<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>
"""
_DISK = """\
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>
<target dev='{target}' bus='virtio'/></disk>
"""
PARKED = 9


class Vm:
    """A VM without a guest system, with qcow2 disks in its home."""

    def __init__(self, host: Host, line: Line, name: str, store: Datastore, disks: int) -> None:
        self.host, self.line, self.name = host, line, name
        self.targets = [f"vd{letter}" for letter in "abc"[:disks]]
        home = store.home(name)
        home.mkdir()
        for target in self.targets:
            image = str(home / f"{target}.qcow2")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
            subprocess.run(["qemu-io", "-c", "write -q -P 1 0 4M", image], check=True, stdout=subprocess.DEVNULL)
        xml = "".join(_DISK.format(path=home / f"{one}.qcow2", target=one) for one in self.targets)
        host.virsh("define", "/dev/stdin", stdin=_XML.format(name=name, disks=xml))
        host.virsh("start", name)

    def state(self) -> str:
        return self.host.vm_state(self.name)

    def config(self) -> str:
        return self.host.virsh("dumpxml", "--inactive", self.name)

    def names(self) -> list[str]:
        """What the persistent configuration names, in the order of the disks."""
        return [disk_sources(self.config())[target] for target in self.targets]

    def lives(self) -> bool:
        return self.host.qemu(self.name) is not None

    def lose(self, target: str, config: str) -> None:
        losing.lose(self.host, self.name, target, config)
        assert self.state() == "shut off"
        assert self.lives(), "QEMU has ended"

    def saved_config(self) -> str:
        return losing.config_file(self.host, self.name).read_text()

    def write(self, pattern: int) -> None:
        for number in range(len(self.targets)):
            losing.write_through(self.host, self.name, number, pattern)

    def end(self) -> None:
        """As when its plug is pulled, but QEMU closes its images."""
        with contextlib.suppress(LabError):
            self.host.kill_qemu(self.name, signal.SIGTERM)

    def assert_holds(self, pattern: int) -> None:
        """What the next start uses has what QEMU wrote last."""
        for path in self.names():
            for part in (f"read -P {pattern} 1M 64k", "read -P 1 0 512k"):
                said = subprocess.run(["qemu-io", "-r", "-c", part, path], capture_output=True, text=True, check=True)
                assert "verification failed" not in said.stdout + said.stderr, f"{part}: {path}\n{self.line.stories()}"

    def assert_parked(self, said: Said) -> None:
        """The move stands still, its report is plain and true, nothing is gone, and the guest runs."""
        assert said.status == PARKED, f"{said}\n{self.line.stories()}"
        text = said.document["message"]
        assert f"libvirt has lost {self.name}" in text
        assert "went off" not in text
        assert f"blockferry resume {said.document['facts']['move']}" in text
        assert losing.qemu_status(self.host, self.name) == "running"
        written = losing.written_images(self.host, self.name)
        assert self.names() == written, f"the next start would use {self.names()}, QEMU writes to {written}"
        assert all(path in text for path in written), text

    def assert_over(self, said: Said, outcome: str, store: Datastore, kept: tuple[str, ...] = ()) -> None:
        """The move has ended, and the VM can be had back from one datastore. `kept`: old images that have to stay.

        An old image of a disk that switched live stays, too, where QEMU never said that it uses new images only; then
        quarantine lists it.
        """
        assert said.status == (0 if outcome == "moved" else 6), f"{said}\n{self.line.stories()}"
        assert all(Path(path).is_relative_to(store.path) for path in self.names()), self.names()
        assert MARK not in self.config()
        homes = [datastore.home(self.name) for datastore in self.line.stores]
        left = {path for home in homes if home.exists() for path in home.rglob("*")}
        images = {path for path in left if path.suffix != ".xml"}
        listed = {one["kept"]["path"] for one in self.line.must("quarantine", "list").document["kept"]}
        due = {Path(path) for path in (*self.names(), *kept)}
        assert due <= images <= due | {Path(path) for path in listed}, f"left: {left}\n{self.line.stories()}"
        self.host.virsh("start", self.name)

    def remove(self) -> None:
        self.end()
        with contextlib.suppress(LabError):
            self.host.kill_libvirtd(signal.SIGCONT)
        self.host.start_libvirtd()
        self.host.virsh("destroy", self.name, check=False)
        self.host.virsh("undefine", self.name, check=False)
        for store in self.line.stores:
            store.clear_vm(self.name)


@pytest.fixture(scope="module")
def pair(lab_session: Lab, lab_host: Host) -> Iterator[tuple[Datastore, Datastore]]:
    """Two datastores on one file system that shares blocks: so every method can be used between them."""
    datastore = lab_session.datastore("lost-near", fs="xfs", size="512MiB")
    other = lab_session.datastore("lost-far", beside=datastore)
    for store in (datastore, other):
        lab_host.attach(store)
    yield datastore, other
    for store in (datastore, other):
        lab_host.detach(store)


@pytest.fixture
def stores(pair: tuple[Datastore, Datastore]) -> tuple[Datastore, ...]:
    return pair


@pytest.fixture
def make(lab_host: Host, line: Line, pair: tuple[Datastore, Datastore], request: pytest.FixtureRequest) -> Iterator[Vm]:
    name = f"lost{abs(hash(request.node.name)) % 10**6}"
    vm = Vm(lab_host, line, name, pair[0], getattr(request, "param", 1))
    yield vm
    vm.remove()


def kill_us(process: HostProcess) -> None:
    process.send_signal(signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)  # nsenter stopped itself along with its child
    process.communicate(timeout=60)


def go_on(process: HostProcess) -> None:
    process.send_signal(signal.SIGCONT)


# -- the window itself ------------------------------------------------------------------------------------------------


def test_libvirtd_killed_in_the_window_of_a_switch(make: Vm, line: Line, pair: tuple[Datastore, Datastore]) -> None:
    """The real thing: libvirtd is frozen in the instant in which its status file holds what it cannot read, and killed.

    Before: the cold copy ran against QEMU's locks, the move said that the VM went off, the guest stood still for good.
    """
    vm, host = make, make.host
    process = line.start("move", vm.name, "--to", "lost-far", "--method", "mirror", point="pivoting:stop")
    line.wait_stopped(process)
    with losing.Window(host, vm.name) as window:
        go_on(process)
        caught = window.wait(30)
    if caught:
        host.kill_libvirtd()
        host.start_libvirtd()
    if vm.state() != "shut off":
        line.end(process)
        pytest.skip("this libvirtd was not caught in the window, or does not have it")
    assert vm.lives()
    said = line.end(process)
    vm.assert_parked(said)
    assert Path(vm.names()[0]).is_relative_to(pair[1].path)
    vm.write(9)
    again = line.do("resume", said.document["facts"]["move"])
    vm.assert_parked(again)
    vm.end()
    vm.assert_over(line.do("resume", said.document["facts"]["move"]), "moved", pair[1])
    vm.end()
    vm.assert_holds(9)


# -- every method, made for certain --------------------------------------------------------------------------------


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize(
    ("make", "method", "where", "target"),
    [
        (3, "mirror", "pivoted-one", "vda"),
        (1, "changed-blocks", "pivots-asked", "vda"),
        (3, "changed-blocks", "pivoted-one", "vda"),
        (1, "snapshot", "commit-pivoted", "vda"),
        (3, "snapshot", "commit-pivoted", "vda"),
        (1, "clone", "commit-pivoted", "vda"),
        (3, "clone", "commit-pivoted", "vda"),
    ],
    indirect=["make"],
)
def test_lost_at_the_end_of_a_job(
    make: Vm, method: str, where: str, target: str, line: Line, pair: tuple[Datastore, Datastore]
) -> None:
    """The configuration is the one from before the job's end: by itself the next start would use stale images."""
    vm = make
    before = "commit-pivoting" if where.startswith("commit") else "pivoting"
    words = ("move", vm.name, "--to", "lost-far", "--method", method)
    process = line.start(*words, point=f"{before}:stop,{where}:stop")
    line.wait_stopped(process)
    config = vm.saved_config()
    go_on(process)
    line.wait_stopped(process)
    # What was asked is over, in QEMU and in libvirt: of one disk, or of all.
    wait_until(lambda: _concluded(vm, target, method, where), "the end of the job", timeout=60)
    vm.lose(target, config)
    go_on(process)
    said = line.end(process)
    vm.assert_parked(said)
    move = said.document["facts"]["move"]
    vm.write(9)
    vm.end()
    vm.assert_over(line.do("resume", move), "moved", pair[1])
    vm.end()
    vm.assert_holds(9)


def _concluded(vm: Vm, target: str, method: str, where: str) -> bool:
    xml = vm.host.virsh("dumpxml", vm.name)
    disk = next(part for part in xml.split("<disk ") if f"<target dev='{target}'" in part)
    return "<mirror" not in disk


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize(
    ("make", "method", "job"),
    [
        (1, "mirror", "copy"),
        (3, "mirror", "copy"),
        (1, "changed-blocks", "copy"),
        (3, "changed-blocks", "copy"),
        (3, "snapshot", "copy"),
        (1, "snapshot", "commit"),
    ],
    indirect=["make"],
)
def test_lost_while_a_move_is_taken_back(
    make: Vm, method: str, job: str, line: Line, pair: tuple[Datastore, Datastore]
) -> None:
    """In the end of a cancelled copy, or of the commit of an overlay into the old image."""
    vm = make
    words = ("move", vm.name, "--to", "lost-far", "--method", method)
    back = "abort-asked:stop" if job == "copy" else "commit-pivoting:stop,commit-pivoted:stop"
    process = line.start(*words, point=f"in-step:stop,{back}")
    line.wait_stopped(process)
    config = vm.saved_config()
    line.do("cancel", line.unfinished()[0], "--no-wait")
    go_on(process)
    line.wait_stopped(process)
    if job == "commit":
        config = vm.saved_config()
        go_on(process)
        line.wait_stopped(process)
    wait_until(lambda: _concluded(vm, "vda", "mirror", ""), "the end of the job", timeout=60)
    vm.lose("vda", config)
    go_on(process)
    said = line.end(process)
    vm.assert_parked(said)
    vm.write(9)
    vm.end()
    vm.assert_over(line.do("resume", said.document["facts"]["move"]), "cancelled", pair[0])
    vm.end()
    vm.assert_holds(9)


# -- nobody is there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [3], indirect=True)
def test_the_guard_lets_a_lost_guest_run(make: Vm, line: Line, pair: tuple[Datastore, Datastore]) -> None:
    """Our process dies with libvirtd, in the middle of the switch. Before: the guest stood still for good."""
    vm = make
    process = line.start("move", vm.name, "--to", "lost-far", point="pivoting:stop,pivoted-one:stop")
    line.wait_stopped(process)
    config = vm.saved_config()
    go_on(process)
    line.wait_stopped(process)
    vm.host.kill_libvirtd(signal.SIGSTOP)
    kill_us(process)
    vm.lose("vda", config)
    wait_until(lambda: losing.qemu_status(vm.host, vm.name) == "running", "the guest to run", timeout=60)
    vm.write(9)
    move = line.unfinished()[0]
    vm.assert_parked(line.do("resume", move))
    vm.end()
    vm.assert_over(line.do("resume", move), "moved", pair[1])
    vm.end()
    vm.assert_holds(9)


def test_killed_while_a_lost_vm_is_dealt_with(make: Vm, line: Line, pair: tuple[Datastore, Datastore]) -> None:
    """Also when our process dies there the guest runs, and the next command goes on. The other points: test_decide.py
    (test_lost_in_every_gap).
    """
    vm, where = make, "lost-noted"
    process = line.start("move", vm.name, "--to", "lost-far", point=f"pivoting:stop,pivots-asked:stop,{where}:kill")
    line.wait_stopped(process)
    config = vm.saved_config()
    go_on(process)
    line.wait_stopped(process)
    vm.host.kill_libvirtd(signal.SIGSTOP)
    vm.lose("vda", config)
    go_on(process)
    assert line.end(process).killed
    wait_until(lambda: losing.qemu_status(vm.host, vm.name) == "running", "the guest to run", timeout=60)
    move = line.unfinished()[0]
    vm.assert_parked(line.do("resume", move))
    vm.end()
    vm.assert_over(line.do("resume", move), "moved", pair[1])


# -- its monitor cannot be reached ------------------------------------------------------------------------------------


def test_what_cannot_be_asked_is_kept_from_starting(make: Vm, line: Line, pair: tuple[Datastore, Datastore]) -> None:
    """Somebody has tried to start the lost VM: libvirt removes the monitor's socket with the failed start."""
    vm, host = make, make.host
    old = vm.names()[0]
    host.virsh("autostart", vm.name)
    process = line.start("move", vm.name, "--to", "lost-far", point="pivoting:stop,resumed:stop")
    line.wait_stopped(process)
    config = vm.saved_config()
    go_on(process)
    line.wait_stopped(process)
    vm.lose("vda", config)
    vm.write(9)
    writes_to = losing.written_images(host, vm.name)
    tried = host.run(["virsh", "start", vm.name], check=False)
    assert tried.returncode != 0, "the VM runs twice"
    assert vm.lives()
    for path in (host.directory / "lib/qemu").glob(f"domain-*-{vm.name}/monitor.sock"):
        path.unlink()  # libvirt does that when the new domain id happens to be the old one
    refused = Line(host, line.directory.parent, line.stores).do("check", vm.name, "--to", "lost-far")
    assert "MOVE_UNDER_WAY" in json.dumps(refused.document), refused
    go_on(process)
    said = line.end(process)
    assert said.status == PARKED, str(said)
    assert "It cannot be told which image it writes to" in said.document["message"]
    assert not Path(vm.names()[0]).exists(), "it would start from an image that may be stale"
    assert "disable" in host.virsh("dominfo", vm.name).split("Autostart:")[1].split()[0]
    move = said.document["facts"]["move"]
    vm.end()
    said = line.do("resume", move)
    assert said.status == PARKED, str(said)
    assert "cannot be told which image its QEMU wrote to last" in said.document["message"]
    assert host.run(["virsh", "start", vm.name], check=False).returncode != 0
    host.virsh("define", "/dev/stdin", stdin=vm.config().replace(vm.names()[0], writes_to[0]))  # its owner knows
    vm.assert_over(line.do("resume", move), "moved", pair[1], kept=(old,))  # QEMU itself has not said so
    assert "enable" in host.virsh("dominfo", vm.name).split("Autostart:")[1].split()[0]
    vm.end()
    vm.assert_holds(9)


# -- a guest that writes ----------------------------------------------------------------------------------------------


def test_a_guest_that_writes_on_after_the_last_commit(
    make_guest: MakeGuest, line: Line, pair: tuple[Datastore, Datastore]
) -> None:
    """Method snapshot, lost when the overlay at the destination has just been committed: the guest writes to the base,
    and the configuration names the overlay (1,238 of 7,387 blocks were stale). It is shut down from inside.
    """
    guest: Guest = make_guest(small_disks(pair[0], 1), start=True)
    voyage = Voyage(guest, line, pair)
    voyage.write()
    words = ("move", guest.name, "--to", "lost-far", "--method", "snapshot")
    process = line.start(*words, point="commit-pivoting:stop,commit-pivoted:stop")
    line.wait_stopped(process)
    config = losing.config_file(guest.host, guest.name).read_text()
    go_on(process)
    line.wait_stopped(process)
    wait_until(lambda: "<mirror" not in guest.xml(), "the end of the commit", timeout=60)
    losing.lose(guest.host, guest.name, "vda", config)
    assert guest.state() == "shut off"
    go_on(process)
    said = line.end(process)
    assert said.status == PARKED, f"{said}\n{line.stories()}"
    assert losing.qemu_status(guest.host, guest.name) == "running"
    [base] = losing.written_images(guest.host, guest.name)
    assert base in said.document["message"]
    voyage.guest.judge.wait_writes(60)
    voyage.guest.judge.stop()
    guest.poweroff(wait=False)
    wait_until(lambda: losing.qemu_status(guest.host, guest.name) == "shutdown", "the guest to be off", timeout=60)
    said = line.must("resume", said.document["facts"]["move"])
    assert guest.host.qemu(guest.name) is None
    voyage.moved_all(pair[1])
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    voyage.assert_images()
    guest.start()
    voyage.write()
    voyage.assert_content()
