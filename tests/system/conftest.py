"""The system tests share the lab's fixtures: one lab host for the session, VMs and disks of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Datastore, Host
from lab.pytest_plugin import *  # noqa: F403
from tests.system.voyage import Line


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
