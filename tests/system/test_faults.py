"""The short cut of the fault matrix (`make faults` is the whole): one quick cell of every kind, judged the same way.

A case that fails says how it is repeated alone. What a cell does in detail follows from the seed, which is fixed here,
so that a failure is the code's and not the dice's.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults import matrix, places
from faults.case import Case
from faults.ground import Ground
from lab import Lab

pytestmark = pytest.mark.lab

SEED = 20261123

CASES = (
    "kill-us/mirror/3/pivoted-one/0",
    "kill-us/changed-blocks/3/at-random/0",
    "kill-us/mirror/1/removing-destination/0",
    "kill-us/cold/3/cold-copying/0",
    "kill-libvirtd/mirror/3/switch/0",
    "kill-virtlogd/cold/1/prepare/0",
    "kill-qemu/mirror/3/in-step/0",
    "kill-us-libvirtd/changed-blocks/1/in-step/0",
    "kill-all/mirror/1/bulk/0",
    "freeze-us/mirror/3/switch/0",
    "freeze-libvirtd/changed-blocks/3/bulk/0",
    "freeze-qemu/mirror/1/in-step/0",
    "reboot/changed-blocks/1/bulk/0",
    "power-off/mirror/3/bulk/0",
    "destroy/changed-blocks/1/switch/0",
    "pause/mirror/1/in-step/0",
    "hotplug/mirror/1/bulk/0",
    "job-abort/mirror/3/bulk/0",
    "cancel/mirror/1/bulk/0",
    "dest-full/changed-blocks/1/bulk/0",
    "dest-eio/mirror/1/bulk/0",
    "source-eio/changed-blocks/1/bulk/0",
    "journal-full/mirror/1/in-step/0",
    "journal-gone/cold/1/bulk/0",
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


def test_the_short_cut_has_every_group_and_names_cells_that_there_are() -> None:
    known = matrix.catalogue()
    cells = {case.id for case in known.cells()}
    assert set(CASES) <= cells
    assert {known.faults[Case.parse(text).fault].group for text in CASES} == {
        one.group for one in known.faults.values()
    }
