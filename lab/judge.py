"""The judge of one guest, as tests and people use it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import checker, ledger
from lab.channel import Channel
from lab.errors import LabError
from lab.guestspec import GuestSpec
from lab.process import wait_until
from lab.timing import Gap, Interval, Latencies, Timing

FLAT_OUT = 0
"""As a rate: as fast as it goes."""

_NUMBERS_APART = 10_000
"""A new start of the judge begins so far above the last number reported, past all that was never reported."""


@dataclass(frozen=True, slots=True)
class LiveVerdict:
    """What the judge in the guest found when it read everything back."""

    ok: bool
    text: str


class Judge:
    """Writes in the guest, remembers outside of it, and checks both ways."""

    def __init__(self, spec: GuestSpec, directory: Path, channel: Channel, scratch: Path) -> None:
        self._spec = spec
        self._channel = channel
        self._scratch = scratch
        self._ledger = ledger.Ledger(directory)

    # -- writing ------------------------------------------------------------------------------------------------

    def start(
        self,
        target: str | Sequence[str] | None = None,
        *,
        writers: int = 1,
        rate: int = 200,
        random_percent: int = 70,
        most_kib: int = 64,
        flush_every: int = 8,
        zero_every: int = 0,
        span_blocks: int | None = None,
    ) -> None:
        """Write on one disk, some, or (None) all.

        rate: writes a second and writer, FLAT_OUT for no limit. most_kib: the largest write, 4 to 64; random writes
        take a size up to it, sequential ones take it. flush_every: an fdatasync after every so many writes, 0: never.
        zero_every: zeros by the device's own command. span_blocks: keep to the first so many blocks of the area.
        Writing goes on after `verify_live`. After a reboot or power cut call it again: what the disk then holds is
        taken as the beginning, and damage found in it is raised.
        """
        for name in self._targets(target):
            self.define(name)
            words = [
                f"start {name} writers={writers} rate={rate} random={random_percent} most={max(1, most_kib // 4)}",
                f"flush={flush_every} zero={zero_every}",
            ]
            if span_blocks is not None:
                words.append(f"span={span_blocks}")
            self._channel.must(" ".join(words))

    def define(self, target: str) -> None:
        """Tell the guest's judge of a disk, if it does not know it since its boot."""
        if target in self.status():
            return
        disk = self._spec.disk(target)
        history = self.ledger().disks.get(disk.serial)
        words = (
            f"disk {target} serial={disk.serial} seed={self._spec.seed} offset={disk.area_offset} "
            f"blocks={disk.area_blocks} fill={disk.fill_blocks}"
        )
        if history is not None or self._ledger.boots > 1:
            last = history.last_number if history is not None else 0
            words += f" adopt=1 base={last + _NUMBERS_APART}"
        self._channel.must(words, timeout=300)

    def stop(self) -> None:
        """Writers end, everything is flushed and reported."""
        self._channel.must("stop", timeout=300)
        self.settle()

    def status(self) -> dict[str, dict[str, int]]:
        """Target -> writing, sequence, writes, flushes, failures, bytes, since the guest booted."""
        found = {}
        for line in self._channel.must("status", timeout=120).splitlines():
            name, *pairs = line.split()
            found[name] = {key: int(value) for key, value in (pair.split("=") for pair in pairs)}
        return found

    def settle(self, timeout: float = 60) -> None:
        """Until everything that the guest had reported when this was called has reached the ledger."""
        number = secrets.randbits(60)
        self._channel.must(f"mark {number}")

        def arrived() -> bool:
            events = self.ledger().events
            recent = zip(events.kind[-5000:], events.number[-5000:], strict=True)
            return (ledger.MARK, number) in recent

        wait_until(arrived, "the guest's mark in the ledger", timeout=timeout, step=0.01)

    def wait_writes(self, count: int, *, timeout: float = 120) -> None:
        """Until so many more writes were acknowledged than now."""
        wanted = self.total_writes() + count
        wait_until(lambda: self.total_writes() >= wanted, f"{count} more writes", timeout=timeout, step=0.05)

    def total_writes(self) -> int:
        return sum(disk.writes for disk in self.ledger().disks.values())

    # -- checking -----------------------------------------------------------------------------------------------

    def verify_live(self, *, timeout: float = 300) -> LiveVerdict:
        """In the guest: pause the writers, read every block of every defined disk, compare with the guest's memory."""
        status, text = self._channel.ask("verify", timeout=timeout)
        return LiveVerdict(status == 0, text)

    def check_image(
        self, target: str, path: Path | str, image_format: str, *, flushed_only: bool = False
    ) -> checker.Verdict:
        """On the host: an image (of the stopped VM, or a frozen copy) against the ledger.

        flushed_only: after a power loss or the death of QEMU, see lab.checker.
        """
        disk = self._spec.disk(target)
        history = self.ledger().disks.get(disk.serial, ledger.DiskHistory())
        return checker.check_image(
            Path(path), image_format, disk, self._spec.seed, history, scratch=self._scratch, flushed_only=flushed_only
        )

    def ledger(self) -> ledger.Ledger:
        """The reports up to now."""
        return self._ledger.update()

    # -- time ---------------------------------------------------------------------------------------------------

    @staticmethod
    def now() -> int:
        """Host monotonic nanoseconds: what `since` and `until` mean."""
        return time.monotonic_ns()

    def timing(self) -> Timing:
        return Timing(self.ledger().events)

    def gaps(
        self, since: int | None = None, until: int | None = None, *, count: int = 10, target: str | None = None
    ) -> list[Gap]:
        """The longest times without a report, in host time, longest first.

        Without target: any report counts, also the pulse that comes every 20 ms; so this is the guest standing still.
        With a target: only acknowledged writes on that disk count; so this is also its storage standing still.
        """
        return self.timing().gaps(since, until, count=count, serial=self._serial(target))

    def longest_gap(self, since: int | None = None, until: int | None = None, *, target: str | None = None) -> float:
        """Seconds; see `gaps`."""
        found = self.gaps(since, until, count=1, target=target)
        return found[0].seconds if found else 0.0

    def latencies(self, since: int | None = None, until: int | None = None, *, target: str | None = None) -> Latencies:
        """Of acknowledged writes, by the guest's clock, which stands still while the VM is suspended (TCG)."""
        return self.timing().latencies(since, until, serial=self._serial(target))

    def throughput(self, since: int | None = None, until: int | None = None, *, step_s: float = 1.0) -> list[Interval]:
        return self.timing().throughput(since, until, step_s=step_s)

    def _serial(self, target: str | None) -> int | None:
        return None if target is None else self._spec.disk(target).serial

    def _targets(self, target: str | Sequence[str] | None) -> list[str]:
        known = [disk.target for disk in self._spec.disks]
        wanted = known if target is None else [target] if isinstance(target, str) else list(target)
        unknown = set(wanted) - set(known)
        if unknown:
            raise LabError(f"{self._spec.name} has no disk {', '.join(sorted(unknown))}")
        return wanted
