"""Running blockferry's real command line on a lab host, and what must be true whenever a move is over."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import Datastore, Disk, Guest, Host
from lab.namespaces import HostProcess
from lab.process import wait_until

PROGRAM = Path(sys.executable).with_name("blockferry")
MARK = "urn:blockferry"
MARKER = ".blockferry"
LIMIT_S = 240
"""No command needs so long; on a busy machine it is still no reason to fail."""


@dataclass(frozen=True)
class Said:
    """What one command said. `status` is negative when a signal killed it."""

    words: tuple[str, ...]
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The last JSON document on standard output."""
        lines = self.out.strip().splitlines()
        assert lines, str(self)
        found = json.loads(lines[-1])
        assert isinstance(found, dict)
        return found

    @property
    def killed(self) -> bool:
        return self.status in (-9, 137)

    @property
    def move(self) -> dict[str, Any]:
        found = self.document["move"]
        assert isinstance(found, dict), str(self)
        return found

    @property
    def code(self) -> str:
        """Code of the error that it ended with."""
        return str(self.document.get("code", ""))

    @property
    def codes(self) -> list[str]:
        """The reasons of a refusal."""
        return list(self.document.get("facts", {}).get("codes", []))

    def __str__(self) -> str:
        return f"{' '.join(self.words)}: status {self.status}\n{self.out}\n{self.err}"


