"""The fault matrix as data: every named point is walked, every case is determined by its id and the seed."""

from __future__ import annotations

import random

import pytest
from click.testing import CliRunner

from blockferry.host_move.points import point as host_move_point
from blockferry.leftovers import quarantine
from blockferry.storage_move.points import point as move_point
from blockferry.tracking import effects as tracking_effects
from faults import matrix, places, tables
from faults.case import Case
from faults.cli import main
from faults.host_moves import host_matrix, host_places
from faults.record import Result, Run


def test_every_named_point_of_the_engine_is_walked_by_kills_of_our_process() -> None:
    walked = {case.place for case in matrix.catalogue().cells(["kill-us"])} - {places.AT_RANDOM}
    assert walked | set(places.COURSE) == {*move_point.names, *tracking_effects.point.names, *quarantine.point.names}
    assert not walked & set(places.COURSE)


def test_every_fault_strikes_in_every_phase_it_can() -> None:
    known = matrix.catalogue()
    for fault in known.faults.values():
        for method in fault.methods:
            for place in fault.at(method, 3):
                if place in places.PHASES:
                    assert places.points(place, method, 3), f"{fault.name}: no point of {place} in a {method} move"


def test_an_id_is_read_back() -> None:
    for case in matrix.catalogue().cells():
        assert Case.parse(case.id) == case
    with pytest.raises(ValueError):
        Case.parse("kill-us/mirror")


def test_chance_follows_from_seed_and_id_alone() -> None:
    case = Case("kill-us", "mirror", 1, "pivoted")
    assert case.chance(7).random() == Case.parse(case.id).chance(7).random()
    assert case.chance(7).random() != case.chance(8).random()
    assert case.chance(7).random() != Case("kill-us", "mirror", 1, "pivoted", 1).chance(7).random()


def test_a_full_plan_has_every_cell_once_first_and_then_kills_enough() -> None:
    known = matrix.catalogue()
    plan = known.plan(3, kills=1500)
    cells = known.cells()
    assert {case.id for case in plan[: len(cells)]} == {case.id for case in cells}
    assert sum(known.faults[case.fault].kills for case in plan) >= 1500
    assert len({case.id for case in plan}) == len(plan)
    assert all(known.faults[case.fault].kills for case in plan[len(cells) :])
    assert [case.id for case in plan] == [case.id for case in known.plan(3, kills=1500)]


def test_an_unknown_fault_or_case_is_refused() -> None:
    assert "no fault or group" in CliRunner().invoke(main, ["--list", "--only", "nonsense"]).output
    assert "no case's id" in CliRunner().invoke(main, ["--repeat", "nonsense"]).output


def test_tables_count_what_was_right_and_name_what_was_wrong() -> None:
    known = matrix.catalogue()
    run = Run(1, 5, "2026-11-23", {"qemu": "7.2"})
    for case in random.Random(5).sample(known.cells(), 40):
        fault = known.faults[case.fault]
        run.results.append(
            Result(
                case.id,
                fault.name,
                fault.group,
                case.method,
                case.disks,
                case.place,
                case.place,
                "bulk",
                "",
                end="moved",
            )
        )
    run.results[3].findings = ["a disk of the VM is gone: vda\nand more"]
    text = tables.to_markdown(run, known)
    assert "40 cases, 0 kills, 39 right, 1 wrong" in text
    assert f"WRONG: {run.results[3].case}: a disk of the VM is gone: vda" in text
    assert all(f"| {result.fault} |" in text for result in run.results)


def test_runs_are_joined_and_every_result_keeps_its_seed() -> None:
    def run(seed: int, started: str, findings: list[str]) -> Run:
        case = Case("kill-us", "mirror", 1, "pivoted")
        result = Result(case.id, "kill-us", "kill", "mirror", 1, "pivoted", "pivoted", "switch", "", kills=2)
        result.findings = findings
        return Run(1, seed, started, {}, results=[result])

    both = Run.joined([run(8, "13:00", ["lost"]), run(7, "12:00", [])])
    assert (both.kills, both.seeds, both.started) == (4, (7, 8), "12:00")
    text = tables.to_markdown(both, matrix.catalogue())
    assert "2 cases, 4 kills, 1 right, 1 wrong; seeds 7, 8;" in text
    assert "WRONG: kill-us/mirror/1/pivoted/0 (seed 8): lost" in text


def test_every_named_point_of_a_move_between_hosts_is_walked_by_kills_of_our_process() -> None:
    walked = {case.place for case in host_matrix.catalogue().cells(["kill-us"])} - {host_places.UNDER_WAY}
    assert walked | set(host_places.RARE) | set(host_places.CALLS) == set(host_move_point.names)
    assert not walked & {*host_places.RARE, *host_places.CALLS}


def test_every_place_of_a_move_between_hosts_lies_in_a_part_of_it() -> None:
    for case in host_matrix.catalogue().cells():
        assert host_places.part_of(case.place, case.method) in host_places.PARTS, case.id


def test_the_names_of_faults_are_not_those_of_the_other_matrix() -> None:
    """`report` tells by the kind of VM which matrix a record is of; nobody should have to guess by a fault's name."""
    kinds, methods = set(host_places.KINDS), set(places.METHODS)
    assert not kinds & methods


def test_tables_of_moves_between_hosts() -> None:
    known = host_matrix.catalogue()
    run = Run(1, 5, "2026-11-30", {"qemu": "7.2"})
    for case in known.cells(["cut"]):
        part = host_places.part_of(case.place, case.method)
        result = Result(case.id, "cut", "link", case.method, 1, case.place, case.place, part, "", end="moved")
        run.results.append(result)
    text = tables.to_markdown(run, known)
    assert f"| link | cut | {known.faults['cut'].what} | {len(run.results)} of {len(run.results)} |" in text
    assert "### By part of the move" in text
