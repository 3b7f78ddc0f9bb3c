"""The log: set up once for each process, on standard error (`-v`, `-vv`) or in a file (workers in the background).

Modules that log say `log = logging.getLogger(__name__)`. Passwords in URLs never reach a log: `masked` is applied to
every line, tracebacks included.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Iterator
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path

import platformdirs

ROOT = "blockferry"
OFF = "off"
MAX_BYTES = 4 * 1024**2
BACKUPS = 4
_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@?#]*:)[^\s/?#]*@", re.IGNORECASE)
_NAMED = re.compile(r"\b(password|passwd|secret|PGPASSWORD)=[^\s&'\"]+", re.IGNORECASE)


_writers: list[QueueListener] = []


def masked(text: str) -> str:
    """The text without passwords: those in URLs (`scheme://user:password@host`), and `password=...`."""
    return _NAMED.sub(r"\1=***", _PASSWORD.sub(r"\1***@", text))


def default_file() -> str:
    """Where workers in the background log when nothing is configured."""
    if os.geteuid() == 0:
        return "/var/log/blockferry/blockferry.log"
    return str(platformdirs.user_state_path("blockferry") / "blockferry.log")


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _SharedFile(RotatingFileHandler):
    """A rotating file of mode 0640 (root's) or 0600 that several processes write to.

    Whoever rotates it holds a lock meanwhile; the others notice the new file and go on in that.
    """

    def __init__(self, path: Path) -> None:
        self._mode = 0o640 if os.geteuid() == 0 else 0o600
        path.parent.mkdir(mode=0o750 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> io.TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, self._mode)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError), _locked(f"{self.baseFilename}.lock", self._mode):
            if self.stream is not None and not self._is_current():
                self.stream.close()
                self.stream = self._open()
            super().emit(record)

    def _is_current(self) -> bool:
        try:
            return self.stream is not None and os.path.samestat(
                os.fstat(self.stream.fileno()), os.stat(self.baseFilename)
            )
        except OSError:
            return False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A log that cannot be written never disturbs a move."""


@contextlib.contextmanager
def _locked(path: str, mode: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def to_stderr(verbose: int) -> None:
    """`-v`: what is done. `-vv`: also every command on the host, and more."""
    if verbose:
        _add(logging.StreamHandler(sys.stderr), logging.DEBUG if verbose > 1 else logging.INFO)


def to_file(path: str) -> str | None:
    """Log into a file from now on; why that cannot be, None when it can. `off`: no file."""
    if path == OFF:
        return None
    try:
        handler = _SharedFile(Path(path))
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
    handler.setFormatter(_Masked(_FORMAT))
    # A thread writes it: a disk that does not answer must not hold whoever logs, with a VM suspended perhaps.
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    writer = QueueListener(lines, handler)
    writer.start()
    _writers.append(writer)
    _add(QueueHandler(lines), logging.DEBUG if os.environ.get("BLOCKFERRY_LOG_DEBUG") else logging.INFO, None)
    return None


def close(patience_s: float = 5.0) -> None:
    """Write what has been logged into files so far, and end that; a disk that hangs is waited for only so long."""
    while _writers:
        ending = threading.Thread(target=_end, args=(_writers.pop(),), daemon=True)
        ending.start()
        ending.join(patience_s)


def _end(writer: QueueListener) -> None:
    writer.stop()
    for handler in writer.handlers:
        handler.close()


def _add(handler: logging.Handler, level: int, form: str | None = _FORMAT) -> None:
    handler.setLevel(level)
    if form is not None:
        handler.setFormatter(_Masked(form))
    root = logging.getLogger(ROOT)
    root.addHandler(handler)
    root.setLevel(min(level, root.level or level))
    root.propagate = False
