"""Making one image read like another by comparing both: what a broken copy holds already is not written again.

Works for every pair of formats that qemu-nbd reads and for any state of the destination, whatever was lost of it: what
is right afterwards does not rest on bitmaps, journals or flushes of the run before. The price is that both sides are
read where both hold data; holes are skipped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from blockferry.base.errors import HostCommandFailed, ImageUnreadable
from blockferry.base.units import KiB
from blockferry.hosts.helper.files import absolute, flush
from blockferry.hosts.images.conversion import ConversionStopped, ShouldStop
from blockferry.hosts.images.qemu_img import chain, check
from blockferry.hosts.runner import Runner

_LOG = logging.getLogger(__name__)

BLOCK = 64 * KiB
"""Bytes that are compared as one; a qcow2 cluster, and QEMU's own granularity in a block copy."""

CHUNK, SMALL_CHUNK = 2048 * KiB, 256 * KiB
"""Bytes that are read at once; small ones where somebody's latency counts."""

_POLL_S = 0.1
_WORTH_AN_ORDER = 0.03


@dataclass(frozen=True, slots=True)
class ComparisonProgress:
    """How far it is. Bytes; `at` is the offset up to which both sides read alike."""

    at: int = 0
    size: int = 0
    source_read: int = 0
    dest_read: int = 0
    written: int = 0
    zeroed: int = 0
    differing: int = 0
    first: tuple[int, ...] = ()  # the first offsets that differed

    @property
    def fraction(self) -> float:
        return self.at / self.size if self.size else 1.0


@dataclass(frozen=True, slots=True)
class ServedImage:
    """An image that an NBD server shows on a unix socket of the host."""

    socket: str
    name: str


def _silent(state: ComparisonProgress) -> None:
    del state


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class ComparisonSpeed:
    """How fast to read. `now` is asked many times a second, and gives bytes/s of the source, 0 for no limit."""

    now: Callable[[ComparisonProgress], int]
    gently: bool = False  # in small pieces


FULL_SPEED = ComparisonSpeed(lambda _: 0)


def problem(runner: Runner) -> str | None:
    """Why images cannot be compared on this host; None when they can."""
    try:
        runner.call("bitmaps.usable", timeout_s=60)
    except HostCommandFailed:
        return f"{runner.uri} lacks libnbd for Python (the package python3-libnbd)"
    return None


def usable(runner: Runner, path: str, format: str, virtual_size: int) -> str | None:
    """Why a broken copy cannot be gone on with; None when it can. Changes nothing."""
    try:
        top = chain(runner, path, format)[0]
        if -(-top.virtual_size // 512) * 512 != virtual_size:
            return f"{path} has {top.virtual_size} bytes instead of {virtual_size}"
        if top.corrupt or not check(runner, path, format).sound:
            return f"the structure of {path} is damaged"
    except ImageUnreadable as error:
        return error.sentence
    return None


def sync(
    runner: Runner,
    source: str,
    source_format: str,
    dest: str,
    dest_format: str,
    *,
    speed: ComparisonSpeed = FULL_SPEED,
    write: bool = True,
    progress: Callable[[ComparisonProgress], None] = _silent,
    should_stop: ShouldStop = _never,
) -> ComparisonProgress:
    """Have `dest` read like `source` (its whole chain); on disk when this returns. Without `write`: compare only.

    Nobody may write to `source` meanwhile: a frozen base below an overlay, or the disk of a VM that is off; QEMU's
    image locks on both see to it. `dest` exists. May be stopped and repeated at any time: what is written stays, and
    is flushed every 256 MiB. Raises Stopped, HostCommandFailed (its words say on which side).
    """
    absolute(source, dest)
    wish = {
        "source": source,
        "source_format": source_format,
        "dest": dest,
        "dest_format": dest_format,
        "write": write,
        "block": BLOCK,
    }
    state = _walk(runner, wish, speed, progress, should_stop)
    if write:
        flush(runner, dest)
    return state


def compare(
    runner: Runner,
    source: str,
    source_format: str,
    dest: str | ServedImage,
    dest_format: str,
    *,
    speed: ComparisonSpeed = FULL_SPEED,
    progress: Callable[[ComparisonProgress], None] = _silent,
    should_stop: ShouldStop = _never,
) -> ComparisonProgress:
    """Tell where `dest` differs from `source` (its whole chain). Nothing is written, nobody is kept from writing.

    `first` holds the first offsets that differ, exact to a block of 512 bytes. Raises Stopped, HostCommandFailed.
    """
    absolute(source)
    wish: dict[str, object] = {
        "source": source,
        "source_format": source_format,
        "dest_format": dest_format,
        "write": False,
        "block": 512,
    }
    if isinstance(dest, ServedImage):
        absolute(dest.socket)
        wish |= {"dest": dest.name, "dest_socket": dest.socket}
    else:
        absolute(dest)
        wish["dest"] = dest
    return _walk(runner, wish, speed, progress, should_stop)


def _walk(
    runner: Runner,
    wish: dict[str, object],
    speed: ComparisonSpeed,
    progress: Callable[[ComparisonProgress], None],
    should_stop: ShouldStop,
) -> ComparisonProgress:
    state, done, rest = ComparisonProgress(), False, b""
    rate = speed.now(state)
    words = {**wish, "rate": rate, "chunk": SMALL_CHUNK if speed.gently else CHUNK}
    with runner.start_own("comparing", words, about=f"{wish['source']} {wish['dest']}") as process:
        while (chunk := process.read(_POLL_S)) != b"":
            if should_stop():
                process.terminate()
                raise ConversionStopped
            wanted = speed.now(state)
            if abs(wanted - rate) > _WORTH_AN_ORDER * rate:
                rate = wanted
                process.order(str(rate))
            *lines, rest = (rest + (chunk or b"")).split(b"\n")
            for line in lines:
                try:
                    found = json.loads(line)
                    done = found.pop("done")
                    state = ComparisonProgress(**{**found, "first": tuple(found["first"])})
                except (ValueError, TypeError, LookupError, AttributeError):
                    _LOG.warning("comparing and copying: a line that is no report: %r", line[:200])
                    continue  # without its last report it counts as ended too early
                progress(state)
        status, words_of_it = process.wait()
    if status != 0 or not done:
        raise HostCommandFailed("comparing and copying", status, words_of_it.strip() or "it ended too early")
    return state
