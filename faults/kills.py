"""kill -9 of every process that takes part, alone and together; and processes that freeze and wake up late."""

from __future__ import annotations

import signal
import time

from faults import places
from faults.case import CANCELLED, MOVED, Catalogue, Fault
from faults.scene import Scene
from lab import LabError, losing

CHAIN = 3
"""So many processes of ours die in a row, at most; a move that has killed five is parked for somebody to look."""

STORM = 20

GUARD_S = 15.0
"""The guard lets the VM run at once when its parent is gone; this is for a busy machine."""

LEASE_S = 20.0


def _every_point(method: str, disks: int) -> tuple[str, ...]:
    return (*places.every_point(method, disks), places.AT_RANDOM)


def _phases_and_random(method: str, _disks: int) -> tuple[str, ...]:
    return (*places.phases(method), places.AT_RANDOM)


# -- our own process --------------------------------------------------------------------------------------------------


def _us(scene: Scene) -> None:
    """Die at the point; perhaps again at later ones when taken up; the user may change their mind in between."""
    if scene.case.place == places.AT_RANDOM:
        _us_at_random(scene)
        return
    if scene.point in places.BACK:
        _us_on_the_way_back(scene)
        return
    scene.begin(f"{scene.point}:kill")
    said = scene.over()
    if said is None or not said.killed:
        scene.wrong(f"the move did not pass {scene.point}, so nothing was tried: {said}")
        return
    scene.kills += 1
    _runs_by_itself(scene)
    way = places.way(scene.case.method, scene.case.disks)
    later = list(way[way.index(scene.point) + 1 :]) if scene.point in way else []
    for _again in range(scene.chance.randrange(CHAIN)):
        if not later:
            break
        point = scene.chance.choice(later)
        later = later[later.index(point) + 1 :]
        move = scene.move()
        if move is None or move.finished:
            break
        said = scene.do("resume", move.id, BLOCKFERRY_POINT=f"{point}:kill")
        if not said.killed:
            break
        scene.kills += 1
        _runs_by_itself(scene)
    _perhaps_cancel(scene)


def _perhaps_cancel(scene: Scene) -> None:
    """In one case of four the user does not want it any more. What is across goes on, all else goes back."""
    move = scene.move()
    if move is not None and not move.finished and scene.chance.random() < 0.25:
        scene.ends.add(CANCELLED)
        scene.cancel(move.id)


def _us_on_the_way_back(scene: Scene) -> None:
    """The move is cancelled in its bulk; the process that takes it back dies there, and perhaps the next one too."""
    scene.ends = {CANCELLED}
    scene.die_on_the_way_back(places.BEFORE_BACK[scene.case.method])


def _us_at_random(scene: Scene) -> None:
    """Die at moments that nobody has named, up to three times."""
    process = scene.begin()
    for _again in range(CHAIN):
        scene.pause(0.1, 2.5)
        if process.poll() is not None:
            break
        scene.reached = True
        scene.process = process
        scene.kill_us()
        _runs_by_itself(scene)
        move = scene.move()
        if move is None or move.finished:
            break
        process = scene.ferry.start("resume", move.id)
        scene.note(f"resume {move.id}")
        scene.process = process


def _storm(scene: Scene) -> None:
    """Again and again, at moments that nobody has named: our process, libvirtd, virtlogd, until the move is over."""
    scene.process = scene.begin()
    scene.wait(lambda: scene.move() is not None, 20)
    for _again in range(STORM):
        scene.pause(0.1, 1.6)
        victim = scene.chance.choices(("us", "libvirtd", "virtlogd"), (6, 3, 1))[0]
        if scene.process is not None and scene.process.poll() is not None:
            scene.over()
        elif victim == "us":
            scene.reached = True
            scene.kill_us()
            _runs_by_itself(scene)
        else:
            scene.reached = True
            _kill(scene, victim)
            _restart(scene)
        move = scene.move()
        if move is None or move.finished:
            return
        if scene.process is None:
            scene.process = scene.ferry.start("resume", move.id)
            scene.note(f"resume {move.id}")