class Line:
    """blockferry's command line on a host, with a journal of its own. Every command gets --json."""

    def __init__(self, host: Host, directory: Path, stores: tuple[Datastore, ...]) -> None:
        self.host = host
        self.directory = directory
        self.stores = stores
        self.journal = directory / "journal.db"
        for value in ("true", "false"):
            (directory / f"suspended-{value}.toml").write_text(f"suspended_start = {value}\n")
        (directory / "empty.toml").write_text("")

    def environment(self, point: str = "", suspended_start: bool | None = None) -> dict[str, str]:
        config = "empty" if suspended_start is None else f"suspended-{str(suspended_start).lower()}"
        return {
            **os.environ,
            "BLOCKFERRY_JOURNAL": f"sqlite:///{self.journal}",
            "BLOCKFERRY_CONFIG": str(self.directory / f"{config}.toml"),
            "BLOCKFERRY_POINT": point,
        }

    @property
    def station(self) -> Host:
        """The host on which the commands, and the guard, run."""
        return self.host

    def start(self, *words: str | Path, point: str = "", suspended_start: bool | None = None) -> HostProcess:
        """Start a command and leave it running; `end` waits for it."""
        return self.station.popen(
            [str(PROGRAM), *map(str, words), "--json"],
            env=self.environment(point, suspended_start),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @staticmethod
    def end(process: HostProcess) -> Said:
        words = process.args if isinstance(process.args, list) else [str(process.args)]
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate(timeout=20)
            raise AssertionError(f"{words}: no end after {LIMIT_S} s\n{out}\n{err}") from None
        at = next((index for index, word in enumerate(words) if str(word) == str(PROGRAM)), 0)
        return Said(tuple(map(str, words[at + 1 :])), process.returncode, out, err)

    def wait_stopped(self, process: HostProcess) -> None:
        """Until the process has come to its point `:stop`. The nsenter before it stops along with it."""

        def stopped() -> bool:
            assert process.poll() is None, self.end(process)
            return "\nState:\tT" in Path(f"/proc/{process.pid}/status").read_text()

        wait_until(stopped, "the process to stop itself", timeout=240, report=self.stories)

    def do(self, *words: str | Path, point: str = "", suspended_start: bool | None = None) -> Said:
        """Run one command to its end, whatever its status."""
        return self.end(self.start(*words, point=point, suspended_start=suspended_start))

    def must(self, *words: str | Path, point: str = "", suspended_start: bool | None = None) -> Said:
        """Run one command that has to go well."""
        said = self.do(*words, point=point, suspended_start=suspended_start)
        assert said.status == 0, f"{said}\n{self.stories()}"
        return said

    # -- the journal, read by another program ----------------------------------------------------------------

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if not self.journal.exists():
            return []
        # Not `with` alone: that would end a transaction, not the connection.
        with contextlib.closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=30)) as link:
            try:
                return link.execute(query, values).fetchall()
            except sqlite3.OperationalError as why:
                if "no such table" in str(why):
                    return []
                raise

    def unfinished(self) -> list[str]:
        """Ids of the moves that are not over, without a blockferry command that would take them up."""
        return [row[0] for row in self.rows("SELECT id FROM moves WHERE finished IS NULL")]

    def story(self, move: str) -> list[str]:
        query = "SELECT kind, text FROM events WHERE move = ? ORDER BY number"
        return [f"{kind}: {text}" for kind, text in self.rows(query, move)]

    def stories(self) -> str:
        ids = [row[0] for row in self.rows("SELECT id FROM moves ORDER BY created")][-2:]
        return "\n".join(f"--- story of {one}\n" + "\n".join(self.story(one)) for one in ids)

    def record(self, move: str) -> dict[str, Any]:
        [(text,)] = self.rows("SELECT record FROM moves WHERE id = ?", move)
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def progress(self, move: str) -> dict[str, Any]:
        found = json.loads(self.rows("SELECT progress FROM moves WHERE id = ?", move)[0][0] or "{}")
        assert isinstance(found, dict)
        return found

    def wait_unfinished(self) -> str:
        """The id of the one move under way, once it is in the journal."""
        wait_until(lambda: bool(self.unfinished()), "a move in the journal", timeout=LIMIT_S, step=0.05)
        [move] = self.unfinished()
        return move

    def wait_finished(self) -> None:
        wait_until(lambda: not self.unfinished(), "the end of the move", timeout=LIMIT_S, step=0.1, report=self.stories)

    def move_of(self, vm: str) -> str | None:
        """The id of the VM's unfinished move."""
        found = self.rows("SELECT id FROM moves WHERE finished IS NULL AND vm = ?", vm)
        return str(found[0][0]) if found else None

    def wait_finished_of(self, vm: str) -> dict[str, Any]:
        """Wait until no move of the VM is unfinished; its last one, as `history` tells it."""
        wait_until(
            lambda: self.move_of(vm) is None, f"the end of the move of {vm}", timeout=LIMIT_S, step=0.1,
            report=self.stories,
        )  # fmt: skip
        return next(one for one in self.history() if one["plan"]["vm"] == vm)

    def history(self) -> list[dict[str, Any]]:
        """The moves that are over, the last one first."""
        return list(self.must("history").document["moves"])

    def wait_story(self, move: str, text: str) -> None:
        wait_until(
            lambda: any(text in line for line in self.story(move)),
            f"{text!r} in the story", timeout=LIMIT_S, step=0.05, report=self.stories,
        )  # fmt: skip


class FarLine(Line):
    """The command line on one host for another, which it reaches by qemu+ssh."""

    def __init__(self, station: Host, host: Host, directory: Path, stores: tuple[Datastore, ...]) -> None:
        super().__init__(host, directory, stores)
        self._station = station

    @property
    def station(self) -> Host:
        """See Line."""
        return self._station

    def environment(self, point: str = "", suspended_start: bool | None = None) -> dict[str, str]:
        """See Line."""
        return {**super().environment(point, suspended_start), "BLOCKFERRY_URI": self.host.ssh_uri}


