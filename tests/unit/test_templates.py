"""Layers that are not copied because their like is at the destination: what is chosen, seen, and refused."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cli_fake
import pytest
from decide_support import DESTINATION, SOURCE, make_plan
from hypothesis import given
from hypothesis import strategies as st
from test_cli import call
from test_decide import across, copying, disk, in_step, off, seen

from blockferry.base.errors import HostUnreachable
from blockferry.base.units import GiB, MiB
from blockferry.cli import describe
from blockferry.cli.output import Out
from blockferry.hosts.helper import image_users
from blockferry.hosts.helper.session import Pending
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Snapshot, Vm
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move import actions, old_plan
from blockferry.storage_move.decide import decide
from blockferry.storage_move.facts import Facts, TemplateFacts
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.move_kind import MoveKind
from blockferry.storage_move.observation import DiskSide
from blockferry.storage_move.observe import TemplateLook
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.rules import precheck
from blockferry.storage_move.precheck.space import needed
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import ChainPolicy, MoveRequest
from blockferry.storage_move.switch.record import ConfigurationRecord, SwitchRecord
from blockferry.storage_move.templates import effects as templates_effects
from blockferry.storage_move.templates.effects import KnownImages
from blockferry.storage_move.templates.plan import ReusedLayer
from blockferry.store import codec

pytestmark = pytest.mark.slow

RUNNING, PAUSED, OFF = PowerState.RUNNING, PowerState.PAUSED, PowerState.OFF
TOP, MIDDLE, GOLDEN = "/old/web01/vda.s1", "/old/web01/vda.qcow2", "/old/golden.qcow2"
THERE = "/ssd/golden.qcow2"
LAYER = (GOLDEN, "ssd")
SOURCE_OF_TOP = DiskSource("file", TOP, "qcow2")
SAME = TemplateFacts(THERE, "qcow2", GiB, "", {THERE: "t"}, {GOLDEN: "g"}, 1.5)
CHAIN = (Image(TOP, "qcow2", GiB, MiB), Image(MIDDLE, "qcow2", GiB, 2 * MiB), Image(GOLDEN, "qcow2", GiB, 512 * MiB))
OTHERS = {GOLDEN: ("web02",)}


def facts(**more: object) -> Facts:
    vm = Vm("web01", "uuid", RUNNING, True, (Disk("vda", "disk", "virtio", SOURCE_OF_TOP, SOURCE_OF_TOP),))
    found = Facts(
        uri="qemu:///system",
        vm=vm,
        datastores=(
            Datastore("old", "u1", "dir", True, "/old", 100 * GiB, 50 * GiB),
            Datastore("ssd", "u2", "dir", True, "/ssd", 100 * GiB, 50 * GiB),
        ),
        libvirt=(9, 0, 0),
        qemu=(7, 2, 22),
        chains={"vda": CHAIN},
        available={"ssd": 50 * GiB},
        users=OTHERS,
        existing=frozenset({THERE}),
    )
    return replace(found, **more)  # type: ignore[arg-type]


def check(known: Facts, chain: ChainPolicy, template: str = "auto") -> tuple[dict[str, str], Plan | None]:
    found, plan = precheck(MoveRequest("web01", "ssd", chain=chain, template=template), known, "abcd")
    return {finding.code: finding.text for finding in found}, plan


# ------------------------------------------------------------ what is chosen

NOT_THERE = {"existing": frozenset[str]()}
DIFFERENT = {"templates": {LAYER: replace(SAME, problem="it reads differently")}}
REUSABLE = {"templates": {LAYER: SAME}}
LAYERS, ALL = (MIDDLE,), (MIDDLE, GOLDEN)


@pytest.mark.parametrize(
    ("chain", "more", "copied", "below", "old_files"),
    [
        (ChainPolicy.SHARE, REUSABLE, (), MIDDLE, (TOP,)),
        (ChainPolicy.SHARE, NOT_THERE, (), MIDDLE, (TOP,)),
        (ChainPolicy.KEEP, NOT_THERE, LAYERS, GOLDEN, (TOP, MIDDLE)),
        (ChainPolicy.KEEP, DIFFERENT, LAYERS, GOLDEN, (TOP, MIDDLE)),
        (ChainPolicy.KEEP, REUSABLE, LAYERS, THERE, (TOP, MIDDLE)),
        (ChainPolicy.KEEP, {**REUSABLE, "users": {}}, LAYERS, THERE, (TOP, MIDDLE, GOLDEN)),
        (ChainPolicy.KEEP, {**NOT_THERE, "users": {}}, ALL, None, (TOP, MIDDLE, GOLDEN)),
        (ChainPolicy.COPY, NOT_THERE, ALL, None, (TOP, MIDDLE)),
        (ChainPolicy.COPY, REUSABLE, LAYERS, THERE, (TOP, MIDDLE)),
        (ChainPolicy.FLATTEN, REUSABLE, (), None, (TOP, MIDDLE)),
    ],
)
def test_what_becomes_of_each_layer(
    chain: ChainPolicy, more: dict[str, object], copied: tuple[str, ...], below: str | None, old_files: tuple[str, ...]
) -> None:
    codes, plan = check(facts(**more), chain)
    assert plan is not None, codes
    disk_plan = plan.disks[0]
    assert tuple(layer.source for layer in disk_plan.chain.layers) == copied
    assert (disk_plan.chain.stays_below[0] if disk_plan.chain.stays_below else None) == below
    assert disk_plan.release.files == old_files
    assert (
        THERE not in (disk_plan.dest.path, *(layer.dest for layer in disk_plan.chain.layers))
        or more.get("existing") == frozenset()
    )
    assert disk_plan.shallow is (chain is not ChainPolicy.FLATTEN)
    reused = below == THERE
    assert (disk_plan.chain.reused is not None) is reused
    assert ("TEMPLATE_REUSED" in codes) is reused
    assert (plan.new_names.get(GOLDEN) == THERE) is (reused or GOLDEN in copied)
    if copied:
        assert disk_plan.chain.backing == (disk_plan.chain.layers[0].dest, "qcow2")


def test_a_reused_layer_is_neither_copied_nor_counted() -> None:
    codes, plan = check(facts(**REUSABLE), ChainPolicy.COPY)
    assert plan is not None
    disk_plan = plan.disks[0]
    assert disk_plan.chain.reused is not None
    assert disk_plan.chain.reused.saved == 512 * MiB
    assert disk_plan.copy_bytes == 3 * MiB
    assert needed(disk_plan) < 5 * MiB
    assert "512 MiB need not be copied" in codes["TEMPLATE_REUSED"]
    assert "compared in 1.5 s" in codes["TEMPLATE_REUSED"]
    known, _ = check(facts(templates={LAYER: replace(SAME, known=True, seconds=0.0)}), ChainPolicy.COPY)
    assert "known" in known["TEMPLATE_REUSED"]


def test_what_is_there_and_not_the_same_is_never_overwritten() -> None:
    codes, plan = check(facts(**DIFFERENT), ChainPolicy.COPY)
    assert plan is not None
    assert "NAME_TAKEN" in codes
    assert plan.disks[0].chain.layers[0].dest not in facts(**DIFFERENT).existing
    assert "reads differently" in codes["TEMPLATE_NOT_REUSED"]


@pytest.mark.parametrize(
    ("more", "template", "code"),
    [
        (REUSABLE, "none", None),
        (DIFFERENT, "/lib/golden.qcow2", "TEMPLATE_UNUSABLE"),
        ({"templates": {}}, "/lib/golden.qcow2", "TEMPLATE_UNUSABLE"),
        (REUSABLE, THERE, "TEMPLATE_REUSED"),
        ({"templates": {LAYER: replace(SAME, virtual_size=2 * GiB)}}, "auto", "TEMPLATE_NOT_REUSED"),
        (
            {**REUSABLE, "snapshots": (Snapshot("s", external=("vda",), files=(GOLDEN,)),)},
            "auto",
            "TEMPLATE_NOT_REUSED",
        ),
    ],
)
def test_what_the_user_says_of_templates(more: dict[str, object], template: str, code: str | None) -> None:
    codes, plan = check(facts(**more), ChainPolicy.KEEP, template)
    assert {one for one in codes if one.startswith("TEMPLATE")} >= ({code} if code else set())
    assert (plan is None) == (code == "TEMPLATE_UNUSABLE")
    if plan is not None:
        assert (plan.disks[0].chain.reused is not None) == (code == "TEMPLATE_REUSED")


@given(
    chain=st.sampled_from(ChainPolicy),
    users=st.sets(st.sampled_from([MIDDLE, GOLDEN])),
    there=st.sets(st.sampled_from([MIDDLE, GOLDEN])),
    fit=st.booleans(),
)
def test_no_layer_is_lost_and_none_of_others_goes(
    chain: ChainPolicy, users: set[str], there: set[str], fit: bool
) -> None:
    """Whatever the layers are: below the new top stands the whole chain, each layer copied, reused or as it is."""
    found = {
        (path, "ssd"): TemplateFacts(
            f"/ssd/{Path(path).name}", "qcow2", GiB, "" if fit else "no", {"t": "1"}, {path: "1"}
        )
        for path in there
    }
    known = facts(templates=found, users=dict.fromkeys(users, ("web02",)), existing=frozenset())
    _, plan = check(known, chain)
    assert plan is not None
    disk_plan = plan.disks[0]
    assert not users & set(disk_plan.release.files)
    if chain is ChainPolicy.FLATTEN:
        assert disk_plan.chain.backing is None
        return
    copied = [layer.source for layer in disk_plan.chain.layers]
    assert copied == [MIDDLE, GOLDEN][: len(copied)]
    rest = [MIDDLE, GOLDEN][len(copied) :]
    if disk_plan.chain.reused is not None:
        assert fit
        assert disk_plan.chain.reused.source == rest[0]
        assert disk_plan.chain.stays_below == (disk_plan.chain.reused.path, "qcow2")
        assert disk_plan.chain.reused.path not in disk_plan.release.files
    else:
        assert disk_plan.chain.stays_below == ((rest[0], "qcow2") if rest else None)
        assert not set(rest) & set(disk_plan.release.files)
        assert not (fit and chain is ChainPolicy.COPY and there)


def several(stores: tuple[str, ...], **more: object) -> tuple[dict[str, str], Plan | None]:
    """A VM with a disk for each of these datastores, all on one template that only it uses."""
    disks, chains = [], {}
    for number, _ in enumerate(stores):
        target, top = f"vd{'abc'[number]}", f"/old/web01/{number}.qcow2"
        source = DiskSource("file", top, "qcow2")
        disks.append(Disk(target, "disk", "virtio", source, source))
        chains[target] = (Image(top, "qcow2", GiB, MiB), *CHAIN[1:])
    known = facts(users={}, existing=frozenset(), chains=chains, available={"ssd": 50 * GiB, "san": 50 * GiB}, **more)
    san = Datastore("san", "u3", "dir", True, "/san", 100 * GiB, 50 * GiB)
    known = replace(known, vm=replace(known.vm, disks=tuple(disks)), datastores=(*known.datastores, san))
    where = {disk.target: store for disk, store in zip(disks, stores, strict=True)}
    found, plan = precheck(MoveRequest("web01", None, where, home="ssd", chain=ChainPolicy.COPY), known, "abcd")
    return {finding.code: finding.text for finding in found}, plan


def test_what_several_disks_stand_on_is_copied_once() -> None:
    codes, plan = several(("ssd", "san", "ssd"))
    assert plan is not None, codes
    first, elsewhere, twin = plan.disks
    assert [layer.dest for layer in first.chain.layers] == ["/ssd/web01/vda.qcow2", THERE]
    assert [layer.dest for layer in elsewhere.chain.layers] == ["/san/web01/vda.qcow2", "/san/golden.qcow2"]
    assert twin.chain.layers == ()
    assert twin.chain.backing == twin.chain.stays_below == ("/ssd/web01/vda.qcow2", "qcow2") == first.chain.backing
    assert twin.release.files == ("/old/web01/2.qcow2", MIDDLE, GOLDEN)
    assert needed(twin) < 5 * MiB
    text = io.StringIO()
    describe.plan(Out(text, "never"), plan)
    assert "on   /ssd/web01/vda.qcow2, copied once for several disks" in text.getvalue()


def test_who_stands_on_a_layer_that_stands_on_a_template_watches_it_too() -> None:
    _, plan = several(("ssd", "ssd"), templates={LAYER: SAME})
    assert plan is not None
    first, twin = plan.disks
    assert [layer.source for layer in first.chain.layers] == [MIDDLE]
    assert twin.chain.layers == ()
    assert twin.chain.reused == first.chain.reused is not None
    assert twin.chain.stays_below == ("/ssd/web01/vda.qcow2", "qcow2")


def test_a_template_on_one_datastore_is_none_on_another() -> None:
    _, plan = several(("ssd", "san"), templates={LAYER: SAME})
    assert plan is not None
    here, there = plan.disks
    assert here.chain.reused is not None
    assert there.chain.reused is None
    assert [layer.dest for layer in there.chain.layers] == ["/san/web01/vda.qcow2", "/san/golden.qcow2"]


def test_a_template_goes_only_with_layers_that_go() -> None:
    result = call(cli_fake.FakeClient(), "check", "web01", "--to", "ssd", "--template", "/x")
    assert result.exit_code == 2
    assert "--chain keep" in result.output + result.stderr
    result = call(cli_fake.FakeClient(), "check", "web01", "--to", "ssd", "--template", "golden", "--chain", "keep")
    assert result.exit_code == 2


# ------------------------------------------------------------ changed between the compare and the switch

TWO = make_plan(2)
CHANGED = "/ssd/golden.qcow2"
HALF_BACK = Record(
    created=("/b/vda",), failure="no", configuration=ConfigurationRecord(marked=True), home=HomeRecord(copied=True)
)


def now(view: object) -> object:
    return replace(view, template_changed=CHANGED)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("state", "views", "record", "expected"),
    [
        (RUNNING, (now(disk()), disk("vdb")), None, actions.Fail),
        (RUNNING, (copying(), now(copying("vdb"))), None, actions.Fail),
        (PAUSED, (now(in_step()), in_step("vdb")), None, actions.Fail),
        (OFF, (now(off()), off("vdb")), None, actions.Fail),
        (RUNNING, (across(), now(in_step("vdb"))), None, actions.Fail),
        (RUNNING, (now(across()), now(in_step("vdb"))), None, actions.Park),
        (RUNNING, (now(across()), in_step("vdb")), HALF_BACK, actions.Park),
        (RUNNING, (across(), now(in_step("vdb"))), HALF_BACK, actions.AbortCopy),
        (RUNNING, (now(copying()), copying("vdb")), HALF_BACK, actions.AbortCopy),
    ],
)
def test_a_changed_template(
    state: PowerState, views: tuple[object, ...], record: Record | None, expected: type
) -> None:
    more = {} if record is None else {"record": record}
    action = decide(TWO, seen(state, *views, **more))  # type: ignore[arg-type]
    assert isinstance(action, expected), action


def test_a_changed_template_never_holds_the_guest() -> None:
    ours = Record(
        created=("/b/vda",),
        configuration=ConfigurationRecord(marked=True),
        home=HomeRecord(copied=True),
        switch=SwitchRecord(suspended=True, begun=True),
    )
    views = (now(across()), now(in_step("vdb")))
    assert decide(TWO, seen(PAUSED, *views, record=ours)) == actions.Resume()  # type: ignore[arg-type]


@given(
    sides=st.tuples(*[st.sampled_from([SOURCE, DESTINATION])] * 2),
    marks=st.tuples(st.booleans(), st.booleans()),
    state=st.sampled_from([RUNNING, PAUSED, OFF]),
    failure=st.sampled_from([None, "no"]),
    suspended=st.booleans(),
    jobs=st.booleans(),
)
def test_no_disk_goes_onto_a_changed_template_and_none_is_copied_back_from_it(
    sides: tuple[DiskSide, DiskSide],
    marks: tuple[bool, bool],
    state: PowerState,
    failure: str | None,
    suspended: bool,
    jobs: bool,
) -> None:
    views = []
    for target, side, changed in zip(("vda", "vdb"), sides, marks, strict=True):
        one = off(target, side) if state is OFF else in_step(target, side) if jobs else disk(target, side, side)
        views.append(replace(one, template_changed=CHANGED if changed else ""))
    record = Record(
        created=("/b/vda",),
        failure=failure,
        configuration=ConfigurationRecord(marked=True),
        home=HomeRecord(copied=True),
        switch=SwitchRecord(suspended=suspended, begun=suspended),
    )
    action = decide(TWO, seen(state, *views, record=record))
    by_target = {view.target: view for view in views}
    if isinstance(action, actions.Pivot):
        assert not any(by_target[target].template_changed for target in action.targets), action
    if isinstance(action, actions.StartCopy):
        assert not by_target[action.target].template_changed, action
    if isinstance(action, actions.WriteConfig) and SOURCE in sides:
        assert not any(view.template_changed for view in views if view.side is SOURCE), action


# ------------------------------------------------------------ what is seen on the host: real images

RUNNER = LocalRunner()
SIZE = 4 * MiB
NOTHING = KnownImages()
root = pytest.mark.skipif(os.geteuid() != 0, reason="who may not see all processes can prove nothing")


def image(path: Path, format: str = "qcow2", seed: int = 1, size: int = SIZE, backing: Path | None = None) -> Path:
    below = None if backing is None else (str(backing), "qcow2")
    qemu_img.create(RUNNER, str(path), format, size, backing=below)
    for number in range(4):
        words = f"write -P {random.Random(seed * 10 + number).randrange(1, 255)} {number * MiB} 128k"
        subprocess.run(["qemu-io", "-f", format, "-c", words, str(path)], check=True, stdout=subprocess.DEVNULL)
    return path


def chain_of(path: Path, format: str = "qcow2") -> tuple[Image, ...]:
    return tuple(
        Image(
            chain_image.path,
            chain_image.format,
            chain_image.virtual_size,
            chain_image.allocation,
            parts=chain_image.parts,
        )
        for chain_image in qemu_img.chain(RUNNER, str(path), format)
    )


def look(
    path: Path, other: Path, vms: tuple[Vm, ...] = (), known: KnownImages = NOTHING, format: str = "qcow2"
) -> TemplateFacts | None:
    return templates_effects.find(RUNNER, chain_of(path, format), str(other), vms, lambda: known)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A layer, and an image elsewhere that reads the same although its file is another."""
    path, other = tmp_path / "old" / "golden.qcow2", tmp_path / "new" / "golden.qcow2"
    path.parent.mkdir()
    other.parent.mkdir()
    image(path)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-c", str(path), str(other)], check=True)
    return path, other


