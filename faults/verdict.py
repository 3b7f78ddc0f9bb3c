"""What must be true of a VM when a case is over; each thing that is not becomes a sentence in `scene.findings`."""

from __future__ import annotations

import contextlib
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from faults.case import CANCELLED, FAILED, MOVED, NO_MOVE, PARKED
from faults.ferry import SQL_ERRORS
from faults.scene import Scene, errors, failures
from lab import GuestSilent, LabError
from lab.said import Said

MARK = "urn:blockferry"


def judge(scene: Scene, end: str) -> None:
    """Look at everything. Raises LabError only when the lab itself is broken."""
    if end not in scene.ends:
        scene.wrong(f"the move ended as {end!r}; right is {', '.join(sorted(scene.ends))}")
    state = _state(scene)
    _sides(scene, end, state)
    _leftovers(scene, end)
    _content(scene, end, state)


def _state(scene: Scene) -> str:
    """The VM's state, which must be one of the right ones; and there is exactly one QEMU, or none."""
    scene.wait(lambda: scene.guest.state() in scene.states, 10)
    state = scene.guest.state()
    if state not in scene.states:
        scene.wrong(f"{scene.vm} is {state}; right is {', '.join(sorted(scene.states))}")
    runs = scene.host.qemu(scene.vm) is not None
    if runs != (state in ("running", "paused")):
        scene.wrong(f"{scene.vm} is {state}, but its QEMU is {'there' if runs else 'not there'}")
    return state


def _sides(scene: Scene, end: str, state: str, *, marks: bool = True) -> None:
    """Live and persistent configuration agree, on one side, the one that the outcome says; no job, no mark.

    A VM that was saved in the middle of a move comes back with the mark that it was saved with.
    """
    ground, guest = scene.ground, scene.guest
    xml, inactive = guest.xml(), guest.xml(inactive=True)
    live, config = _sources(xml), _sources(inactive)
    if state in ("running", "paused") and live != config:
        scene.wrong(f"live and persistent configuration differ: {live}, {config}")
    sides = {ground.store_of(path) for path in (*live.values(), *config.values())}
    wanted = {MOVED: scene.dest, CANCELLED: scene.before, FAILED: scene.before, NO_MOVE: scene.before}.get(end)
    if len(sides) != 1:
        scene.wrong(f"the disks are on several datastores: {live}, {config}")
    elif wanted is not None and sides != {wanted}:
        scene.wrong(f"the move is said to be {end}, but the disks are on {sides.pop()}")
    if end == PARKED:
        return
    for text, where in ((xml, "live"), (inactive, "persistent")):
        if "<mirror" in text:
            scene.wrong(f"a block job is left ({where})")
        if marks and MARK in text:
            scene.wrong(f"a mark is left ({where})")


def _sources(xml: str) -> dict[str, str]:
    found = {}
    for disk in ElementTree.fromstring(xml).iterfind("devices/disk[@device='disk']"):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and source is not None and target.get("dev") in ("vda", "vdb", "vdc"):
            found[target.attrib["dev"]] = source.get("file") or source.get("dev") or ""
    return found


def _leftovers(scene: Scene, end: str) -> None:
    """No file that nobody accounts for, nothing that `orphans` calls an orphan, no guard."""
    ground, guest = scene.ground, scene.guest
    used = set(_sources(guest.xml()).values()) | set(_sources(guest.xml(inactive=True)).values())
    homes = {str(Path(path).parent) for path in used}
    accounted: set[str] = set()
    with contextlib.suppress(*SQL_ERRORS):
        accounted = ground.ferry.kept()
    missing = {path for path in used if not Path(path).exists()}
    if missing:
        scene.wrong(f"a disk of the VM is gone: {', '.join(sorted(missing))}")
    if end == PARKED:
        return
    homes |= {str(Path(path).parent) for path in accounted}
    left = ground.files_of(guest) - used - homes - accounted - scene.kept_by_others
    left = {path for path in left if not _metadata(scene, path)}
    if left:
        scene.wrong(f"left over: {', '.join(sorted(left))}")
    for path in accounted & ground.files_of(guest):
        scene.note(f"kept, and said so: {path}")
    found = ground.ferry.orphans()
    if isinstance(found, Said):
        scene.wrong(f"orphans could not be listed: {found}")
    else:
        for one in found:
            if one.get("kind") not in ("source", "partial"):  # kept, and said so: accounted for, and noted
                scene.wrong(f"an orphan: {one.get('path')}: {one.get('why')}")
    if not _no_guard(scene):
        scene.wrong("a guard process is left")
    if not _no_watch(scene):
        scene.wrong("a watch is left beside a copy that is not there any more")


