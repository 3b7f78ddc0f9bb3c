"""What the guest reported, read back: the history of every block, and when each report reached the host.

The records are described in native/record.h, the files in native/collector.c. Reading is incremental: a ledger may be
asked again and again while the guest writes on.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path

_RECORD = struct.Struct("<IBBHIIHHIQQII")
_PIECE = struct.Struct("<QQQII")
_MAGIC = struct.pack("<I", 0x43455242)

BOOT, WRITE, FLUSH, INTENT, FAILED, MARK, COMMIT, ADOPT, PULSE = range(1, 10)


@dataclass(slots=True)
class DiskHistory:
    """What is known of one disk's blocks. A block that is in none of the maps was never reported written."""

    acknowledged: dict[int, int] = field(default_factory=dict)
    """Block -> number of the last acknowledged write."""
    durable: dict[int, int] = field(default_factory=dict)
    """Block -> number of the last write that a later completed fdatasync of the same writer covers."""
    zeroed: dict[int, int] = field(default_factory=dict)
    """Block -> highest number of a write of zeros, acknowledged or only announced."""
    last_number: int = 0
    writes: int = 0
    failures: int = 0
    unflushed: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Writer -> (number, first, count) of its writes since its last flush."""


@dataclass(slots=True)
class Events:
    """Columns, one entry per record, in order of arrival."""

    host_ns: array[int] = field(default_factory=lambda: array("Q"))
    kind: array[int] = field(default_factory=lambda: array("B"))
    serial: array[int] = field(default_factory=lambda: array("I"))
    blocks: array[int] = field(default_factory=lambda: array("H"))
    latency_us: array[int] = field(default_factory=lambda: array("I"))
    number: array[int] = field(default_factory=lambda: array("Q"))


class Ledger:
    """The reports of one guest, up to the last `update()`."""

    def __init__(self, directory: Path) -> None:
        self._data = directory / "acks.bin"
        self._index = directory / "acks.idx"
        self._index_read = 0
        self._rest: dict[int, bytes] = {}
        self.disks: dict[int, DiskHistory] = {}
        """By the disk's serial."""
        self.events = Events()
        self.boots = 0
        self.committed = 0
        """Highest row that the database reported as committed."""
        self.skipped_bytes = 0
        """Bytes that were no record: a connection was cut in the middle of one."""

    def update(self) -> Ledger:
        if not self._index.exists():
            return self
        with self._index.open("rb") as index:
            index.seek(self._index_read)
            pieces = index.read()
        pieces = pieces[: len(pieces) // _PIECE.size * _PIECE.size]
        self._index_read += len(pieces)
        with self._data.open("rb") as data:
            for monotonic_ns, _realtime, offset, length, connection in _PIECE.iter_unpack(pieces):
                data.seek(offset)
                self._take(connection, data.read(length), monotonic_ns)
        return self

    def _take(self, connection: int, fresh: bytes, host_ns: int) -> None:
        stream = self._rest.get(connection, b"") + fresh
        at = 0
        while len(stream) - at >= _RECORD.size:
            record = stream[at : at + _RECORD.size]
            fields = _RECORD.unpack(record)
            if record[:4] == _MAGIC and fields[-1] == zlib.crc32(record[:-4]):
                self._record(fields, host_ns)
                at += _RECORD.size
                continue
            following = stream.find(_MAGIC, at + 1)
            following = following if following >= 0 else max(at + 1, len(stream) - 3)
            self.skipped_bytes += following - at
            at = following
        self._rest[connection] = stream[at:]

    def _record(self, fields: tuple[int, ...], host_ns: int) -> None:
        _, kind, _, writer, serial, first, count, flags, latency_us, number, _, _, _ = fields
        events = self.events
        events.host_ns.append(host_ns)
        events.kind.append(kind)
        events.serial.append(serial)
        events.blocks.append(count)
        events.latency_us.append(latency_us)
        events.number.append(number)
        if kind == BOOT:
            self.boots += 1
            for history in self.disks.values():
                history.unflushed.clear()
        elif kind == COMMIT:
            self.committed = max(self.committed, number)
        elif kind in (WRITE, FLUSH, INTENT, FAILED, ADOPT):
            self._disk_record(self.disks.setdefault(serial, DiskHistory()), kind, writer, first, count, flags, number)

    @staticmethod
    def _disk_record(
        disk: DiskHistory, kind: int, writer: int, first: int, count: int, flags: int, number: int
    ) -> None:
        disk.last_number = max(disk.last_number, number)
        if kind == WRITE:
            disk.writes += 1
            for block in range(first, first + count):
                disk.acknowledged[block] = number
                if flags & 1:
                    disk.zeroed[block] = number
            disk.unflushed.setdefault(writer, []).append((number, first, count))
        elif kind == INTENT:
            for block in range(first, first + count):
                disk.zeroed[block] = number
        elif kind == FAILED:
            disk.failures += 1
        elif kind == FLUSH:
            for covered, begin, length in disk.unflushed.pop(writer, []):
                for block in range(begin, begin + length):
                    disk.durable[block] = covered
        else:  # ADOPT: after a power cut the judge took the disk as it was; only what was flushed had to be there
            disk.acknowledged = dict(disk.durable)
