"""The overlay at the destination goes only when its base is proven to have what it holds."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blockferry.base.errors import StillInUse
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.runner import LocalRunner
from blockferry.safety import proof
from blockferry.storage_move.context import Context
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.observe import layer_fingerprint
from blockferry.storage_move.overlays import effects
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.record import Record

RUNNER = LocalRunner()


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


class Settling:
    """A move whose VM was seen on the base at the destination; the overlay above it is there still."""

    def __init__(self, directory: Path) -> None:
        base, self.overlay = str(directory / "vda.qcow2"), str(directory / "vda.overlay")
        run("qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", self.overlay)
        self.disk: Any = SimpleNamespace(
            target="vda",
            overlays=SimpleNamespace(source="", dest=self.overlay),
            source=SimpleNamespace(path=base, format="qcow2"),
            dest=SimpleNamespace(path=base, format="qcow2", thick=False),
            chain=SimpleNamespace(layers=()),
        )
        self.record = Record(created=(self.overlay,))
        self.notes: list[str] = []

    def write(self) -> None:
        run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 64k", self.overlay)

    def was(self, state: OverlayState) -> None:
        noted = {self.overlay: layer_fingerprint(RUNNER, self.disk, at_source=False)}
        fingerprints = noted if state is OverlayState.COMMITTED else {}
        self.record = replace(
            self.record,
            disks={"vda": DiskRecord(dest_overlay=state)},
            commits=replace(self.record.commits, fingerprints=fingerprints),
        )

    def settle(self) -> bool:
        """Whether the overlay is there still. Raises StillInUse."""
        context: Any = SimpleNamespace(
            runner=RUNNER, plan=SimpleNamespace(disk=lambda _target: self.disk, move="m1"), site=None, notes=self.notes,
            claims=lambda: None, check=lambda: None, log_event=lambda *_words: None, save=lambda _record: None,
        )  # fmt: skip
        seen: Any = SimpleNamespace(record=self.record, state=PowerState.RUNNING)
        effects.settle(cast(Context, context), "vda", cast(Observation, seen))
        return Path(self.overlay).exists()


@pytest.fixture
def settling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settling:
    monkeypatch.setattr(proof, "blocker", lambda *_words, **_more: None)
    return Settling(tmp_path)


def test_one_that_was_committed_and_not_touched_since_goes(settling: Settling) -> None:
    settling.write()
    settling.was(OverlayState.COMMITTED)
    assert not settling.settle()


def test_one_that_the_vm_never_was_on_goes(settling: Settling) -> None:
    """A copy to it that was broken off holds data of the old disk."""
    settling.write()
    assert not settling.settle()


def test_one_that_was_written_to_after_its_commit_stays(settling: Settling) -> None:
    """The VM was started on it in the moment before its configuration was written."""
    settling.was(OverlayState.COMMITTED)
    settling.write()
    with pytest.raises(StillInUse, match="not proven that its base has them"):
        settling.settle()
    assert Path(settling.overlay).exists()


def test_one_that_was_never_committed_stays(settling: Settling) -> None:
    settling.write()
    settling.was(OverlayState.USED)
    with pytest.raises(StillInUse):
        settling.settle()


def test_one_that_another_file_has_taken_the_name_of_stays(settling: Settling) -> None:
    settling.record = replace(settling.record, created=())
    assert settling.settle()


def test_one_that_qemu_may_still_use_stays(settling: Settling) -> None:
    settling.was(OverlayState.COMMITTED)
    settling.record = replace(settling.record, graph=replace(settling.record.graph, doubt="no answer"))
    assert settling.settle()
    assert "could not be told" in settling.notes[0]