def _no_guard(scene: Scene) -> bool:
    def guards(argv: list[str]) -> bool:
        return "blockferry.safety.guard" in argv and scene.vm in argv

    return scene.wait(lambda: scene.host.find_process(guards) is None, 15)


def _no_watch(scene: Scene) -> bool:
    def watches(argv: list[str]) -> bool:
        return "blockferry:watchdog_calls" in argv and any(f"/{scene.vm}" in word for word in argv)

    return scene.wait(lambda: scene.host.find_process(watches) is None, 15)


def _metadata(scene: Scene, path: str) -> bool:
    """The VM's XML in the home that it lives in now."""
    alive = {Path(source).parent for source in _sources(scene.guest.xml(inactive=True)).values()}
    return Path(path).name == f"{scene.vm}.xml" and Path(path).parent in alive


def _content(scene: Scene, end: str, state: str) -> None:
    """No acknowledged write is lost: by the judge in the guest and by the second opinion on the files."""
    guest = scene.guest
    if state == "running" and not scene.booted_anew:
        _live(scene)
    if state == "running":
        guest.suspend()  # flushes; nobody writes while the files are read
        try:
            _files(scene, flushed_only=scene.flushed_only)
        finally:
            guest.resume()
    else:
        _files(scene, flushed_only=scene.flushed_only)
    if state == "shut off" and scene.live:
        _boots(scene, end)
    elif scene.booted_anew and state == "running":
        _adopts(scene)
    if state in ("running", "paused") and not scene.source_failed:
        failed = failures(guest) - scene.guest_failures
        if failed:
            scene.wrong(f"{failed} writes failed in the guest")
        told = errors(scene.guest)
        if told != scene.errors_before:
            scene.wrong(f"QEMU tells of I/O errors: {told}")


def _live(scene: Scene) -> None:
    try:
        scene.guest.judge.wait_writes(5, timeout=30)
        verdict = scene.guest.judge.verify_live(timeout=60)
    except (GuestSilent, LabError) as why:
        scene.wrong(f"the guest does not write on: {str(why).splitlines()[0]}")
        return
    if verdict.ok:
        return
    said = f"the judge in the guest: {verdict.text.strip()[:400]}"
    if scene.source_failed and not scene.booted_anew:
        # What had not been flushed may be gone with its source (docs/measured.md); the files are judged by what had.
        scene.note(f"of the source's own doing: {said}")
        scene.harmed = True
    else:
        scene.wrong(said)


def _files(scene: Scene, *, flushed_only: bool) -> None:
    formats = scene.guest.formats(inactive=True)
    for target, path in _sources(scene.guest.xml(inactive=True)).items():
        try:
            verdict = scene.guest.judge.check_image(target, path, formats[target], flushed_only=flushed_only)
        except (LabError, OSError) as why:
            scene.wrong(f"{path} cannot be read: {str(why).splitlines()[-1]}")
            continue
        if not verdict.ok:
            scene.wrong(f"lost writes: {verdict}")


def _boots(scene: Scene, end: str) -> None:
    """It went off in the case: it starts from what the configuration says, and the judge takes its disks."""
    try:
        scene.virsh("start", scene.vm)
        if scene.guest.state() == "paused":
            scene.note("it had been saved while it was suspended, so it comes back like that; its owner resumes it")
            scene.guest.resume()
        scene.guest.wait_ready(60)
        scene.ground.write(scene.guest)
        _live(scene)
        _sides(scene, end, "running", marks=False)
    except LabError as why:
        scene.wrong(f"the VM does not start again: {str(why).splitlines()[0]}")


def _adopts(scene: Scene) -> None:
    """It has booted in the case: the judge takes the disks as they are, and says if a block is damaged."""
    try:
        scene.guest.wait_ready(60)
        scene.ground.write(scene.guest)
        _live(scene)
    except LabError as why:
        scene.wrong(f"after its reboot: {str(why).splitlines()[0]}")


def longest_gap(scene: Scene) -> float:
    """Seconds for which nothing came from the guest while the case ran."""
    return scene.guest.judge.longest_gap(scene.began_ns, time.monotonic_ns()) if scene.live else 0.0