def _runs_by_itself(scene: Scene) -> None:
    """A VM that ran is not left suspended: the guard sees to it, without a command."""
    if scene.live and not scene.wait(lambda: scene.guest.state() == "running", GUARD_S):
        scene.wrong(f"{scene.vm} is {scene.guest.state()} {GUARD_S:g} s after our process was killed")


# -- the others -------------------------------------------------------------------------------------------------------


def _kill(scene: Scene, *victims: str) -> None:
    for victim in victims:
        try:
            if victim == "us":
                scene.kill_us()
                continue
            if victim == "libvirtd":
                scene.host.kill_libvirtd()
            elif victim == "virtlogd":
                scene.host.kill_virtlogd()
            else:
                scene.host.kill_qemu(scene.vm)
                scene.went_off()
        except LabError as why:
            scene.note(f"{victim} could not be killed: {why}")
            continue
        scene.note(f"kill -9 {victim}")
        scene.kills += 1


def _restart(scene: Scene) -> None:
    """As systemd does, after a moment."""
    scene.pause(0.0, 1.5)
    scene.host.start_virtlogd()
    scene.host.start_libvirtd()


def _killing(name: str, *victims: str, what: str = "") -> Fault:
    def strike(scene: Scene) -> None:
        _kill(scene, *victims)
        if scene.chance.random() < 0.5:  # it comes back before or after our process goes on
            _restart(scene)

    qemu = "qemu" in victims
    return Fault(
        name,
        "kill",
        what or f"kill -9 of {' and '.join(victims)}",
        strike,
        heal=_restart,
        methods=places.LIVE if qemu else places.METHODS,
        at=_phases_and_random,
        kills=len(victims),
    )


def _kill_libvirtd_in_its_window(scene: Scene) -> None:
    """In the instant in which libvirtd concludes a job of the VM: it forgets the VM at its restart."""
    with losing.Window(scene.host, scene.vm) as window:
        if scene.process is not None:
            scene.process.send_signal(signal.SIGCONT)
        caught = window.wait(15)
    if not caught:
        scene.note("libvirtd was not caught in its window")
        return
    scene.host.kill_libvirtd()
    scene.kills += 1
    scene.host.start_libvirtd()
    scene.note(f"libvirtd was killed in its window; it says that the VM is {scene.guest.state()}")
    if scene.guest.state() != "shut off" or scene.host.qemu(scene.vm) is None:
        return
    if not scene.wait(lambda: losing.qemu_status(scene.host, scene.vm) == "running", GUARD_S):
        scene.wrong(f"the guest of {scene.vm} stands still {GUARD_S:g} s after libvirt lost it")
    scene.over()
    if not scene.wait(lambda: _names_what_is_written(scene), GUARD_S):
        scene.wrong(f"the configuration of {scene.vm} names other images than those that its QEMU writes to")
    scene.guest.judge.stop()
    scene.guest.poweroff(wait=False)
    if not scene.wait(lambda: losing.qemu_status(scene.host, scene.vm) == "shutdown", 60):
        scene.wrong(f"the guest of {scene.vm} does not power off")
    scene.states.add("shut off")


def _kill_libvirtd_in_its_window_on_the_way_back(scene: Scene) -> None:
    move = scene.move()
    if move is not None:
        scene.cancel(move.id, "--no-wait")
    _kill_libvirtd_in_its_window(scene)


def _names_what_is_written(scene: Scene) -> bool:
    named = {str(path) for path in scene.guest.sources(inactive=True).values()}
    return named == set(losing.written_images(scene.host, scene.vm))


# -- frozen and woken late --------------------------------------------------------------------------------------------


def _freeze_us(scene: Scene) -> None:
    """Stopped at the point, for longer than the guard lets the VM stand still."""
    seconds = scene.chance.uniform(3.5, 6.0)
    time.sleep(seconds)
    scene.note(f"our process was frozen for {seconds:.1f} s")
    if scene.live and scene.guest.state() != "running":
        scene.wrong(f"{scene.vm} is {scene.guest.state()} while our process is frozen")


