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
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.hosts.inventory import PowerState
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions as storage_move_actions
from blockferry.storage_move.decide import decide
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.firmware.plan import FirmwarePlan, ManagedSavePlan, NvramPlan
from blockferry.storage_move.firmware.record import ManagedSave, ManagedSaveRecord, NvramRecord
from blockferry.storage_move.firmware.rules import CHANGED, HOLD_ATTEMPTS, RELEASED, next_action
from blockferry.storage_move.observation import MISSING, DiskSide, NvramView, Observation
from blockferry.storage_move.record import Record
from blockferry.storage_move.verify.record import COMPARISON_CANCELLED

OLD, NEW, ELSEWHERE = DiskSide.SOURCE, DiskSide.DESTINATION, DiskSide.ELSEWHERE
RUNNING, OFF, ABSENT = PowerState.RUNNING, PowerState.OFF, PowerState.ABSENT
COPIED = Record(nvram=NvramRecord(pending=True, copied="f", made="m"))
PLAN = replace(make_plan(1), firmware=FirmwarePlan(NvramPlan("/a/vars", "/b/vars", 1)))


def seen(
    state: PowerState, live: DiskSide | None, config: DiskSide | None, record: Record = COPIED, **more: object
) -> Observation:
    view = NvramView(live, config, **{"fingerprint": "f", "made": "m", **more})  # type: ignore[arg-type]
    return Observation(state, state is not ABSENT, (), record, nvram=view)


FRESH = Record(nvram=NvramRecord(pending=True))
ENDED = {"vda": DiskRecord(unverified=COMPARISON_CANCELLED)}


@pytest.mark.parametrize(
    ("what", "action"),
    [
        (seen(RUNNING, OLD, OLD, FRESH), storage_move_actions.AwaitPowerOff()),
        (
            seen(RUNNING, OLD, OLD, replace(FRESH, wanted=Wanted.CANCEL)),
            storage_move_actions.KeepNvram("it was cancelled"),
        ),
        # The wish was to end a comparison (--verify), and it has: the variables follow all the same.
        (
            seen(RUNNING, OLD, OLD, replace(FRESH, wanted=Wanted.CANCEL, disks=ENDED)),
            storage_move_actions.AwaitPowerOff(),
        ),
        (seen(RUNNING, OLD, NEW), storage_move_actions.PointNvram(back=True)),
        (seen(RUNNING, OLD, NEW, FRESH), storage_move_actions.KeepNvram(CHANGED)),
        (seen(RUNNING, NEW, NEW), storage_move_actions.ReleaseNvram()),
        (seen(RUNNING, NEW, OLD), storage_move_actions.KeepNvram(CHANGED)),
        (seen(RUNNING, OLD, ELSEWHERE), storage_move_actions.KeepNvram(CHANGED)),
        (seen(OFF, None, OLD, FRESH, saved=OLD), storage_move_actions.AwaitPowerOff()),
        (seen(OFF, None, NEW, saved=OLD), storage_move_actions.PointNvram(back=True)),
        (seen(OFF, None, OLD, FRESH), storage_move_actions.CopyNvram()),
        (seen(OFF, None, OLD), storage_move_actions.PointNvram()),
        (seen(OFF, None, OLD, fingerprint="written"), storage_move_actions.CopyNvram()),
        (
            seen(OFF, None, OLD, replace(COPIED, wanted=Wanted.CANCEL)),
            storage_move_actions.KeepNvram("it was cancelled"),
        ),
        (seen(OFF, None, NEW), storage_move_actions.ReleaseNvram()),
        (seen(OFF, None, NEW, fingerprint="written"), storage_move_actions.PointNvram(back=True)),
        (seen(OFF, None, NEW, fingerprint="written", made="used"), storage_move_actions.ReleaseNvram()),
        (seen(OFF, None, NEW, fingerprint=MISSING), storage_move_actions.ReleaseNvram()),
        (seen(OFF, None, NEW, FRESH), storage_move_actions.KeepNvram(CHANGED)),
        (seen(ABSENT, None, None), storage_move_actions.KeepNvram("the VM is not defined any more")),
        (seen(OFF, None, OLD, replace(COPIED, released=(RELEASED,))), storage_move_actions.Finish(Outcome.MOVED)),
    ],
)
def test_what_comes_next(what: Observation, action: storage_move_actions.Action) -> None:
    assert next_action(PLAN, what) == action
    assert decide(PLAN, what) == action


