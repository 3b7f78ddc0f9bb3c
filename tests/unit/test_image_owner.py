"""Whether the user of a VM's QEMU may open an image, by its permissions."""

from __future__ import annotations

import pytest

from blockferry.host_move.image_owner import _may_open
from blockferry.hosts.helper.files import FileStat
from blockferry.hosts.qemu_user import QemuUser

QEMU = QemuUser(64055, 108)


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
    image = FileStat("/a", 1, 2, 3, 4, 5, 6, "file", 0o100000 | mode, uid, gid, (0, 0))
    assert _may_open(QEMU, image, writes=False) == reads
    assert _may_open(QEMU, image, writes=True) == writes
    assert _may_open(QemuUser(0, 0), image, writes=True)
