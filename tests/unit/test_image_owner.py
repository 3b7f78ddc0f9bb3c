"""Whether the user of a VM's QEMU may open an image, by its permissions."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from blockferry.hosts.helper.program import image_opening

UUID = "3ee2019f-8706-4392-bc26-0a832b576c12"


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "reads", "writes"),
    [
        (64055, 108, 0o600, True, True),
        (64055, 0, 0o400, True, False),
        (0, 0, 0o600, False, False),  # given back by the source
        (0, 0, 0o644, True, False),  # an ISO
        (0, 108, 0o660, True, True),
        (0, 108, 0o606, False, False),  # the group counts, not the others
        (64055, 108, 0o066, False, False),
    ],
)
def test_who_may_open_an_image(uid: int, gid: int, mode: int, reads: bool, writes: bool) -> None:
    image = os.stat_result((0o100000 | mode, 1, 2, 1, uid, gid, 0, 0, 0, 0))
    assert image_opening.may_open(64055, 108, image, writes=False) == reads
    assert image_opening.may_open(64055, 108, image, writes=True) == writes
    assert image_opening.may_open(0, 0, image, writes=True)


def test_the_user_of_a_vms_process_counts_before_its_xml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The XML of a VM that has just arrived from another host may name none."""
    monkeypatch.setattr(image_opening, "PROCESSES", str(tmp_path))
    label = "<seclabel model='dac'><label>+64055:+108</label></seclabel>"
    named, unnamed = (
        ElementTree.fromstring(f"<domain><name>web01</name><uuid>{UUID}</uuid>{more}</domain>") for more in (label, "")
    )
    assert image_opening.qemu_user(named) == (64055, 108)
    assert image_opening.qemu_user(unnamed) is None
    with subprocess.Popen(["sh", "-c", "read line", "qemu", "-uuid", UUID], stdin=subprocess.PIPE) as qemu:
        (tmp_path / "web01.pid").write_text(str(qemu.pid))
        assert image_opening.qemu_user(unnamed) == (os.geteuid(), os.getegid())
        assert image_opening.qemu_user(named) == (os.geteuid(), os.getegid())
    (tmp_path / "web01.pid").write_text(str(os.getpid()))  # the number is another process's by now
    assert image_opening.qemu_user(named) == (64055, 108)
    assert image_opening.qemu_user(unnamed) is None
    (tmp_path / "web01.pid").write_text("no number")
    assert image_opening.qemu_user(unnamed) is None
