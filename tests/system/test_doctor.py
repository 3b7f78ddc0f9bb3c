"""`doctor` on a lab host: what is well, what is broken on purpose, and that it only looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Host
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Said, small_disks

pytestmark = pytest.mark.lab


@pytest.fixture
def after() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def lines(said: Said, area: str, level: str | None = None) -> list[str]:
    found: list[dict[str, Any]] = said.document["checks"]
    return [one["text"] for one in found if one["area"] == area and level in (None, one["level"])]


def test_a_host_that_is_well(line: Line, make_guest: MakeGuest, old_san: Datastore) -> None:
    make_guest(small_disks(old_san, 1), start=True)
    said = line.do("doctor")
    assert said.status == 0, str(said)
    assert said.document["healthy"]
    for area in ("connection", "versions", "defects", "tools", "datastores", "clock", "journal", "leftovers", "guard"):
        assert lines(said, area), f"nothing is said of {area}: {said}"
    assert not lines(said, "tools", "error")
    assert any("SHALLOW_SYNCHRONOUS" in text for text in lines(said, "defects", "ok"))
    assert any("xfs that can share blocks" in text for text in lines(said, "datastores"))
    assert line.do("explain", "UNHEALTHY").status == 0


def test_what_is_broken_is_found(line: Line, lab_host: Host, ssd: Datastore, after: ExitStack, tmp_path: Path) -> None:
    twin = tmp_path / "twin"  # libvirt itself refuses the same path twice
    twin.symlink_to(ssd.path)
    xml = f"<pool type='dir'><name>twin</name><target><path>{twin}</path></target></pool>"
    lab_host.virsh("pool-define", "/dev/stdin", stdin=xml)
    after.callback(lab_host.virsh, "pool-undefine", "twin")
    lab_host.virsh("pool-start", "twin")
    after.callback(lab_host.virsh, "pool-destroy", "twin")
    said = line.do("doctor")
    assert any("ssd and twin are one directory" in text for text in lines(said, "datastores", "warning")), str(said)
    assert any("twin" in text and "reboot" in text for text in lines(said, "datastores", "warning")), str(said)
    ssd.fill("20MiB")
    after.callback(ssd.unfill)
    said = line.do("doctor")
    assert said.status == 10
    assert any("ssd" in text and "full" in text for text in lines(said, "datastores", "error")), str(said)


def test_a_damaged_journal_and_no_libvirt(line: Line, lab_host: Host) -> None:
    assert line.do("moves").status == 0
    line.journal.write_bytes(b"no database at all" * 1000)
    for path in line.directory.glob("journal.db-*"):
        path.unlink()
    said = line.do("doctor")
    assert said.status == 10
    assert any("no SQLite database" in text for text in lines(said, "journal", "error")), str(said)
    assert lines(said, "datastores"), "the rest is looked at all the same"
    lab_host.kill_libvirtd()
    try:
        said = line.do("doctor")
    finally:
        lab_host.start_libvirtd()
    assert said.status == 10
    assert any("cannot be reached" in text for text in lines(said, "connection", "error")), str(said)
    assert lines(said, "tools"), "the rest is looked at all the same"


def test_it_only_looks(line: Line, make_guest: MakeGuest, old_san: Datastore) -> None:
    """An interrupted move is told and not taken up."""
    guest = make_guest(small_disks(old_san, 1), start=True)
    assert line.do("move", guest.name, "--to", "ssd", point="copy-started:kill").status not in (0, 4, 5)
    [move] = line.unfinished()
    before = line.rows("SELECT record, owner, token, deaths FROM moves")
    said = line.do("doctor")
    assert said.status == 0, str(said)
    assert any(move in text and "interrupted" in text for text in lines(said, "leftovers", "warning")), str(said)
    assert line.rows("SELECT record, owner, token, deaths FROM moves") == before
    line.must("cancel", move)