@dataclass
class World:
    """Each file holds the number of the variables' last change; 0: it is not there."""

    running_on: DiskSide | None = OLD
    saved_on: DiskSide | None = None
    config: DiskSide = OLD
    held: dict[DiskSide, int] = field(default_factory=lambda: {OLD: 1, NEW: 0})
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

    def fingerprint(self, side: DiskSide) -> str:
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

    def effects(self, action: storage_move_actions.Action) -> Iterator[None]:
        """As storage_move/firmware/effects.py; yields wherever the process can die and the VM can change."""
        match action:
            case storage_move_actions.CopyNvram():
                before = self.held[OLD]
                self.note(created=("/b/vars",), nvram=replace(self.record.nvram, copied=""))
                yield
                if self.running_on is not NEW:
                    self.held[NEW] = self.held[OLD]
                yield
                if self.held[OLD] == before:
                    self.note(nvram=replace(self.record.nvram, copied=str(before), made=str(self.held[NEW])))
            case storage_move_actions.PointNvram(back=True):
                self.config = OLD
                yield
                self.note(nvram=replace(self.record.nvram, copied=""))
            case storage_move_actions.PointNvram():
                self.config = NEW
                yield
            case storage_move_actions.ReleaseNvram():
                if str(self.held[OLD]) == self.record.nvram.copied and OLD not in (self.running_on, self.saved_on):
                    assert self.config is NEW
                    self.held[OLD] = 0
                yield
                self.note(released=(RELEASED,))
            case storage_move_actions.KeepNvram():
                if self.config is not NEW and NEW not in (self.running_on, self.saved_on):
                    self.held[NEW] = 0
                yield
                self.note(released=(RELEASED,))
            case storage_move_actions.Finish(outcome):
                self.note(outcome=outcome)
            case storage_move_actions.AwaitPowerOff():
                pass
            case _:
                raise AssertionError(f"{action} is not expected here")

    def note(self, **more: object) -> None:
        self.record = replace(self.record, **more)  # type: ignore[arg-type]


EVENTS = st.lists(
    st.sampled_from(("", "", "", "kill", "start", "write", "stop", "save", "cancel")), min_size=1, max_size=30
)


@settings(max_examples=examples(600))
@given(EVENTS)
def test_the_newest_variables_are_never_lost(events: list[str]) -> None:
    world = World()
    coming = iter(events)
    turns = 0
    while world.record.outcome is None:
        action = next_action(PLAN, world.look())
        world.unlooked = isinstance(action, storage_move_actions.PointNvram) and not action.back
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


# ---------------------------------------------------------------- --firmware now

NOW = replace(
    PLAN,
    firmware=replace(
        PLAN.firmware, nvram=NvramPlan("/a/vars", "/b/vars", 1, ManagedSavePlan("/save/web01.save", 1, 1.0, 3.0))
    ),
)
PAUSED, CRASHED = PowerState.PAUSED, PowerState.CRASHED
SAVING = Record(
    nvram=NvramRecord(pending=True), managed_save=ManagedSaveRecord(state=ManagedSave.SAVING, incarnation=1, attempts=1)
)
SAVED = replace(SAVING, managed_save=replace(SAVING.managed_save, state=ManagedSave.SAVED, fingerprint="i"))
MADE = replace(SAVED, nvram=replace(SAVED.nvram, copied="f", made="m"))
BROKEN = replace(MADE, managed_save=replace(MADE.managed_save, failed="it did not work"))


def down(saved: DiskSide | None, config: DiskSide, record: Record, **more: object) -> Observation:
    return replace(seen(OFF, None, config, record, **{"saved": saved, "image_fingerprint": "i", **more}), saved=True)


