"""The flush before the switch: done, refused, and when the storage does not answer."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from blockferry.base.errors import HostCallFailed
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move.context import Context
from blockferry.storage_move.switch import effects as switch_effects


def flush(path: Path, cancelled: threading.Event) -> list[str]:
    """Flush it; what was told."""
    told: list[str] = []

    def tell(_kind: str, text: str) -> None:
        told.append(text)
        cancelled.set()  # somebody reads it, and has enough

    context = SimpleNamespace(runner=LocalRunner(), log_event=tell, should_stop=cancelled.is_set)
    switch_effects._flush_file(cast(Context, context), str(path))
    return told


def test_a_flush_that_ends_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "vda.qcow2").touch()
    assert flush(tmp_path / "vda.qcow2", threading.Event()) == []


def test_a_flush_that_fails_is_an_error() -> None:
    with pytest.raises(HostCallFailed) as failed:
        flush(Path("/proc/self/status"), threading.Event())  # which has no fsync
    assert failed.value.errno == errno.EINVAL


def test_a_wish_to_cancel_counts_while_the_storage_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs:
        left = False

        def wait(self, seconds: float) -> bool:
            time.sleep(seconds)
            return False

        def leave(self) -> None:
            self.left = True

    hangs = Hangs()
    monkeypatch.setattr(LocalRunner, "begin", lambda *_words, **_more: hangs)
    monkeypatch.setattr(switch_effects, "SILENT_S", 0.1)
    monkeypatch.setattr(switch_effects, "FLUSH_LOOK_S", 0.05)
    cancelled = threading.Event()
    with pytest.raises(ConversionStopped):
        flush(Path("/srv/ssd/vda.qcow2"), cancelled)
    assert cancelled.is_set()
    assert hangs.left
