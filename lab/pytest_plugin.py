"""Fixtures: one lab and one host for the whole test session; each test has VMs and disks of its own.

To use them, a conftest.py says `from lab.pytest_plugin import *  # noqa: F403`, or the top one
`pytest_plugins = ["lab.pytest_plugin"]`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

import pytest

from lab import Datastore, Disk, Guest, Host, Lab, LabError, sweep

__all__ = ["lab_host", "lab_session", "make_guest", "old_san", "pytest_runtest_makereport", "ssd", "vm_name"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test of the lab shows the consoles and logs of what took part in it."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab_session")
    if report.when == "call" and report.failed and isinstance(lab, Lab):
        for guest in lab.guests.values():
            report.sections.append((f"guest {guest.name}", guest.evidence()))
        for host in lab.hosts.values():
            report.sections.append((f"host {host.name}", host.evidence()))
    return report


class MakeGuest(Protocol):
    """Makes a guest of a test; see Lab.guest for the options. It is removed with its images when the test ends."""

    def __call__(
        self, disks: Sequence[Disk], *, name: str | None = None, host: Host | None = None, **options: Any
    ) -> Guest: ...


@pytest.fixture(scope="session")
def lab_session() -> Iterator[Lab]:
    """The session's lab. Leftovers of crashed sessions are removed first."""
    sweep.gc()
    with Lab.create() as lab:
        yield lab


@pytest.fixture(scope="session")
def old_san(lab_session: Lab) -> Datastore:
    """A datastore `old-san`, ext4."""
    return lab_session.datastore("old-san", fs="ext4", size="8GiB")


@pytest.fixture(scope="session")
def ssd(lab_session: Lab) -> Datastore:
    """A datastore `ssd`, XFS with reflinks."""
    return lab_session.datastore("ssd", fs="xfs", size="8GiB")


@pytest.fixture(scope="session")
def lab_host(lab_session: Lab, old_san: Datastore, ssd: Datastore) -> Host:
    """Host `kvm1` with both datastores. A test that harms it brings it back: `host.power_loss(); host.boot()`."""
    host = lab_session.host("kvm1")
    host.attach(old_san)
    host.attach(ssd)
    return host


_numbers = itertools.count(1)


@pytest.fixture
def vm_name() -> Callable[[], str]:
    """Names that no other VM of the session has."""
    return lambda: f"vm{next(_numbers):03}"


@pytest.fixture
def make_guest(lab_session: Lab, lab_host: Host, vm_name: Callable[[], str]) -> Iterator[MakeGuest]:
    made: list[Guest] = []

    def make(disks: Sequence[Disk], *, name: str | None = None, host: Host | None = None, **options: Any) -> Guest:
        guest = lab_session.guest(host or lab_host, name or vm_name(), disks, **options)
        made.append(guest)
        return guest

    yield make
    for guest in made:
        with contextlib.suppress(LabError):  # the test has its own verdict; clearing away must not hide it
            lab_session.remove_guest(guest)
        for store in lab_session.datastores.values():
            store.clear_vm(guest.name)