@pytest.mark.parametrize(
    ("what", "action"),
    [
        # running
        (seen(RUNNING, OLD, OLD, FRESH), storage_move_actions.SaveVm()),
        (seen(PAUSED, OLD, OLD, FRESH), storage_move_actions.SaveVm()),
        (seen(CRASHED, OLD, OLD, FRESH), storage_move_actions.NotNow("its guest has crashed")),
        (seen(RUNNING, OLD, OLD, FRESH, busy="backup"), storage_move_actions.NotNow("it is busy: backup")),
        (seen(RUNNING, OLD, OLD, FRESH, image=True), storage_move_actions.NotNow),
        (
            seen(RUNNING, OLD, OLD, replace(FRESH, managed_save=replace(FRESH.managed_save, attempts=HOLD_ATTEMPTS))),
            storage_move_actions.NotNow,
        ),
        (
            seen(RUNNING, OLD, OLD, replace(FRESH, managed_save=replace(FRESH.managed_save, failed="no room"))),
            storage_move_actions.AwaitPowerOff(),
        ),
        (
            seen(RUNNING, OLD, OLD, replace(FRESH, wanted=Wanted.CANCEL)),
            storage_move_actions.KeepNvram("it was cancelled"),
        ),
        (down(OLD, OLD, FRESH), storage_move_actions.AwaitPowerOff()),  # saved by its owner
        # the save was announced
        (seen(RUNNING, OLD, OLD, SAVING), storage_move_actions.EndManagedSave()),
        (seen(PAUSED, OLD, OLD, SAVING, busy="save"), storage_move_actions.Await("firmware", 0.1)),
        (seen(PAUSED, OLD, OLD, SAVING, image=True), storage_move_actions.EndManagedSave()),
        (seen(OFF, None, OLD, SAVING), storage_move_actions.EndManagedSave()),
        (seen(ABSENT, None, None, SAVING), storage_move_actions.EndManagedSave()),
        (down(OLD, OLD, SAVING), storage_move_actions.SaveManagedSave()),
        # it is down
        (down(OLD, OLD, SAVED), storage_move_actions.CopyNvram()),
        (down(OLD, OLD, replace(SAVED, wanted=Wanted.CANCEL)), storage_move_actions.RestoreVm(new=False)),
        (
            down(OLD, OLD, replace(SAVED, managed_save=replace(SAVED.managed_save, failed="x"))),
            storage_move_actions.RestoreVm(new=False),
        ),
        (down(OLD, OLD, SAVED, image_fingerprint="another"), storage_move_actions.EndManagedSave()),
        (down(OLD, ELSEWHERE, SAVED), storage_move_actions.RestoreVm(new=False)),
        (down(ELSEWHERE, OLD, MADE), storage_move_actions.RestoreVm(new=False)),
        (down(OLD, NEW, MADE), storage_move_actions.RestoreVm(new=False)),
        (down(NEW, NEW, MADE), storage_move_actions.RestoreVm(new=False)),
        (down(OLD, OLD, MADE), storage_move_actions.RestoreVm(new=True)),
        (down(OLD, OLD, MADE, fingerprint="written"), storage_move_actions.CopyNvram()),
        (down(OLD, OLD, MADE, made="touched"), storage_move_actions.NotNow),
        (down(OLD, OLD, MADE, made=MISSING), storage_move_actions.CopyNvram()),
        (down(OLD, OLD, BROKEN), storage_move_actions.RestoreVm(new=False)),
        # restored
        (seen(PAUSED, NEW, NEW, MADE), storage_move_actions.EndManagedSave()),
        (seen(PAUSED, NEW, NEW, MADE, busy="starting up"), storage_move_actions.Await("firmware", 0.1)),
        (
            seen(RUNNING, OLD, OLD, replace(MADE, managed_save=replace(MADE.managed_save, state=ManagedSave.NONE))),
            storage_move_actions.SaveVm(),
        ),
        (
            seen(RUNNING, OLD, OLD, replace(BROKEN, managed_save=replace(BROKEN.managed_save, state=ManagedSave.NONE))),
            storage_move_actions.AwaitPowerOff(),
        ),
        (
            seen(RUNNING, NEW, NEW, replace(MADE, managed_save=replace(MADE.managed_save, state=ManagedSave.NONE))),
            storage_move_actions.ReleaseNvram(),
        ),
    ],
)
def test_what_comes_next_at_once(
    what: Observation, action: storage_move_actions.Action | type[storage_move_actions.Action]
) -> None:
    found = decide(NOW, what)
    assert found == action if not isinstance(action, type) else isinstance(found, action)


