"""The watch beside a copy: who else uses a storage, by tables; the program itself, with real files."""

from __future__ import annotations

import errno
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockferry.hosts.fencing import ANSWERING, DestinationHealth, FenceStep, Fencing, Guarded, Storage
from blockferry.hosts.helper import text, watchdog
from blockferry.hosts.helper.program.mount_table import Mount, mount_of, parse
from blockferry.hosts.helper.program.watchdog import beat, users
from blockferry.hosts.helper.program.watchdog.tables import Block
from blockferry.hosts.helper.program.watchdog.users import Open, Table
from blockferry.hosts.runner import LocalRunner

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- who else

ROOT = Mount(1, "254:0", "/", "ext4", "/dev/vda", "rw")
FUSE = Mount(2, "0:47", "/dev-of-lab/disk", "fuse", "/dev/fuse", "rw")
XFS = Mount(3, "7:6", "/srv/flaky", "xfs", "/dev/loop6", "rw")
LOOP = Block("loop6", (), "/dev-of-lab/disk")
QEMU = Open(10, "qemu-system-x86", "/srv/flaky/web01/vda.qcow2", "7:6")
SOURCE = Open(10, "qemu-system-x86", "/old/web01/vda.qcow2", "254:0")
PLACE = {"cuts": ["0:47"], "chain": ["7:6", "0:47"]}
OURS = {"/srv/flaky/web01", "/srv/flaky/web01/vda.qcow2"}


def known(
    *opened: Open, mounts: tuple[Mount, ...] = (), blocks: dict[str, Block] | None = None, **more: list[str]
) -> Table:
    return Table(
        [ROOT, FUSE, XFS, *mounts],
        {"254:0": Block("vda", ()), "7:6": LOOP, **(blocks or {})},
        [QEMU, SOURCE, *opened],
        more.get("swaps", []),
        more.get("exports", []),
    )


USERS: dict[str, tuple[Table, str]] = {
    "only this move": (known(), ""),
    "a beat of ours, and a small file of ours that is open": (
        known(Open(11, "python3", "/srv/flaky/web01/#131 (deleted)", "7:6")), "",
    ),
    "another VM there": (known(Open(12, "qemu-system-x86", "/srv/flaky/db/vda.qcow2", "7:6")), "db/vda.qcow2 open"),
    "this VM's disk that does not move": (
        known(Open(10, "qemu-system-x86", "/srv/flaky/web01/vdb.qcow2", "7:6")), "vdb.qcow2 open",
    ),
    "somebody else's nameless file there": (
        known(Open(13, "mysqld", "/srv/flaky/tmp/#9 (deleted)", "7:6")), "mysqld (13)",
    ),
    "a file whose mount nobody sees any more": (known(Open(14, "tail", "/srv/flaky/log (deleted)", "")), "tail (14)"),
    "files elsewhere": (known(Open(15, "vi", "/etc/motd", "254:0"), Open(16, "x", "/memfd:a (deleted)", "")), ""),
    "the same device, mounted elsewhere too": (known(mounts=(XFS._replace(number=9, point="/mnt"),)), ""),
    "another file system on what would be fenced": (
        known(
            mounts=(Mount(9, "7:9", "/home", "ext4", "/dev/loop9", "rw"),),
            blocks={"7:9": Block("loop9", (), "/dev-of-lab/disk")},
        ), "/dev/loop9 stands on it",
    ),
    "a logical volume on it": (known(blocks={"253:0": Block("dm-0", ("7:6",))}), "/dev/dm-0 stands on it"),
    "a partition of it that is mounted": (
        known(
            mounts=(Mount(9, "7:7", "/boot", "ext4", "/dev/loop6p1", "rw"),),
            blocks={"7:7": Block("loop6p1", ("7:6",), partition=True)},
        ), "mounted at /boot",
    ),
    "a partition of it that nobody uses": (known(blocks={"7:7": Block("loop6p1", ("7:6",), partition=True)}), ""),
    "a process that has the device itself open": (
        known(Open(17, "qemu-system-x86", "/dev/loop6", "0:6", special="7:6")), "/dev/loop6 open",
    ),
    "swap": (known(swaps=["/srv/flaky/swap"]), "swaps to"),
    "an NFS export": (known(exports=["/srv/flaky/web01"]), "exported by NFS"),
}  # fmt: skip


@pytest.mark.parametrize("name", USERS)
def test_who_else_uses_what_would_be_cut_off(name: str) -> None:
    table, word = USERS[name]
    found = users.others(PLACE, OURS, table)
    assert (word in "; ".join(found)) if word else not found, found


