"""Moves by way of overlays, by the real effects on a simulated host: which steps, in which order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lxml import etree
from simulated_host.machine import Machine
from simulated_host.moves import Run, Wish, build, check_end, installed

from blockferry.jobs.action import Action
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.request import Method


@pytest.fixture(scope="module", autouse=True)
def machine_time() -> Iterator[None]:
    with installed():
        yield


def in_order(names: list[str], *wanted: str) -> None:
    """Each of these comes, the first time, after the one before."""
    places = [names.index(name) for name in wanted]
    assert places == sorted(places), names


def moved(wish: Wish) -> list[str]:
    """The actions of a quiet move, without the waiting."""
    run = Run(*build(wish, 1))
    outcome = run.to_the_end()
    check_end(run, outcome)
    assert outcome is Outcome.MOVED
    return run.names


@pytest.mark.parametrize("method", [Method.SNAPSHOT, Method.CHANGED_BLOCKS])
def test_with_the_start_race_the_overlay_is_copied_from_its_first_moment_on(method: Method) -> None:
    """The look at an overlay that was just made is short; after the copy of a large base it may not be."""
    names = moved(Wish(method=method, start_race=True, overlay_first=True))
    in_order(names, "TakeOverlays", "CreateImage", "Suspend", "StartCopy", "Resume", "SyncBase", "FlushDestination")
    assert names.count("SyncBase") == 1


def test_without_the_start_race_the_base_goes_first() -> None:
    names = moved(Wish(method=Method.SNAPSHOT))
    in_order(names, "SyncBase", "StartCopy")
    assert names.count("Suspend") == 1  # the switch


def test_with_the_start_race_a_commit_begins_while_the_vm_stands_still() -> None:
    names = [name for name in moved(Wish(method=Method.SNAPSHOT, start_race=True)) if name != "Await"]
    commit = names.index("StartCommit")
    assert names[commit - 1] == "Suspend"
    assert names[commit + 1] == "Resume", names


def test_a_copy_that_broke_with_its_qemu_goes_on_by_way_of_overlays() -> None:
    run = Run(*build(Wish(), 1))
    run.disturbed = True
    assert run.machine.qemu is not None
    run.machine.qemu.copies = 0.02

    def restart(_action: Action) -> None:
        job = run.machine.qemu.disks["vda"].job if run.machine.qemu is not None else None
        if job is not None and job.cur and not job.ready:
            run.machine.stop()
            run.machine.start()
            run.after = lambda _later: None

    run.after = restart
    outcome = run.to_the_end()
    check_end(run, outcome)
    assert outcome is Outcome.MOVED
    after = run.names[run.names.index("ForgetCopy") :]
    in_order(after, "TakeOverlays", "SyncBase", "CreateImage", "StartCopy", "Pivot", "StartCommit", "PivotCommit")


def powered_off_once_synced(run: Run) -> None:
    """The VM goes off, with newer writes in its overlay, when its base was brought in step."""
    run.disturbed = True

    def off(_action: Action) -> None:
        if run.journal.read().disk("vda").synced is not None:
            run.machine.stop()
            run.after = lambda _later: None

    run.after = off


def test_a_vm_started_below_its_overlay_is_left_to_people() -> None:
    machine, plan = build(Wish(method=Method.SNAPSHOT), 1)
    run = Run(machine, plan)
    powered_off_once_synced(run)
    off = run.after

    def old_definition(action: Action) -> None:
        off(action)
        if machine.qemu is None:
            machine.check = lambda: None  # type: ignore[method-assign] # somebody has done what must not be done
            machine.name(machine.domain.config, "vda", machine.used()["vda"], plan.disk("vda").source.path, "qcow2")
            run.after = lambda _later: None

    run.after = old_definition
    assert run.to_the_end() is None
    assert "newer writes" in run.journal.parked


def used_once_more(machine: Machine) -> None:
    machine.start()
    for _ in range(20):
        machine.moment()
    machine.stop()


def test_an_overlay_used_again_after_it_was_committed_is_committed_again() -> None:
    """The move is taken back while the VM is off; before the configuration is written the VM runs once more."""
    run = Run(*build(Wish(method=Method.SNAPSHOT), 1))
    powered_off_once_synced(run)
    off = run.after

    def cancelled(action: Action) -> None:
        off(action)
        if run.machine.qemu is None:
            run.journal.wanted = Wanted.CANCEL
            run.after = run_again

    def run_again(action: Action) -> None:
        if isinstance(action, actions.CommitOff):
            used_once_more(run.machine)
            run.after = lambda _later: None

    run.after = cancelled
    outcome = run.to_the_end()
    check_end(run, outcome)
    assert outcome is Outcome.CANCELLED
    assert run.names.count("CommitOff") == 2, run.names


def test_started_on_a_committed_overlay_in_the_moment_in_which_the_configuration_is_written() -> None:
    """The VM runs on the overlay, and the configuration names the base, which lacks what the guest writes now."""
    machine, plan = build(Wish(method=Method.SNAPSHOT), 1)
    run = Run(machine, plan)
    powered_off_once_synced(run)
    off, defined = run.after, machine.defined

    def started_first(root: etree._Element) -> None:
        machine.defined = defined  # type: ignore[method-assign]
        machine.start()
        defined(root)

    def cancelled(action: Action) -> None:
        off(action)
        if machine.qemu is None:
            run.journal.wanted = Wanted.CANCEL
            run.after = committed

    def committed(action: Action) -> None:
        if isinstance(action, actions.CommitOff):
            machine.defined = started_first  # type: ignore[method-assign]
            run.after = lambda _later: None

    run.after = cancelled
    outcome = run.to_the_end()
    check_end(run, outcome)
    assert outcome is Outcome.CANCELLED, run.journal.parked
