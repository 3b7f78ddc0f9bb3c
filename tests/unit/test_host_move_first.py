"""Decisions of a move whose disks go before their running VM, over a simulated pair of hosts: no write is ever lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from test_host_move_decide import BREAKS, DISKS, GO_ON, OFF, OLD, PAUSED, PLAN, RUNNING, VARIABLES, Pair

from blockferry.host_move import host_actions as actions
from blockferry.host_move import overlay_actions
from blockferry.host_move.decide import decide
from blockferry.host_move.host_move_kind import HostMoveKind
from blockferry.host_move.host_observation import HostObservation, OverlayLook
from blockferry.host_move.host_plan import storage_first
from blockferry.host_move.host_record import FirstRecord, HostMoveRecord
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.migrating import Instance
from blockferry.jobs.action import Action, Done, Park
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.observation import DiskJob, DiskView
from blockferry.storage_move.overlays.record import OverlayState

FIRST = storage_first(PLAN)
TARGETS = tuple(disk.target for disk in DISKS)


@dataclass
class Layers:
    """A disk at one host. `base`, `overlay`: the guest's writes in them; None: not there. `live`, `config`: on which of
    them it runs, and would start: "base", "overlay"."""

    base: set[int] | None = None
    overlay: set[int] | None = None
    live: str = "base"
    config: str = "base"
    job: bool = False
    ready: bool = False

    def seen(self, top: str) -> set[int]:
        """What a guest reads that runs on that."""
        assert self.base is not None
        if top == "base":
            return self.base
        assert self.overlay is not None, "the VM runs on an overlay that is not there"
        return self.base | self.overlay


@dataclass
class FirstPair(Pair):
    """The pair of hosts with what is in each disk's layers. The guest writes at each step while it runs."""

    at: dict[str, dict[str, Layers]] = field(default_factory=dict)
    writes: int = 0

    def __post_init__(self) -> None:
        self.at = {
            "source": {target: Layers(base={0}) for target in TARGETS},
            "dest": {target: Layers() for target in TARGETS},
        }

    def side(self) -> str:
        return "dest" if self.record.handed else "source"

    def guest_writes(self) -> None:
        for name, instance in (("source", self.source), ("dest", self.dest)):
            if instance.state is not RUNNING:
                continue
            self.writes += 1
            for disk in self.at[name].values():
                layer = disk.base if disk.live == "base" else disk.overlay
                assert layer is not None, "the guest writes to what is not there"
                layer.add(self.writes)
                disk.ready = disk.ready and disk.job  # a job that is ready stays in step: it mirrors
                if disk.job and disk.ready:
                    assert disk.base is not None
                    disk.base.add(self.writes)

    def check(self) -> None:
        """Every write is there for whoever runs, or would run, the VM."""
        super().check()
        self.guest_writes()
        instance = self.dest if self.newest == "dest" else self.source
        for target, disk in self.at[self.newest].items():
            if instance.absent:
                continue
            top = disk.live if instance.active else disk.config
            if not instance.active and self.newest == "source" and instance.migrated:
                continue
            lost = set(range(self.writes + 1)) - disk.seen(top)
            assert not lost, f"{target} at {self.newest} lacks {lost} on its {top}"

    def see(self) -> HostObservation:
        seen = super().see()
        prints = {}
        if not self.record.handed:
            prints = {target: str(sorted(disk.base or ())) for target, disk in self.at["source"].items()}
        paths = self.paths()
        self.source = replace(self.source, paths=paths) if not self.source.absent else self.source
        source = seen.source if seen.source.absent else replace(seen.source, paths=paths)
        return replace(seen, source=source, prints=prints, overlays=self.look())

    def paths(self) -> tuple[tuple[str, str], ...]:
        found = []
        for disk in self.plan.disks:
            layers = self.at["source"][disk.target]
            top = layers.live if self.source.active else layers.config
            found.append((disk.target, disk.overlay if top == "overlay" else disk.source))
        return tuple(found)

    def look(self) -> OverlayLook | None:
        name = self.side()
        instance = self.source if name == "source" else self.dest
        if instance.absent or (name == "dest" and not (self.record.arrived and self.record.first.made)):
            return None
        disks = {}
        for target, layers in self.at[name].items():
            disks[target] = DiskView(
                target, None, None,
                job=DiskJob.COMMIT if layers.job and instance.active else DiskJob.NONE,
                ready=layers.ready,
                live_overlay=instance.active and layers.live == "overlay",
                config_overlay=layers.config == "overlay",
                overlay_fingerprint=self.layers_print(name, target),
            )  # fmt: skip
        return OverlayLook(instance.state, instance.persistent, False, disks)

    def layers_print(self, name: str, target: str) -> str:
        layers = self.at[name][target]
        return f"{sorted(layers.base or ())}|{sorted(layers.overlay or ())}"

    # -- effects

    def steps(self, action: Action) -> Iterator[None]:
        record = self.record
        match action:
            case overlay_actions.PutOverlaysAbove(targets):
                yield from self.take(targets)
            case actions.MakeImage(target):
                yield from super().steps(action)
                self.at["dest"][target].base = set()
            case actions.CopyImage(target):
                source = self.at["source"][target]
                assert source.live == "overlay", "a base is copied while it is written to"
                assert source.base is not None
                print_ = str(sorted(source.base))
                yield
                self.at["dest"][target].base = set(source.base)
                yield
                self.record = replace(record, copied={**record.copied, target: print_})
            case overlay_actions.MakeNewOverlay(target):
                path = self.plan.disk(target).new_overlay
                self.record = record = replace(record, created=(*record.created, path))
                yield
                self.images[path] = "overlay"
                self.at["dest"][target].overlay = set()
                yield
                self.record = replace(record, first=replace(record.first, made=(*record.first.made, target)))
            case overlay_actions.NoteOverlay(target, at_source, state):
                name = "source" if at_source else "dest"
                first = record.first.with_state(target, state, source=at_source)
                if state is OverlayState.COMMITTED:
                    self.at[name][target].config = "base"
                    yield
                    path = self.overlay(target, name)
                    first = replace(first, committed={**first.committed, path: self.layers_print(name, target)})
                self.record = replace(record, first=first)
            case overlay_actions.PointConfig(at_source):
                self.point_config("source" if at_source else "dest")
            case overlay_actions.BeginCommit(target, at_source):
                self.record = replace(record, first=replace(record.first, attempts=record.first.attempts + 1))
                yield
                instance = self.source if at_source else self.dest
                self.at["source" if at_source else "dest"][target].job = instance.active
            case overlay_actions.PivotToBase(target, at_source):
                yield from self.pivot(target, "source" if at_source else "dest")
            case overlay_actions.CommitWhileOff(target, at_source):
                yield from self.commit_off(target, "source" if at_source else "dest")
            case overlay_actions.RemoveOverlays():
                yield from self.remove("source")
                self.record = replace(record, first=replace(record.first, files=(), source={}))
            case overlay_actions.RemoveNewOverlays():
                yield from self.remove("dest")
                created = tuple(path for path in record.created if "overlay" not in path)
                self.record = replace(record, created=created, first=replace(record.first, made=()))
            case actions.RemoveImages():
                assert self.dest.absent
                self.at["dest"] = {target: Layers() for target in TARGETS}
                yield from super().steps(action)
                self.record = replace(self.record, first=replace(self.record.first, made=()))
            case _:
                yield from super().steps(action)

    def overlay(self, target: str, name: str) -> str:
        disk = self.plan.disk(target)
        return disk.overlay if name == "source" else disk.new_overlay

    def take(self, targets: tuple[str, ...]) -> Iterator[None]:
        for target in targets:
            layers = self.at["source"][target]
            assert not layers.overlay or layers.overlay <= (layers.base or set()), "it holds what its base lacks"
            first = self.record.first
            first = replace(first, files=(*first.files, self.plan.disk(target).overlay))
            first = first.with_state(target, OverlayState.NAMED, source=True)
            copied = {one: print_ for one, print_ in self.record.copied.items() if one != target}
            self.record = replace(self.record, first=first, copied=copied)
            yield
            layers.overlay = set()
            yield
        if not self.source.active:
            return  # libvirt refuses it
        for target in targets:
            self.at["source"][target].live = self.at["source"][target].config = "overlay"
        yield
        for target in targets:
            first = self.record.first.with_state(target, OverlayState.USED, source=True)
            self.record = replace(self.record, first=first)

    def point_config(self, name: str) -> None:
        instance = self.source if name == "source" else self.dest
        for target, layers in self.at[name].items():
            if instance.active:
                layers.config = layers.live
            elif self.record.first.at(source=name == "source").get(target) is OverlayState.COMMITTED:
                layers.config = "base"

    def pivot(self, target: str, name: str) -> Iterator[None]:
        layers = self.at[name][target]
        first = self.record.first.with_state(target, OverlayState.PIVOTING, source=name == "source")
        self.record = replace(self.record, first=replace(first, attempts=0))
        yield
        if not layers.job:  # it has gone off, and libvirt says so before it asks QEMU
            first = self.record.first.with_state(target, OverlayState.USED, source=name == "source")
            self.record = replace(self.record, first=first)
            return
        assert layers.ready
        layers.live, layers.job, layers.ready = "base", False, False
        yield
        layers.config = "base"

    def commit_off(self, target: str, name: str) -> Iterator[None]:
        layers = self.at[name][target]
        first = self.record.first.with_state(target, OverlayState.USED, source=name == "source")
        self.record = replace(self.record, first=first)
        yield
        assert layers.base is not None
        assert layers.overlay is not None
        layers.base |= layers.overlay
        yield
        first = self.record.first.with_state(target, OverlayState.COMMITTED, source=name == "source")
        noted = {**first.committed, self.overlay(target, name): self.layers_print(name, target)}
        self.record = replace(self.record, first=replace(first, committed=noted))

    def remove(self, name: str) -> Iterator[None]:
        for target, layers in self.at[name].items():
            if layers.overlay is None:
                continue
            assert layers.overlay <= (layers.base or set()), "an overlay was removed that holds what its base lacks"
            instance = self.source if name == "source" else self.dest
            in_use = {layers.config, layers.live if instance.active else "base"}
            assert "overlay" not in in_use, "an overlay in use was removed"
            layers.overlay = None
            self.images.pop(self.overlay(target, name), None)
            yield

    def migrate(self) -> None:
        before = self.newest
        for target in TARGETS:
            there = self.at["dest"][target]
            assert there.overlay is not None
            assert there.base == self.at["source"][target].base
        super().migrate()
        if not self.dest.absent and before == "source":
            for target in TARGETS:
                here, there = self.at["source"][target], self.at["dest"][target]
                there.overlay, there.live, there.config = set(here.overlay or ()), "overlay", "overlay"

    def time_passes(self) -> None:
        super().time_passes()
        for name in ("source", "dest"):
            for layers in self.at[name].values():
                if layers.job:
                    assert layers.base is not None
                    assert layers.overlay is not None
                    layers.base |= layers.overlay
                    layers.ready = True

    def power_off(self) -> None:
        """Its guest ends, wherever it runs."""
        for name, instance in (("source", self.source), ("dest", self.dest)):
            if instance.state is RUNNING:
                setattr(self, name, replace(instance, state=OFF, reason=""))
                for layers in self.at[name].values():
                    layers.job = layers.ready = False
                    layers.live = layers.config


