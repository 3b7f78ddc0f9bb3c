"""A connection to one libvirt host: opened, kept alive, its errors turned into sentences.

One event thread serves all connections of the process (libvirt's default event loop). It is a daemon thread
and every connection has keepalive on, so that a host that hangs never hangs the exit of the process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import libvirt
from lxml import etree

from blockferry.base.errors import BlockferryError, HostUnreachable, LibvirtFailed, PermissionRefused
from blockferry.base.units import KiB, MiB

log = logging.getLogger(__name__)

KEEPALIVE_S = 5
KEEPALIVE_COUNT = 6

OLDEST_LIBVIRT = (8, 0, 0)
"""Synchronous block copy (VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES) came with libvirt 8.0.0."""
OLDEST_QEMU = (6, 0, 0)

_GONE = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}
_NAMES = {
    value: name
    for name, value in vars(libvirt).items()
    if name.startswith("VIR_ERR_") and isinstance(value, int) and name not in ("VIR_ERR_NONE", "VIR_ERR_WARNING")
}

_loop_lock = threading.Lock()
_loop_running = False


def _ensure_event_loop() -> None:
    """Start libvirt's event loop once in this process; it must be registered before the first connection."""
    global _loop_running
    with _loop_lock:
        if _loop_running:
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt prints every error on stderr unless somebody else takes them; ours are raised and said once.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        threading.Thread(target=_run_loop, name="libvirt-events", daemon=True).start()
        _loop_running = True


def _run_loop() -> None:
    """For ever: without it there are no events, and keepalive ends every connection."""
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except Exception:
            log.exception("libvirt's event loop")
            time.sleep(0.1)


def code_name(error: libvirt.libvirtError) -> str:
    """libvirt's own name of the error's code, e.g. `VIR_ERR_OPERATION_INVALID`."""
    return str(_NAMES.get(error.get_error_code(), f"code {error.get_error_code()}"))


def _refused(error: libvirt.libvirtError) -> bool:
    """Whether libvirt runs and does not let this user in, told by codes: the words depend on the language.

    A socket that may not be opened is VIR_ERR_SYSTEM_ERROR with the errno in `int1`; polkit and SASL have codes of
    their own (https://libvirt.org/html/libvirt-virterror.html).
    """
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_SYSTEM_ERROR:
        return error.get_int1() in (errno.EACCES, errno.EPERM)
    return code in (
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_ACCESS_DENIED,
    )


def connection_lost(error: libvirt.libvirtError) -> bool:
    """Whether the error says that the daemon or the way to it is gone, rather than that a call failed."""
    code = error.get_error_code()
    if code == libvirt.VIR_ERR_SYSTEM_ERROR:
        return error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
    if code == libvirt.VIR_ERR_INTERNAL_ERROR:
        return error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
    return code in _GONE


@dataclass(frozen=True, slots=True)
class HostCapacity:
    """A host's hardware and VMs. Bytes; `memory_free` counts what the kernel only caches; None: not told."""

    cpus: int
    memory: int
    memory_free: int | None
    vms: int
    running: int