@dataclass
class Host:
    """A small host on which a VM is saved and restored; `memory` counts what the guest has done.

    Memory is in QEMU, in the image, or lost. It is lost only when somebody asks for that in so many words, or by a
    power loss before the image was synced; and a VM that we saved is up again whenever nobody holds it any more.
    """

    qemu: int | None = 1  # the guest's memory, while there is a QEMU
    running: bool = True
    uses: DiskSide = OLD
    image: tuple[int, DiskSide, bool] | None = None  # memory, the file it names, whether the guest ran
    image_synced: bool = False
    image_gone_for_good: bool = True  # its removal has reached the disk
    ghost: tuple[int, DiskSide, bool] | None = None  # what a power loss would bring back
    loaded: bool = False  # restored, and not run since
    ours: bool = False  # the image is of our making
    prints: int = 0
    config: DiskSide = OLD
    held: dict[DiskSide, int] = field(default_factory=lambda: {OLD: 1, NEW: 0})
    newest: int = 1
    incarnation: int = 1
    done: int = 1  # what the guest has done in all
    given_up: bool = False  # its memory, by somebody's will or a power loss
    owner_stopped: bool = False
    record: Record = FRESH
    refuse: set[str] = field(default_factory=set)
    guard: bool = False
    stale: bool = False
    unlooked: bool = False
    pauses: int = 0

    def look(self) -> Observation:
        off = self.qemu is None
        view = NvramView(
            None if off else self.uses,
            self.config,
            saved=self.image[1] if off and self.image else None,
            fingerprint=self.fingerprint(OLD) if off else "",
            made=self.fingerprint(NEW) if off else "",
            image=not off and self.image is not None,
            image_fingerprint=str(self.prints) if off and self.image else "",
        )
        state = OFF if off else RUNNING if self.running else PAUSED
        return Observation(
            state, True, (), self.record, incarnation=self.incarnation, nvram=view, saved=off and self.image is not None
        )

    def fingerprint(self, side: DiskSide) -> str:
        return str(self.held[side]) if self.held[side] else MISSING

    def note(self, **more: object) -> None:
        self.record = replace(self.record, **more)  # type: ignore[arg-type]

    # ------------------------------------------------------------ what libvirt does

    def start(self, *, stopped: bool = False, new: bool = False) -> None:
        """As `virsh start`: from the image if there is one, else it boots. `new`: as ours, with the new file."""
        if self.qemu is not None:
            return
        if not stopped:
            self.ghost = None  # somebody's `virsh start`: what libvirt does then is not ours to mend
        if self.image is not None:
            if new and "restore" in self.refuse:
                return
            memory, side, ran = self.image
            side = NEW if new else side
            assert self.held[side], "it was restored on variables that are not there: they are wiped"
            assert memory == self.done, "it was restored from an old memory"
            assert self.held[side] == self.newest or self.stale, "it was restored with old variables"
            if stopped and not new:
                self.ghost, self.image_gone_for_good = self.image, False
            self.qemu, self.uses, self.running = memory, side, ran and not stopped
            self.image = self.image if new else None
        else:
            assert self.given_up, "it was booted although it had a memory"
            # Its life on the new file began and ended in the moment between two writes; nobody could look.
            self.stale = self.stale or (self.unlooked and self.held[self.config] < self.newest)
            assert self.held[self.config] == self.newest or self.stale, "it was booted with old variables"
            self.qemu, self.uses, self.running = self.done, self.config, not stopped
        self.incarnation += 1
        self.loaded = self.qemu is not None and stopped

    def guest(self) -> None:
        if self.qemu is None or not self.running:
            return
        assert self.image is None, "the guest runs, and a memory of it that is older stays behind"
        assert self.image_gone_for_good or self.ghost is None, "the guest runs, and a power loss brings its memory back"
        self.done += 1
        self.qemu = self.done

    def _save(self, ours: bool) -> None:
        assert self.qemu is not None
        self.image, self.image_synced, self.qemu = (self.qemu, self.uses, self.running), not ours, None
        self.prints += 1
        self.ours = ours
        self.sync()

    def forget(self) -> None:
        self.ghost, self.image, self.image_gone_for_good = self.image, None, False

    def sync(self) -> None:
        self.image_gone_for_good, self.ghost = True, None

    # ------------------------------------------------------------ what happens

    def happens(self, event: str) -> None:
        if event == "guest":
            self.guest()
        elif event == "variables" and self.qemu is not None and self.running:
            self.newest += 1
            self.held[self.uses] = self.newest
        elif event == "start":
            self.start()
        elif event == "power off" and self.qemu is not None:
            self.qemu, self.given_up = None, True
        elif event == "discard" and self.qemu is None and self.image is not None:
            self.given_up = True
            self.forget()
            self.sync()
        elif event == "owner pauses" and self.qemu is not None and self.record.managed_save.state is ManagedSave.NONE:
            self.running = False
        elif event == "libvirtd anew" and self.qemu is None:
            self.incarnation = 0  # its ids begin anew when no VM runs
        elif event == "power loss":
            self.power_loss()
        elif event == "owner saves" and self.qemu is not None:
            self._save(ours=False)
        elif event == "cancel":
            self.record = replace(self.record, wanted=Wanted.CANCEL)
        elif event == "restore refused":
            self.refuse.add("restore")
        elif event == "copy refused":
            self.refuse.add("copy")

    def power_loss(self) -> None:
        if not self.image_gone_for_good and self.ghost is not None and self.qemu is not None:
            assert self.qemu == self.ghost[0], (
                "after a power loss a memory would come back that is older than the disks"
            )
            self.image, self.image_synced = self.ghost, True
        elif self.qemu is not None or (self.image is not None and not self.image_synced):
            self.given_up, self.image = True, None
        self.qemu, self.guard, self.ghost = None, False, None

    def guard_acts(self) -> None:
        """storage_move/firmware/managed_save_recovery.py, until there is nothing left to do."""
        if not self.guard:
            return
        self.guard = False
        if self.qemu is None and self.image is not None:
            self.start(stopped=True)
            if self.qemu is None:
                return  # refused: it goes on trying
        for _ in self.let_go() if self.qemu is not None else ():
            pass

    def let_go(self) -> Iterator[None]:
        restored = (
            self.record.managed_save.state is ManagedSave.SAVED
            or self.incarnation != self.record.managed_save.incarnation
            or self.loaded
        )
        if self.image is not None:
            self.forget()
        yield
        self.sync()
        yield
        if self.qemu is not None:
            self.config = self.uses
        yield
        if restored and self.record.managed_save.running and self.qemu is not None:
            self.running, self.loaded = True, False

    # ------------------------------------------------------------ as firmware/managed_save.py and firmware/effects.py

    def effects(self, action: storage_move_actions.Action, before: Observation) -> Iterator[None]:
        record = before.record
        match action:
            case storage_move_actions.SaveVm():
                self.guard = True
                ours = replace(
                    self.record.managed_save,
                    state=ManagedSave.SAVING,
                    fingerprint="",
                    incarnation=self.incarnation,
                    running=self.running,
                    attempts=record.managed_save.attempts + 1,
                )
                self.note(managed_save=ours)
                yield
                if self.qemu is not None:
                    self.pauses += 1
                    self._save(ours=True)
                yield
            case storage_move_actions.SaveManagedSave():
                self.guard = True
                self.image_synced = True
                yield
                self.note(
                    managed_save=replace(
                        self.record.managed_save, state=ManagedSave.SAVED, fingerprint=str(self.prints)
                    )
                )
            case storage_move_actions.CopyNvram():
                was = self.held[OLD]
                self.note(created=("/b/vars",), nvram=replace(self.record.nvram, copied=""))
                yield
                if "copy" in self.refuse and self.record.managed_save.state is not ManagedSave.NONE:
                    self.refuse.discard("copy")
                    self.note(managed_save=replace(self.record.managed_save, failed="the copy failed"))
                    return
                if self.qemu is None or self.uses is not NEW:
                    self.held[NEW] = self.held[OLD]
                yield
                if self.held[OLD] == was:
                    self.note(nvram=replace(self.record.nvram, copied=str(was), made=str(self.held[NEW])))
            case storage_move_actions.PointNvram(back=True):
                self.config = OLD
                yield
                self.note(nvram=replace(self.record.nvram, copied=""))
            case storage_move_actions.PointNvram():
                self.config = NEW
                yield
            case storage_move_actions.RestoreVm(new):
                yield
                if new and (
                    str(self.prints) != record.managed_save.fingerprint or self.fingerprint(OLD) != record.nvram.copied
                ):
                    return
                if self.qemu is None and self.image is not None:
                    self.start(stopped=True, new=new)
                    if self.qemu is None:
                        self.note(managed_save=replace(self.record.managed_save, failed="it cannot be restored"))
                yield
            case storage_move_actions.EndManagedSave():
                if self.qemu is not None:
                    yield from self.let_go()
                yield
                self.guard = False
                self.note(managed_save=replace(self.record.managed_save, state=ManagedSave.NONE))
            case storage_move_actions.NotNow(why):
                self.note(managed_save=replace(self.record.managed_save, failed=why))
                yield
            case storage_move_actions.ReleaseNvram():
                if str(self.held[OLD]) == self.record.nvram.copied and self.qemu is not None and self.uses is NEW:
                    self.held[OLD] = 0
                yield
                self.note(released=(RELEASED,))
            case storage_move_actions.KeepNvram():
                yield
                self.note(released=(RELEASED,))
            case storage_move_actions.Finish(outcome):
                self.note(outcome=outcome)
            case storage_move_actions.AwaitPowerOff() | storage_move_actions.Await():
                pass
            case _:
                raise AssertionError(f"{action} is not expected here")


