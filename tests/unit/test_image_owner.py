"""Whether the user of a VM's QEMU may open an image, by its permissions."""

from __future__ import annotations

import os

import pytest

from blockferry.hosts.helper.program import image_opening


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