@dataclass
class Voyage:
    """One guest with what the test knows of it: where each disk is, and in which format."""

    guest: Guest
    line: Line
    stores: tuple[Datastore, ...]
    persistent: bool = True
    database: bool = False
    where: dict[str, Path] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for disk in self.guest.spec.disks:
            self.where.setdefault(disk.target, Path(disk.path))
            self.formats.setdefault(disk.target, disk.format)

    @property
    def name(self) -> str:
        return self.guest.name

    def write(self, rate: int = 100, **options: Any) -> None:
        """Let the judge write on all disks, and the database where there is one."""
        self.guest.judge.start(rate=rate, **{"most_kib": 16, **options})
        if self.database:
            self.guest.database.start(rate=10)
            self.guest.database.wait_commits(3)
        self.guest.judge.wait_writes(60)

    def files(self, store: Datastore) -> set[str]:
        """Everything of this guest on a datastore, relative to it."""
        home = store.home(self.name)
        flat = [*store.path.glob(f"{self.name}-*"), *store.path.glob(f"{self.name}.*")]
        inside = [*home.rglob("*"), home] if home.exists() else []
        return {str(path.relative_to(store.path)) for path in (*flat, *inside)}

    def moved(self, target: str, store: Datastore, new_format: str | None = None) -> Path:
        """Expect a disk on `store` from now on, by its old name."""
        old = self.where[target]
        new_format = new_format or self.formats[target]
        ending = old.suffix if new_format == self.formats[target] else f".{new_format}"
        directory = store.home(self.name) if old.parent.name == self.name else store.path
        self.where[target], self.formats[target] = directory / f"{old.stem}{ending}", new_format
        return self.where[target]

    def moved_all(self, store: Datastore, new_format: str | None = None) -> None:
        for target in list(self.where):
            self.moved(target, store, new_format)

    # -- what must be true -----------------------------------------------------------------------------------

    def assert_configured(self, state: str = "running") -> None:
        """The VM is in `state`, live and persistent say of the disks what we expect, and bear no trace of a move."""
        guest, wanted = self.guest, {target: str(path) for target, path in self.where.items()}
        assert guest.state() == state, f"{guest.name} is {guest.state()}\n{self.line.stories()}"
        for inactive in (False, True) if self.persistent else (False,):
            xml = guest.xml(inactive=inactive)
            context = f"inactive={inactive}\n{xml}\n{self.line.stories()}"
            assert disk_sources(xml) == wanted, context
            assert disk_formats(xml) == self.formats, context
            assert MARK not in xml, context
            assert "<mirror" not in xml, context

    def assert_nothing_left(self, *more: Path, old_home: Path | None = None) -> None:
        """No file but the images, a home's metadata and `more`; no guard; no unfinished move.

        `old_home`: a home that was not asked to move may stay, empty, when all its disks have left.
        """
        assert self.line.unfinished() == [], self.line.stories()
        for store in self.stores:
            images = {path for path in (*self.where.values(), *more) if path.is_relative_to(store.path)}
            allowed = {str(path.relative_to(store.path)) for path in images}
            home = store.home(self.name)
            if home == old_home:
                allowed.add(home.name)
            if any(path.parent == home for path in images) or (home / f"{self.name}.xml").exists():
                allowed |= {home.name, f"{home.name}/{self.name}.xml"}
            found = self.files(store)
            assert found <= allowed, f"left on {store.name}: {found - allowed}\n{self.line.stories()}"
        self.assert_no_guard()

    def assert_no_guard(self) -> None:
        wait_until(
            lambda: self.line.station.find_process(lambda argv: self.name in argv and "blockferry.safety.guard" in argv)
            is None,
            f"the end of the guard of {self.name}", timeout=60, step=0.2,
        )  # fmt: skip

    def assert_content(self) -> None:
        """The guest writes on, and every acknowledged write is there, by the judge in the guest."""
        self.guest.judge.wait_writes(40)
        verdict = self.guest.judge.verify_live()
        assert verdict.ok, f"{verdict.text}\n{self.line.stories()}"
        if self.database:
            rows = self.guest.database.check()
            assert rows.ok, str(rows)

    def assert_well(self, *more: Path, old_home: Path | None = None) -> None:
        """All of it, for a VM that runs."""
        self.assert_configured()
        self.assert_nothing_left(*more, old_home=old_home)
        self.assert_content()

    def power_cycle(self) -> None:
        """Off: every image by the second opinion. On again from where the persistent configuration says."""
        self.power_off()
        self.guest.start()
        if self.persistent:
            self.assert_configured()
        self.write()
        self.assert_content()

    def power_off(self) -> None:
        """Off, and every image by the second opinion."""
        self.guest.judge.stop()
        self.guest.poweroff()
        self.assert_images()

    def assert_images(self, **options: Any) -> None:
        for target, path in self.where.items():
            verdict = self.guest.judge.check_image(target, path, self.formats[target], **options)
            assert verdict.ok, f"{verdict}\n{self.line.stories()}"

    def wait_running(self, seconds: float = 60) -> None:
        """Somebody lets it run, without a blockferry command."""
        wait_until(
            lambda: self.guest.state() == "running", f"{self.name} to run", timeout=seconds, step=0.05,
            report=self.line.stories,
        )  # fmt: skip


