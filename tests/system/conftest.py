"""The system tests share the lab's fixtures: one lab host for the session, VMs and disks of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Datastore, Disk, Host, Lab
from lab.pytest_plugin import *  # noqa: F403
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import FarLine, Line, Voyage


@pytest.fixture(scope="session")
def long_line(lab_host: Host, old_san: Datastore, ssd: Datastore, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """The command line on the lab host, with a journal of the session's own: for VMs that go to and fro."""
    return Line(lab_host, tmp_path_factory.mktemp("journal"), (old_san, ssd))


@pytest.fixture
def line(lab_host: Host, tmp_path: Path, stores: tuple[Datastore, ...]) -> Line:
    """The command line on the lab host, with a journal of the test's own."""
    return Line(lab_host, tmp_path, stores)


@pytest.fixture
def stores(old_san: Datastore, ssd: Datastore) -> tuple[Datastore, ...]:
    return old_san, ssd


# One desk and one far host for all files that a process plays: a lab has no two hosts of one name.


@pytest.fixture(scope="session")
def desk(lab_session: Lab) -> Host:
    """Where blockferry runs when the VMs are on another host: of this machine's own distribution."""
    return lab_session.host("desk", network=True)


@pytest.fixture(scope="session")
def far(lab_session: Lab, desk: Host, old_san: Datastore, ssd: Datastore) -> Host:
    """The host whose VMs move; the desk does not have its datastores."""
    host = lab_session.host("far", network=True)
    for store in (old_san, ssd):
        host.attach(store)
    return host


@pytest.fixture(scope="session")
def kvm2_disks(lab_session: Lab) -> Datastore:
    """A datastore that only the second host has."""
    return lab_session.datastore("kvm2-disks", fs="ext4", size="4GiB")


@pytest.fixture(scope="session")
def kvm2_archive(lab_session: Lab) -> Datastore:
    """Another one."""
    return lab_session.datastore("kvm2-archive", fs="ext4", size="1GiB")


@pytest.fixture(scope="session")
def kvm2(
    lab_session: Lab, desk: Host, old_san: Datastore, ssd: Datastore, kvm2_disks: Datastore, kvm2_archive: Datastore
) -> Host:
    """Where the VMs go: it has `old-san`, too, so that a disk there is shared, and nothing of `ssd`."""
    host = lab_session.host("kvm2", network=True)
    host.run(["mount", "-t", "tmpfs", "none", ssd.path])  # every host of a lab sees every file system otherwise
    host.attach(old_san)
    host.attach(kvm2_disks)
    host.attach(kvm2_archive)
    return host


@pytest.fixture
def far_line(desk: Host, far: Host, tmp_path: Path, stores: tuple[Datastore, ...]) -> Iterator[FarLine]:
    """The command line on the desk, for the far host; whatever the test has cut is whole again afterwards."""
    yield FarLine(desk, far, tmp_path, stores)
    far.mend_network()


@pytest.fixture
def far_voyage(
    make_guest: MakeGuest,
    far: Host,
    far_line: FarLine,
    stores: tuple[Datastore, ...],
    old_san: Datastore,
) -> Voyage:
    """A guest on the far host, whose copy takes a while."""
    guest = make_guest([Disk("vda", old_san, size="96MiB", fill="64MiB")], host=far, start=True)
    voyage = Voyage(guest, far_line, stores)
    voyage.write(rate=20, most_kib=4, span_blocks=1024)
    return voyage
