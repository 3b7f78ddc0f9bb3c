"""The short cut of the fault matrix (`make faults` is the whole): one quick cell of every kind, judged the same way.

A case that fails says how it is repeated alone. What a cell does in detail follows from the seed, which is fixed here,
so that a failure is the code's and not the dice's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults import matrix, places
from faults.case import Case, Catalogue, Fault
from faults.ground import Ground
from faults.scene import Scene
from lab import Lab
from lab.process import run
from lab.said import Said

pytestmark = pytest.mark.lab

SEED = 20261123

CASES = (
    "kill-us/mirror/3/pivoted-one/0",
    "kill-us/changed-blocks/3/at-random/0",
    "kill-us/cold/3/cold-copying/0",
    "kill-all/mirror/1/bulk/0",
    "freeze-us/mirror/3/switch/0",
    "power-off/mirror/3/bulk/0",
    "pause/mirror/1/in-step/0",
    "cancel/mirror/1/bulk/0",
    "dest-unmounted/changed-blocks/1/prepare/0",
    "source-eio/changed-blocks/1/bulk/0",
    "journal-full/mirror/1/in-step/0",
    "power-loss/changed-blocks/3/switch/0",
)


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """A lab of its own: these cases kill its host."""
    with Lab.create() as lab, Ground.open(lab) as found:
        yield found


@pytest.mark.parametrize("text", CASES)
def test_a_fault_is_survived(ground: Ground, text: str) -> None:
    known, case = matrix.catalogue(), Case.parse(text)
    result = matrix.play(ground, known, case, SEED)
    story = "\n".join([*result.notes, "", *result.evidence])
    found = "\n".join(result.findings)
    assert result.ok, f"{found}\npython -m faults --seed {SEED} --repeat {text}\n\n{story}"
    if case.place != places.AT_RANDOM:
        assert result.reached, f"the fault did not strike at {result.point}: nothing was tried\n{story}"


def test_a_commit_that_failed_is_tried_again_when_its_storage_is_well(ground: Ground) -> None:
    """The move is parked after three attempts; `blockferry resume` counts anew. It stayed parked for ever."""
    case = Case.parse("source-eio/snapshot/1/bulk/0")
    result = matrix.play(ground, matrix.catalogue(), case, 6)
    assert result.point == "syncing-base"
    assert result.ok, "\n".join([*result.findings, *result.notes, "", *result.evidence])
    assert any("in 3 attempts" in note for note in result.notes), result.notes


def test_a_deleted_base_below_an_overlay_is_noticed(ground: Ground) -> None:
    """The overlay was there, its base was not: QEMU refused every switch, and it was tried without end."""
    result = matrix.play(ground, matrix.catalogue(), Case.parse("dest-deleted/snapshot/1/bulk/0"), 6)
    assert result.ok, "\n".join([*result.findings, *result.notes, "", *result.evidence])


def test_a_switch_that_broke_over_deleted_files_is_brought_back(ground: Ground) -> None:
    """Two of three disks were across when the new files were found deleted. On the way back it was asked whether the
    new files are there, instead of the old ones: the VM was held for a second in every two, for ever.
    """
    result = matrix.play(ground, matrix.catalogue(), Case.parse("dest-deleted/changed-blocks/3/in-step/0"), 6)
    assert result.point == "flushed"
    assert result.ok, "\n".join([*result.findings, *result.notes, "", *result.evidence])


# -- a judge that cannot fail is worth nothing ------------------------------------------------------------------------


def _moved(scene: Scene) -> Path:
    """An undisturbed move; where its first disk is now."""
    scene.begin()
    scene.over()
    return Path(scene.guest.sources(inactive=True)["vda"])


def _lose_a_write(scene: Scene) -> None:
    run(["qemu-io", "-f", "qcow2", "-c", "write -z 0 8M", _moved(scene)])


def _name_the_old_disk(scene: Scene) -> None:
    """The next start would use the other side: two owners."""
    new = _moved(scene)
    old = scene.ground.stores[scene.before].home(scene.vm) / new.name
    xml = scene.ground.lab.directory / "tmp" / "old.xml"
    xml.write_text(scene.guest.xml(inactive=True).replace(str(new), str(old)))
    scene.host.virsh("define", str(xml))


def _leave_a_file(scene: Scene) -> None:
    _moved(scene)
    (scene.ground.stores[scene.before].path / f"{scene.vm}-left.qcow2").touch()


def _never_take_it_up(scene: Scene) -> None:
    """The user's commands come to nothing."""
    scene.stop_at(scene.point)
    scene.kill_us()
    nothing = Said(("resume",), 0, "", "")
    scene.chance = random.Random(1)  # whose first choice is a command that names the move
    Scene.do = lambda *_words, **_options: nothing  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("method", "sabotage", "finding"),
    [
        ("cold", _lose_a_write, "lost writes: "),
        ("mirror", _name_the_old_disk, "live and persistent configuration differ"),
        ("mirror", _leave_a_file, "left over: "),
        ("mirror", _never_take_it_up, "the move ended as 'not over'"),
    ],
)
def test_the_judge_notices(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, method: str, sabotage: Callable[[Scene], None], finding: str
) -> None:
    monkeypatch.setattr(Scene, "do", Scene.do)  # so that it is put back
    known = Catalogue[Fault]()
    known.add(Fault("sabotage", "judge", "", sabotage, own=True))
    case = Case("sabotage", method, 1, "prepare")
    result = matrix.play(ground, known, case, SEED)
    assert any(finding in one for one in result.findings), result.findings


def test_the_short_cut_has_every_group_and_names_cells_that_there_are() -> None:
    known = matrix.catalogue()
    cells = {case.id for case in known.cells()}
    assert set(CASES) <= cells
    assert {known.faults[Case.parse(text).fault].group for text in CASES} == {
        fault.group for fault in known.faults.values()
    }
