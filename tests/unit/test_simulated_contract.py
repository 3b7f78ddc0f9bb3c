"""The simulated libvirt keeps the contract that a real one keeps (tests/system/test_simulated_contract.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from simulated_host.connection import SimulatedConnection
from simulated_host.contract import CONTRACT, TARGET
from simulated_host.files import REGION, Image
from simulated_host.machine import UUID, Machine
from simulated_host.manager import Manager
from simulated_host.moves import REGIONS, Wish, build, installed

from blockferry.hosts.libvirt.domain import Control


@pytest.fixture(scope="module", autouse=True)
def machine_time() -> Iterator[None]:
    with installed():
        yield


class SimulatedBench:
    """See contract.Bench."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.check = lambda: None  # type: ignore[method-assign] # what a move must not do is done here
        self._source = machine.used()[TARGET]
        self.restart_libvirtd()

    def source(self) -> str:
        return self._source

    def new_image(self, name: str, *, backing: str = "") -> str:
        path = f"/ssd/{name}.qcow2"
        inode = self.machine.files.create(path)
        inode.image = Image("qcow2", REGIONS * REGION, (backing, "qcow2") if backing else None)
        inode.flush()
        return path

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        for _ in range(1000):
            if holds():
                return
            self.machine.moment()
        raise AssertionError(f"no end of waiting for {what}")

    def off(self) -> None:
        self.machine.stop(clean=False)

    def restart_libvirtd(self) -> None:
        self.machine.libvirtd_restarts()
        self.control = Control(SimulatedConnection(self.machine, Manager(self.machine.moment)), UUID, "web01")

    def unlink(self, path: str) -> None:
        self.machine.files.unlink(path)


@pytest.mark.parametrize("name", CONTRACT)
@pytest.mark.parametrize("seed", range(5))
def test_it_does_what_libvirt_does(name: str, seed: int) -> None:
    machine, _plan = build(Wish(), seed)
    CONTRACT[name](SimulatedBench(machine))
