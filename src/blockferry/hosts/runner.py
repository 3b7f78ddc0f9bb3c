"""Running programs on the host that holds the disks: here for local libvirt URIs, through ssh for qemu+ssh.

Argument lists only. Where a shell cannot be avoided (ssh's remote side, the small constant scripts), data
reaches it as quoted words or positional arguments, never as part of the script.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from blockferry.base.errors import HostUnreachable, UsageError
from blockferry.hosts.helper.host_process import Running
from blockferry.hosts.helper.session import Pending, Session
from blockferry.hosts.helper.transport import Local, Ssh, Transport, environment
from blockferry.hosts.process import (
    TIMED_OUT,
    Completed,
    Process,
    end,
    exit_status,
    judge,
    shown,
    spawn,
    too_slow,
    watched,
)

log = logging.getLogger(__name__)

_SESSIONS = 8  # below the ten that sshd allows by default


class Runner(Protocol):
    """Runs programs on one host."""

    @property
    def uri(self) -> str:
        """The host, for error sentences."""
        ...

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
        check: bool = True,
    ) -> Completed:
        """Run `argv` to its end. Without `stdin` its standard input is empty.

        Raises HostCommandFailed when it ends with a status other than 0 or is not installed (unless `check` is
        off), and when it takes longer than `timeout_s`; HostUnreachable when ssh has no connection.
        """
        ...

    def start(self, argv: Sequence[str]) -> Process:
        """Start `argv` and return at once; its standard input is empty."""
        ...

    def prepare(self) -> None:
        """Start the host's helper, without waiting for it: the first call finds it."""
        ...

    def begin(self, do: str, *, repeat: bool = True, **words: Any) -> Pending:
        """Ask the host's helper for something, and wait later: see hosts/helper/session.py."""
        ...

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        """Ask the host's helper for something, and wait for the answer: see hosts/helper/session.py."""
        ...

    def start_own(self, module: str, wish: dict[str, Any], *, stays: bool = False, about: str = "") -> Running:
        """Run a module of the helper's program as a process of its own: see hosts/helper/session.py."""
        ...


class _Base:
    """What both runners share; a subclass says how an argument list becomes a local one."""

    def __init__(self, transport: Transport) -> None:
        self.uri = transport.uri
        self.helper = Session(transport)
        self._env = environment()
        self._gate: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def _command(self, argv: Sequence[str], *, long: bool) -> list[str]:
        raise NotImplementedError

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
        check: bool = True,
    ) -> Completed:
        """See Runner."""
        log.debug("on %s: %s", self.uri, shown(argv))
        with self._gate:
            if stdin is None:
                with Process(argv, self._command(watched(argv), long=False), self._env, self.uri) as process:
                    return process.wait(timeout_s, check=check)
            return self._feed(argv, stdin, timeout_s, check=check)

    def start(self, argv: Sequence[str]) -> Process:
        """See Runner."""
        log.debug("on %s, and left running: %s", self.uri, shown(argv))
        return Process(argv, self._command(watched(argv), long=True), self._env, self.uri)

    def prepare(self) -> None:
        """See Runner."""
        self.helper.prepare()

    def begin(self, do: str, *, repeat: bool = True, **words: Any) -> Pending:
        """See Runner."""
        return self.helper.begin(do, repeat=repeat, **words)

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        """See Runner."""
        return self.helper.call(do, timeout_s=timeout_s, repeat=repeat, **words)

    def start_own(self, module: str, wish: dict[str, Any], *, stays: bool = False, about: str = "") -> Running:
        """See Runner."""
        return self.helper.start(module, wish, stays=stays, about=about)

    def _feed(self, argv: Sequence[str], stdin: bytes, timeout_s: float | None, *, check: bool) -> Completed:
        command = self._command(argv, long=False)
        popen = spawn(argv, command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=self._env)
        with popen:
            try:
                stdout, stderr = popen.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired:
                raise too_slow(argv, timeout_s) from None
            finally:
                end(popen, argv, patience_s=0.0)
        words = stderr.decode("utf-8", "replace")
        return judge(Completed(tuple(argv), exit_status(popen.returncode), stdout, words), self.uri, check=check)


class LocalRunner(_Base):
    """Runs programs on this machine."""

    def __init__(self, uri: str = "qemu:///system") -> None:
        super().__init__(Local(uri))

    def _command(self, argv: Sequence[str], *, long: bool) -> list[str]:
        return list(argv)


