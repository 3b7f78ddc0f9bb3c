"""Faults of processes and hosts: the manager, both libvirtds, the destination's QEMU, the destination's power."""

from __future__ import annotations

import os
import signal
import time

from faults.case import CANCELLED, FAILED, MOVED, Catalogue
from faults.host_moves import host_places
from faults.host_moves.host_fault import HostFault
from faults.host_moves.host_scene import HostScene
from lab import Host, LabError

EITHER = frozenset({MOVED, FAILED})
CHAIN = 3
"""So many processes of ours die in a row, at most."""
GUARD_S = 20.0
"""The guards let the guest run 2 s after the switch; this is for a busy machine."""
LEASE_S = 20.0


def anywhere(kind: str, _disks: int) -> tuple[str, ...]:
    """Every point of the way, and a moment in the copy."""
    return (*host_places.way(kind), *host_places.slowed(kind))


def once_it_goes(kind: str, _disks: int) -> tuple[str, ...]:
    """From the migration call on: only then the destination has a QEMU."""
    points = host_places.way(kind)
    return (*points[points.index("migration-called") :], *host_places.slowed(kind))


def _way_and_back(kind: str, _disks: int) -> tuple[str, ...]:
    return (*host_places.way(kind), *host_places.slowed(kind), *host_places.back(kind))


# -- the manager --------------------------------------------------------------------------------------------------


def _kill_us(scene: HostScene) -> None:
    """At the point; perhaps again at later ones when taken up; the user may change their mind in between."""
    way = host_places.way(scene.kind)
    if scene.point == host_places.UNDER_WAY:
        if scene.wait_under_way():
            scene.kill_us()
    elif scene.point in host_places.back(scene.kind):
        _kill_us_on_the_way_back(scene)
        return
    else:
        scene.begin(f"{scene.point}:kill")
        said = scene.over()
        if said is None or not said.killed:
            scene.wrong(f"the move did not pass {scene.point}, so nothing was tried: {said}")
            return
        scene.kills += 1
    later = list(way[way.index(scene.point) + 1 :]) if scene.point in way else list(way[way.index("handed-noted") :])
    for _again in range(scene.chance.randrange(CHAIN)):
        move = scene.move()
        if not later or move is None or move.finished:
            break
        point = scene.chance.choice(later)
        later = later[later.index(point) + 1 :]
        if not scene.do("resume", move.id, BLOCKFERRY_POINT=f"{point}:kill").killed:
            break
        scene.kills += 1
    runs_by_itself(scene)
    move = scene.move()
    if move is not None and not move.finished and scene.chance.random() < 0.25:
        scene.ends.add(CANCELLED)
        scene.cancel(move.id)


def _kill_us_on_the_way_back(scene: HostScene) -> None:
    """The move is cancelled while it copies; the process that takes it back dies there, and perhaps the next one."""
    scene.ends = {CANCELLED}
    scene.die_on_the_way_back("cold-copying" if scene.kind in host_places.OFF else "migration-called")


def runs_by_itself(scene: HostScene) -> None:
    """A guest that ran is not left standing: libvirt and the guards see to it, without a command."""
    if scene.state == "running" and not scene.wait(lambda: "running" in scene.states(), GUARD_S, 0.2):
        scene.wrong(f"{scene.vm} does not run {GUARD_S:g} s after our process was killed: {scene.states()}")


def _freeze(scene: HostScene, *, cancel: bool) -> None:
    """Stopped for longer than its lease; somebody else takes the move up, or cancels it; then the first wakes up."""
    move = scene.move()
    if move is None or not scene.reached:
        return
    runs_by_itself(scene)
    if cancel:
        scene.ends.add(CANCELLED)
    frozen, scene.process = scene.process, None
    end = time.monotonic() + LEASE_S + 60
    while time.monotonic() < end:
        scene.do("cancel" if cancel else "resume", move.id)
        row = scene.move()
        if row is None or row.finished or row.parked is not None:
            break
        time.sleep(2)
    scene.process = frozen
    scene.wake()
    late = scene.over()
    if late is not None and late.status not in (0, 5, 6, 8, 9, 130):
        scene.wrong(f"the one that woke late ended oddly: {late}")


def _freeze_and_resume(scene: HostScene) -> None:
    _freeze(scene, cancel=False)


def _freeze_and_cancel(scene: HostScene) -> None:
    _freeze(scene, cancel=True)


# -- libvirtd -----------------------------------------------------------------------------------------------------


def _kill_libvirtd(scene: HostScene, host: Host) -> None:
    try:
        host.kill_libvirtd()
    except LabError as why:
        scene.note(f"libvirtd of {host.name} could not be killed: {why}")
        return
    scene.kills += 1
    scene.note(f"kill -9 of libvirtd of {host.name}")
    if scene.chance.random() < 0.5:  # it comes back before or after our process goes on
        _start_libvirtds(scene)