# -- of a VM that goes to and fro, wherever it is ------------------------------------------------------------------


def side(guest: Guest, stores: Iterable[Datastore]) -> str:
    """The one datastore that all disks of the VM are on, live and persistent alike."""
    sources = guest.sources(inactive=True)
    if guest.host.vm_state(guest.name) != "shut off":
        live = guest.sources()
        assert live == sources, f"live {live} and persistent {sources} configuration differ"
    found = {store.name for path in sources.values() for store in stores if str(path).startswith(f"{store.path}/")}
    assert len(found) == 1, f"the disks are on {found}: {sources}"
    return found.pop()


def assert_clean(line: Line, guest: Guest) -> None:
    """Nothing of a move is left: no job, no mark, no marker, no file that the VM does not use."""
    xml = guest.xml()
    assert "<mirror" not in xml, "a block job is left"
    assert MARK not in xml, "a mark is left"
    used = {str(path) for path in guest.sources().values()}
    for store in line.stores:
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


# -- images and files ----------------------------------------------------------------------------------------------


def disk_sources(xml: str) -> dict[str, str]:
    return {target: source for target, source, _ in _disks(xml)}


def disk_formats(xml: str) -> dict[str, str]:
    return {target: kind for target, _, kind in _disks(xml)}


def _disks(xml: str) -> list[tuple[str, str, str]]:
    found = []
    for disk in ElementTree.fromstring(xml).iterfind("devices/disk[@device='disk']"):
        target, source, driver = disk.find("target"), disk.find("source"), disk.find("driver")
        assert target is not None
        path = "" if source is None else source.get("file") or source.get("dev") or ""
        found.append((target.attrib["dev"], path, "" if driver is None else driver.get("type", "")))
    return found


def image_info(path: Path) -> dict[str, Any]:
    words = ["qemu-img", "info", "-U", "--output=json", str(path)]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert isinstance(found, dict)
    return found


def verified(move: dict[str, Any]) -> list[str]:
    """The disks of a move, as `history` tells it, whose copies were compared and found the same."""
    return sorted(target for target, disk in move["record"]["disks"].items() if disk["verified"])


def allocated(path: Path) -> int:
    """Bytes that the file takes on its datastore."""
    return os.stat(path).st_blocks * 512


def small_disks(store: Datastore, count: int, kind: str = "qcow2", **options: Any) -> list[Disk]:
    """vda with a file system for the database, vdb and so on without; part of each is filled."""
    first = Disk("vda", store, kind, **{"size": "64MiB", "fs": "16MiB", "fill": "16MiB", **options})
    rest = [Disk(f"vd{letter}", store, kind, **{"size": "48MiB", "fill": "16MiB", **options}) for letter in "bcd"]
    return [first, *rest[: count - 1]]


def listing(stores: Iterable[Datastore]) -> Mapping[str, tuple[int, ...]]:
    """Every file on these datastores with its identity, size and time of change.

    Two listings are equal only if nothing was touched in between.
    """
    found: dict[str, tuple[int, ...]] = {}
    for store in stores:
        for path in store.path.rglob("*"):
            stat_result = path.stat()
            found[str(path)] = (
                (stat_result.st_ino, stat_result.st_size, stat_result.st_mtime_ns) if path.is_file() else ()
            )
    return found