@root
def test_the_same_content_is_found_and_then_known(pair: tuple[Path, Path]) -> None:
    path, other = pair
    found = look(path, other)
    assert found is not None
    assert (found.problem, found.known) == ("", False)
    assert set(found.prints) == {str(other)}
    assert set(found.source_prints) == {str(path)}
    known = KnownImages({templates_effects._pair(found.prints, found.source_prints)})
    again = look(path, other, known=known)
    assert again is not None
    assert (again.problem, again.known) == ("", True)
    for changed in pair:  # a touch is enough to be read again
        os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
        third = look(path, other, known=known)
        assert third is not None
        assert (third.problem, third.known) == ("", False)


@root
def test_what_was_compared_a_moment_ago_is_not_compared_again(pair: tuple[Path, Path]) -> None:
    path, other = pair
    found = look(path, other)
    assert found is not None
    same = replace(found, seconds=1234.5)
    again = look(path, other, known=KnownImages(just=templates_effects.compared([same])))
    assert again == same
    differs = replace(found, problem="it reads differently")
    again = look(path, other, known=KnownImages(just=templates_effects.compared([differs])))
    assert again == differs
    os.utime(other, ns=(0, other.stat().st_mtime_ns + 1))
    again = look(path, other, known=KnownImages(just=templates_effects.compared([differs])))
    assert again is not None
    assert (again.problem, again.seconds < 1000) == ("", True)


