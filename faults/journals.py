"""The journal fails under a move: its disk is full, somebody keeps it locked, it is gone and comes back."""

from __future__ import annotations

import contextlib
import sqlite3
import time

from faults.case import Catalogue, Fault
from faults.scene import Scene


def _full(scene: Scene) -> None:
    scene.ground.journal_store.fill(0)
    scene.wake()
    _some_time(scene, 12)


def _room_again(scene: Scene) -> None:
    scene.ground.journal_store.unfill()


def _locked(scene: Scene) -> None:
    """By another process, for less or for more than the 10 s that ours waits."""
    seconds = scene.chance.choice((2.0, 13.0))
    with contextlib.closing(sqlite3.connect(scene.ferry.journal, timeout=1, isolation_level=None)) as link:
        try:
            link.execute("BEGIN IMMEDIATE")
            scene.wake()
        except sqlite3.OperationalError:  # our frozen process is itself in the middle of writing a line
            scene.note("our own process had frozen with the journal locked")
            scene.wake()
            link.execute("PRAGMA busy_timeout = 30000")
            link.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        link.execute("ROLLBACK")
    scene.note(f"the journal was locked for {seconds:g} s")


def _gone(scene: Scene) -> None:
    """Moved away with its log, as with a mount that is lost, and back after some seconds."""
    directory = scene.ferry.journal.parent
    away = directory / "away"
    away.mkdir(exist_ok=True)
    files = list(directory.glob("journal.db*"))
    for path in files:
        path.rename(away / path.name)
    scene.wake()
    _some_time(scene, scene.chance.uniform(2, 8))
    for path in directory.glob("journal.db*"):
        scene.note(f"a new {path.name} was made while the old one was away")
        path.unlink()
    for path in files:
        (away / path.name).rename(path)
    scene.note("the journal was gone and is back")


def _some_time(scene: Scene, seconds: float) -> None:
    process = scene.process
    if process is not None:
        scene.wait(lambda: process.poll() is not None, seconds)


def add_to(catalogue: Catalogue[Fault]) -> None:
    """The faults of this file."""
    catalogue.add(
        Fault("journal-full", "journal", "the journal's disk is full", _full, heal=_room_again),
        Fault("journal-locked", "journal", "another process keeps the journal locked for 2 or 13 s", _locked),
        Fault("journal-gone", "journal", "the journal is gone for 2-8 s and comes back", _gone),
    )
