"""Where it happens: one lab host with its datastores, and guests that go to and fro over many cases."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.ferry import Ferry
from lab import Datastore, Disk, Guest, GuestSilent, Host, Lab, LabError

DISK = "24MiB"
FILL = "6MiB"
SPAN_BLOCKS = 2048
"""The guest writes in the first 8 MiB of each disk, so that a copy stays small."""
RATE = 60
MOST_KIB = 16

OLD, NEW, FLAKY = "old-san", "ssd", "flaky"


@dataclass(slots=True)
class Ground:
    """A lab with what the cases need. Guests are made when first asked for, and again after they came to harm."""

    lab: Lab
    host: Host
    ferry: Ferry
    journal_store: Datastore
    _guests: dict[str, Guest] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    @contextmanager
    def open(cls, lab: Lab | None = None) -> Iterator[Ground]:
        """On a lab of its own, or on one that has no host `faults` yet."""
        with contextlib.ExitStack() as stack:
            lab = lab or stack.enter_context(Lab.create(f"faults-{os.getpid()}"))
            stores = [
                lab.datastore(OLD if OLD not in lab.datastores else f"faults-{OLD}", fs="ext4", size="1GiB"),
                lab.datastore(NEW if NEW not in lab.datastores else f"faults-{NEW}", fs="xfs", size="1GiB"),
                lab.datastore(FLAKY, fs="xfs", size="512MiB", failing=True),
            ]
            journal = lab.datastore("journal", fs="ext4", size="64MiB")
            host = lab.host("faults")
            for store in stores:
                host.attach(store)
            ground = cls(lab, host, Ferry(host, journal.path / "journal.db", lab.directory / "tmp"), journal)
            ground.stores = {OLD: stores[0], NEW: stores[1], FLAKY: stores[2]}
            yield ground

    stores: dict[str, Datastore] = field(default_factory=dict)

    # -- guests -------------------------------------------------------------------------------------------------

    def guest(self, disks: int, *, running: bool) -> Guest:
        """A guest with so many disks on OLD or NEW: running and writing, or off with what it wrote before.

        The others stand still meanwhile: they have no part in the case, and an emulated guest costs a processor.
        """
        key = f"{'live' if running else 'off'}{disks}"
        for other in [known for name, known in self._guests.items() if name != key]:
            if other.state() == "running":
                other.suspend()
        guest = self._guests.get(key)
        if guest is None:
            guest = self._guests[key] = self._make(f"{key}-{next(self._numbers)}", disks)
            guest.start()
            self.write(guest)
            guest.judge.wait_writes(100)
            if not running:
                guest.judge.stop()
                guest.poweroff()
        elif running:
            self.revive(guest)
        return guest

    def endangered(self, guest: Guest) -> list[Guest]:
        """The other guests that have a disk on the datastore that is made to fail."""
        others = [one for one in self._guests.values() if one is not guest]
        return [
            other
            for other in others
            if FLAKY in {self.store_of(path) for path in other.sources(inactive=True).values()}
        ]

    def known(self, disks: int, *, running: bool) -> Guest | None:
        """The guest of this kind, if there is one now."""
        return self._guests.get(f"{'live' if running else 'off'}{disks}")

    def _make(self, name: str, disks: int) -> Guest:
        old = self.stores[OLD]
        wanted = [
            Disk("vda", old, size=DISK, fill=FILL),
            Disk("vdb", old, size=DISK, fill=FILL, format="raw", layout="flat"),
            Disk("vdc", old, size=DISK, fill=FILL),
        ]
        return self.lab.guest(self.host, name, wanted[:disks], memory="160MiB")

    def write(self, guest: Guest) -> None:
        """Let the judge write; to be called again after each boot."""
        guest.judge.start(rate=RATE, most_kib=MOST_KIB, span_blocks=SPAN_BLOCKS, flush_every=8)

    def revive(self, guest: Guest) -> None:
        """Whatever a case did to it: running, and writing. Raises LabError when it cannot be had."""
        state = guest.state()
        if state == "paused":
            guest.resume()
        elif state != "running":
            guest.start()
        else:
            guest.wait_ready()
        self.write(guest)

    def retire(self, guest: Guest) -> None:
        """Forget a guest that came to harm, with its files and the journal that may still know its moves."""
        for key in [key for key, known in self._guests.items() if known is guest]:
            del self._guests[key]
        with contextlib.suppress(LabError):
            self.lab.remove_guest(guest)
        for store in self.stores.values():
            with contextlib.suppress(OSError):
                store.clear_vm(guest.name)
        self.new_journal()

    def new_journal(self) -> None:
        for path in self.journal_store.path.glob("journal.db*"):
            path.unlink()

    def mend(self) -> None:
        """Host, daemons and datastores as they should be, whatever a case left. Raises LabError."""
        for store in (*self.stores.values(), self.journal_store):
            if store.spec.failing:
                self._mend_device(store)
            if not store.mounted():
                store.mount()
            if os.statvfs(store.path).f_flag & os.ST_RDONLY:
                store.remount(read_only=False)
            if (store.path / ".lab-ballast").exists():
                store.unfill()
        if not self.host.up():
            self.host.boot()
        self.host.start_virtlogd()
        self.host.start_libvirtd()
        for store in self.stores.values():  # libvirt stops a pool that it could not look at
            if "running" not in self.host.virsh("pool-info", store.name):
                self.host.virsh("pool-start", store.name)

    @staticmethod
    def _mend_device(store: Datastore) -> None:
        if not store.device.serves():
            store.power_on()
        store.device.go_on()
        store.device.slow(0)
        store.device.fail_writes(fail=False)
        store.device.fail_reads(fail=False)

    # -- where a guest is ---------------------------------------------------------------------------------------

    def side(self, guest: Guest) -> str | None:
        """The one datastore that the persistent configuration has all disks on; None when they are on several."""
        found = {self.store_of(path) for path in guest.sources(inactive=True).values()}
        return found.pop() if len(found) == 1 else None

    def store_of(self, path: str | Path) -> str:
        """The datastore a file lies on; the path itself when on none."""
        for name, store in self.stores.items():
            if Path(path).is_relative_to(store.path):
                return name
        return str(path)

    def pool(self, name: str) -> str:
        """The name that libvirt and blockferry know this datastore by."""
        return self.stores[name].name

    def files_of(self, guest: Guest) -> set[str]:
        """Every file and directory on any datastore that belongs to this guest by its name."""
        found: set[str] = set()
        for store in self.stores.values():
            home = store.home(guest.name)
            flat = [*store.path.glob(f"{guest.name}-*"), *store.path.glob(f"{guest.name}.*")]
            flat += store.path.glob(f".{guest.name}*")
            found |= {str(path) for path in (*flat, *([home, *home.rglob("*")] if home.exists() else ()))}
        return found

    def answers(self, guest: Guest, seconds: float = 30) -> bool:
        """Whether labd in the guest answers."""
        try:
            guest.channel.ask("ping", timeout=seconds)
        except GuestSilent:
            return False
        return True
