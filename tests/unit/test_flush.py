"""The flush before the switch when the storage does not answer: a real program that hangs stands in for sync(1)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from blockferry.engine import act
from blockferry.engine.context import Context
from blockferry.errors import HostCommandFailed
from blockferry.images.copying import Stopped
from blockferry.images.runner import LocalRunner


@pytest.fixture
def flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Flush with this for sync(1); what was told."""

    def run(script: str, cancelled: threading.Event) -> list[str]:
        program = tmp_path / "sync"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        told: list[str] = []

        def tell(_kind: str, text: str) -> None:
            told.append(text)
            cancelled.set()  # somebody reads it, and has enough

        context = SimpleNamespace(runner=LocalRunner(), tell=tell, should_stop=cancelled.is_set)
        act._flush_file(cast(Context, context), "/srv/ssd/vda.qcow2")
        return told

    return run


def test_a_flush_that_ends_says_nothing(flush: Callable[..., list[str]]) -> None:
    assert flush("exit 0", threading.Event()) == []


def test_a_flush_that_fails_is_an_error(flush: Callable[..., list[str]]) -> None:
    with pytest.raises(HostCommandFailed, match="Input/output error"):
        flush("echo 'sync: error syncing: Input/output error' >&2; exit 1", threading.Event())


def test_a_wish_to_cancel_counts_while_the_storage_hangs(
    flush: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "SILENT_S", 0.1)
    monkeypatch.setattr(act, "FLUSH_LOOK_S", 0.05)
    cancelled = threading.Event()
    with pytest.raises(Stopped):
        flush("exec sleep 5", cancelled)
    assert cancelled.is_set()