def drive(pair: FirstPair, *, kill_at: int = -1, cancel_at: int = -1, off_at: int = -1, most: int = 400) -> int:
    """Run the loop to its end; what happens once after so many steps. The number of steps."""
    count = 0
    for _ in range(most):
        action = decide(pair.plan, pair.see())
        if isinstance(action, Done):
            return count
        for _step in pair.steps(action):
            pair.check()
            count += 1
            if count == cancel_at:
                pair.record = replace(pair.record, wanted=Wanted.CANCEL)
            if count == off_at:
                pair.power_off()
            if count == kill_at:
                pair.problem = None
                break
        pair.check()
        if pair.parked is not None:
            return count
    raise AssertionError(f"no end: {pair}")


def assert_over(pair: FirstPair) -> None:
    """One of both hosts has it on plain images, and nothing of the other's is left but what is kept."""
    assert pair.parked is None, pair.parked
    moved = pair.record.outcome is Outcome.MOVED
    name, instance = ("dest", pair.dest) if moved else ("source", pair.source)
    for layers in pair.at[name].values():
        on = {layers.config, layers.live if instance.active else "base"}
        assert (on, layers.overlay, layers.job) == ({"base"}, None, False)
    if moved:
        assert set(pair.images) == {*(disk.dest for disk in DISKS), VARIABLES.dest}
        assert (pair.source.absent, pair.dest.mark) == (True, "")
    else:
        assert not pair.images
        assert pair.dest.absent
        assert (pair.source.absent, pair.source.mark) == (False, "")


