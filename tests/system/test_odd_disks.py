"""Disks that a VM names, or has, in an unusual way: moved if that is safe, else refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lab import Datastore, Disk, Host, Lab
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.bare import BareVm, disk_xml, holds, make_image, write_image
from tests.system.voyage import Line, Voyage, listing

pytestmark = pytest.mark.lab
MiB = 1024 * 1024


@pytest.fixture
def vm(lab_host: Host, old_san: Datastore, ssd: Datastore, vm_name: Callable[[], str]) -> Iterator[BareVm]:
    """Not defined yet, without disks."""
    bare_vm = BareVm(lab_host, vm_name(), [])
    yield bare_vm
    bare_vm.remove()
    for store in (old_san, ssd):
        store.clear_vm(bare_vm.name)


@pytest.mark.parametrize("case", ["config only", "live only", "differs", "sliced"])
def test_refused_by_name(
    case: str, vm: BareVm, line: Line, old_san: Datastore, ssd: Datastore, stores: tuple[Datastore, ...]
) -> None:
    """A disk that was only in the persistent XML passed the check, and its move parked."""
    home = old_san.home(vm.name)
    vda, vdb = (make_image(home / f"{target}.qcow2") for target in ("vda", "vdb"))
    vm.disks = [disk_xml("vda", vda)]
    extra = disk_xml("vdb", vdb)
    if case == "sliced":
        raw = make_image(home / "vdb.raw", form="raw")
        inside = f"<source file='{raw}'><slices><slice type='storage' offset='{MiB}' size='{MiB}'/></slices></source>"
        vm.disks.append(disk_xml("vdb", raw, "raw").replace(f"<source file='{raw}'/>", inside))
    vm.define().start()
    if case in ("config only", "live only", "differs"):
        where = {"config only": ["--config"], "live only": ["--live"], "differs": ["--live"]}[case]
        vm.host.virsh("attach-device", vm.name, "/dev/stdin", *where, stdin=extra)
    if case == "differs":
        other = disk_xml("vdb", make_image(home / "other.qcow2"))
        vm.host.virsh("attach-device", vm.name, "/dev/stdin", "--config", stdin=other)
    before = vm.xml(), vm.xml(inactive=True), set(listing(stores))
    for command in ("check", "move"):
        said = line.do(command, vm.name, "--to", "ssd")
        assert said.status == 4, str(said)
        assert ("UNSUPPORTED_SOURCE" if case == "sliced" else "CONFIG_DIFFERS") in said.out
        assert f"vdb of {vm.name}" in said.out
    assert (vm.xml(), vm.xml(inactive=True), set(listing(stores))) == before
    line.must("move", vm.name, "--disk", "vda=ssd")
    assert vm.sources()["vda"] == str(ssd.path / vm.name / "vda.qcow2")
    if case == "sliced":
        vm.destroy()
        assert line.do("move", vm.name, "--to", "ssd").status == 4, "off, a copy would be of the whole file"


def test_a_volume_is_moved_and_named_as_a_file(
    vm: BareVm, line: Line, old_san: Datastore, ssd: Datastore, lab_host: Host
) -> None:
    names = [f"{vm.name}-{target}.qcow2" for target in ("vda", "vdb")]
    for name in names:
        make_image(old_san.path / name)
    lab_host.virsh("pool-refresh", old_san.name)
    vm.disks = [
        disk_xml(target, old_san.path / name)
        .replace("type='file'", "type='volume'")
        .replace(f"<source file='{old_san.path / name}'/>", f"<source pool='{old_san.name}' volume='{name}'/>")
        for target, name in zip(("vda", "vdb"), names, strict=True)
    ]
    vm.define().start()
    vm.write("vda", 1, 0)
    vm.write("vdb", 2, 0)
    checked = line.must("check", vm.name, "--to", "ssd")
    assert "VOLUME_AS_FILE" in checked.out
    line.must("move", vm.name, "--to", "ssd")
    wanted = {target: str(ssd.path / name) for target, name in zip(("vda", "vdb"), names, strict=True)}
    assert vm.sources() == vm.sources(inactive=True) == wanted
    assert not any((old_san.path / name).exists() for name in names)
    vm.write("vda", 3, 1)
    vm.destroy()
    assert [vm.lost(target, ssd.path / name) for target, name in zip(("vda", "vdb"), names, strict=True)] == [[], []]
    vm.start()


def test_a_read_only_disk_of_a_running_vm(vm: BareVm, line: Line, old_san: Datastore, ssd: Datastore) -> None:
    home = old_san.home(vm.name)
    paths = {target: make_image(home / f"{target}.qcow2", 8 * MiB) for target in ("vda", "vdb")}
    write_image(paths["vdb"], 7, 0, MiB)
    vm.disks = [disk_xml("vda", paths["vda"]), disk_xml("vdb", paths["vdb"], inside="<readonly/>")]
    vm.define().start()
    vm.write("vda", 1, 0)
    assert "METHOD_SNAPSHOT" in line.do("move", vm.name, "--to", "ssd", "--method", "snapshot").codes
    for store, method in ((ssd, "mirror"), (old_san, "changed-blocks")):
        line.must("move", vm.name, "--to", store.name, "--method", method)
        wanted = {target: str(store.home(vm.name) / f"{target}.qcow2") for target in paths}
        assert vm.sources() == vm.sources(inactive=True) == wanted
        for inactive in (False, True):
            assert vm.xml(inactive=inactive).count("<readonly/>") == 1
        [node] = [one for one in vm.qmp("query-named-block-nodes") if one.get("image", {}).get("filename") ==
                  wanted["vdb"] and one["drv"] == "qcow2"]  # fmt: skip
        assert node["ro"], "the guest could write to it"
    assert not any(ssd.home(vm.name).glob("*.qcow2"))
    vm.destroy()
    assert holds(paths["vdb"], 7, 0, MiB)
    assert vm.lost("vda", paths["vda"]) == []


@pytest.mark.parametrize("paused", ["keep", "resume"])
def test_a_vm_paused_by_a_full_datastore_moves_away(
    paused: str, make_guest: MakeGuest, line: Line, lab_session: Lab, lab_host: Host, ssd: Datastore
) -> None:
    """QEMU stops the guest at a write that finds no room, and repeats it when it goes on: at the new place."""
    with ExitStack() as after:
        tiny = lab_session.datastore(f"full-{paused}", fs="ext4", size="256MiB")
        lab_host.attach(tiny)
        after.callback(lab_host.detach, tiny)
        guest = make_guest([Disk("vda", tiny, size="64MiB", fill="4MiB")], start=True)
        voyage = Voyage(guest, line, (tiny, ssd))
        voyage.write(rate=200)
        tiny.fill(0)
        wait_until(lambda: guest.state() == "paused", "QEMU to stop the guest", timeout=120)
        assert "I/O error" in lab_host.virsh("domstate", guest.name, "--reason")
        said = line.do("move", guest.name, "--to", "ssd", "--paused", paused, point="guest-resumed:kill")
        assert said.killed is (paused == "resume"), str(said)
        if said.killed:
            line.must("resume", guest.name)
        voyage.moved_all(ssd)
        voyage.assert_configured("paused" if paused == "keep" else "running")
        if paused == "keep":
            lab_host.virsh("resume", guest.name)
        voyage.assert_well()
        voyage.power_off()
