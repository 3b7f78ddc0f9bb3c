"""The pre-check of a move to another host, on the facts of two real hosts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Disk, Host
from lab.certificates import Authority
from lab.pytest_plugin import MakeGuest

pytestmark = pytest.mark.lab

CHILD = Path(__file__).with_name("host_check_child.py")

LAN = "<network><name>lan</name><forward mode='bridge'/><bridge name='br-lan'/></network>"
NIC = "<interface type='network'><source network='lan'/><model type='virtio'/><rom enabled='no'/></interface>"
ISO = "/var/lib/libvirt/images/setup.iso"
CDROM = (
    f"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{ISO}'/>"
    "<target dev='sda' bus='sata'/><readonly/></disk>"
)
TAKEN = "<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type machine='pc'>hvm</type></os></domain>"


def check(desk: Host, far: Host, vm: str, **asked: Any) -> dict[str, Any]:
    done = desk.run(
        [sys.executable, CHILD, "qemu:///system", far.ssh_uri, vm, json.dumps(asked)],
        check=False,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_all_reasons_at_once(make_guest: MakeGuest, desk: Host, far: Host, old_san: Datastore) -> None:
    """A VM that can move has no finding. One with a network, a medium and a name that the other host lacks or has
    taken has exactly these three."""
    plain = make_guest([Disk("vda", old_san, size="32MiB")], host=desk, start=True)
    going: dict[str, Any] = {"disks": {"vda": "ssd"}, "takes": {"ssd": 32 << 20}}
    said = check(desk, far, plain.name, **going, peer_uri=far.ssh_uri)
    print(said["seen"]["everything"])
    assert said["findings"] == []
    seen = said["seen"]
    assert len(seen["ports"]) == 3, seen
    assert set(seen["ports"].values()) == {0}, seen
    assert seen["address"].startswith("10.213."), seen
    assert seen["machines"] > 10, seen
    assert seen["memory_free"] > 0, seen
    assert seen["running_qemu"], seen
    assert seen["paths"]["/usr/bin/qemu-system-x86_64"] == "file", seen
    assert seen["peer"] == "", seen

    desk.run(["ip", "link", "add", "br-lan", "type", "bridge"])
    desk.run(["mkdir", "-p", os.path.dirname(ISO)])
    desk.run(["truncate", "-s", "1M", ISO])
    desk.virsh("net-create", "/dev/stdin", stdin=LAN)
    bound = make_guest([Disk("vda", old_san, size="32MiB")], host=desk, extra_devices=NIC + CDROM, start=True)
    far.virsh("define", "/dev/stdin", stdin=TAKEN.format(name=bound.name))
    try:
        said = check(desk, far, bound.name, **going)
    finally:
        far.virsh("undefine", bound.name)
    print(said["findings"])
    assert sorted(one[0] for one in said["findings"]) == ["MEDIUM_MISSING", "NETWORK_MISSING", "VM_NAME_TAKEN"]
    stays = check(desk, far, plain.name)
    assert [stay[0] for stay in stays["findings"]] == ["DISK_NOT_PROVEN_SHARED"], stays["findings"]


def test_tls(make_guest: MakeGuest, desk: Host, far: Host, old_san: Datastore, tmp_path: Path) -> None:
    """Without certificates each missing file is said, with one that has expired only that; with good ones nothing, and
    libvirt then migrates with TLS."""
    guest = make_guest([Disk("vda", old_san, size="32MiB")], host=desk, start=True)
    asked: dict[str, Any] = {"disks": {"vda": "ssd"}, "takes": {"ssd": 32 << 20}, "tls": True, "require_tls": True}
    said = check(desk, far, guest.name, **asked)
    assert [one[0] for one in said["findings"]] == ["TLS_MISSING"] * 6, said["findings"]
    authority = Authority(tmp_path / "ca")
    authority.equip(desk)
    authority.equip(far, days=-1)
    said = check(desk, far, guest.name, **asked)
    assert [one[0] for one in said["findings"]] == ["TLS_EXPIRED"], said["findings"]
    authority.equip(far)
    said = check(desk, far, guest.name, **asked)
    assert said["findings"] == []
    desk.virsh("migrate", "--live", "--tls", "--unsafe", guest.name, far.ssh_uri)
    assert far.vm_state(guest.name) == "running"
    far.virsh("destroy", guest.name)
