"""What many images stand on, in one call. A plain raw or qcow2 chain is read here; of all else qemu-img is asked.

To start qemu-img takes 20 ms, to read a header 0.1 ms: with 1,500 images that is the difference between half a minute
and a fifth of a second. Only what is certain is read here. An image with anything unusual in its header, in its chain
or about its file is left to qemu-img, whose word counts then.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

from blockferry.hosts.helper.program import by_mount

SECONDS = 40  # for all images; less than the caller waits (hosts/images/chains.py)
QEMU_IMG_S = 20

MAGIC = b"QFI\xfb"
HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
KNOWN_FEATURES = 0b11001  # dirty, a compression type, extended L2: none of them says what the image stands on
BACKING_FORMAT, DATA_FILE = 0xE2792ACA, 0x44415441
FORMATS = ("raw", "qcow2")
MOST_LAYERS = 200
PAGE, MOST_HEAD = 4096, 1 << 16


class Unusual(Exception):
    """Something that qemu-img has to be asked about."""


class Layer(NamedTuple):
    """One image. Bytes. `backing`: the path as it stands in the header, with its format; None: it stands on nothing."""

    path: str
    format: str
    virtual_size: int
    allocation: int
    backing: tuple[str, str] | None


def layer(path: str, format: str) -> Layer:
    """One image as its header says it. Raises Unusual, OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        stat_result = os.fstat(handle)
        if not (stat.S_ISREG(stat_result.st_mode) or stat.S_ISBLK(stat_result.st_mode)):
            raise Unusual
        size = stat_result.st_size if stat.S_ISREG(stat_result.st_mode) else os.lseek(handle, 0, os.SEEK_END)
        if format == "raw":
            return Layer(path, format, size, stat_result.st_blocks * 512, None)
        head = os.pread(handle, PAGE, 0)
        virtual_size, backing = qcow2(head, size, lambda: os.pread(handle, MOST_HEAD, 0))
        return Layer(path, format, virtual_size, stat_result.st_blocks * 512, backing)
    finally:
        os.close(handle)


def qcow2(head: bytes, size: int, more: Callable[[], bytes]) -> tuple[int, tuple[str, str] | None]:
    """(virtual size, (backing file, its format)) of a header; docs/interop/qcow2.txt of QEMU. Raises Unusual.

    `size`: bytes of the file, within which the tables have to lie.
    """
    if len(head) < 112:
        raise Unusual
    (
        magic, version, name_at, name_size, cluster_bits, virtual_size, crypt, l1_size, l1_at, counts_at, counts,
        _snapshots, _snapshots_at,
    ) = HEADER.unpack_from(head)  # fmt: skip
    if magic != MAGIC or version not in (2, 3) or not 9 <= cluster_bits <= 21 or crypt:
        raise Unusual
    cluster = 1 << cluster_bits
    features, header = (0, 72) if version == 2 else struct.unpack_from(">Q20xI", head, 72)
    if features & ~KNOWN_FEATURES or not (72 if version == 2 else 104) <= header <= cluster:
        raise Unusual
    if l1_at % cluster or counts_at % cluster or l1_at + l1_size * 8 > size or counts_at >= size or not counts:
        raise Unusual
    end = name_at or cluster
    if name_at and name_at + name_size > len(head):
        if name_at + name_size > MOST_HEAD:
            raise Unusual
        head = more()
    format = extensions(head, header, min(end, len(head)), has_backing=bool(name_at))
    if not name_at:
        return virtual_size, None
    name = head[name_at : name_at + name_size]
    if not 0 < name_size < 1024 or name_at + name_size > cluster or len(name) != name_size:
        raise Unusual
    if b":" in name or b"\0" in name or format not in FORMATS:
        raise Unusual  # a protocol, json:, or a format that the image does not say
    return virtual_size, (os.fsdecode(name), format)


def extensions(head: bytes, at: int, end: int, *, has_backing: bool) -> str:
    """The backing file's format, "" when none is given. Raises Unusual."""
    format = ""
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            return format
        if kind == DATA_FILE or at + 8 + length > end:
            raise Unusual
        if kind == BACKING_FORMAT:
            format = head[at + 8 : at + 8 + length].decode("ascii", "replace")
        at += 8 + (length + 7) // 8 * 8
    if not has_backing:
        raise Unusual  # no end within what we have read
    return format


def below(path: str, name: str) -> str:
    """The path of a backing file; a relative name counts from the directory of the image that gives it.

    Its `..` go with the links that they pass: what they lead to counts, also when those directories are gone later.
    """
    directory, last = os.path.split(os.path.join(os.path.dirname(path), name))
    return os.path.join(os.path.realpath(directory) if ".." in directory.split("/") else directory, last)


class Reader:
    """Reads each image once, whoever stands on it."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Layer] = {}

    def read(self, image: tuple[str, str]) -> dict[str, Any]:
        """`layers` ([path, format, virtual size, allocation], top first), or what qemu-img says of it."""
        path, format = image
        try:
            return {"layers": [list(layer[:4]) for layer in self.chain(path, format)]}
        except (Unusual, OSError, ValueError, struct.error):
            return ask(path, format)

    def chain(self, path: str, format: str) -> list[Layer]:
        found: list[Layer] = []
        next_one: tuple[str, str] | None = (path, format)
        while next_one is not None:
            if next_one[1] not in FORMATS or len(found) >= MOST_LAYERS:
                raise Unusual
            one = self.known.get(next_one) or self.known.setdefault(next_one, layer(*next_one))
            found.append(one)
            next_one = None if one.backing is None else (below(one.path, one.backing[0]), one.backing[1])
        return found


def ask(path: str, format: str) -> dict[str, Any]:
    """`info`: qemu-img's JSON of the chain; or `status` and `words`, when it fails."""
    argv = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", "-f", format, "--", path]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=QEMU_IMG_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"errno": errno.ETIMEDOUT}
    except (OSError, ValueError) as error:
        return {"status": 127, "words": str(error)}
    if done.returncode:
        return {"status": done.returncode, "words": done.stderr.decode("utf-8", "replace")}
    return {"info": json.loads(done.stdout)}


def chains(images: list[list[str]]) -> list[dict[str, Any]]:
    """For each [path, format]: `layers`, `info`, `words` with `status`, or `errno` of one that did not answer."""
    reader = Reader()
    wanted = [(path, format) for path, format in images]
    found = by_mount.look([(one, one[0]) for one in wanted], reader.read, SECONDS)
    return [found.get(one, {"errno": errno.ETIMEDOUT}) for one in wanted]


CALLS: dict[str, Callable[..., Any]] = {"chains": chains}