def _freeze_us_and_take_over(scene: Scene) -> None:
    """Stopped for longer than the lease, somebody else finishes the move, then the first one wakes up."""
    move = scene.move()
    if move is None or not scene.reached:
        return
    frozen = scene.process
    end = time.monotonic() + LEASE_S + 20
    while time.monotonic() < end:
        said = scene.do("resume", move.id)
        row = scene.move()
        if row is None or row.finished:
            break
        if said.status == 9:
            time.sleep(2)
    scene.process = frozen
    scene.wake()
    late = scene.over()
    if late is not None and late.status not in (0, 8, 9, 130):
        scene.wrong(f"the one that woke late ended oddly: {late}")


def _freeze_libvirtd(scene: Scene) -> None:
    scene.host.kill_libvirtd(signal.SIGSTOP)
    scene.wake()
    seconds = scene.chance.uniform(2.0, 5.0)
    time.sleep(seconds)
    scene.host.kill_libvirtd(signal.SIGCONT)
    scene.note(f"libvirtd was frozen for {seconds:.1f} s")


def _freeze_libvirtd_long(scene: Scene) -> None:
    """For longer than keepalive (5 s, 6 times) waits: the connection is given up."""
    scene.host.kill_libvirtd(signal.SIGSTOP)
    scene.wake()
    time.sleep(38)
    scene.host.kill_libvirtd(signal.SIGCONT)
    scene.note("libvirtd was frozen for 38 s")


def _freeze_qemu(scene: Scene) -> None:
    scene.host.kill_qemu(scene.vm, signal.SIGSTOP)
    scene.wake()
    seconds = scene.chance.uniform(2.0, 5.0)
    time.sleep(seconds)
    scene.host.kill_qemu(scene.vm, signal.SIGCONT)
    scene.note(f"QEMU was frozen for {seconds:.1f} s")


def add_to(catalogue: Catalogue[Fault]) -> None:
    """The faults of this file."""
    ours = "kill -9 of our process, up to three times in a row, at the named point or at random moments"
    catalogue.add(
        Fault("kill-us", "kill", ours, _us, at=_every_point, own=True, kills=2),
        Fault(
            "kill-storm",
            "kill",
            "kill -9 of our process, libvirtd or virtlogd, up to 20 times in a row, at random moments",
            _storm,
            heal=_restart,
            at=lambda _method, _disks: (places.AT_RANDOM,),
            own=True,
            kills=10,
        ),
        _killing("kill-libvirtd", "libvirtd"),
        Fault(
            "kill-libvirtd-window",
            "kill",
            "kill -9 of libvirtd in the milliseconds in which it concludes a copy or a commit: it forgets the VM",
            _kill_libvirtd_in_its_window,
            methods=places.LIVE,
            at=places.windows,
            kills=1,
        ),
        Fault(
            "kill-libvirtd-window-cancel",
            "kill",
            "the same while it ends the copies of a move that was cancelled",
            _kill_libvirtd_in_its_window_on_the_way_back,
            methods=places.LIVE,
            at=lambda method, _disks: (places.BEFORE_BACK[method],),
            ends=frozenset({CANCELLED, MOVED}),
            kills=1,
        ),
        _killing("kill-virtlogd", "virtlogd"),
        _killing("kill-qemu", "qemu"),
        _killing("kill-us-libvirtd", "us", "libvirtd"),
        _killing("kill-us-qemu", "us", "qemu"),
        _killing("kill-libvirtd-qemu", "libvirtd", "qemu"),
        _killing("kill-all", "us", "libvirtd", "virtlogd", "qemu", what="kill -9 of all four"),
        Fault("freeze-us", "freeze", "our process stands still for 3.5-6 s between check and act", _freeze_us),
        Fault(
            "freeze-us-taken-over",
            "freeze",
            "our process stands still until somebody else has finished the move, then wakes up",
            _freeze_us_and_take_over,
            disks=(3,),
            quick=False,
        ),
        Fault("freeze-libvirtd", "freeze", "libvirtd stands still for 2-5 s", _freeze_libvirtd, at=_phases_and_random),
        Fault(
            "freeze-libvirtd-long",
            "freeze",
            "libvirtd stands still for 38 s, longer than a connection waits",
            _freeze_libvirtd_long,
            disks=(3,),
            quick=False,
        ),
        Fault(
            "freeze-qemu",
            "freeze",
            "QEMU stands still for 2-5 s",
            _freeze_qemu,
            methods=places.LIVE,
            at=_phases_and_random,
        ),
    )
