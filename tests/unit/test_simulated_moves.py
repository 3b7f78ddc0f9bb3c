"""The real effects of a move (`perform`), its real loop, against a simulated host: killed anywhere, and often.

Before and after every call to the outside a process can die. Whatever happens: no acknowledged write is lost, none that
was flushed when power fails, no source is removed that is needed, all disks are on one side, nothing is left over.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from effort import EVERYTHING, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_host.moves import Run, Wish, build, check_end, disturb, happening, installed

from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.request import Method, OnBreak


@pytest.fixture(scope="module", autouse=True)
def machine_time() -> Iterator[None]:
    with installed():
        yield


WISHES = {
    "changed-blocks": Wish(),
    "changed-blocks, start race": Wish(2, start_race=True),
    "changed-blocks, overlay first": Wish(1, start_race=True, overlay_first=True),
    "mirror": Wish(2, Method.MIRROR),
    "mirror, start race": Wish(1, Method.MIRROR, start_race=True),
    "mirror, start race, no guard": Wish(1, Method.MIRROR, start_race=True, guarded=False),
    "snapshot": Wish(2, Method.SNAPSHOT),
    "snapshot, start race": Wish(1, Method.SNAPSHOT, start_race=True),
    "raw to qcow2": Wish(source_format="raw"),
    "qcow2 to raw": Wish(dest_format="raw"),
    "layers": Wish(layers=True),
    "off": Wish(2, runs=False),
    "off, to raw": Wish(runs=False, dest_format="raw"),
    "keep": Wish(delete=False),
    "mirror, verified": Wish(2, Method.MIRROR, verify=True),
    "snapshot, verified": Wish(1, Method.SNAPSHOT, verify=True),
    "off, verified": Wish(runs=False, verify=True),
    "snapshot, keep": Wish(1, Method.SNAPSHOT, delete=False),
}


@pytest.mark.parametrize("name", WISHES)
def test_a_quiet_move(name: str) -> None:
    run = Run(*build(WISHES[name], 1))
    outcome = run.to_the_end()
    check_end(run, outcome)
    assert outcome is Outcome.MOVED, "\n".join(run.journal.story)
    assert len(run.points) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", WISHES)
def test_killed_once_at_every_point(name: str) -> None:
    """Before and after each call that changes something, one death; the next process brings the move to its end."""
    quiet = Run(*build(WISHES[name], 1))
    quiet.to_the_end()
    for point in range(1, quiet.points[0] + 1, 1 if EVERYTHING else 3):
        run = Run(*build(WISHES[name], 1))
        outcome = run.to_the_end([point])
        check_end(run, outcome)
        assert outcome is Outcome.MOVED, f"point {point}, {run.deaths}\n" + "\n".join(run.journal.story)


@pytest.mark.slow
@pytest.mark.parametrize("name", WISHES)
def test_cancelled_at_every_point(name: str) -> None:
    """The wish comes with a death; the source is as it was, or the move is across, and nothing is left over."""
    quiet = Run(*build(WISHES[name], 1))
    quiet.to_the_end()
    for point in range(1, quiet.points[0] + 1, 2 if EVERYTHING else 7):
        run = Run(*build(WISHES[name], 1))
        outcome = run.process(point)
        if outcome is None:
            run.journal.wanted = Wanted.CANCEL
            outcome = run.to_the_end()
        check_end(run, outcome)
        assert outcome in (Outcome.MOVED, Outcome.CANCELLED), f"point {point}, {run.deaths}\n" + "\n".join(
            run.journal.story
        )


@pytest.mark.slow
@pytest.mark.parametrize("event", ["libvirtd restarts", "power off", "qemu dies", "power fails", "job fails", "lost"])
@pytest.mark.parametrize("name", ["mirror, verified", "snapshot", "snapshot, start race", "off", "raw to qcow2"])
def test_something_happens_at_every_point(name: str, event: str) -> None:
    """And a VM that went off by it is started again, some calls later."""
    quiet = Run(*build(WISHES[name], 1))
    quiet.to_the_end()
    first = sum(map(ord, name + event)) % 5
    for point in range(1 + first, quiet.points[0] + 1, 1 if EVERYTHING else 11):
        run = Run(*build(WISHES[name], 1))
        again = happening(run, "power on")
        outcome = run.process(None, {point: happening(run, event), **dict.fromkeys(range(point + 9, 1000, 23), again)})
        if outcome is None and not run.journal.parked:
            outcome = run.to_the_end()
        check_end(run, outcome)
        assert outcome is not None or event in ("power off", "qemu dies", "power fails", "lost"), "\n".join(
            [f"point {point}: {event}", *run.journal.story]
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["off", "snapshot", "changed-blocks, start race"])
def test_started_in_the_moment_of_any_call(name: str) -> None:
    """It went off before; who starts it comes between any look and what is done by it."""
    quiet = Run(*build(WISHES[name], 1))
    quiet.to_the_end()
    for off in range(20, 140, 10 if EVERYTHING else 40) if WISHES[name].runs else [1]:
        for on in range(off + 1, off + 120, 1 if EVERYTHING else 9):
            run = Run(*build(WISHES[name], 1))
            went = {off: happening(run, "power off")} if WISHES[name].runs else {}
            outcome = run.process(None, {**went, on: happening(run, "power on")})
            check_end(run, outcome)
            assert outcome is Outcome.MOVED, "\n".join([f"off {off}, on {on}", *run.journal.story])


wishes = st.builds(
    Wish,
    disks=st.integers(1, 3),
    method=st.sampled_from([Method.CHANGED_BLOCKS, Method.MIRROR, Method.SNAPSHOT]),
    start_race=st.booleans(),
    runs=st.sampled_from([True, True, True, False]),
    source_format=st.sampled_from(["qcow2", "qcow2", "raw"]),
    dest_format=st.sampled_from(["qcow2", "qcow2", "raw"]),
    delete=st.booleans(),
    guarded=st.sampled_from([True, True, True, False]),
    overlay_first=st.booleans(),
    verify=st.booleans(),
    on_break=st.sampled_from(list(OnBreak)),
)
deaths = st.lists(st.integers(1, 150), max_size=5)
seeds = st.integers(0, 2**32)


@settings(max_examples=examples(120))
@given(wish=wishes, dies_at=deaths, seed=seeds)
def test_killed_any_number_of_times(wish: Wish, dies_at: list[int], seed: int) -> None:
    run = Run(*build(wish, seed))
    outcome = run.to_the_end(dies_at)
    check_end(run, outcome)
    assert outcome is Outcome.MOVED, "\n".join(run.journal.story)


EVENTS = [
    *("cancel", "power off", "power on", "power on", "qemu dies", "owner pauses", "owner resumes", "job fails"),
    *("pivot refused", "libvirtd restarts", "answer lost", "power fails"),
]


@pytest.mark.slow
@settings(max_examples=examples(1200))
@given(wish=wishes, dies_at=deaths, events=st.lists(st.sampled_from(EVENTS), max_size=6), seed=seeds)
def test_whatever_happens_nothing_is_lost(wish: Wish, dies_at: list[int], events: list[str], seed: int) -> None:
    """What happens to the host comes between any two calls, in this order."""
    run = Run(*build(wish, seed))
    disturb(run, events)
    check_end(run, run.to_the_end(dies_at))
