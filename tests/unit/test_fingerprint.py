"""Fingerprints that are written down: without the device's number, and those of older journals."""

from __future__ import annotations

import pytest

from blockferry.hosts import fingerprint
from blockferry.storage_move import old_fingerprints
from blockferry.storage_move.observation import MISSING, UNKNOWABLE
from blockferry.storage_move.record import ComparedBase, Record


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
    old = Record(
        cold_copied={"vda": "9:1:2:3"},
        folded_as={"/a/overlay": "9:1:2:3|9:4:5:6"},
        synced={"vda": ComparedBase("9:1:2:3", size=7)},
        nvram_copied="9:1:2:3",
        nvram_made="9:7:8:9",
        held_print="9:1:2",
    )
    new = old_fingerprints.current_record(old)
    assert new.cold_copied == {"vda": fingerprint.of(1, 2, 3)}
    assert new.folded_as == {"/a/overlay": "1:2:3|4:5:6"}
    assert new.synced == {"vda": ComparedBase("1:2:3", size=7)}
    assert (new.nvram_copied, new.nvram_made, new.held_print) == ("1:2:3", "7:8:9", "1:2")
    assert old_fingerprints.current_record(new) == new
