"""A copy of the UEFI variables that may hold more than the old file is not taken away with the move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blockferry.hosts.inventory import PowerState
from blockferry.hosts.runner import LocalRunner
from blockferry.safety import proof
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.firmware import effects
from blockferry.storage_move.firmware.record import NvramRecord
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.observe import fingerprint
from blockferry.storage_move.record import Record

RUNNER = LocalRunner()


class Move:
    """A move whose disks are over, with both files of UEFI variables there."""

    def __init__(self, directory: Path) -> None:
        self.old, self.new = directory / "old_VARS.fd", directory / "new_VARS.fd"
        for file in (self.old, self.new):
            file.write_bytes(b"variables")
        nvram = NvramRecord(copied=fingerprint(RUNNER, str(self.old)), made=fingerprint(RUNNER, str(self.new)))
        self.record = Record(created=(str(self.new),), nvram=nvram)
        self.state = PowerState.OFF
        self.sentences: list[str] = []

    def leave(self) -> str:
        """Leave the variables where they are; what is said of it."""
        plan = SimpleNamespace(source=str(self.old), dest=str(self.new))
        context: Any = SimpleNamespace(
            runner=RUNNER, plan=SimpleNamespace(vm="web01", firmware=SimpleNamespace(nvram=plan)), site=None,
            claims=lambda: None, check=lambda: None, log_event=lambda *_words: None, save=lambda _record: None,
            sources=self.sentences,
        )  # fmt: skip
        seen: Any = SimpleNamespace(record=self.record, state=self.state)
        effects.leave_nvram(cast(Context, context), actions.KeepNvram("it was cancelled"), cast(Observation, seen))
        return self.sentences[-1]


@pytest.fixture
def move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Move:
    monkeypatch.setattr(proof, "blocker", lambda *_words, **_more: None)
    return Move(tmp_path)


def test_an_untouched_copy_goes(move: Move) -> None:
    move.leave()
    assert not move.new.exists()
    assert move.old.exists()


def test_half_a_copy_goes(move: Move) -> None:
    move.record = replace(move.record, nvram=NvramRecord())
    move.state = PowerState.ABSENT
    move.leave()
    assert not move.new.exists()


def test_the_only_copy_stays(move: Move) -> None:
    move.old.unlink()
    assert "is gone" in move.leave()
    assert move.new.exists()


def test_a_copy_that_was_written_to_stays(move: Move) -> None:
    move.new.write_bytes(b"variables, and a boot entry")
    assert "it was written to" in move.leave()
    assert move.new.exists()


def test_the_copy_of_a_vm_that_is_not_defined_stays(move: Move) -> None:
    move.state = PowerState.ABSENT
    assert "may be defined again" in move.leave()
    assert move.new.exists()
