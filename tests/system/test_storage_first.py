"""Disks go to the other host before their running VM, below overlays: well, killed at some points, cancelled."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Datastore, Disk, Host
from tests.system.test_host_move import Crossing, crossing, line

__all__ = ["crossing", "line"]

pytestmark = pytest.mark.lab

MIB = 1 << 20
FIRST = ("--to", "kvm2-disks", "--storage-first")
Make = Callable[..., Crossing]


def written(host: Host, vm: str) -> list[str]:
    """The disks of the configuration, as far as an image going elsewhere could change more of them than its path."""
    disks = re.findall(r"<disk .*?</disk>", host.virsh("dumpxml", vm, "--inactive"), flags=re.DOTALL)
    return [re.sub(r"<source file='[^']*'", "<source", disk) for disk in disks]


def assert_nothing_left(trip: Crossing, *homes: Path) -> None:
    """No overlay, marker or old image on either host; the new images stand on nothing."""
    for home in homes:
        names = [path.name for path in home.iterdir()] if home.exists() else []
        assert not [name for name in names if "overlay" in name or name.startswith(".")], trip.line.stories()
        assert not [name for name in names if name.endswith((".blockferry", ".making"))], names
    for path in trip.guest.sources().values():
        assert "overlay" not in path, path
    for path in trip.guest.sources(inactive=True).values():
        assert "overlay" not in path, path


def homes(trip: Crossing, kvm2_disks: Datastore) -> tuple[Path, ...]:
    return (*(Path(disk.path).parent for disk in trip.guest.spec.disks), kvm2_disks.home(trip.name))


@pytest.mark.parametrize("writing", [True, False])
def test_two_disks_of_two_formats(crossing: Make, ssd: Datastore, kvm2_disks: Datastore, *, writing: bool) -> None:
    """The migration itself carries memory and overlays; nothing of them is left, and the configuration is as it was."""
    trip = crossing(Disk("vda", ssd, size="96MiB", fill="64MiB"), Disk("vdb", ssd, size="48MiB", format="raw"))
    if writing:
        trip.write()
    before = written(trip.source, trip.name)
    checked = trip.line.do("check", trip.name, "--to-host", "kvm2", *FIRST)
    assert (checked.status, checked.document["refused"]) == (0, False), checked
    said = trip.move(*FIRST)
    report = trip.assert_moved(said)
    assert report["bulk_bytes"] > 64 * MIB, report
    assert any("Not written to since the copy: vda, vdb" in sentence for sentence in report["verified"]), report
    assert written(trip.dest, trip.name) == before
    assert_nothing_left(trip, *homes(trip, kvm2_disks))
    for disk in trip.guest.spec.disks:
        assert not Path(disk.path).exists(), report["sources"]
    if writing:
        trip.assert_alive()


POINTS = [
    "overlay-taken", "cold-part-copied", "migration-called", "handed-noted", "alone-noted", "commit-called",
    "commit-pivoted", "new-overlay-removed", "image-released",
]  # fmt: skip
"""At every call: tests/unit/test_simulated_host_move.py."""


@pytest.mark.parametrize("point", POINTS)
def test_killed(crossing: Make, ssd: Datastore, kvm2_disks: Datastore, point: str) -> None:
    """At each point: the next process goes on."""
    trip = crossing(Disk("vda", ssd, size="32MiB", fill="16MiB"))
    trip.write()
    killed = trip.move(*FIRST, point=f"{point}:kill")
    assert killed.killed, f"no move passed {point}: {killed}"
    assert trip.states().count("running") <= 1
    trip.assert_moved(trip.line.do("resume", trip.name))
    assert_nothing_left(trip, *homes(trip, kvm2_disks))
    trip.assert_alive()
    assert not Path(trip.guest.spec.disk("vda").path).exists()


BACK = [
    ("overlay-taken", ("calling-blockcommit", "commit-pivoted", "overlay-removed")),
    ("cold-part-copied", ("commit-pivoting", "commit-noted")),
    ("new-overlay-made", ("commit-called", "calling-blockjob", "overlay-removed")),
    ("migrating", ("commit-called", "commit-pivoted", "commit-noted")),
]
"""Where it is killed, and where on the way back: after five deaths a move is parked."""


@pytest.mark.parametrize(("point", "words"), BACK)
def test_cancelled_and_killed_on_the_way_back(
    crossing: Make, ssd: Datastore, kvm2_disks: Datastore, point: str, words: tuple[str, ...]
) -> None:
    """The overlay is committed into the old image while the VM runs, and the way back is killed as well."""
    trip = crossing(Disk("vda", ssd, size="32MiB", fill="16MiB"))
    trip.write()
    before = written(trip.source, trip.name)
    assert trip.move(*FIRST, point=f"{point}:kill").killed
    for word in words:
        said = trip.line.do("cancel", trip.name, point=f"{word}:kill")
        assert said.killed, said
    trip.line.must("cancel", trip.name)
    assert [moved["state"] for moved in trip.line.history()] == ["cancelled"], trip.line.stories()
    trip.assert_back(kvm2_disks.home(trip.name))
    assert_nothing_left(trip, *homes(trip, kvm2_disks))
    assert written(trip.source, trip.name) == before
    assert Path(trip.guest.sources()["vda"]) == Path(trip.guest.spec.disk("vda").path)
    trip.assert_alive()


def test_off_in_the_middle_of_the_copy(crossing: Make, ssd: Datastore, kvm2_disks: Datastore) -> None:
    """It turns back: what the overlay holds goes into the old image without QEMU."""
    trip = crossing(Disk("vda", ssd, size="64MiB", fill="32MiB"))
    trip.write()
    assert trip.move(*FIRST, point="cold-part-copied:kill").killed
    trip.guest.judge.wait_writes(20)
    trip.guest.poweroff()
    said = trip.line.do("resume", trip.name, point="committed-off:kill")
    assert said.killed, said
    assert trip.line.do("resume", trip.name).code == "MOVE_FAILED", trip.line.stories()
    assert trip.states() == ("shut off", "absent")
    path = Path(trip.guest.sources(inactive=True)["vda"])
    assert path == Path(trip.guest.spec.disk("vda").path)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    verdict = trip.guest.judge.check_image("vda", path, "qcow2")
    assert verdict.ok, verdict


def test_old_disks_are_kept_whole(crossing: Make, ssd: Datastore) -> None:
    """What the overlay at the source held goes into the old image, also when that is killed."""
    trip = crossing(Disk("vda", ssd, size="32MiB", fill="16MiB"))
    trip.write()
    old = Path(trip.guest.spec.disk("vda").path)
    assert trip.move(*FIRST, "--keep-source", "7d", point="old-image-merging:kill").killed
    trip.assert_moved(trip.line.do("resume", trip.name))
    [kept] = trip.line.must("quarantine", "list").document["kept"]
    assert (kept["kept"]["path"], kept["doubt"], kept["altered"]) == (str(old), None, False), kept
    assert [one.name for one in old.parent.iterdir()] == [old.name]
    trip.assert_alive()
