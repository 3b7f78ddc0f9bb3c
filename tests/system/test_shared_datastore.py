"""Two hosts with one directory: what a VM of either needs is kept, also while that host cannot be asked."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Host, Lab
from lab.process import wait_until
from tests.system.bare import BareVm, bare, disk_xml
from tests.system.voyage import FarLine

pytestmark = pytest.mark.lab

EXPORTS = Path("/var/lib/nfs")


@pytest.fixture(scope="module")
def beside(
    lab_session: Lab, far: Host, old_san: Datastore, ssd: Datastore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A second host with the same datastores.

    Both tell that they give them to others, as an NFS server's own host does; the second one has a network file system
    in its fstab, so that it cannot be told what it reaches.
    """
    host = lab_session.host("beside", network=True)
    fstab = tmp_path_factory.mktemp("beside") / "fstab"
    fstab.write_text("nas:/vol /srv/nas nfs defaults 0 0\n")
    host.run(["mount", "--bind", fstab, "/etc/fstab"])
    for store in (old_san, ssd):
        host.attach(store)
    for one in (far, host):
        one.run(["mkdir", "-p", EXPORTS])
        one.run(["mount", "-t", "tmpfs", "tmpfs", EXPORTS])
        one.run(["tee", EXPORTS / "etab"], stdin=f"{old_san.path}\t*(rw)\n{ssd.path}\t*(rw)\n")
    yield host
    for one in (far, host):
        one.run(["umount", EXPORTS])
    with contextlib.suppress(OSError):
        EXPORTS.rmdir()  # of this machine; another run may need it still


def configure(line: FarLine, *hosts: Host) -> None:
    (line.directory / "empty.toml").write_text(f"hosts = {json.dumps([host.ssh_uri for host in hosts])}\n")


@pytest.fixture
def fleet_line(far_line: FarLine, far: Host, beside: Host) -> Iterator[FarLine]:
    """The command line with both hosts in its configuration."""
    configure(far_line, far, beside)
    yield far_line
    beside.mend_network()


def purge(line: FarLine, path: Path) -> tuple[bool, str]:
    """Whether the old file is gone, and what is said of it."""
    said = line.do("quarantine", "purge", "--now", path, "--yes")
    [one] = said.document["purged"]
    return one["gone"], one["text"]


def test_an_old_disk_that_a_vm_of_the_other_host_needs(
    fleet_line: FarLine, far: Host, beside: Host, old_san: Datastore, ssd: Datastore
) -> None:
    with bare(far, old_san, "common", kind="qcow2", start=False) as vm:
        fleet_line.must("move", vm.name, "--to", "ssd", "--keep-source", "7d")
        assert vm.source() == str(ssd.home(vm.name) / "vda.qcow2")
        assert vm.path.exists()
        other = BareVm(beside, "user", [disk_xml("vda", vm.path)]).define()
        try:
            gone, text = purge(fleet_line, vm.path)
            assert not gone
            assert "on the host beside VM user refers to it" in text

            beside.cut_network()
            began = time.monotonic()
            gone, text = purge(fleet_line, vm.path)
            assert not gone
            assert "on the host beside a VM may use it, and that host could not be asked" in text, text
            print(f"a host that is cut off was waited for {time.monotonic() - began:.1f} s")
            assert vm.path.exists()
            beside.mend_network()
        finally:
            other.remove()
        gone, text = purge(fleet_line, vm.path)
        assert gone, text
        assert not vm.path.exists()


class FleetLine(FarLine):
    """The command line of somebody who names no host: it finds the VM."""

    def environment(self, point: str = "", suspended_start: bool | None = None) -> dict[str, str]:
        """See Line."""
        found = super().environment(point, suspended_start)
        del found["BLOCKFERRY_URI"]
        return {**found, "XDG_CACHE_HOME": str(self.directory / "cache")}


def table(line: FarLine) -> dict[str, dict[str, Any]]:
    """What `hosts` says of each."""
    return {row["name"]: row for row in line.must("hosts").document["hosts"]}


def test_a_vm_is_found_on_whichever_host_has_it(
    fleet_line: FarLine, desk: Host, far: Host, beside: Host, tmp_path: Path, old_san: Datastore, ssd: Datastore
) -> None:
    line = FleetLine(desk, far, tmp_path, fleet_line.stores)
    configure(line, far, beside)
    with (
        bare(far, old_san, "fleet1", kind="qcow2", start=False) as one,
        bare(beside, old_san, "fleet2", kind="qcow2") as two,
    ):
        wait_until(  # libvirt that has just been started looks at every QEMU first, and is told as being asked
            lambda: all(row["state"] == "up" for row in table(line).values()), "both hosts to answer", timeout=240
        )
        shown = table(line)
        assert [(row["state"], row["figures"]["running"] > 0) for row in shown.values()] == [
            ("up", False),
            ("up", True),
        ]
        assert shown["beside"]["figures"]["uuid"] in beside.virsh("capabilities")
        found = {row["vm"]["name"]: row["host"] for row in line.must("vms").document["vms"]}
        assert (found["fleet1"], found["fleet2"]) == ("far", "beside")
        assert line.must("check", "fleet1", "--to", "ssd").document["check"]["plan"]["uri"] == far.ssh_uri

        # Planned, killed in the middle, taken up and cancelled, always on the host that has it.
        assert line.do("move", "fleet2", "--to", "ssd", point="copy-started:kill").killed
        line.must("cancel", "fleet2")
        assert two.source() == str(two.path)
        line.must("move", "fleet2", "--to", "ssd")
        assert two.source() == str(ssd.home("fleet2") / "vda.qcow2")

        same = BareVm(beside, "fleet1", [disk_xml("vda", ssd.home("fleet1") / "vdb.qcow2")], uuid=one.uuid).define()
        try:
            said = line.do("check", "fleet1", "--to", "ssd")
            assert (said.status, said.code) == (3, "VM_AMBIGUOUS"), str(said)
            assert "--host far or --host beside" in said.document["hint"]
            assert (
                line.must("check", "fleet1", "--to", "ssd", "--host", "far").document["check"]["plan"]["vm"] == "fleet1"
            )
        finally:
            same.remove()

        beside.cut_network()
        down = table(line)["beside"]
        assert (down["state"], down["figures"]["uuid"]) == ("down", shown["beside"]["figures"]["uuid"])
        assert "did not answer" in down["problem"]
        said = line.must("vms")
        assert {row["host"] for row in said.document["vms"]} == {"far"}
        assert "the VMs of host beside are not shown" in said.err
        beside.mend_network()
