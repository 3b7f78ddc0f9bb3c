"""Storage that fails under a move: full, read-only, gone, failing, slow, hanging; at the destination or the source.

At the destination only before the switch: afterwards it is the VM's own storage, and its faults are the VM's.
"""

from __future__ import annotations

import time
from pathlib import Path

from faults import places
from faults.case import CANCELLED, FAILED, MOVED, Catalogue, Fault
from faults.ground import FLAKY
from faults.scene import Scene, errors
from lab import Datastore, LabError

BACK = frozenset({FAILED, CANCELLED})
EITHER = frozenset({MOVED, FAILED})

HANG_S = 60.0
FENCED_AFTER_S = 25.0
SLOW_BITS = 16_000_000


def _before_the_switch(method: str, _disks: int) -> tuple[str, ...]:
    return tuple(phase for phase in places.phases(method) if phase in (places.PREPARE, places.BULK, places.IN_STEP))


def _in_the_bulk(_method: str, _disks: int) -> tuple[str, ...]:
    return (places.BULK,)


def _dest(scene: Scene) -> Datastore:
    return scene.ground.stores[scene.dest]


def _some_time(scene: Scene) -> None:
    """Our process meets the fault; a user looks after a while."""
    scene.wake()
    process = scene.process
    if process is not None:
        scene.wait(lambda: process.poll() is not None, 12)


# -- the datastore ----------------------------------------------------------------------------------------------------


def _full(scene: Scene) -> None:
    _dest(scene).fill(0)
    _some_time(scene)


def _read_only(scene: Scene) -> None:
    """Refused by the kernel while a file is open for writing there; then there is no fault."""
    try:
        _dest(scene).remount(read_only=True)
    except LabError as why:
        scene.note(f"not remounted: {str(why).splitlines()[-1]}")
    _some_time(scene)


def _deleted(scene: Scene) -> None:
    """Somebody clears the destination: every image that is being made there."""
    for path in scene.ground.files_of(scene.guest):
        if Path(path).is_relative_to(_dest(scene).path) and Path(path).is_file():
            Path(path).unlink()
            scene.note(f"deleted {path}")
    _some_time(scene)


def _unmounted(scene: Scene) -> None:
    _dest(scene).umount()
    _some_time(scene)


def _room_again(scene: Scene) -> None:
    """Full after the switch is the VM's own trouble: QEMU pauses it before it sees an error, its owner resumes it."""
    scene.ground.mend()
    if scene.live and "I/O error" in scene.host.virsh("domstate", scene.vm, "--reason"):
        scene.note("QEMU had paused it for want of space, after the switch")
        scene.guest.resume()
        scene.errors_before = errors(scene.guest)  # QEMU 7.2 goes on telling of it, also when the writes have gone well


def _put_right(scene: Scene) -> None:
    dest = _dest(scene)
    if not dest.mounted():
        for path in sorted(dest.path.rglob("*"), reverse=True):
            scene.note(f"made below the mount point while nothing was mounted: {path}")
            path.rmdir() if path.is_dir() else path.unlink()
    scene.ground.mend()


# -- the device -------------------------------------------------------------------------------------------------------


def _failing_writes(scene: Scene) -> None:
    _dest(scene).device.fail_writes()
    _some_time(scene)


def _failing_writes_healed(scene: Scene) -> None:
    """A file system that met the error may have gone read-only, or shut itself down: mounted anew, as one would."""
    _dest(scene).device.fail_writes(False)
    if scene.process is not None:
        scene.over()
    _dest(scene).power_on()


def _slow(scene: Scene) -> None:
    _dest(scene).device.slow(SLOW_BITS)
    scene.wake()
    time.sleep(6)
    _dest(scene).device.slow(0)


def _hang_a_minute(scene: Scene) -> None:
    device = _dest(scene).device
    device.hang()
    scene.wake()
    time.sleep(HANG_S)
    device.go_on()
    scene.note(f"the destination hung for {HANG_S:g} s")


def _hang_for_ever(scene: Scene) -> None:
    """Nothing answers any more; after a while somebody gives up waiting, cancels, and cuts the storage off."""
    device = _dest(scene).device
    device.hang()
    scene.wake()
    time.sleep(FENCED_AFTER_S)
    move = scene.move()
    if move is not None and not move.finished:
        scene.ferry.do("cancel", move.id, "--no-wait", timeout_s=30)
    device.fence()
    scene.note(f"the destination hung for {FENCED_AFTER_S:g} s and was cut off")


def _mounted_anew(scene: Scene) -> None:
    if scene.process is not None:
        process = scene.process
        scene.wait(lambda: process.poll() is not None, 15)
    _dest(scene).power_on()


def _failing_reads(scene: Scene) -> None:
    """Of the source: the guest may see it too, and that is the source's own doing."""
    scene.source_failed = True
    scene.ground.stores[FLAKY].device.fail_reads()
    _some_time(scene)


def _reads_again(scene: Scene) -> None:
    scene.ground.stores[FLAKY].device.fail_reads(False)


def add_to(catalogue: Catalogue) -> None:
    """The faults of this file."""

    def at_dest(name: str, what: str, **more: object) -> Fault:
        values: dict[str, object] = {"at": _before_the_switch, "ends": EITHER, **more}
        return Fault(name, "destination", what, **values)  # type: ignore[arg-type]

    catalogue.add(
        at_dest("dest-full", "no space left at the destination", strike=_full, heal=_room_again),
        at_dest("dest-read-only", "the destination is remounted read-only", strike=_read_only, heal=_put_right),
        at_dest("dest-deleted", "somebody deletes the new files", strike=_deleted),
        at_dest("dest-unmounted", "the destination is unmounted", strike=_unmounted, heal=_put_right),
        at_dest("dest-eio", "writes at the destination fail with EIO from a random moment on", strike=_failing_writes,
                heal=_failing_writes_healed, dest=FLAKY),
        at_dest("dest-slow", "the destination writes 2 MB/s for 6 s", strike=_slow, dest=FLAKY,
                ends=frozenset({MOVED})),
        at_dest("dest-hang-minute", "the destination does not answer for a minute", strike=_hang_a_minute, dest=FLAKY,
                quick=False),
        at_dest("dest-hang-ever", "the destination never answers again, and is cut off after 25 s",
                strike=_hang_for_ever, heal=_mounted_anew, dest=FLAKY, ends=BACK, quick=False),
        Fault("source-eio", "source", "reads of the source fail with EIO", _failing_reads, heal=_reads_again,
              at=_in_the_bulk, ends=EITHER, dest=FLAKY, source=True),
    )  # fmt: skip
