"""What the simulated libvirt of the unit tests claims holds of the real one: the same assertions, on a lab host."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulated_host.contract import CONTRACT, TARGET

from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.domain import Control
from lab import Datastore, Disk, Guest
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest

pytestmark = pytest.mark.lab


class RealBench:
    """See contract.Bench."""

    def __init__(self, guest: Guest, directory: Path) -> None:
        self._guest, self._directory = guest, directory
        self._size = str(guest.disk(TARGET).size_bytes)
        self._source = str(guest.disk(TARGET).path)
        self._connection = Connection(guest.host.uri)
        self._uuid = guest.host.virsh("domuuid", guest.name).strip()
        self.control = Control(self._connection, self._uuid, guest.name)

    def source(self) -> str:
        return self._source

    def new_image(self, name: str, *, backing: str = "") -> str:
        path = str(self._directory / f"{name}.qcow2")
        below = ["-u", "-b", backing, "-F", "qcow2"] if backing else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, path, self._size], check=True)
        return path

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        wait_until(holds, what, timeout=300, step=0.02, report=self._guest.evidence)

    def off(self) -> None:
        self._guest.host.virsh("destroy", self._guest.name)

    def restart_libvirtd(self) -> None:
        self._guest.host.restart_libvirtd()
        self.close()
        self._connection = Connection(self._guest.host.uri)
        self.control = Control(self._connection, self._uuid, self._guest.name)

    def unlink(self, path: str) -> None:
        Path(path).unlink()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def bench(make_guest: MakeGuest, old_san: Datastore, ssd: Datastore) -> Iterator[RealBench]:
    guest = make_guest([Disk(TARGET, old_san, size="48MiB", fill="24MiB")], start=True)
    guest.judge.start(rate=50, most_kib=8)
    directory = ssd.home(guest.name)
    directory.mkdir(exist_ok=True)
    real_bench = RealBench(guest, directory)
    yield real_bench
    real_bench.close()


@pytest.mark.parametrize("name", CONTRACT)
def test_libvirt_does_what_the_simulated_one_claims(name: str, bench: RealBench) -> None:
    CONTRACT[name](bench)
