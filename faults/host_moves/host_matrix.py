"""Playing cases of moves between hosts: each is judged, written down, and cleared away so that none hurts the next."""

from __future__ import annotations

import contextlib
import os
import time
import traceback

from faults.case import Case, Catalogue
from faults.ferry import SQL_ERRORS
from faults.host_moves import host_links, host_places, host_scene, host_strikes, host_verdict
from faults.host_moves.host_fault import HostFault
from faults.host_moves.host_ground import HostGround
from faults.host_moves.host_scene import HostScene
from faults.record import Result, now
from lab import LabError


def catalogue() -> Catalogue[HostFault]:
    """Every fault there is."""
    found = Catalogue[HostFault]()
    for module in (host_strikes, host_links):
        module.add_to(found)
    return found


def play(ground: HostGround, known: Catalogue[HostFault], case: Case, seed: int) -> Result:
    """One case from beginning to end. Never raises for what the accused did; raises LabError if the lab is beyond
    mending.
    """
    fault = known.faults[case.fault]
    began = time.monotonic()
    result = Result(case.id, fault.name, fault.group, case.method, case.disks, case.place, case.place, "", now())
    result.phase = host_places.part_of(case.place, case.method)
    ground.mend()  # if that fails, no case can be played
    try:
        one = host_scene.open_scene(case, fault, ground, seed)
    except LabError as why:
        result.findings.append(f"the case could not be set up: {why}")
        guest = ground.known(case.method)
        if guest is not None:
            ground.retire(guest)
        result.seconds = round(time.monotonic() - began, 2)
        return result
    try:
        result.end = host_scene.play(one)
        over_ns = time.monotonic_ns()
        host_verdict.judge(one, result.end)
        result.longest_gap_s = round(host_verdict.longest_gap(one, over_ns), 3)
    except (LabError, OSError, *SQL_ERRORS) as why:
        one.wrong(f"{type(why).__name__}: {why}")
        one.note("".join(traceback.format_exception(why)[-3:]))
    result.reached, result.kills = one.reached, one.kills
    result.findings, result.notes = one.findings, one.notes
    if one.findings:
        result.evidence = _evidence(one)
    _tidy(one)
    result.seconds = round(time.monotonic() - began, 2)
    return result


def _tidy(one: HostScene) -> None:
    """Leave a guest that the next case can have, or none."""
    try:
        if one.process is not None and one.process.poll() is None:
            one.kill_us()
        one.close_session()
        one.fault.tidy(one)
        if not one.findings:
            one.take_what_was_kept(one.ground.files_of(one.guest))
        if not one.findings:
            return
        one.ground.mend()
    except (LabError, OSError) as why:
        one.note(f"clearing away: {why}")
    one.ground.retire(one.guest)


def _evidence(one: HostScene) -> list[str]:
    found = []
    with contextlib.suppress(*SQL_ERRORS, OSError):
        move = one.move()
        if move is not None:
            found += [f"move {move.id}: {move.record}", *one.ferry.story(move.id)]
    for path in sorted(one.ground.files_of(one.guest)):
        with contextlib.suppress(OSError):
            known = os.stat(path)
            names = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            found.append(f"{path}: {known.st_uid}:{known.st_gid} {known.st_mode:o} {known.st_size} {names}")
    for host in (one.source, one.dest):
        with contextlib.suppress(LabError, OSError):
            one.guest.host = host
            found += one.guest.evidence().splitlines()[-60:]
    return found