class SshRunner(_Base):
    """Runs programs through the system's ssh, which must get in without asking for anything.

    What `run` runs shares one connection (ssh's ControlMaster, its socket in a private directory), closed by
    `close`, and at the latest a minute after the last command. What `start` starts has a connection of its own:
    sshd allows ten commands on one connection (MaxSessions), and a copy may take hours.
    """

    def __init__(
        self,
        host: str,
        user: str | None = None,
        port: int | None = None,
        *,
        keyfile: str | None = None,
        verify_host: bool = True,
        program: str = "ssh",
    ) -> None:
        self._way = Ssh(host, user, port, keyfile, verify_host, program)
        super().__init__(self._way)
        # Not $TMPDIR: a socket's path may have no more than 107 bytes.
        self._directory = tempfile.mkdtemp(prefix="blockferry-ssh-", dir="/tmp")
        self._socket = f"{self._directory}/s"
        self._base = [program, *self._way.options(), "-o", f"ControlPath={self._socket}"]
        self._host = host
        self._lock = threading.Lock()
        self._gate = threading.BoundedSemaphore(_SESSIONS)
        self._goodbye = weakref.finalize(self, _hang_up, self._directory, [*self._base, "-O", "exit", "--", host])

    def _command(self, argv: Sequence[str], *, long: bool) -> list[str]:
        if long:
            return self._way.command(argv)
        self._connect()
        return [*self._base, "-o", "ControlMaster=no", "--", self._host, self._way.remote(argv)]

    def _connect(self) -> None:
        """Start the shared connection, also again: it ends a minute after the last command, or when it breaks.

        It is started by itself, not by the first command, because ssh of older distributions lets the lasting
        connection hold the first command's standard error open, and its reader would wait for ever.
        """
        with self._lock:
            if _listens(self._socket):
                return
            with contextlib.suppress(OSError):
                os.unlink(self._socket)  # of one that was killed
            log.debug("the connection to %s is made", self.uri)
            argv = [
                *self._base,
                "-o",
                "ControlMaster=yes",
                "-o",
                "ControlPersist=60",
                "-fN",
                "--",
                self._host,
            ]
            with tempfile.TemporaryFile() as words:
                popen = spawn(argv, argv, stdin=subprocess.DEVNULL, stderr=words, env=self._env)
                with popen:
                    try:
                        status = popen.wait(60)
                    except subprocess.TimeoutExpired:
                        status = TIMED_OUT
                    finally:
                        end(popen, argv, patience_s=0.0)
                problem = os.pread(words.fileno(), 4096, 0).decode("utf-8", "replace").strip()
            if status:
                raise HostUnreachable(self.uri, problem.rstrip(".") or f"ssh ended with status {status}")

    def close(self) -> None:
        """Close the shared connection, and the helper's. Commands that run now are ended; a later one fails."""
        self._goodbye()
        self.helper.close()


def runner_for(uri: str) -> Runner:
    """The runner for the host behind a libvirt URI: here, or by ssh for qemu+ssh (and libssh, libssh2).

    Of the URI's parameters `keyfile`, `no_verify` and `command` are honoured. Raises UsageError for URIs that
    give no way to run a program on the host (tls, tcp).
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{uri!r} is not a libvirt URI: {error}.", "Write qemu:///system or so.") from None
    driver, _, transport = parts.scheme.partition("+")
    if driver == "qemu" and transport in ("", "unix") and not host:
        return LocalRunner(uri)
    if driver == "qemu" and transport in ("ssh", "libssh", "libssh2") and host:
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        return SshRunner(
            host,
            unquote(parts.username) if parts.username else None,
            port,
            keyfile=options.get("keyfile"),
            verify_host=options.get("no_verify", "0") == "0",
            program=options.get("command", "ssh"),
        )
    raise UsageError(
        f"blockferry cannot run programs on the host of {uri}: only local URIs and qemu+ssh give a way.",
        "Use qemu:///system on the host itself, or qemu+ssh://HOST/system.",
    )


def _listens(path: str) -> bool:
    """Whether somebody answers at this socket: one that was killed leaves it behind."""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(path)
        except OSError:
            return False
    return True


def _hang_up(directory: str, argv: list[str]) -> None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
    shutil.rmtree(directory, ignore_errors=True)
