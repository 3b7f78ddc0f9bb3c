"""Fingerprints that are written down: without the device's number, and those of older journals."""

from __future__ import annotations

import msgspec
import pytest

from blockferry.hosts import fingerprint
from blockferry.storage_move import old_record
from blockferry.storage_move.observation import MISSING, UNKNOWABLE
from blockferry.storage_move.old_record import FlatRecord
from blockferry.storage_move.overlays.record import ComparedBase


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("64768:12:4096:1700000000123456789", "12:4096:1700000000123456789"),
        ("64768:12:4096:-5", "12:4096:-5"),
        ("1:2:3:4|5:6:7:8", "2:3:4|6:7:8"),
        ("1:2:3:4|missing", "2:3:4|missing"),
        ("1:2:3:4 5:6:7:8|9:10:11:12", "2:3:4 6:7:8|10:11:12"),
        ("12:4096:1700000000123456789", "12:4096:1700000000123456789"),
        ("2:3:4|6:7:8", "2:3:4|6:7:8"),
        (MISSING, MISSING),
        (UNKNOWABLE, UNKNOWABLE),
        ("", ""),
    ],
)
def test_a_fingerprint_of_an_older_journal(old: str, new: str) -> None:
    assert fingerprint.current(old) == new
    assert fingerprint.current(new) == new


def test_a_record_of_an_older_journal() -> None:
    old = FlatRecord(
        folded_as={"/a/overlay": "9:1:2:3|9:4:5:6"},
        nvram_copied="9:1:2:3",
        nvram_made="9:7:8:9",
        held_print="9:1:2",
        cold_copied={"vda": "9:1:2:3"},
        synced={"vda": ComparedBase("9:1:2:3", size=7)},
    )
    new = old_record.read(msgspec.json.encode(old).decode())
    assert new.disk("vda").cold_copied == fingerprint.of(1, 2, 3)
    assert new.commits.fingerprints == {"/a/overlay": "1:2:3|4:5:6"}
    assert new.disk("vda").synced == ComparedBase("1:2:3", size=7)
    assert (new.nvram.copied, new.nvram.made, new.managed_save.fingerprint) == ("1:2:3", "7:8:9", "1:2")
    assert old_record.read(msgspec.json.encode(new).decode()) == new
