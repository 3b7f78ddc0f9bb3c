"""Driving the real command line inside a lab host, and what must be true of a VM whenever a move is over."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Datastore, Guest, Host

PROGRAM = str(Path(sys.executable).with_name("blockferry"))
MARKER = ".blockferry"
KILLED = (137, -9)


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.status in KILLED

    @property
    def documents(self) -> list[dict[str, Any]]:
        """What `--json` printed, line by line."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]

    def __str__(self) -> str:
        return f"status {self.status}\n{self.out}\n{self.err}"


@dataclass(frozen=True)
class Ferry:
    """`blockferry` on one host."""

    host: Host
    stores: tuple[Datastore, ...]
    journal: Path

    def env(self, **more: str) -> dict[str, str]:
        return {"BLOCKFERRY_JOURNAL": f"sqlite:///{self.journal}", **more}

    def run(self, *words: str, point: str | None = None, **env: str) -> Result:
        """Run a command to its end; `point` asks a named point for something (engine/points.py)."""
        if point is not None:
            env["BLOCKFERRY_POINT"] = point
        done = self.host.run([PROGRAM, *words], env=self.env(**env), check=False, timeout=300)
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, **env: str) -> Result:
        """Run a command that must succeed."""
        result = self.run(*words, **env)
        assert result.status == 0, str(result)
        return result

    def start(self, *words: str, **env: str) -> Any:
        """Start a command; the caller waits for it."""
        return self.host.popen([PROGRAM, *words], env=self.env(**env))

    def unfinished(self) -> list[dict[str, Any]]:
        return list(json.loads(self.ok("moves", "--json").out)["moves"])

    def last(self) -> dict[str, Any]:
        """The move that ended last."""
        return dict(json.loads(self.ok("history", "--json").out)["moves"][0])

    def wait_finished(self, vm: str, seconds: float = 180) -> dict[str, Any]:
        """Wait until no move of the VM is unfinished; that move."""
        wait(lambda: self.move_of(vm) is None, f"the end of the move of {vm}", seconds)
        return next(one for one in json.loads(self.ok("history", "--json").out)["moves"] if one["plan"]["vm"] == vm)

    def move_of(self, vm: str) -> str | None:
        """The id of the VM's unfinished move, read from the journal itself: any command would take the move up."""
        with contextlib.closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=30)) as database:
            row = database.execute("SELECT id FROM moves WHERE finished IS NULL AND vm = ?", (vm,)).fetchone()
        return None if row is None else str(row[0])


def wait(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait for something that must come; generous, since other tests may run beside."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {seconds:g} s"
        time.sleep(0.1)


def side(guest: Guest, stores: Iterable[Datastore]) -> str:
    """The one datastore that all disks of the VM are on, live and persistent alike."""
    sources = guest.sources(inactive=True)
    if guest.host.vm_state(guest.name) != "shut off":
        live = guest.sources()
        assert live == sources, f"live {live} and persistent {sources} configuration differ"
    found = {store.name for path in sources.values() for store in stores if str(path).startswith(f"{store.path}/")}
    assert len(found) == 1, f"the disks are on {found}: {sources}"
    return found.pop()


def assert_clean(ferry: Ferry, guest: Guest, kept: Iterable[str] = ()) -> None:
    """Nothing of a move is left: no job, no mark, no marker, no file that the VM does not use."""
    xml = guest.xml()
    assert "<mirror" not in xml, "a block job is left"
    assert "urn:blockferry" not in xml, "a mark is left"
    used = {str(path) for path in guest.sources().values()} | set(kept)
    for store in ferry.stores:
        for path in store.path.rglob("*"):
            if path.is_file() and guest.name in str(path.relative_to(store.path)):
                assert str(path) in used or path.suffix == ".xml", f"{path} is left over"
                assert path.suffix != MARKER, f"the marker {path} is left over"


def assert_whole(guest: Guest) -> None:
    """The judge in the guest finds every acknowledged write and nothing else changed."""
    verdict = guest.judge.verify_live()
    assert verdict.ok, str(verdict)


def other(store: str) -> str:
    return "ssd" if store == "old-san" else "old-san"
