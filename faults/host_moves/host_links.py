"""Faults of the link between the hosts, of the destination's datastore, and of certificates."""

from __future__ import annotations

import time

from faults.case import FAILED, MOVED, NO_MOVE, Catalogue
from faults.host_moves import host_places
from faults.host_moves.host_fault import HostFault
from faults.host_moves.host_scene import HostScene
from faults.host_moves.host_strikes import EITHER, anywhere
from lab import Host
from lab.certificates import Authority

DELAY_MS, LOSS = 50.0, 0.0001
"""Each way, so 100 ms there and back."""
HANG_S = 20.0
CUT_S = 25.0


def _own(*names: str) -> tuple[str, ...]:
    return tuple(kind for kind in host_places.KINDS if host_places.has_own_disk(kind) and kind not in names)


# -- the link -------------------------------------------------------------------------------------------------------


def _victim(scene: HostScene) -> Host:
    return scene.chance.choice((scene.source, scene.dest))


def _cut(scene: HostScene) -> None:
    """One of the hosts is out of everybody's reach for some seconds."""
    host = _victim(scene)
    host.cut_network()
    scene.wake()
    seconds = scene.chance.uniform(2.0, 12.0)
    time.sleep(seconds)
    scene.note(f"the link of {host.name} was cut for {seconds:.1f} s")


def _cut_for_good(scene: HostScene) -> None:
    """Longer than any keepalive waits; meanwhile the guest runs on one side, and on one only.

    Where it has been handed over and nobody at the destination knows that the source is empty, it stands still until
    the link is back (docs/design/host-move.md).
    """
    host = _victim(scene)
    host.cut_network()
    scene.wake()
    process = scene.process
    if process is not None:
        scene.wait(lambda: process.poll() is not None, CUT_S)
    time.sleep(CUT_S / 2)
    states = scene.states()
    scene.note(f"the link of {host.name} was cut for more than {CUT_S / 2:g} s: {' and '.join(states)}")
    if states.count("running") > 1:
        scene.wrong(f"{scene.vm} runs on both hosts while the link is cut")


def _whole(scene: HostScene) -> None:
    for host in (scene.source, scene.dest):
        scene.ground.mend_link(host)


def _slow_link(scene: HostScene) -> None:
    scene.dest.lengthen_network(DELAY_MS, LOSS)


def _whole_move(scene: HostScene) -> None:
    """The fault was there before; the move runs to its end."""
    scene.begin()
    scene.reached = True
    scene.over(200)


# -- the destination's datastore --------------------------------------------------------------------------------------


def _some_time(scene: HostScene) -> None:
    scene.wake()
    process = scene.process
    if process is not None:
        scene.wait(lambda: process.poll() is not None, 12)


def _full(scene: HostScene) -> None:
    scene.ground.stores[scene.dest_store].fill(0)
    _some_time(scene)


def _room_again(scene: HostScene) -> None:
    """Full after the switch is the VM's own trouble: QEMU pauses it before it sees an error, its owner resumes it."""
    scene.ground.stores[scene.dest_store].unfill()
    for host in (scene.source, scene.dest):
        reason = host.run(["virsh", "-q", "domstate", scene.vm, "--reason"], check=False).stdout
        if "I/O error" in reason and scene.state == "running":
            scene.note(f"QEMU at {host.name} had paused it for want of space; its owner resumes it")
            host.virsh("resume", scene.vm)


def _hang(scene: HostScene) -> None:
    device = scene.ground.stores[scene.dest_store].device
    device.hang()
    scene.wake()
    time.sleep(HANG_S)
    device.go_on()
    scene.note(f"the destination's datastore hung for {HANG_S:g} s")


def _first_half(kind: str, _disks: int) -> tuple[str, ...]:
    return (*host_places.before_handover(kind), *host_places.slowed(kind))


# -- certificates ----------------------------------------------------------------------------------------------------


def _equip(scene: HostScene, *, days: int, hosts: tuple[Host, ...]) -> None:
    authority = Authority(scene.ground.lab.directory / "tmp/ca")
    for host in hosts:
        authority.equip(host, days=days)


def _certificates(scene: HostScene) -> None:
    _equip(scene, days=30, hosts=(scene.source, scene.dest))


def _expired(scene: HostScene) -> None:
    """From here on the destination shows a certificate of yesterday."""
    _equip(scene, days=-1, hosts=(scene.dest,))
    scene.note("the destination's certificate has expired")


def _expired_before(scene: HostScene) -> None:
    _certificates(scene)
    _expired(scene)


def _remove_certificates(scene: HostScene) -> None:
    for host in (scene.source, scene.dest):
        scene.ground.remove_certificates(host)


def add_to(catalogue: Catalogue[HostFault]) -> None:
    """The faults of this file."""

    def whole_move(_kind: str, _disks: int) -> tuple[str, ...]:
        return (host_places.WHOLE_MOVE,)

    catalogue.add(
        HostFault("cut", "link", "the link of one host is cut for 2 to 12 s", _cut, anywhere, heal=_whole,
                  ends=EITHER),
        HostFault("cut-for-good", "link", "the link of one host is cut for longer than anybody waits",
                  _cut_for_good, anywhere, heal=_whole, ends=EITHER),
        HostFault("slow-link", "link", "100 ms there and back, one frame in 10,000 is lost", _whole_move,
                  whole_move, prepare=_slow_link, heal=_whole, own=True),
        HostFault("dest-full", "datastore", "no space left on the destination's datastore", _full, anywhere,
                  heal=_room_again, methods=_own(), ends=EITHER),
        HostFault("dest-hangs", "datastore", f"the destination's datastore does not answer for {HANG_S:g} s", _hang,
                  _first_half, methods=_own(), ends=EITHER, failing_destination=True),
        HostFault("expired", "certificates", "the destination's certificate expires during the move", _expired,
                  _first_half, prepare=_certificates, tidy=_remove_certificates, ends=EITHER,
                  methods=_own(host_places.PAUSED)),
        HostFault("expired-before", "certificates", "the destination's certificate had expired before the move",
                  _whole_move, whole_move, prepare=_expired_before, tidy=_remove_certificates, own=True,
                  ends=frozenset({MOVED, FAILED, NO_MOVE})),
    )  # fmt: skip
