"""A file system that is mounted anew under a move that stands still: its device number is another one then."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.system.voyage import Line

pytestmark = pytest.mark.lab

NAME = "remounted"


def test_another_device_number_is_no_change_of_a_file(
    lab_session: Lab, lab_host: Host, line: Line, tmp_path: Path
) -> None:
    """btrfs has another number at each mount; what was copied before the host went down still counts as copied."""
    store = lab_session.datastore("btr", fs="btrfs", size="256MiB")
    lab_host.attach(store)
    taker = tmp_path / "taker"  # a mount that takes the number which is free in between
    taker.mkdir()
    image = store.path / f"{NAME}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "8M"], check=True)
    lab_host.virsh(
        "define", "/dev/stdin",
        stdin=f"""\
<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>""",
    )  # fmt: skip
    try:
        assert line.do("move", NAME, "--to", "ssd", point="config-written:kill").killed
        [move] = line.unfinished()
        before = os.stat(image).st_dev
        subprocess.run(["umount", str(store.path)], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "taker", str(taker)], check=True)
        store.mount()
        assert os.stat(image).st_dev != before
        line.must("resume")
        assert line.history()[0]["record"]["outcome"] == "moved", line.stories()
        copies = [one for one in line.story(move) if "vda was copied to" in one]
        assert len(copies) == 1, line.story(move)
        assert not image.exists()
    finally:
        subprocess.run(["umount", str(taker)], check=False)
        lab_host.run(["virsh", "-q", "undefine", NAME], check=False)
        lab_host.detach(store)
        for datastore in lab_session.datastores.values():
            datastore.clear_vm(NAME)
