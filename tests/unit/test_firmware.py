"""The UEFI variables that follow: a small host on which the VM is started, saved and stopped at any moment.

What counts is what the two files hold: the newest variables are never removed, and never replaced by older ones
unless the VM was started in the very moment between the change of its configuration and the look after it; then both
files are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from decide_support import make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.model import action as act
from blockferry.model.decide import decide
from blockferry.model.firmware import CHANGED, RELEASED, follow
from blockferry.model.inventory import PowerState
from blockferry.model.observation import MISSING, NvramView, Observation, Side
from blockferry.model.plan import NvramPlan
from blockferry.model.record import Outcome, Record, Wanted

OLD, NEW, ELSEWHERE = Side.SOURCE, Side.DESTINATION, Side.ELSEWHERE
RUNNING, OFF, ABSENT = PowerState.RUNNING, PowerState.OFF, PowerState.ABSENT
COPIED = Record(following=True, nvram_copied="f", nvram_made="m")
PLAN = replace(make_plan(1), nvram=NvramPlan("/a/vars", "/b/vars", 1))


def seen(
    state: PowerState, live: Side | None, config: Side | None, record: Record = COPIED, **more: object
) -> Observation:
    view = NvramView(live, config, **{"fingerprint": "f", "made": "m", **more})  # type: ignore[arg-type]
    return Observation(state, state is not ABSENT, (), record, nvram=view)


FRESH = Record(following=True)


@pytest.mark.parametrize(
    ("what", "action"),
    [
        (seen(RUNNING, OLD, OLD, FRESH), act.AwaitPowerOff()),
        (seen(RUNNING, OLD, OLD, replace(FRESH, wanted=Wanted.CANCEL)), act.LeaveNvram("it was cancelled")),
        (seen(RUNNING, OLD, NEW), act.PointNvram(back=True)),
        (seen(RUNNING, OLD, NEW, FRESH), act.LeaveNvram(CHANGED)),
        (seen(RUNNING, NEW, NEW), act.ReleaseNvram()),
        (seen(RUNNING, NEW, OLD), act.LeaveNvram(CHANGED)),
        (seen(RUNNING, OLD, ELSEWHERE), act.LeaveNvram(CHANGED)),
        (seen(OFF, None, OLD, FRESH, saved=OLD), act.AwaitPowerOff()),
        (seen(OFF, None, NEW, saved=OLD), act.PointNvram(back=True)),
        (seen(OFF, None, OLD, FRESH), act.CopyNvram()),
        (seen(OFF, None, OLD), act.PointNvram()),
        (seen(OFF, None, OLD, fingerprint="written"), act.CopyNvram()),
        (seen(OFF, None, OLD, replace(COPIED, wanted=Wanted.CANCEL)), act.LeaveNvram("it was cancelled")),
        (seen(OFF, None, NEW), act.ReleaseNvram()),
        (seen(OFF, None, NEW, fingerprint="written"), act.PointNvram(back=True)),
        (seen(OFF, None, NEW, fingerprint="written", made="used"), act.ReleaseNvram()),
        (seen(OFF, None, NEW, fingerprint=MISSING), act.ReleaseNvram()),
        (seen(OFF, None, NEW, FRESH), act.LeaveNvram(CHANGED)),
        (seen(ABSENT, None, None), act.LeaveNvram("the VM is not defined any more")),
        (seen(OFF, None, OLD, replace(COPIED, released=(RELEASED,))), act.Finish(Outcome.MOVED)),
    ],
)
def test_what_comes_next(what: Observation, action: act.Action) -> None:
    assert follow(what) == action
    assert decide(PLAN, what) == action


@dataclass
class World:
    """Each file holds the number of the variables' last change; 0: it is not there."""

    running_on: Side | None = OLD
    saved_on: Side | None = None
    config: Side = OLD
    held: dict[Side, int] = field(default_factory=lambda: {OLD: 1, NEW: 0})
    newest: int = 1
    record: Record = FRESH
    stale: bool = False  # started on the new file in the moment in which nobody looked
    unlooked: bool = False

    def look(self) -> Observation:
        off = self.running_on is None
        view = NvramView(
            self.running_on,
            self.config,
            saved=self.saved_on if off else None,
            fingerprint=self.fingerprint(OLD) if off else "",
            made=self.fingerprint(NEW) if off else "",
        )
        return Observation(OFF if off else RUNNING, True, (), self.record, nvram=view)

    def fingerprint(self, side: Side) -> str:
        return str(self.held[side]) if self.held[side] else MISSING

    def happens(self, event: str) -> None:
        if event == "start" and self.running_on is None:
            self.running_on = self.saved_on or self.config
            self.saved_on = None
            assert self.held[self.running_on], "the VM was started on a file that is not there: it is wiped"
            self.stale = self.stale or (self.unlooked and self.config is NEW and self.held[NEW] < self.newest)
            assert self.held[self.running_on] == self.newest or self.stale, "the VM was started with old variables"
        elif event == "write" and self.running_on is not None:
            self.newest += 1
            self.held[self.running_on] = self.newest
        elif event == "stop":
            self.running_on = None
        elif event == "save" and self.running_on is not None:
            self.saved_on, self.running_on = self.running_on, None
        elif event == "cancel":
            self.record = replace(self.record, wanted=Wanted.CANCEL)

    def effects(self, action: act.Action) -> Iterator[None]:
        """As engine/firmware.py; yields wherever the process can die and the VM can change."""
        match action:
            case act.CopyNvram():
                before = self.held[OLD]
                self.note(nvram_copied="", created=("/b/vars",))
                yield
                if self.running_on is not NEW:
                    self.held[NEW] = self.held[OLD]
                yield
                if self.held[OLD] == before:
                    self.note(nvram_copied=str(before), nvram_made=str(self.held[NEW]))
            case act.PointNvram(back=True):
                self.config = OLD
                yield
                self.note(nvram_copied="")
            case act.PointNvram():
                self.config = NEW
                yield
            case act.ReleaseNvram():
                if str(self.held[OLD]) == self.record.nvram_copied and OLD not in (self.running_on, self.saved_on):
                    assert self.config is NEW
                    self.held[OLD] = 0
                yield
                self.note(released=(RELEASED,))
            case act.LeaveNvram():
                if self.config is not NEW and NEW not in (self.running_on, self.saved_on):
                    self.held[NEW] = 0
                yield
                self.note(released=(RELEASED,))
            case act.Finish(outcome):
                self.note(outcome=outcome)
            case act.AwaitPowerOff():
                pass
            case _:
                raise AssertionError(f"{action} is not expected here")

    def note(self, **more: object) -> None:
        self.record = replace(self.record, **more)  # type: ignore[arg-type]


EVENTS = st.lists(
    st.sampled_from(("", "", "", "kill", "start", "write", "stop", "save", "cancel")), min_size=1, max_size=30
)


@settings(max_examples=600)
@given(EVENTS)
def test_the_newest_variables_are_never_lost(events: list[str]) -> None:
    world = World()
    coming = iter(events)
    turns = 0
    while world.record.outcome is None:
        action = follow(world.look())
        world.unlooked = isinstance(action, act.PointNvram) and not action.back
        for _ in world.effects(action):
            event = next(coming, "")
            world.happens(event)
            assert world.newest in world.held.values(), "the newest variables are gone"
            if event == "kill":
                break
        world.happens(next(coming, "" if turns < 40 else "stop"))
        assert world.newest in world.held.values(), "the newest variables are gone"
        turns += 1
        if turns > 40 and world.saved_on is not None:
            world.happens("start")
        assert turns < 200, f"it does not end: {action}"
    if not world.stale:
        world.happens("start")
        assert world.held[world.running_on or world.config] == world.newest