def test_a_new_image_that_is_open_without_the_old_one_may_be_the_truth() -> None:
    pair = [[SOURCE.path, QEMU.path]]
    assert users.across(pair, [QEMU, SOURCE]) == []
    assert "without" in users.across(pair, [QEMU])[0]
    assert users.across(pair, [QEMU._replace(command="qemu-img")]) == []


def test_mountinfo_with_spaces_and_optional_fields() -> None:
    text = b"36 35 98:0 /a /mnt\\040two rw,noatime master:1 shared:4 - ext3 /dev/root rw,errors=continue\nnonsense\n"
    assert parse(text) == [Mount(36, "98:0", "/mnt two", "ext3", "/dev/root", "rw,errors=continue", "/a")]


def test_of_two_mounts_at_one_point_the_newest_counts() -> None:
    over = Mount(8, "0:99", "/srv/flaky", "nfs", "x:/", "rw")
    found = mount_of("/srv/flaky/web01/a", [ROOT, XFS, over])
    assert found is over
    assert mount_of("/srv/flakyer", [ROOT, XFS]) is ROOT


def test_the_processes_of_this_machine_can_be_listed() -> None:
    opened, mounts = users.processes()
    assert any(mount.point == "/" for mount in mounts)
    known = {mount.device for mount in mounts}
    with Path(__file__).open() as file:
        del file
        done = subprocess.run(
            [sys.executable, "-c", "import json; from blockferry.hosts.helper.program.watchdog import users; "
             "print(json.dumps([list(one) for one in users.processes()[0]]))"],
            capture_output=True, check=True,
        )  # fmt: skip
        found = [Open(*load) for load in json.loads(done.stdout)]
    mine = [one for one in found if one.pid == os.getpid() and one.path == str(Path(__file__).resolve())]
    assert mine
    assert mine[0].device in known
    assert all(one.pid != os.getpid() for one in opened)


# ---------------------------------------------------------------- the program


def place(directory: Path, *steps: FenceStep, **more: object) -> Storage:
    values: dict[str, object] = {"steps": steps, "how": "cut", "chain": ("0:0",), **more}
    return Storage(str(directory), "0:0", str(directory), True, "a test", **values)  # type: ignore[arg-type]


class Watches:
    """Starts watches of one move, and ends them."""

    def __init__(self, directory: Path) -> None:
        self.move = f"test-{secrets.token_hex(4)}"
        self.directory = directory
        self.heard: list[DestinationHealth] = []
        self.all: list[watchdog.DestinationWatch] = []

    def start(
        self, mode: str = "look", limit_s: float = 5.0, dest: str = "", *steps: FenceStep
    ) -> watchdog.DestinationWatch:
        source = str(self.directory / "old")
        guarded = Guarded((place(self.directory, *steps, anyway=True),), ((source, dest or "/nowhere"),), ())
        destination_watch = watchdog.DestinationWatch(
            LocalRunner(), self.move, guarded, limit_s, mode, self.heard.append
        )
        self.all.append(destination_watch)
        return destination_watch


