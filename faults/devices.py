"""Storage that fails under a move: full, read-only, gone, failing, slow, hanging; at the destination or the source.

At the destination only before the switch: afterwards it is the VM's own storage, and its faults are the VM's.
"""

from __future__ import annotations

import os
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
GIVEN_UP_AFTER_S = 25.0
BOUND_S = 6.5
"""What docs/reliability.md promises with the usual hang limit of 5 s: limit, a beat, and what it takes."""
SILENCE_S = BOUND_S + 8.5
"""On an emulated machine that others load too. A hang that nobody ends lasts for longer than that."""
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
    _dest(scene).device.fail_writes(fail=False)
    if scene.process is not None:
        scene.over()
    _dest(scene).power_on()


def _slow(scene: Scene) -> None:
    _dest(scene).device.slow(SLOW_BITS)
    scene.wake()
    time.sleep(6)
    _dest(scene).device.slow(0)


def _hung(scene: Scene, began_ns: int, disks: int) -> None:
    """What the guest felt of it: for how long none of its writes came back, disk by disk."""
    if not scene.live:
        return
    now = time.monotonic_ns()
    targets = ("vda", "vdb", "vdc")[:disks]
    longest = max(scene.guest.judge.longest_gap(began_ns, now, target=target) for target in targets)
    scene.note(f"the guest's longest wait for a write: {longest:.2f} s; without any sign of it: "
               f"{scene.guest.judge.longest_gap(began_ns, now):.2f} s")  # fmt: skip
    scene.hang_silence_s = longest
    if longest > SILENCE_S:
        scene.wrong(f"a write of the guest waited for {longest:.1f} s; the bound is {BOUND_S:g} s")


def _hang_a_minute(scene: Scene) -> None:
    device, began = _dest(scene).device, time.monotonic_ns()
    device.hang()
    scene.wake()
    time.sleep(HANG_S)
    _hung(scene, began, scene.case.disks)
    device.go_on()
    scene.note(f"the destination hung for {HANG_S:g} s")


def _hang_for_ever(scene: Scene) -> None:
    """Nothing answers any more; after a while somebody gives up waiting and cancels. Nobody helps us."""
    device, began = _dest(scene).device, time.monotonic_ns()
    device.hang()
    scene.wake()
    time.sleep(GIVEN_UP_AFTER_S)
    move = scene.move()
    if move is not None and not move.finished:
        scene.ferry.do("cancel", move.id, "--no-wait", timeout_s=30)
    process = scene.process
    if process is not None:
        scene.wait(lambda: process.poll() is not None, GIVEN_UP_AFTER_S)
    _hung(scene, began, scene.case.disks)
    scene.note(f"the destination hung for {(time.monotonic_ns() - began) / 1e9:.0f} s")


def _hang_us_killed(scene: Scene) -> None:
    """We die while it hangs: what stands beside the copy has to see to it alone."""
    device, began = _dest(scene).device, time.monotonic_ns()
    device.hang()
    scene.wake()
    scene.pause(0.2, 3.0)
    scene.kill_us()
    time.sleep(GIVEN_UP_AFTER_S)
    _hung(scene, began, scene.case.disks)


def _mounted_anew(scene: Scene) -> None:
    if scene.process is not None:
        process = scene.process
        scene.wait(lambda: process.poll() is not None, 15)
    _dest(scene).device.fence()
    _dest(scene).power_on()


def _answers_again(scene: Scene) -> None:
    """What was cut off is mounted anew; what was not goes on by itself."""
    if _is_cut_off(_dest(scene)):
        scene.note("the destination was cut off; it is mounted anew")
        _mounted_anew(scene)


def _is_cut_off(store: Datastore) -> bool:
    try:
        (store.path / ".lab-alive").touch()
        with (store.path / ".lab-alive").open("r+b") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        (store.path / ".lab-alive").unlink()
    except OSError:
        return True
    return False


def _failing_reads(scene: Scene) -> None:
    """Of the source: the guest may see it too, and that is the source's own doing.

    Nor need what was never flushed survive it: a file system that cannot read its own tables throws away what it had
    taken and not yet written, and the next fsync says EIO (XFS, measured: docs/measured.md).
    """
    scene.source_failed = scene.flushed_only = True
    scene.ground.stores[FLAKY].device.fail_reads()
    _some_time(scene)


def _reads_again(scene: Scene) -> None:
    scene.ground.stores[FLAKY].device.fail_reads(fail=False)


def add_to(catalogue: Catalogue[Fault]) -> None:
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
        at_dest("dest-hang-minute", "the destination does not answer for a minute", strike=_hang_a_minute,
                heal=_answers_again, dest=FLAKY, quick=False),
        at_dest("dest-hang-ever", "the destination never answers again; after 25 s the user cancels",
                strike=_hang_for_ever, heal=_mounted_anew, dest=FLAKY, ends=BACK, quick=False),
        at_dest("dest-hang-us-killed", "the destination never answers again, and kill -9 of us while it hangs",
                strike=_hang_us_killed, heal=_mounted_anew, dest=FLAKY, ends=EITHER, quick=False, kills=1),
        Fault("source-eio", "source", "reads of the source fail with EIO", _failing_reads, heal=_reads_again,
              at=_in_the_bulk, ends=EITHER, dest=FLAKY, source=True),
    )  # fmt: skip