HAPPENS: dict[str, tuple[str, ...]] = {
    **{one: (one,) for one in ("kill", "kill, the guard too", "start", "power off", "discard", "power loss", "cancel")},
    **{one: (one,) for one in ("owner pauses", "restore refused", "copy refused", "libvirtd anew")},
    "lives": ("start", "guest", "variables"),
    "lives and ends": ("start", "variables", "power off"),
    "another life": ("start", "variables", "power off", "start", "variables"),
    "power loss, and again": ("power loss", "start", "guest", "power loss"),
    "saved by its owner": ("start", "variables", "owner saves"),
    "discarded, and used": ("discard", "start", "variables", "power off"),
}
MOMENTS = st.tuples(st.integers(0, 24), st.sampled_from(sorted(HAPPENS)))


@settings(max_examples=examples(1000))
@given(st.lists(MOMENTS, max_size=4))
def test_a_vm_that_is_held_goes_on_from_its_memory(moments: list[tuple[int, str]]) -> None:
    host, moment = Host(), 0
    for _turn in range(80):
        if host.record.outcome is not None:
            break
        before = host.look()
        action = next_action(NOW, before)
        killed = False
        host.unlooked = isinstance(action, storage_move_actions.PointNvram)
        for _ in host.effects(action, before):
            coming = [event for at, one in moments if at == moment for event in HAPPENS[one]]
            moment += 1
            for event in coming:
                killed = killed or event.startswith("kill") or event == "power loss"
                host.guard = host.guard and event != "kill, the guard too"
                if event == "kill":
                    host.guard_acts()
                host.happens(event)
                assert host.newest in host.held.values(), "the newest variables are gone"
            if killed:
                break
        if isinstance(action, storage_move_actions.AwaitPowerOff):
            assert host.record.managed_save.state is ManagedSave.NONE
            assert host.qemu is not None or not host.ours, "it is left in a saved state of ours"
            host.happens("start")
            host.happens("power off")
        host.guest()
    else:
        raise AssertionError(f"it does not end: {action}")
    assert host.pauses <= HOLD_ATTEMPTS
    assert host.image is None or not host.ours, "it is left in a saved state of ours"
    host.start()
    assert host.held[host.uses] == host.newest or host.stale


def test_undisturbed_it_is_held_once_and_runs_on_the_new_file() -> None:
    host = Host()
    actions = []
    while host.record.outcome is None:
        before = host.look()
        actions.append(next_action(NOW, before))
        for _ in host.effects(actions[-1], before):
            host.guest()
    assert [type(action).__name__ for action in actions] == [
        *(
            "SaveVm",
            "SaveManagedSave",
            "CopyNvram",
            "RestoreVm",
            "EndManagedSave",
            "ReleaseNvram",
            "Finish",
        ),
    ]
    assert (host.uses, host.config, host.running, host.pauses) == (NEW, NEW, True, 1)
