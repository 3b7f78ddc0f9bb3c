"""Playing cases one after the other: each is judged, written down, and cleared away so that none hurts the next."""

from __future__ import annotations

import contextlib
import time
import traceback

from faults import devices, journals, kills, people, places, power, scene, verdict
from faults.case import Case, Catalogue, Fault
from faults.ferry import SQL_ERRORS
from faults.ground import Ground
from faults.record import Result, now
from faults.scene import Scene
from lab import LabError


def catalogue() -> Catalogue[Fault]:
    """Every fault there is."""
    found = Catalogue[Fault]()
    for module in (kills, people, devices, journals, power):
        module.add_to(found)
    return found


def play(ground: Ground, known: Catalogue[Fault], case: Case, seed: int) -> Result:
    """One case from beginning to end. Never raises for what the accused did; raises LabError if the lab is beyond
    mending.
    """
    fault = known.faults[case.fault]
    began = time.monotonic()
    result = Result(case.id, fault.name, fault.group, case.method, case.disks, case.place, case.place, "", now())
    ground.mend()  # if that fails, no case can be played
    try:
        one = scene.open_scene(case, fault, ground, seed)
    except LabError as why:
        result.findings.append(f"the case could not be set up: {why}")
        result.seconds = time.monotonic() - began
        _clear(ground, case)
        return result
    try:
        result.end = scene.play(one)
        verdict.judge(one, result.end)
        result.longest_gap_s = round(verdict.longest_gap(one), 3)
    except (LabError, OSError, *SQL_ERRORS) as why:
        one.wrong(f"{type(why).__name__}: {why}")
        one.note("".join(traceback.format_exception(why)[-3:]))
    result.point = one.point
    result.phase = case.place if case.place == places.AT_RANDOM else places.phase_of(one.point, case.method)
    result.reached, result.kills = one.reached, one.kills
    result.findings, result.notes = one.findings, one.notes
    if one.findings:
        result.evidence = _evidence(one)
    _tidy(one)
    result.seconds = round(time.monotonic() - began, 2)
    return result


def _tidy(one: Scene) -> None:
    """Leave a guest that the next case can have, or none."""
    try:
        if one.process is not None and one.process.poll() is None:
            one.kill_us()
        one.fault.tidy(one)
        if not one.findings:
            one.take_what_was_kept(one.ground.files_of(one.guest))
        if not one.findings and not one.harmed:
            return
        one.ground.mend()
    except (LabError, OSError) as why:
        one.note(f"clearing away: {why}")
    one.ground.retire(one.guest)


def _clear(ground: Ground, case: Case) -> None:
    with contextlib.suppress(LabError):
        ground.mend()
    guest = ground.known(case.disks, running=case.method != places.COLD)
    if guest is not None:
        ground.retire(guest)


def _evidence(one: Scene) -> list[str]:
    found = []
    with contextlib.suppress(*SQL_ERRORS, OSError):
        move = one.move()
        if move is not None:
            found += [f"move {move.id}: {move.record}", *one.ferry.story(move.id)]
    with contextlib.suppress(LabError, OSError):
        found += one.guest.evidence().splitlines()[-60:]
    return found
