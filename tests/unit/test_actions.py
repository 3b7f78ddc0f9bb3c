"""Every action says what it is, and has one effect."""

from __future__ import annotations

import dataclasses

from blockferry.storage_move import actions
from blockferry.storage_move.effects import EFFECTS

KINDS = {kind for kind in vars(actions).values() if isinstance(kind, type) and issubclass(kind, actions.Action)} - {
    actions.Action
}


def test_every_action_has_one_effect_or_ends_the_round() -> None:
    assert {kind for kind in KINDS if not kind.ends_round} == set(EFFECTS)


def test_what_is_true_of_an_action_is_no_part_of_the_single_case() -> None:
    facts = {"phase", "failure_turns_back", "waits_for_destination", "ends_round"}
    for kind in KINDS:
        assert not facts & {field.name for field in dataclasses.fields(kind)}, kind
        assert kind.__doc__, kind


def test_phases() -> None:
    """What belongs to several phases goes on with the one before."""
    assert actions.CopyHome().phase_after("prepare") == "prepare"
    assert actions.StartCopy("vda").phase_after("prepare") == "copy"
    assert actions.Suspend(switch=True).phase_after("copy") == "switch"
    assert actions.Suspend(switch=False).phase_after("prepare") == "copy"
    assert actions.Resume().phase_after("switch") == "switch"
    assert actions.Await("hang", 0.1).phase_after("prepare") == "copy"
    assert actions.Await("drain", 0.1).phase_after("switch") == "switch"
