"""The log: real on standard error and in a file, never with a password, never in the way."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockferry.base import log

pytestmark = pytest.mark.slow

LOGGER = logging.getLogger("blockferry.test")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    root = logging.getLogger(log.ROOT)
    before = list(root.handlers)
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.NOTSET)
    root.propagate = True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://manager:s3cret@db/journal", "postgresql+psycopg://manager:***@db/journal"),
        ("postgresql://m:p%40ss:word@db:5432/j?x=1", "postgresql://m:***@db:5432/j?x=1"),
        ("connect host=db password=s3cret user=m", "connect host=db password=*** user=m"),
        ("qemu+ssh://root@kvm2/system", "qemu+ssh://root@kvm2/system"),
        ("nothing secret: at all", "nothing secret: at all"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert log.masked(text) == shown


def test_the_file_has_every_line_its_mode_and_no_password(tmp_path: Path) -> None:
    path = tmp_path / "new" / "blockferry.log"
    assert log.to_file(str(path)) is None
    try:
        raise RuntimeError("cannot reach postgresql://m:s3cret@db/j")
    except RuntimeError:
        LOGGER.exception("move %s", "3f2a")
    log.close()
    text = path.read_text()
    assert "blockferry.test: move 3f2a" in text
    assert "Traceback" in text
    assert "s3cret" not in text
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0


def test_processes_share_a_file_that_rotates(tmp_path: Path) -> None:
    """No line is lost or torn, and the files stay small."""
    path = tmp_path / "blockferry.log"
    script = (
        "import logging, sys; from blockferry.base import log; log.MAX_BYTES = 20000; log.BACKUPS = 40\n"
        "log.to_file(sys.argv[1])\n"
        "for i in range(400): logging.getLogger('blockferry.x').info('%s %d end', sys.argv[2], i)\n"
        "log.close()"
    )
    children = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in "ab"]
    assert [child.wait(60) for child in children] == [0, 0]
    files = [one for one in tmp_path.glob("blockferry.log*") if not one.name.endswith(".lock")]
    assert len(files) > 2
    assert all(file.stat().st_size <= 20000 for file in files)
    words = [line.split() for file in files for line in file.read_text().splitlines()]
    assert sorted((line[-3], int(line[-2])) for line in words) == [(name, i) for name in "ab" for i in range(400)]


def test_a_log_that_cannot_be_written_is_said_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert log.to_file(str(tmp_path / "file" / "log")) is not None
    assert log.to_file("off") is None
    LOGGER.error("on it goes")


def hundred() -> None:
    for number in range(100):
        LOGGER.error("line %d", number)


def test_a_log_whose_disk_hangs_holds_nobody_up(tmp_path: Path) -> None:
    """Somebody has the lock of the file and does not give it back, as a process that waits for a dead disk."""
    path = tmp_path / "blockferry.log"
    assert log.to_file(str(path)) is None
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = threading.Thread(target=hundred)
        done.start()
        done.join(20)
        assert not done.is_alive()
        assert path.read_text() == ""
    log.close()
    assert len(path.read_text().splitlines()) == 100


def test_verbose_is_the_log_on_standard_error(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "blockferry", "--uri", "qemu+unix:///system?socket=/none", "vms"]
    env = {**os.environ, "BLOCKFERRY_JOURNAL": str(tmp_path / "journal.db")}
    quiet = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    said = subprocess.run([*words, "-v"], env=env, capture_output=True, text=True, check=False)
    assert "blockferry.hosts.libvirt.connection: libvirt at" in said.stderr
    assert "blockferry.hosts.libvirt" not in quiet.stderr