def wait(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture
def watches(tmp_path: Path) -> Iterator[Watches]:
    found = Watches(tmp_path)
    yield found
    for destination_watch in found.all:
        destination_watch.end()
    wait(lambda: not any(destination_watch.alive for destination_watch in found.all), "a watch is left")
    assert list(tmp_path.glob(".blockferry*")) == []


def test_a_watch_obeys_and_leaves_nothing_behind(watches: Watches, tmp_path: Path) -> None:
    destination_watch = watches.start()
    assert destination_watch.order("fence")
    assert destination_watch.order("look")
    assert destination_watch.health == ANSWERING or not destination_watch.health.hanging
    assert destination_watch.end()
    assert os.listdir(tmp_path) == []
    wait(lambda: not destination_watch.alive, "its end")


def test_of_two_watches_of_a_move_the_new_one_stays(watches: Watches) -> None:
    old = watches.start("fence")
    new = watches.start("look")
    wait(lambda: not old.alive, "the old one to go")
    assert new.order("fence")


def test_it_goes_with_us_when_it_only_looks(watches: Watches) -> None:
    destination_watch = watches.start("look")
    destination_watch.abandon()
    wait(lambda: not destination_watch.alive, "its end")


def test_it_outlives_us_as_long_as_the_copy_is_open(watches: Watches, tmp_path: Path) -> None:
    dest = tmp_path / "new"
    with dest.open("w"):
        destination_watch = watches.start("fence", 5.0, str(dest))
        destination_watch.abandon()
        time.sleep(2.5)  # longer than it takes to look twice
        assert destination_watch.alive
    wait(lambda: not destination_watch.alive, "its end")


def send(monkeypatch: pytest.MonkeyPatch, words: str, instead: str) -> None:
    """Have another program sent to the host: with these words instead of those."""
    program = text.program(0.0)[text.program(0.0).index(b"\n") + 1 :]
    other = program.replace(words.encode(), instead.encode())
    assert other != program
    monkeypatch.setattr(text, "program", lambda _silence_s: b"%d\n" % len(other) + other)


def test_storage_that_hangs_is_told_and_cut_off(
    watches: Watches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat that waits in a FIFO stands in for storage that hangs; test_destination_hangs.py (system) has a device."""
    (tmp_path / "directory").mkdir()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    beat = f"open(bytes({list(os.fsencode(fifo))})).close() if self.answers > 2 else None"  # without quotes
    send(monkeypatch, "os.fdatasync(self._file)", beat)
    cut = tmp_path / "cut"
    watches.directory = tmp_path / "directory"
    destination_watch = watches.start("look", 2.0, "", FenceStep("run", argv=("touch", str(cut))))
    wait(lambda: destination_watch.health.seconds > 4, "the silence")
    assert not cut.exists()  # it only looks
    assert destination_watch.order("fence")
    wait(cut.exists, "the fence")
    wait(lambda: destination_watch.health.fenced == str(tmp_path / "directory"), "the word of it")
    after = watches.start("look")  # another process takes the move up, and learns of it
    assert after.health.fenced is not None  # before it says that it is there
    threading.Thread(target=lambda: fifo.open("w").close(), daemon=True).start()


def test_a_line_that_is_not_json_does_not_end_the_listening(
    watches: Watches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended the listening thread, so that a hang was never noticed again."""
    words = b'oops: a warning\n[1]\n{"places": 3}\n'
    odd = f"self.unsent += bytes({list(words)}); self.tell()  # first:"  # without quotes: the module is sent in some
    send(monkeypatch, "self.tell()  # first:", odd)
    destination_watch = watches.start()
    wait(lambda: "oops" in caplog.text, "the odd line")
    assert destination_watch.order("fence")
    assert destination_watch.alive


def test_an_order_that_is_none_does_not_end_the_watch(watches: Watches) -> None:
    destination_watch = watches.start()
    for words in ("", "fence soon", "\udcff\udcfe"):
        destination_watch._process.order(words)
    assert destination_watch.order("fence")


def test_an_answer_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper lives long; on NFS a file that is open keeps its directory from being removed and unmounted."""

    def opened() -> list[str]:
        return [
            path for path in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if path.startswith(str(tmp_path))
        ]

    beat.answers(str(tmp_path))
    assert opened() == []

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "as storage does")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="as storage"):
        beat.answers(str(tmp_path))
    assert opened() == []


def test_a_directory_that_answers_and_one_that_does_not(tmp_path: Path) -> None:
    assert watchdog.answers(LocalRunner(), [str(tmp_path), str(tmp_path / "not" / "there")], 30)
    assert not watchdog.answers(LocalRunner(), ["/proc"], 30)


def test_what_a_directory_stands_on(tmp_path: Path) -> None:
    path = str(tmp_path / "not" / "there")
    found = watchdog.storages(LocalRunner(), [path], Fencing())[path]
    assert found.directory == str((tmp_path / "not" / "there").resolve())
    assert found.device == f"{os.major(os.stat(tmp_path).st_dev)}:{os.minor(os.stat(tmp_path).st_dev)}"
    assert found.mount == "/" or tmp_path.is_relative_to(found.mount)


FROZEN_PARENT = """
import os
from types import SimpleNamespace
from blockferry.hosts.helper.program.watchdog.watch_loop import WatchLoop
watch = WatchLoop.__new__(WatchLoop)
watch.parent, watch.told, watch.unsent = True, "", b""
count = iter(range(10**9))
watch.places = [SimpleNamespace(state=lambda: {"silent": next(count), "directory": "/srv/flaky" * 10})]
os.set_blocking(1, False)
for _round in range(5000):
    watch.tell()
os.write(2, b"not held up")
"""


def test_a_parent_that_does_not_read_holds_up_nobody() -> None:
    """It filled the pipe in some 45 s, and the watch of a blockferry that is frozen never fenced."""
    words = [sys.executable, "-c", FROZEN_PARENT]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            process.wait(60)
        finally:
            process.kill()
        assert process.stderr.read() == b"not held up"