@pytest.mark.parametrize("breaks", BREAKS)
@pytest.mark.parametrize("was_running", [True, False])
def test_killed_at_each_step(breaks: str, was_running: bool) -> None:
    state = Instance(RUNNING if was_running else PAUSED, "" if was_running else "user", True, paths=OLD)
    plan = replace(FIRST, was_running=was_running)
    for kill_at in range(-1, 120):
        pair = FirstPair(plan, source=state, breaks=breaks)
        count = drive(pair, kill_at=kill_at)
        assert_over(pair)
        if kill_at < 0:
            assert (pair.record.outcome is Outcome.MOVED) == (breaks in GO_ON)
        if 0 <= kill_at > count:
            break


def test_cancelled_at_each_step_and_killed_on_the_way_back() -> None:
    for cancel_at in range(1, 60):
        for kill_at in (-1, *range(cancel_at, cancel_at + 30, 4)):
            pair = FirstPair(FIRST)
            count = drive(pair, cancel_at=cancel_at, kill_at=kill_at)
            assert_over(pair)
            if kill_at > count:
                break


def test_the_vm_goes_off_at_each_step() -> None:
    """Whatever is parked then has lost nothing: the instant of a switch, of which nobody can tell how it ended."""
    parked = 0
    for off_at in range(1, 80):
        for kill_at in (-1, off_at, off_at + 1, off_at + 2):
            pair = FirstPair(FIRST)
            drive(pair, off_at=off_at, kill_at=kill_at)
            if pair.parked is None:
                assert_over(pair)
            else:
                assert "cannot be told which of the two was written last" in pair.parked
                parked += 1
    assert 0 < parked < 30


