"""What must be true on both hosts when a case is over; each thing that is not becomes a sentence in the findings."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from faults.case import CANCELLED, FAILED, MOVED, NO_MOVE, PARKED
from faults.ferry import SQL_ERRORS
from faults.host_moves import host_places
from faults.host_moves.host_scene import HostScene, serves_disks
from lab import GuestSilent, Host, LabError
from lab.ledger import WRITE

MARK = "urn:blockferry"
GUARDS = ("blockferry:host_move_calls", "blockferry:arrival_calls", "blockferry.safety.guard")
GUARD_S = 60.0
PORTS = range(49152, 49344)
"""Of migrations and of copies of disks (docs/move-to-another-host.md)."""
LISTENING = "0A"


def judge(scene: HostScene, end: str) -> None:
    """Look at everything. Raises LabError only when the lab itself is broken."""
    if end not in scene.ends:
        scene.wrong(f"the move ended as {end!r}; right is {', '.join(sorted(scene.ends))}")
    one_instance(scene)
    host = _where(scene, end)
    if host is None:
        return
    scene.guest.host = host
    _configuration(scene, host)
    _leftovers(scene, host)
    _processes(scene)
    _content(scene)
    one_instance(scene)


def one_instance(scene: HostScene) -> None:
    """At no instant two: by who was heard from where, and by what the guest reported as written."""
    if len([host for host in (scene.source, scene.dest) if host.up() and host.qemu(scene.vm)]) > 1:
        scene.wrong(f"both hosts have a QEMU of {scene.vm}")
    if scene.run:
        twice = scene.ground.witness.twice(scene.run)
        if twice:
            first, second = twice[0]
            scene.wrong(
                f"two instances of {scene.vm} have run: {len(twice)} datagrams were sent twice, from {first.host}, and "
                f"{(second.heard_ns - first.heard_ns) / 1e9:.2f} s later from {second.host}"
            )
        if not scene.ground.witness.heard(scene.run):
            scene.wrong("the witness has heard nothing of the guest")
    events = scene.guest.judge.ledger().events
    numbers = [
        (events.serial[at], events.number[at])
        for at in range(scene.events, len(events.kind))
        if events.kind[at] == WRITE
    ]
    if len(numbers) != len(set(numbers)):
        scene.wrong(f"two instances of {scene.vm} have run: {len(numbers) - len(set(numbers))} writes came twice")


def _where(scene: HostScene, end: str) -> Host | None:
    """The one host that has it: that which the end of the move says. Its state must be right."""
    wanted = {MOVED: scene.dest, CANCELLED: scene.source, FAILED: scene.source, NO_MOVE: scene.source}.get(end)
    right = {scene.state} | ({"shut off"} if scene.may_be_off else set())

    def settled() -> bool:
        return sorted(scene.states())[0] == "absent" and bool(right & set(scene.states()))

    scene.wait(settled, 30, 0.2)
    states = dict(zip((scene.source, scene.dest), scene.states(), strict=True))
    there = [host for host, state in states.items() if state != "absent"]
    told = ", ".join(f"{host.name}: {state}" for host, state in states.items())
    if len(there) != 1:
        scene.wrong(f"{scene.vm} is defined on {len(there)} hosts ({told}); the move ended as {end}")
        return None
    if wanted is not None and there[0] is not wanted:
        scene.wrong(f"the move is said to be {end}, but {scene.vm} is on {there[0].name}")
    state = states[there[0]]
    if state not in right:
        scene.wrong(f"{scene.vm} is {state}; right is {' or '.join(sorted(right))}")
    for host in (scene.source, scene.dest):
        runs = host.qemu(scene.vm) is not None
        if runs != (host is there[0] and state in ("running", "paused")):
            scene.wrong(f"{scene.vm} is {states[host]} on {host.name}, but its QEMU is {'' if runs else 'not '}there")
    return None if end == PARKED else there[0]


def _sources(xml: str) -> dict[str, str]:
    found = {}
    for disk in ElementTree.fromstring(xml).iterfind("devices/disk[@device='disk']"):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and source is not None:
            found[target.attrib["dev"]] = source.get("file") or ""
    return found


def _configuration(scene: HostScene, host: Host) -> None:
    """Persistent, live and persistent alike, on the datastore of that host, without a mark."""
    if "yes" not in _persistent(host, scene.vm):
        scene.wrong(f"{scene.vm} has no persistent definition on {host.name}")
    xml, inactive = scene.guest.xml(), scene.guest.xml(inactive=True)
    live, config = _sources(xml), _sources(inactive)
    if live != config:
        scene.wrong(f"live and persistent configuration differ: {live}, {config}")
    own = [store.path for store in scene.ground.stores_of(host)]
    if not config or not all(any(Path(path).is_relative_to(place) for place in own) for path in config.values()):
        scene.wrong(f"its disks are not on a datastore of {host.name}: {config}")
    for text, which in ((xml, "live"), (inactive, "persistent")):
        if MARK in text:
            scene.wrong(f"a mark is left ({which})")


def _persistent(host: Host, vm: str) -> str:
    lines = host.virsh("dominfo", vm).splitlines()
    return next((line for line in lines if line.startswith("Persistent")), "")


def _leftovers(scene: HostScene, host: Host) -> None:
    """No file that nobody accounts for, and nothing on either host that `orphans` calls an orphan."""
    ground = scene.ground
    used = set(_sources(scene.guest.xml(inactive=True)).values())
    accounted: set[str] = set()
    with contextlib.suppress(*SQL_ERRORS):
        accounted = ground.ferry.kept()
    missing = {path for path in used if not Path(path).exists()}
    if missing:
        scene.wrong(f"a disk of the VM is gone: {', '.join(sorted(missing))}")
    homes = {str(Path(path).parent) for path in used | accounted}
    left = ground.files_of(scene.guest) - used - accounted - homes
    if left:
        scene.wrong(f"left over: {', '.join(sorted(left))}")
    for path in sorted(accounted & ground.files_of(scene.guest)):
        scene.note(f"kept, and said so: {path}")
    said = scene.do("orphans")
    found = next((document for document in said.documents if document.get("kind") == "orphans"), None)
    if found is None or found.get("unsearched"):
        scene.wrong(f"orphans could not be listed: {said if found is None else found['unsearched']}")
    for orphan in [] if found is None else found["orphans"]:
        if orphan.get("kind") not in ("source", "partial"):
            scene.wrong(f"an orphan on {orphan.get('host')}: {orphan.get('path')}: {orphan.get('why')}")


def _processes(scene: HostScene) -> None:
    """No guard, no server of a disk, no open port."""

    def guards(argv: list[str]) -> bool:
        return any(word in GUARDS for word in argv)

    for host in (scene.source, scene.dest, scene.ground.desk):
        if not scene.wait(lambda here=host: here.find_process(guards) is None, GUARD_S, 0.5):  # type: ignore[misc]
            scene.wrong(f"a guard is left on {host.name} after {GUARD_S:g} s")
        if not scene.wait(lambda here=host: here.find_process(serves_disks) is None, 30, 0.5):  # type: ignore[misc]
            scene.wrong(f"a qemu-nbd is left on {host.name}")
        if not scene.wait(lambda here=host: not _listening(here), 15, 0.5):  # type: ignore[misc]
            scene.wrong(f"{host.name} still listens on {_listening(host)}")
    for host in (scene.source, scene.dest):
        notes = sorted(path.name for path in (host.directory / "run/blockferry").glob("host-move-*"))
        if notes:
            # Written by a guard that was cut off, after the manager had removed its note: empty, and gone with a boot.
            scene.note(f"notes are left on {host.name}: {', '.join(notes)}")


def _listening(host: Host) -> list[int]:
    found = []
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/{host.namespaces.init.pid}/net/{table}")
        for line in path.read_text().splitlines()[1:]:
            words = line.split()
            port = int(words[1].rpartition(":")[2], 16)
            if words[3] == LISTENING and port in PORTS:
                found.append(port)
    return found


# -- its data -------------------------------------------------------------------------------------------------------


def _content(scene: HostScene) -> None:
    """No acknowledged write is lost, none has failed, and the session from outside goes on."""
    guest, state = scene.guest, scene.guest.state()
    if state == "paused" and scene.kind == host_places.PAUSED:
        guest.resume()
        state = guest.state()
    if state == "running":
        _session(scene)
        _live(scene)
        guest.suspend()  # flushes; nobody writes while the file is read
        try:
            _files(scene, flushed_only=False)
        finally:
            guest.resume()
        _no_failures(scene)
        return
    _files(scene, flushed_only=scene.flushed_only)
    if scene.kind not in host_places.OFF:
        try:
            guest.start()
            scene.ground.awake(guest)
            _live(scene)
        except LabError as why:
            scene.wrong(f"the VM does not start again: {str(why).splitlines()[0]}")


def _session(scene: HostScene) -> None:
    """The same TCP session as before the move: what the guest's kernel and the desk's know of it has survived."""
    talk = scene.talk
    if talk is None:
        return
    before = scene.answers()
    if not scene.wait(lambda: talk.poll() is not None or scene.answers() > before + 3, 100, 0.2):
        scene.wrong("the TCP session from outside gets no answer any more")
    elif talk.poll() is not None:
        scene.wrong(f"the TCP session from outside has ended: {scene.heard.read_text()[-200:]}")


def _live(scene: HostScene) -> None:
    try:
        scene.guest.judge.wait_writes(5, timeout=60)
        verdict = scene.guest.judge.verify_live(timeout=120)
    except (GuestSilent, LabError) as why:
        scene.wrong(f"the guest does not write on: {str(why).splitlines()[0]}")
        return
    if not verdict.ok:
        scene.wrong(f"the judge in the guest: {verdict.text.strip()[:400]}")


def _files(scene: HostScene, *, flushed_only: bool) -> None:
    formats = scene.guest.formats(inactive=True)
    for target, path in _sources(scene.guest.xml(inactive=True)).items():
        try:
            verdict = scene.guest.judge.check_image(target, path, formats[target], flushed_only=flushed_only)
        except (LabError, OSError) as why:
            scene.wrong(f"{path} cannot be read: {str(why).splitlines()[-1]}")
            continue
        if not verdict.ok:
            scene.wrong(f"lost writes: {verdict}")


def _no_failures(scene: HostScene) -> None:
    failed = sum(disk.failures for disk in scene.guest.judge.ledger().disks.values()) - scene.guest_failures
    if failed:
        scene.wrong(f"{failed} writes failed in the guest")


def longest_gap(scene: HostScene, until_ns: int) -> float:
    """Seconds for which nothing came from a guest that ran, from the move's begin to the verdict."""
    return scene.guest.judge.longest_gap(scene.began_ns, until_ns) if scene.state == "running" else 0.0