class Connection:
    """An open connection; `raw` is libvirt's object, for the modules of this package only."""

    knows_zeroed_targets: bool = True  # until this libvirt refuses VIR_DOMAIN_BLOCK_COPY_TARGET_ZEROED

    def __init__(self, uri: str, *, may_ask: bool = True) -> None:
        """Connect. `may_ask`: whether ssh may ask the terminal for a password or a host key. Raises HostUnreachable."""
        _ensure_event_loop()
        self.uri = uri
        self._host_id: str | None = None
        self.first_bytes: Callable[[str, int], bytes] = _first_bytes
        self._calls: dict[object, tuple[str, float]] = {}  # under way: what is done, since when (monotonic seconds)
        try:
            self.raw = libvirt.open(uri if may_ask else _silent(uri))
            self.raw.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            log.info("libvirt at %s: %s (%s)", uri, error, code_name(error))
            kind = PermissionRefused if _refused(error) else HostUnreachable
            raise kind(uri, str(error)) from error
        self.closed = threading.Event()
        self.raw.registerCloseCallback(lambda _conn, _reason, event: event.set(), self.closed)

    @property
    def alive(self) -> bool:
        if self.closed.is_set():
            return False
        try:
            return bool(self.raw.isAlive())
        except libvirt.libvirtError:
            return False

    def close(self) -> None:
        try:
            if not self.closed.is_set():
                self.raw.unregisterCloseCallback()
            self.raw.close()
        except libvirt.libvirtError:
            return  # it was gone already

    @contextmanager
    def doing(self, what: str, *, lasts: bool = False) -> Iterator[None]:
        """Turn libvirt's errors inside the block into ours. `lasts`: libvirt answers only when a job of it is over.

        Raises HostUnreachable when the daemon is gone, LibvirtFailed("libvirt could not {what}") otherwise.
        """
        call = object()
        if not lasts:
            self._calls[call] = (what, time.monotonic())
        try:
            yield
        except libvirt.libvirtError as error:
            log.info("libvirt at %s could not %s: %s (%s)", self.uri, what, error, code_name(error))
            if connection_lost(error) or self.closed.is_set():
                raise HostUnreachable(self.uri, str(error)) from error
            raise LibvirtFailed(what, str(error), code_name(error)) from error
        finally:
            self._calls.pop(call, None)

    def slowest(self) -> tuple[str, float] | None:
        """What libvirt has been asked for the longest and has not answered yet: (what, for how many seconds)."""
        calls = list(self._calls.values())
        what, since = min(calls, key=lambda call: call[1], default=("", 0.0))
        return (what, time.monotonic() - since) if calls else None

    def versions(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """(libvirt's, QEMU's) version on the host."""
        with self.doing("tell its version"):
            return _version(self.raw.getLibVersion()), _version(self.raw.getVersion())

    def node(self) -> HostCapacity:
        """What the host is made of, and how much of it is in use."""
        with self.doing("describe its host"):
            info = self.raw.getInfo()
            memory = self._memory_stats()
            running = self.raw.numOfDomains()
            defined = self.raw.numOfDefinedDomains()
        free = sum(memory.get(name, 0) for name in ("free", "buffers", "cached")) * KiB if memory else None
        return HostCapacity(info[2], memory.get("total", 0) * KiB or info[1] * MiB, free, running + defined, running)

    def _memory_stats(self) -> dict[str, int]:
        """KiB by libvirt's names; nothing where the driver does not tell. Raises libvirtError."""
        try:
            found: dict[str, int] = self.raw.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                raise
            return {}
        return found

    def host_id(self) -> str:
        """libvirt's UUID of the host: the same by whatever URI it is reached."""
        if self._host_id is None:
            with self.doing("tell its capabilities"):
                root = etree.fromstring(self.raw.getCapabilities().encode())
            self._host_id = root.findtext("./host/uuid") or ""
        return self._host_id

    def prepare_host_id(self) -> None:
        """Ask for the host's UUID without waiting for it: libvirt may look at every QEMU of the host before it answers.

        Raises nothing; `host_id` does.
        """
        if self._host_id is None:
            threading.Thread(target=self._ask_host_id, name="host-id", daemon=True).start()

    def _ask_host_id(self) -> None:
        with contextlib.suppress(BlockferryError):
            self.host_id()

    def hostname(self) -> str:
        with self.doing("tell its host's name"):
            return str(self.raw.getHostname())


def _silent(uri: str) -> str:
    """The URI with which libvirt's ssh asks nobody anything (https://libvirt.org/uri.html, no_tty)."""
    if "+ssh://" not in uri or "no_tty=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}no_tty=1"


def _first_bytes(path: str, count: int) -> bytes:
    """Of a file of this machine. Raises OSError. Where the host is another one, Site puts its own in place of it."""
    with open(path, "rb") as file:
        return file.read(count)


def _version(number: int) -> tuple[int, int, int]:
    return number // 1000000, number // 1000 % 1000, number % 1000
