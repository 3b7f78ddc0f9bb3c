"""Moves that go well: every kind of image, layout and domain, judged in the guest and after a power cycle."""

from __future__ import annotations

import pytest
from moving import Ferry, Voyage, small_disks

from lab import Datastore
from lab.pytest_plugin import MakeGuest

pytestmark = pytest.mark.lab


@pytest.fixture
def stores(old_san: Datastore, ssd: Datastore) -> tuple[Datastore, ...]:
    return old_san, ssd


@pytest.mark.parametrize(
    ("method", "kind", "layout"),
    [
        ("mirror", "qcow2", "home"),
        ("mirror", "raw", "flat"),
        ("changed-blocks", "raw", "home"),
        ("changed-blocks", "qcow2", "flat"),
    ],
)
def test_two_disks_move_live(
    method: str, kind: str, layout: str,
    make_guest: MakeGuest, ferry: Ferry, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    guest = make_guest(small_disks(old_san, 2, kind, layout=layout), start=True)
    one = Voyage(guest, ferry, stores, database=True)
    one.write()
    done = ferry.must("move", guest.name, "--to", "ssd", "--method", method).move
    assert done["state"] == "moved"
    assert done["plan"]["method"] == method
    assert done["report"]["bulk_bytes"] >= 32 << 20
    assert done["report"]["switch_stall_s"] is not None
    assert all("removed" in sentence for sentence in done["report"]["sources"])
    one.moved_all(ssd)
    one.assert_well()
    assert one.files(old_san) == set()
    assert (ssd.home(guest.name) / f"{guest.name}.xml").exists()
    guest.host.restart_libvirtd()
    one.assert_well()
    one.power_cycle()
