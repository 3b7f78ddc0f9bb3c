"""Method clone: on one file system that shares blocks the base is cloned, while the guest writes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Datastore, Disk, Guest, Host, Lab
from tests.system.voyage import MARK, Line, assert_whole, side

pytestmark = pytest.mark.lab

MIB = 1 << 20


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def pair(request: pytest.FixtureRequest, lab_session: Lab, lab_host: Host) -> Iterator[tuple[Datastore, Datastore]]:
    """Two datastores on one file system that shares blocks, each with a mount of its own."""
    datastore = lab_session.datastore(f"near-{request.param}", fs=request.param, size="1GiB")
    other = lab_session.datastore(f"far-{request.param}", beside=datastore)
    for store in (datastore, other):
        lab_host.attach(store)
    yield datastore, other
    for store in (datastore, other):
        lab_host.detach(store)


@pytest.fixture(scope="module")
def sharer(lab_session: Lab, lab_host: Host, pair: tuple[Datastore, Datastore]) -> Iterator[Guest]:
    """One VM with a qcow2 and a raw disk that goes to and fro between the two."""
    disks = [Disk("vda", pair[0], size="64MiB", fill="16MiB"), Disk("vdb", pair[0], "raw", size="48MiB", fill="16MiB")]
    guest = lab_session.guest(lab_host, f"sharer-{pair[0].spec.fs}", disks, start=True)
    yield guest
    lab_session.remove_guest(guest)
    for store in pair:
        store.clear_vm(guest.name)


@pytest.fixture(scope="module")
def near(lab_host: Host, pair: tuple[Datastore, Datastore], tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(lab_host, tmp_path_factory.mktemp("near"), pair)


def there(guest: Guest, pair: tuple[Datastore, Datastore]) -> str:
    """The one of the two that the VM is not on."""
    here = side(guest, pair)
    return next(store.name for store in pair if store.name != here)


def assert_nothing_left(guest: Guest, pair: tuple[Datastore, Datastore]) -> None:
    """No job, no mark, and no file that the VM does not use. The second lies in a directory of the first."""
    assert "<mirror" not in guest.xml()
    assert MARK not in guest.xml()
    used = {Path(path).stat().st_ino for path in guest.sources().values()}
    left = [path for path in pair[0].path.rglob("*") if path.is_file() and path.suffix != ".xml"]
    assert {path.stat().st_ino for path in left} == used, f"left over: {left}"


def shared(path: Path) -> int:
    """Bytes of a file whose blocks are another file's too, by filefrag(8)."""
    listed = subprocess.run(["filefrag", "-v", "-b1024", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split(":") for line in listed.splitlines() if re.match(r" +\d+:", line)]
    return sum(int(row[3]) << 10 for row in rows if "shared" in row[-1])


def test_a_running_vm_is_cloned_and_shares_its_blocks_with_the_old_disk(
    near: Line, sharer: Guest, pair: tuple[Datastore, Datastore]
) -> None:
    """`auto` finds it. With the old disk kept, what nobody has written since is still shared."""
    sharer.judge.start(rate=100, most_kib=16)
    after = there(sharer, pair)
    old = sorted(sharer.sources().values())
    checked = near.must("check", sharer.name, "--to", after)
    assert checked.document["check"]["plan"]["method"] == "clone"
    near.must("move", sharer.name, "--to", after, "--keep-source", "7d")
    assert side(sharer, pair) == after
    for path in sharer.sources().values():
        assert shared(Path(path)) > 8 * MIB, f"{path} was copied, not cloned"
    assert_whole(sharer)
    near.must("quarantine", "purge", "--now", *map(str, old), "--yes")
    assert_nothing_left(sharer, pair)


def test_the_disks_of_a_vm_that_is_off_are_cloned(near: Line, sharer: Guest, pair: tuple[Datastore, Datastore]) -> None:
    sharer.judge.start(rate=100, most_kib=16)
    sharer.judge.wait_writes(50)
    sharer.judge.stop()
    sharer.poweroff()
    old, after = sorted(sharer.sources(inactive=True).values()), there(sharer, pair)
    near.must("move", sharer.name, "--to", after, "--keep-source", "7d")
    assert side(sharer, pair) == after
    for target, path in sharer.sources(inactive=True).items():
        assert shared(Path(path)) > 8 * MIB, f"{path} was copied, not cloned"
        verdict = sharer.judge.check_image(target, path, sharer.formats(inactive=True)[target])
        assert verdict.ok, str(verdict)
    near.must("quarantine", "purge", "--now", *map(str, old), "--yes")
    sharer.start()
    sharer.judge.start(rate=100)
    assert_whole(sharer)
    assert_nothing_left(sharer, pair)


@pytest.mark.sampled(0.2)
@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("point", ["cloning", "cloned", "base-synced", "pivoted", "commit-pivoted"])
def test_killed_at_a_point_of_a_move_by_clone(
    near: Line, sharer: Guest, pair: tuple[Datastore, Datastore], point: str, cancel: bool
) -> None:
    if pair[0].spec.fs == "btrfs" and (cancel or point != "cloned"):
        pytest.skip("the same steps as on XFS; one of them is enough")
    sharer.judge.start(rate=100, most_kib=16)
    before, after = side(sharer, pair), there(sharer, pair)
    said = near.do("move", sharer.name, "--to", after, "--method", "clone", point=f"{point}:kill")
    assert said.killed, str(said)
    move = near.move_of(sharer.name)
    assert move is not None
    near.do("cancel" if cancel else "resume", move)
    outcome = str(near.wait_finished_of(sharer.name)["record"]["outcome"])
    assert outcome in (("moved", "cancelled") if cancel else ("moved",))
    assert side(sharer, pair) == (after if outcome == "moved" else before)
    assert_nothing_left(sharer, pair)
    assert_whole(sharer)


def test_clone_is_refused_by_name_where_it_cannot_be(near: Line, sharer: Guest, ssd: Datastore) -> None:
    said = near.do("move", sharer.name, "--to", ssd.name, "--method", "clone")
    assert said.status == 4, str(said)
    assert "METHOD_CLONE" in said.codes
    assert "two file systems" in said.err + said.out
