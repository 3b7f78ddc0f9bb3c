"""Snapshots of a VM are carried with their metadata, or refused by name.

What a snapshot holds is judged by its bytes: the layer that was the disk, or the disk after a revert by libvirt.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

import pytest

from lab import Datastore, Disk
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, assert_whole

pytestmark = pytest.mark.lab


def content(path: Path | str) -> str:
    """A digest of what a guest would read from an image."""
    with tempfile.NamedTemporaryFile(suffix=".raw") as raw:
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", str(path), raw.name], check=True)
        return hashlib.sha256(Path(raw.name).read_bytes()).hexdigest()


def write(path: str, pattern: int) -> None:
    subprocess.run(["qemu-io", "-c", f"write -P {pattern} 1M 1M", path], check=True, capture_output=True)


def test_internal_snapshots_go_with_a_vm_that_is_off(
    long_line: Line, make_guest: MakeGuest, old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest([Disk("vda", old_san, size="64MiB", fill="8MiB")])
    host, old = guest.host, guest.disk("vda").path
    contents = {}
    for number, name in enumerate(("first", "second"), 1):
        write(old, number)
        contents[name] = content(old)
        host.virsh("snapshot-create-as", guest.name, name)
    write(old, 3)
    contents["now"] = content(old)

    said = long_line.do("move", guest.name, "--to", "ssd", point="snapshots-written:kill")
    assert said.killed, str(said)
    long_line.must("vms")
    assert long_line.wait_finished_of(guest.name)["record"]["outcome"] == "moved"

    new = guest.sources(inactive=True)["vda"]
    assert new.startswith(f"{ssd.path}/")
    assert not Path(old).exists()
    assert content(new) == contents["now"]
    assert host.virsh("snapshot-current", guest.name, "--name").strip() == "second"
    assert "first" in host.virsh("snapshot-info", guest.name, "second")
    for name in ("first", "second"):
        assert old not in host.virsh("snapshot-dumpxml", guest.name, name)
        host.virsh("snapshot-revert", guest.name, name)
        assert guest.sources(inactive=True)["vda"] == new
        assert content(new) == contents[name]


def test_external_snapshots_go_with_a_running_vm(
    long_line: Line, make_guest: MakeGuest, old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest([Disk("vda", old_san, size="64MiB", fill="8MiB")], start=True)
    host, old = guest.host, Path(guest.disk("vda").path)
    guest.judge.start(rate=100)
    overlays = []
    contents = []
    for name in ("first", "second"):
        guest.judge.wait_writes(20)
        overlays.append(old.with_name(f"vda.{name}"))
        disk = f"vda,snapshot=external,file={overlays[-1]}"
        below = guest.sources()["vda"]
        host.virsh("snapshot-create-as", guest.name, name, "--disk-only", "--diskspec", disk)
        contents.append(content(below))

    refused = long_line.do("move", guest.name, "--to", "ssd")
    assert refused.status == 4, str(refused)
    assert "The snapshot first of" in refused.out
    assert "--chain keep" in refused.out

    said = long_line.do("move", guest.name, "--to", "ssd", "--chain", "keep", point="snapshots-written:kill")
    assert said.killed, str(said)
    long_line.must("vms")
    assert long_line.wait_finished_of(guest.name)["record"]["outcome"] == "moved"
    assert_whole(guest)

    assert guest.sources()["vda"].startswith(f"{ssd.path}/")
    assert not [path for path in (old, *overlays) if path.exists()]
    assert host.virsh("snapshot-current", guest.name, "--name").strip() == "second"
    for name, before in zip(("first", "second"), contents, strict=True):
        xml = host.virsh("snapshot-dumpxml", guest.name, name)
        assert str(old_san.path) not in xml
        # The domain as it was: its disk is the layer that it was then.
        domain = xml.split("<domain ")[1]
        layer = domain.split("<source file='")[1].split("'")[0]
        assert content(layer) == before
