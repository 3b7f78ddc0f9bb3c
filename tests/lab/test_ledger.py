"""Reading the guest's reports: needs no root."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from lab import ledger
from lab.sizes import to_bytes
from lab.timing import Timing


def record(kind: int, number: int, *, first: int = 0, count: int = 1, flags: int = 0, writer: int = 0) -> bytes:
    head = struct.pack("<IBBHIIHHIQQI", 0x43455242, kind, 0, writer, 7, first, count, flags, 900, number, 0, 0)
    return head + struct.pack("<I", zlib.crc32(head))


def append(directory: Path, at_ns: int, connection: int, data: bytes) -> None:
    with (directory / "acks.bin").open("ab") as acks, (directory / "acks.idx").open("ab") as index:
        offset = acks.tell()
        acks.write(data)
        index.write(struct.pack("<QQQII", at_ns, 0, offset, len(data), connection))


def test_floors_of_blocks(tmp_path: Path) -> None:
    book = ledger.Ledger(tmp_path)
    assert book.update().disks == {}
    append(tmp_path, 1, 1, record(ledger.WRITE, 1, first=10, count=4) + record(ledger.WRITE, 2, first=12, writer=1))
    append(tmp_path, 2, 1, record(ledger.FLUSH, 1) + record(ledger.INTENT, 3, first=10))
    disk = book.update().disks[7]
    assert disk.acknowledged == {10: 1, 11: 1, 12: 2, 13: 1}
    assert disk.durable == {10: 1, 11: 1, 12: 1, 13: 1}  # the other writer's flush does not cover write 2
    assert disk.zeroed == {10: 3}
    append(tmp_path, 3, 1, record(ledger.WRITE, 3, first=10, flags=1) + record(ledger.COMMIT, 5))
    assert book.update().disks[7].acknowledged[10] == 3
    assert book.committed == 5
    assert disk.last_number == 3


def test_after_a_power_cut_only_what_was_flushed_is_demanded(tmp_path: Path) -> None:
    append(tmp_path, 1, 1, record(ledger.WRITE, 1) + record(ledger.FLUSH, 1) + record(ledger.WRITE, 2))
    append(tmp_path, 2, 2, record(ledger.BOOT, 1) + record(ledger.ADOPT, 1) + record(ledger.FLUSH, 9))
    disk = ledger.Ledger(tmp_path).update().disks[7]
    assert disk.acknowledged == disk.durable == {0: 1}


def test_cut_and_mixed_streams(tmp_path: Path) -> None:
    whole = b"".join(record(ledger.WRITE, number, first=number) for number in range(1, 9))
    append(tmp_path, 1, 1, whole[:100])
    append(tmp_path, 2, 2, record(ledger.WRITE, 20, first=20)[7:] + record(ledger.WRITE, 21, first=21))
    append(tmp_path, 3, 1, whole[100:])
    book = ledger.Ledger(tmp_path).update()
    assert sorted(book.disks[7].acknowledged) == [1, 2, 3, 4, 5, 6, 7, 8, 21]
    assert book.skipped_bytes == 41


def test_time(tmp_path: Path) -> None:
    for at_ms in (0, 100, 200, 1700, 1800):
        append(tmp_path, at_ms * 1_000_000, 1, record(ledger.WRITE, at_ms + 1, count=2))
    events = ledger.Ledger(tmp_path).update().events
    timing = Timing(events)
    assert timing.gaps(count=1, serial=7)[0].seconds == pytest.approx(1.5)
    assert timing.latencies().count == 5
    assert timing.latencies(serial=8).count == 0
    assert timing.latencies().p50_ms == pytest.approx(0.9)


@pytest.mark.parametrize(("text", "value"), [("2GiB", 2 << 30), ("1.5M", 3 << 19), ("7", 7), (9, 9), ("64 KiB", 65536)])
def test_sizes(text: int | str, value: int) -> None:
    assert to_bytes(text) == value