def test_a_long_comparison_is_told_of(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(templates_effects, "TELL_AFTER_S", 0.0)
    templates_effects.find(RUNNER, chain_of(pair[0]), str(pair[1]), (), lambda: NOTHING, said.append)
    assert len(said) == 1
    assert said[0].startswith(f"comparing the layer {pair[0]} with {pair[1]}: ")
    assert "of 4.0 MiB" in said[0]


# ------------------------------------------------------------ whether it has changed


class Hanging(LocalRunner):
    """What it is asked for comes once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.calls = 0

    def begin(self, *args: Any, **more: Any) -> Pending:
        self.calls += 1
        return Later(self, lambda: LocalRunner.begin(self, *args, **more))


class Later:
    def __init__(self, runner: Hanging, ask: Callable[[], Pending]) -> None:
        self.runner, self.ask = runner, ask
        self.asked: Pending | None = None

    def wait(self, seconds: float | None) -> bool:
        if not self.runner.go.wait(seconds):
            return False
        self.asked = self.asked or self.ask()
        return self.asked.wait(seconds)

    def result(self) -> Any:
        assert self.asked is not None
        return self.asked.result()

    def leave(self) -> None:
        pass


def plan_on(pair: tuple[Path, Path]) -> Plan:
    found = look(*pair)
    assert found is not None
    reused_layer = ReusedLayer(
        str(pair[0]), str(pair[1]), "qcow2", SIZE, SIZE, dict(found.prints), dict(found.source_prints)
    )
    plan = make_plan(2)
    return replace(
        plan, disks=(plan.disks[0], replace(plan.disks[1], chain=replace(plan.disks[1].chain, reused=reused_layer)))
    )


@root
def test_storage_that_hangs_holds_nobody_who_asks_for_a_change(pair: tuple[Path, Path]) -> None:
    runner = Hanging()
    asked = TemplateLook(runner, plan_on(pair))
    assert asked.look(0.05) is None
    assert asked.look(0.05) is None
    assert runner.calls == 1, "one look at a time"
    pair[1].unlink()
    runner.go.set()
    assert asked.look(60) == {"vdb": str(pair[1])}


@root
@pytest.mark.parametrize("patience_s", [60.0, None])
def test_what_cannot_be_looked_at_has_changed(pair: tuple[Path, Path], patience_s: float | None) -> None:
    plan = plan_on(pair)
    assert TemplateLook(RUNNER, plan).look(patience_s) == {}
    pair[1].unlink()
    pair[1].symlink_to(pair[1])  # stat: too many levels of symbolic links
    found = TemplateLook(RUNNER, plan).look(patience_s)
    assert found is not None
    assert set(found) == {"vdb"}


@root
def test_a_host_that_is_out_of_reach_says_nothing_of_its_files(pair: tuple[Path, Path]) -> None:
    class Lost(LocalRunner):
        def begin(self, *args: Any, **more: Any) -> Pending:
            raise HostUnreachable("qemu+ssh://kvm2/system", "no route to host")

    with pytest.raises(HostUnreachable):
        TemplateLook(Lost(), plan_on(pair)).look(60)


@root
def test_nothing_there_is_no_template(pair: tuple[Path, Path]) -> None:
    assert look(pair[0], pair[1].with_name("nothing")) is None


@root
@pytest.mark.parametrize("offset", [0, 3 * MiB + 4096, SIZE - 512])
def test_a_byte_that_differs_is_seen(pair: tuple[Path, Path], offset: int) -> None:
    path, other = pair
    words = ["qemu-io", "-f", "qcow2", "-c", f"write -P 255 {offset} 512", str(other)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    found = look(path, other)
    assert found is not None
    assert "reads differently" in found.problem


@root
def test_zeros_behind_the_end_are_not_the_same(pair: tuple[Path, Path]) -> None:
    path, other = pair
    subprocess.run(["qemu-img", "resize", "-q", str(other), str(2 * SIZE)], check=True)
    found = look(path, other)
    assert found is not None
    assert f"it has {2 * SIZE} bytes" in found.problem


@root
def test_a_raw_image_is_never_taken_for_what_its_guest_wrote_into_it(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """A raw template whose first bytes are a qcow2 header is compared as raw."""
    raw, disguised = tmp_path / "golden.raw", tmp_path / "new" / "golden.raw"
    image(raw, "raw")
    shutil.copy(pair[1], disguised)
    os.truncate(disguised, SIZE)
    found = look(raw, disguised, format="raw")
    assert found is not None
    assert "reads differently" in found.problem


@root
def test_whole_chains_are_compared_and_all_their_files_are_watched(tmp_path: Path) -> None:
    below = image(tmp_path / "below.qcow2")
    layer = image(tmp_path / "layer.qcow2", seed=2, backing=below)
    (tmp_path / "new").mkdir()
    other_below = image(tmp_path / "new" / "below.qcow2")
    other = image(tmp_path / "new" / "layer.qcow2", seed=2, backing=other_below)
    found = look(layer, other)
    assert found is not None
    assert found.problem == ""
    assert set(found.prints) == {str(other), str(other_below)}
    assert set(found.source_prints) == {str(layer), str(below)}


@root
def test_who_stands_on_the_layer_itself_has_nothing_to_reuse(tmp_path: Path) -> None:
    below = image(tmp_path / "below.qcow2")
    hard_link, overlay = tmp_path / "link.qcow2", tmp_path / "overlay.qcow2"
    hard_link.hardlink_to(below)
    qemu_img.create(RUNNER, str(overlay), "qcow2", SIZE, backing=(str(below), "qcow2"))
    for other in (hard_link, overlay):
        found = look(below, other)
        assert found is not None
        assert "in common" in found.problem


@root
def test_a_disk_of_a_vm_is_no_template(pair: tuple[Path, Path]) -> None:
    path, other = pair
    link = other.with_name("another-name")
    link.symlink_to(other)
    for name, live in itertools.product((other, link), (True, False)):
        source = DiskSource("file", str(name), "qcow2")
        vm = Vm(
            "web09",
            "u9",
            RUNNING if live else OFF,
            True,
            (Disk("vdc", "disk", "virtio", source if live else None, source),),
        )
        found = look(path, other, (vm,))
        assert found is not None
        assert "it is vdc of VM web09" in found.problem


@root
@pytest.mark.parametrize("why", ["marker", "busy", "writer", "reader"])
def test_what_somebody_makes_or_writes_is_no_template(pair: tuple[Path, Path], why: str) -> None:
    path, other = pair
    busy = {str(other): "move abcd, which is not over, has to do with it"} if why == "busy" else {}
    if why == "marker":
        Path(f"{other}.blockferry").write_text("{}")
    if why in ("busy", "marker"):
        found = look(path, other, known=KnownImages(busy=busy))
    else:
        mode = "r+b" if why == "writer" else "rb"
        program = f"f = open({str(other)!r}, {mode!r}); print('open', flush=True); input()"
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            found = look(path, other)
            process.communicate("\n")
    assert found is not None
    words = {"marker": "being made", "busy": "abcd", "writer": "can write to", "reader": ""}[why]
    assert words in found.problem
    assert bool(found.problem) == (why != "reader")


@root
def test_a_qemu_that_reads_is_told_from_one_that_writes(pair: tuple[Path, Path]) -> None:
    for words, expected in ((["-r"], False), ([], True)):
        process = subprocess.Popen(
            ["qemu-io", *words, "-f", "qcow2", str(pair[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("length\n")
            process.stdin.flush()
            assert "MiB" in process.stdout.readline()
            assert bool(image_users.writer(RUNNER, str(pair[1]))) is expected
            process.communicate("q\n")


@pytest.mark.parametrize("version", [2, 3])
def test_plans_of_older_versions_reuse_nothing(version: int) -> None:
    now = make_plan(1, layers=True)
    words = json.loads(codec.encode(old_plan.flat(now)))
    words["version"] = version
    for word in words["disks"]:
        del word["reused"]
    read = MoveKind().read_plan(json.dumps(words))
    assert read == replace(now, version=version)
    assert read.disks[0].chain.reused is None
    assert read.disks[0].copy_bytes == now.disks[0].sizes.allocation + now.disks[0].chain.layers[0].allocation
    assert TemplateLook(RUNNER, read).look(0.0) == {}


@root
def test_a_plan_that_reuses_is_read_as_it_was_written(pair: tuple[Path, Path]) -> None:
    plan = plan_on(pair)
    assert MoveKind().read_plan(codec.encode(plan)) == plan
