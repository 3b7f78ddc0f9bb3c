"""The bookkeeping of `bench methods`: which trials there are, making them in pieces, what the tables say of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bench import methods_report
from bench.methods import LOADS, SIZES, Comparison, Settings, Trial, go_through, planned
from bench.orders import COMPARED, MIRROR, VIRSH, WAYS
from bench.record import GuestFigures
from lab.sizes import MIB

pytestmark = pytest.mark.slow

SETTINGS = Settings(
    rounds=2, sizes=SIZES, bandwidth=32 * MIB, format="qcow2", ways=COMPARED, loads=LOADS, patience=4.0, seed=1
)
RESULT = Path(__file__).parents[2] / "bench/results/methods-2026-11-23.json"


def a_run(*trials: Trial, ways: tuple[str, ...] = (MIRROR, VIRSH)) -> Comparison:
    return Comparison("now", {}, replace(SETTINGS, ways=ways), list(trials))


def made(trial: Trial) -> None:
    trial.seconds = trial.size / 32 / MIB
    trial.read_bytes = trial.written_bytes = trial.size


def cells(run: Comparison, title: str) -> dict[str, tuple[str, ...]]:
    """Way -> the rest of its row, of the table that begins so."""
    (table,) = [one for one in methods_report.tables(run) if one.title.startswith(title)]
    return {way: rest for way, *rest in table.rows}  # type: ignore[misc]


def test_each_way_meets_every_size_idle_and_every_load_on_the_middle_one_once_a_round() -> None:
    found = planned(SETTINGS)
    cases = {(size, 0.0) for size in SIZES} | {(SIZES[1], load) for load in LOADS}
    assert Counter(trial.key for trial in found) == Counter(
        (way, number, size, load) for way in COMPARED for number in (1, 2) for size, load in cases
    )
    assert len(found) == 2 * 49


def test_the_order_is_the_seeds_and_a_round_is_whole_before_the_next_one() -> None:
    keys = [trial.key for trial in planned(SETTINGS)]
    assert keys == [trial.key for trial in planned(SETTINGS)]
    assert keys != [trial.key for trial in planned(replace(SETTINGS, seed=2))]
    numbers = [number for _, number, _, _ in keys]
    assert numbers == sorted(numbers)


def test_what_is_compared_are_ways_each_once() -> None:
    assert len(COMPARED) == len(set(COMPARED)) == 7
    assert set(COMPARED) <= set(WAYS)


@pytest.mark.parametrize("first", [0, 1, 48, 49, 97, 98])
def test_a_run_in_two_pieces_is_the_run_in_one(tmp_path: Path, first: int) -> None:
    """The time is over after `first` trials; what is lacking is made by another process from the file alone."""
    path = tmp_path / "run.json"
    run = a_run(ways=COMPARED)
    run.save(path)
    go_through(run, path, made, time_over=lambda: len(run.trials) == first)
    assert len(Comparison.load(path).trials) == first
    assert (Comparison.load(path).finished is None) == (first < 98)
    again = Comparison.go_on(path)
    assert again.finished is None
    go_through(again, path, made)
    whole = Comparison.load(path)
    assert [trial.key for trial in whole.trials] == [trial.key for trial in planned(SETTINGS)]
    assert whole.finished is not None
    assert (len(whole.gone_on), whole.todo()) == (1, [])


def test_every_trial_is_on_disk_as_soon_as_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run = a_run(ways=(MIRROR,))
    seen = []
    go_through(run, path, made, told=lambda _trial: seen.append(len(Comparison.load(path).trials)))
    assert seen == list(range(1, 15))


def test_a_trial_that_fails_is_told_of_and_made_again_when_the_run_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run.json"

    def no_clone(trial: Trial) -> None:
        if trial.load == 2.0:
            raise RuntimeError("the lamp went out")
        made(trial)

    run = a_run(ways=(MIRROR,))
    go_through(run, path, no_clone)
    assert len(methods_report.failures(Comparison.load(path))) == 2
    again = Comparison.go_on(path)
    assert [(one.round, one.load) for one in again.todo()] == [(1, 2.0), (2, 2.0)]
    go_through(again, path, made)
    assert methods_report.failures(Comparison.load(path)) == []
    assert len(Comparison.load(path).trials) == 14


def test_where_a_way_stops_converging() -> None:
    """One that ends at a heavy load by chance, after it did not at a lighter one, does not converge up to there."""
    run = a_run()
    for trial in planned(run.settings):
        made(trial)
        stops = (trial.load == 0.5 and trial.round == 2) or trial.load == 1.0
        if trial.way == VIRSH and stops:
            trial.not_in_step = "not in step after 32 s"
        run.trials.append(trial)
    found = cells(run, "Where")
    assert found[MIRROR][-1] == "2 x, all that were tried"
    assert tuple(found[VIRSH][2:]) == ("8.0; never in 1 of 2", "never", "8.0 (8.0 - 8.0)", "0.25 x")


def test_a_load_that_was_not_tried_yet_is_not_counted() -> None:
    found = cells(a_run(Trial(MIRROR, 1, SIZES[1], 0.0, seconds=8.0)), "Where")
    assert tuple(found[MIRROR]) == ("8.0", *["not tried"] * 4, "idle, all that were tried")
    assert VIRSH not in found


def test_what_failed_is_in_no_table() -> None:
    run = a_run(Trial(MIRROR, 1, SIZES[1], 0.0, seconds=8.0, failure="RuntimeError: no"))
    assert methods_report.tables(run) == []


def test_the_line_through_the_sizes_and_the_bytes_beside_it() -> None:
    run = a_run()
    for trial in planned(run.settings):
        made(trial)
        run.trials.append(trial)
    *_, slope, besides, squared, moved = cells(run, "Against the size")[MIRROR]
    assert (slope, float(besides), squared) == ("32.0", 0.0, "1.0000")
    assert moved.count("2.00") == 9


def test_the_guest_during_the_move_is_told_absolutely_and_as_a_share() -> None:
    before = GuestFigures(3.0, 900.0, 32.0 * MIB, 0.4, 1.0, 0.01)
    during = GuestFigures(8.0, 450.0, 16.0 * MIB, 0.8, 7.0, 0.02)
    run = a_run(Trial(MIRROR, 1, SIZES[1], 0.5, 8.0, before=before, during=during, stall_s=0.02))
    (row,) = [list(cell) for cell in cells(run, "Against the guest").values()]
    assert row[0] == MIRROR
    assert row[4:7] == ["16 MiB/s: 0.50", "1.0 → 7.0", "20"]


def test_a_result_of_an_earlier_version_is_understood(tmp_path: Path) -> None:
    run = Comparison.load(RESULT)
    assert run.trials
    assert run.todo() == []
    methods_report.picture(run, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