def test_chance() -> None:
    """Kills, a cancel and a power-off at random, in all combinations."""
    dice = random.Random(11)
    for _ in range(600):
        pair = FirstPair(FIRST, breaks=dice.choice(BREAKS))
        drive(
            pair,
            kill_at=dice.choice((-1, dice.randrange(60))),
            cancel_at=dice.choice((-1, dice.randrange(60))),
            off_at=dice.choice((-1, -1, dice.randrange(60))),
        )


PREPARED = HostMoveRecord(marked=True, made=TARGETS, state_copied={VARIABLES.source: "1"})


def _seen(**changes: DiskView) -> HostObservation:
    pair = FirstPair(FIRST, record=PREPARED, source=Instance(RUNNING, "", True, "m1"))
    for layers in pair.at["source"].values():
        layers.live = layers.config = "overlay"
        layers.overlay = set()
    used = FirstRecord(
        files=tuple(disk.overlay for disk in FIRST.disks), source=dict.fromkeys(TARGETS, OverlayState.USED)
    )
    pair.record = replace(pair.record, first=used)
    seen = pair.see()
    assert seen.overlays is not None
    return replace(seen, overlays=replace(seen.overlays, disks={**seen.overlays.disks, **changes}))


def test_somebody_s_snapshot_below_the_overlay() -> None:
    view = replace(_seen().overlays.disks["vda"], foreign_base="/old/snap.qcow2")  # type: ignore[union-attr]
    action = decide(FIRST, _seen(vda=view))
    assert isinstance(action, actions.TurnBack)
    assert "/old/snap.qcow2" in action.problem


@pytest.mark.parametrize("wanted", [Wanted.GO, Wanted.CANCEL])
def test_the_overlay_is_passed_by(wanted: Wanted) -> None:
    """The VM was put upon the base by somebody, while the overlay has newer writes: nothing is removed."""
    view = replace(_seen().overlays.disks["vda"], live_overlay=False, config_overlay=False)  # type: ignore[union-attr]
    seen = _seen(vda=view)
    action = decide(FIRST, replace(seen, record=replace(seen.record, wanted=wanted)))
    if wanted is Wanted.GO:
        assert isinstance(action, actions.TurnBack)
        seen = replace(seen, record=replace(seen.record, failure=action.problem))
        action = decide(FIRST, seen)
    assert isinstance(action, Park)
    assert "holds what its guest wrote last" in action.problem


def test_a_plan_and_a_record_of_before() -> None:
    """They know no overlays: libvirt copies the disks, as was planned. What is planned so now is what was planned."""
    words = msgspec.json.decode(msgspec.json.encode(PLAN))
    for disk in words["disks"]:
        assert (disk.pop("overlay"), disk.pop("new_overlay")) == ("", "")
    assert words["version"] == 2
    plan = HostMoveKind().read_plan(msgspec.json.encode(words).decode())
    assert plan == PLAN
    assert not plan.first
    assert plan.made == {*(disk.dest for disk in DISKS), VARIABLES.dest}
    assert plan.old_files == tuple(disk.source for disk in DISKS)
    record = msgspec.json.decode(msgspec.json.encode(HostMoveRecord(marked=True)))
    del record["first"]
    assert HostMoveKind().read_record(msgspec.json.encode(record).decode()) == HostMoveRecord(marked=True)


def test_names_of_the_overlays_are_reserved() -> None:
    assert FIRST.version == 3, "a blockferry that does not know them must not carry it out"
    [vda, _] = FIRST.disks
    assert vda.overlay == "/old/web01-vda.m1.overlay.qcow2"
    assert vda.new_overlay == "/new/web01/web01-vda.m1.new-overlay.qcow2"
    assert vda.new_overlay in FIRST.made
    assert vda.overlay in FIRST.old_files
    assert PowerState.OFF is OFF
