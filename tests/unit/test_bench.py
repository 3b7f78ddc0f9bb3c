"""The benchmark's own bookkeeping: which trials a run has, going on with one, its tables, its place in a document."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from bench import more_tables, moving, rendering, resuming, running, tables
from bench.found import Results
from bench.record import Broken, Run, Settings, Trial
from lab.sizes import GIB, MIB

RESULT = Path(__file__).parents[2] / "bench/results/2026-11-23.json"

SETTINGS = Settings(
    rounds=2,
    size=GIB,
    fill=GIB,
    switch_rounds=2,
    switch_size=128 * MIB,
    before_s=1.0,
    formats=("raw", "qcow2"),
    measures=(*running.MEASURES, *running.MORE),
    seed=1,
)


def a_run(*trials: Trial) -> Run:
    return Run(1, "now", {}, SETTINGS, list(trials))


def a_broken(share: float, **figures: Any) -> Trial:
    broken = Broken(resuming.QEMU_DIES, share, whole=GIB, **figures)
    return Trial("resume", "blockferry changed-blocks", 1, 0, "qcow2", "writing", seconds=1.0, broken=broken)


def test_the_same_settings_plan_the_same_trials_each_once() -> None:
    first, again = running.planned(SETTINGS), running.planned(SETTINGS)
    assert [trial.key for trial in first] == [trial.key for trial in again]
    assert max(Counter(trial.key for trial in first).values()) == 1
    assert {trial.measure for trial in first} == set(SETTINGS.measures)
    assert [trial.key for trial in running.planned(replace(SETTINGS, seed=2))] != [trial.key for trial in first]


@pytest.mark.parametrize("measure", running.MORE)
def test_one_measure_alone_has_only_its_own(measure: str) -> None:
    assert {trial.measure for trial in running.planned(replace(SETTINGS, measures=(measure,)))} == {measure}


def test_a_resumption_is_tried_for_every_cause_and_share() -> None:
    found = Counter(
        (trial.format, trial.broken.cause, trial.broken.share)
        for trial in resuming.trials(SETTINGS, random.Random(1))
        if trial.broken
    )
    assert found == {
        (kind, cause, share): SETTINGS.rounds
        for kind in SETTINGS.formats
        for cause in resuming.CAUSES
        for share in resuming.SHARES
    }


def test_an_interrupted_run_keeps_what_it_has_and_makes_anew_what_failed(tmp_path: Path) -> None:
    good, bad, *rest = running.planned(replace(SETTINGS, measures=("verify",)))
    bad.failure = "the lamp went out"
    run = a_run(good, bad)
    run.finished = "then"
    run.save(tmp_path / "run.json")
    again = Run.go_on(tmp_path / "run.json")
    assert [trial.key for trial in again.trials] == [good.key]
    assert (again.settings, again.finished, len(again.gone_on)) == (SETTINGS, None, 1)
    assert rest


def test_a_result_of_an_earlier_version_is_understood() -> None:
    run = Run.load(RESULT)
    assert [table.title[0] for table in tables.tables(run)] == ["A", "A", "A", "B", "C"]
    assert list(tables.sections(run)) == [rendering.RESULTS]


def test_what_could_have_been_copied_since_the_last_look_counts_as_copied() -> None:
    broken = Broken("x", 0.95, copied=900, whole=1000, unsure=30)
    assert broken.missing == 70
    assert replace(broken, unsure=300).missing == 0


@pytest.mark.parametrize(("rewritten", "kept"), [(100 * MIB, "yes"), (120 * MIB, "NO")])
def test_the_promise_is_judged_by_the_worst(rewritten: int, kept: str) -> None:
    """At 95 % 51 MiB are missing; 6 % of 1 GiB are 61 MiB more."""
    copied = GIB - 51 * MIB
    run = a_run(
        a_broken(0.95, copied=copied, rewritten=55 * MIB, device_written=56 * MIB),
        a_broken(0.95, copied=copied, rewritten=rewritten, device_written=56 * MIB),
        a_broken(0.5, copied=GIB // 2, rewritten=GIB, device_written=GIB),  # no promise there
    )
    rows = more_tables.promise(Results(run)).rows
    assert [(row[1], row[2], row[-1]) for row in rows] == [
        ("blockferry's report", "2", kept),
        ("the device's counter", "2", "yes"),
    ]


def test_every_buffer_is_compared_with_the_default_one() -> None:
    trials = [trial for trial in moving.trials_of_buffer(SETTINGS, random.Random(1)) if trial.load == moving.IDLE]
    for trial in trials:
        trial.seconds, trial.copy_s = 3.0, 2.0 if trial.buffer == moving.BUFFERS[0] else 4.0
    rows = more_tables.buffer(Results(a_run(*trials))).rows
    ratios = {(row[0], row[3]): row[6] for row in rows}
    assert ratios["raw", "1 MiB"].startswith("1.00")
    assert ratios["qcow2", "16 MiB"].startswith("0.50")  # half as fast


def test_a_section_is_put_between_its_own_marks_only(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    document.write_text(
        "a\n<!-- verify: begin -->\nold\n<!-- verify: end -->\n<!-- resume: begin -->\nb\n<!-- resume: end -->\n"
    )
    rendering.put_into(document, "new", "verify")
    said = document.read_text()
    assert "old" not in said
    assert "<!-- verify: begin -->\n\nnew\n<!-- verify: end -->" in said
    assert "<!-- resume: begin -->\nb\n<!-- resume: end -->" in said
    with pytest.raises(click.ClickException, match="pace"):
        rendering.put_into(document, "new", "pace")


@pytest.mark.parametrize("section", ["results", *running.MORE])
def test_the_document_has_a_place_for_every_section(section: str) -> None:
    said = (Path(__file__).parents[2] / "docs/performance.md").read_text()
    assert said.count(f"<!-- {section}: begin -->") == said.count(f"<!-- {section}: end -->") == 1