def _kill_source_libvirtd(scene: HostScene) -> None:
    _kill_libvirtd(scene, scene.source)


def _kill_dest_libvirtd(scene: HostScene) -> None:
    _kill_libvirtd(scene, scene.dest)


def _kill_us_and_source_libvirtd(scene: HostScene) -> None:
    scene.kill_us()
    _kill_libvirtd(scene, scene.source)


def _start_libvirtds(scene: HostScene) -> None:
    """As systemd does, after a moment."""
    scene.pause(0.0, 1.5)
    for host in (scene.source, scene.dest):
        host.start_libvirtd()


# -- the destination ------------------------------------------------------------------------------------------------


def _kill_dest_qemu(scene: HostScene) -> None:
    """It may have been let run there already: then only what was flushed has to survive."""
    try:
        scene.dest.kill_qemu(scene.vm)
    except LabError as why:
        scene.note(f"not killed: {why}")
        return
    scene.kills += 1
    scene.flushed_only = True
    scene.note("kill -9 of QEMU at the destination")


def _freeze_dest_qemu(scene: HostScene) -> None:
    try:
        scene.dest.kill_qemu(scene.vm, signal.SIGSTOP)
    except LabError as why:
        scene.note(f"not frozen: {why}")
        return
    scene.wake()
    seconds = scene.chance.choice((3.0, 12.0))
    time.sleep(seconds)
    if scene.chance.random() < 0.5 and (move := scene.move()) is not None and not move.finished:
        scene.ends.add(CANCELLED)
        scene.cancel(move.id, "--no-wait")
    scene.note(f"QEMU at the destination was frozen for {seconds:g} s")


def _thaw_dest_qemu(scene: HostScene) -> None:
    process = scene.dest.qemu(scene.vm)
    if process is not None:
        os.kill(process.pid, signal.SIGCONT)


def _lose_dest(scene: HostScene) -> None:
    """Its processes, and of its own datastore all that was not on the device. It stays down for a while."""
    store = scene.ground.stores[scene.dest_store]
    scene.dest.power_loss()
    if scene.own:
        store.lose_power()
        store.power_on()
    scene.kills += 2
    scene.flushed_only = True
    scene.note("power loss of the destination")
    scene.wake()
    process = scene.process
    if process is not None:
        scene.wait(lambda: process.poll() is not None, scene.chance.choice((2.0, 20.0)))


def _boot_dest(scene: HostScene) -> None:
    scene.dest.boot()
    scene.ground.furnish(scene.dest)
    scene.note("the destination is up again")


def add_to(catalogue: Catalogue[HostFault]) -> None:
    """The faults of this file."""
    live, either = host_places.LIVE, EITHER

    def way(kind: str, _disks: int) -> tuple[str, ...]:
        return host_places.way(kind)

    catalogue.add(
        HostFault("kill-us", "manager", "kill -9 of our process, up to three times in a row", _kill_us, _way_and_back,
                  own=True, kills=2),
        HostFault("freeze-us-resume", "manager",
                  "our process stands still until somebody else has taken the move up, then wakes up",
                  _freeze_and_resume, way),
        HostFault("freeze-us-cancel", "manager",
                  "our process stands still until somebody else has cancelled the move, then wakes up",
                  _freeze_and_cancel, way, ends=either),
        HostFault("kill-source-libvirtd", "libvirtd", "kill -9 of libvirtd at the source", _kill_source_libvirtd,
                  anywhere, heal=_start_libvirtds, ends=either, kills=1),
        HostFault("kill-dest-libvirtd", "libvirtd", "kill -9 of libvirtd at the destination", _kill_dest_libvirtd,
                  anywhere, heal=_start_libvirtds, ends=either, kills=1),
        HostFault("kill-us-source-libvirtd", "libvirtd", "kill -9 of our process and of libvirtd at the source",
                  _kill_us_and_source_libvirtd, anywhere, heal=_start_libvirtds, ends=either, kills=2),
        HostFault("kill-dest-qemu", "destination", "kill -9 of QEMU at the destination", _kill_dest_qemu,
                  once_it_goes, methods=live, ends=either, may_be_off=True, kills=1),
        HostFault("freeze-dest-qemu", "destination",
                  "QEMU at the destination stands still for 3 or 12 s; in every second case the user cancels",
                  _freeze_dest_qemu, once_it_goes, heal=_thaw_dest_qemu, methods=live, ends=either),
        HostFault("lose-dest", "destination", "power loss of the destination; it is up again after 2 to 20 s",
                  _lose_dest, anywhere, heal=_boot_dest, ends=either, may_be_off=True, kills=2),
    )  # fmt: skip
