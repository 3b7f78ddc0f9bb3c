"""The programs that run on the host: qemu-img, the comparison of two images, and a few of the system's.

An image that a QEMU writes to is locked, as QEMU locks it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from blockferry.hosts import qemu_process
from blockferry.hosts.process import Completed
from simulated_host.files import REGION, Files, Image, Inode, read
from simulated_host.machine import Machine, Program
from simulated_host.manager import Manager

_CHANGING = ("create", "commit", "convert", "rebase")


def changes(argv: Sequence[str]) -> bool:
    """Whether running it changes something."""
    return argv[0] in ("truncate", "fallocate") or (argv[0] == "qemu-img" and argv[1] in _CHANGING)


def run(machine: Machine, argv: Sequence[str]) -> Completed:
    """Run it to its end."""
    try:
        status, out, words = _PROGRAMS[argv[0]](machine, list(argv))
    except OSError as error:
        status, out, words = 1, b"", f"{argv[0]}: Could not open '{error.filename}': {error.strerror}"
    return Completed(tuple(argv), status, out, words)


_Ended = tuple[int, bytes, str]


def _id(_machine: Machine, _argv: list[str]) -> _Ended:
    return 0, b"0\n", ""


def _sh(machine: Machine, argv: list[str]) -> _Ended:
    """Only the look for the VM's QEMU is a script."""
    assert argv[2] == qemu_process._REMAINS, argv
    if machine.qemu is None:
        return 0, b"", ""
    return 0, f"boot\n100 (qemu) {' '.join(['S'] + ['0'] * 18 + [str(machine.domain.id)])}\n".encode(), ""


def _truncate(machine: Machine, argv: list[str]) -> _Ended:
    size = int(next(one for one in argv if one.startswith("--size=")).partition("=")[2])
    inode = machine.files.find(argv[-1])
    if inode.image is None:
        inode.image = Image("raw", size)
        inode.flush()
    inode.image.size = size
    return 0, b"", ""


def _qemu_img(machine: Machine, argv: list[str]) -> _Ended:
    ended: _Ended = _COMMANDS[argv[1]](machine, argv)
    return ended


def _option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1] if name in argv else ""


def _create(machine: Machine, argv: list[str]) -> _Ended:
    """It closes the image with a flush, so that its header is on disk."""
    path, size = argv[-2], int(argv[-1])
    inode = machine.files.find(path)
    backing = (_option(argv, "-b"), _option(argv, "-F")) if "-b" in argv else None
    inode.image = Image(_option(argv, "-f"), size, backing)
    inode.flush()
    machine.files.touch(inode)
    return 0, b"", ""


def _info(machine: Machine, argv: list[str]) -> _Ended:
    infos = []
    for path, inode in machine.chain_of(argv[-1]):
        image = inode.image
        assert image is not None
        one: dict[str, Any] = {
            "filename": path,
            "format": image.format,
            "virtual-size": image.size,
            "actual-size": inode.allocated,
        }
        if image.backing is not None:
            one |= {"backing-filename": image.backing[0], "backing-filename-format": image.backing[1]}
        infos.append(one)
    return 0, json.dumps(infos).encode(), ""


def _check(machine: Machine, argv: list[str]) -> _Ended:
    image = machine.files.find(argv[-1]).image
    if image is None or image.format == "raw":
        return 63, b"", "This image format does not support checks"
    return 0, json.dumps({"check-errors": 0}).encode(), ""


def _map(machine: Machine, argv: list[str]) -> _Ended:
    image = machine.files.find(argv[-1]).image
    assert image is not None
    return 0, json.dumps([{"depth": 0, "present": True} for _ in image.regions]).encode(), ""


def _commit(machine: Machine, argv: list[str]) -> _Ended:
    chain = machine.files.chain(argv[-1])
    if _locked(machine, chain[:2]):
        return 1, b"", f"qemu-img: Could not open '{argv[-1]}': it is locked"
    top, below = chain[0].image, chain[1].image
    assert top is not None
    assert below is not None
    below.regions.update(top.regions)
    chain[1].flush()
    machine.files.touch(chain[1])
    return 0, b"", ""


def _locked(machine: Machine, inodes: list[Inode]) -> bool:
    """Whether a QEMU, or another program, holds one of them so that it cannot be written."""
    held = [one for program in machine.programs for one in (*program.reads, *program.writes)]
    for disk in machine.qemu.disks.values() if machine.qemu is not None else ():
        held += [*disk.chain, *(disk.job.target if disk.job is not None else ())]
    return any(inode in held for inode in inodes)


_PROGRAMS: dict[str, Any] = {
    "id": _id,
    "sh": _sh,
    "truncate": _truncate,
    "fallocate": _truncate,
    "qemu-img": _qemu_img,
}
_COMMANDS: dict[str, Any] = {
    "create": _create,
    "info": _info,
    "check": _check,
    "map": _map,
    "commit": _commit,
}


class _Work:
    """A program that goes through an image, a region at a look. It ends with whoever started it."""

    def __init__(self, machine: Machine, manager: Manager, what: str, reads: list[Inode], write: Inode | None) -> None:
        self._machine, self._manager, self._what = machine, manager, what
        self._program = Program(manager, reads, [] if write is None else [write])
        machine.programs.append(self._program)
        self.status, self.words = 0, ""
        self.over = False

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self.over = True
        if self._program in self._machine.programs:
            self._machine.programs.remove(self._program)

    def read(self, _timeout_s: float | None = None) -> bytes | None:
        """What it says next; b"" at its end. A step of its work is done by then."""
        try:
            with self._manager.calls(self._what, changes=True):
                self._manager.must_live()
                if self.over:
                    return b""
                said = self._step()
                self._machine.check()
                return said
        except BaseException:
            self._end()
            raise

    def _step(self) -> bytes:
        raise NotImplementedError

    def terminate(self) -> None:
        self._end()

    def order(self, _line: str) -> None:
        """A change of speed."""


class _Convert(_Work):
    """qemu-img convert: what it writes is in the page cache."""

    def __init__(self, machine: Machine, manager: Manager, argv: list[str]) -> None:
        source, self._dest = argv[-2], machine.files.find(argv[-1])
        chain = machine.files.chain(source)
        self._source = read(chain)
        size = chain[0].image.size if chain[0].image is not None else 0
        locked = "-U" not in argv and _in_use_for_writing(machine, chain)
        super().__init__(machine, manager, "qemu-img", chain, self._dest)
        self._left = sorted(self._source)
        if locked:
            self.status, self.words, self._left = 1, 'qemu-img: Failed to get shared "write" lock', []
        elif "-n" not in argv:
            backing = (_option(argv, "-B"), _option(argv, "-F")) if "-B" in argv else None
            self._dest.image = Image(_option(argv, "-O"), size, backing)
            if backing is not None:
                self._left = sorted(chain[0].image.regions) if chain[0].image is not None else []

    def _step(self) -> bytes:
        if not self._left:
            self._end()
            return b""
        region = self._left.pop(0)
        assert self._dest.image is not None
        self._dest.image.regions[region] = self._source[region]
        self._machine.files.touch(self._dest)
        return f"    ({100 / (len(self._left) + 1):.2f}/100%)\r".encode()

    def wait(self, _timeout_s: float | None = None, *, check: bool = True) -> Completed:
        del check
        self._end()
        return Completed(("qemu-img",), self.status, b"", self.words)


def _in_use_for_writing(machine: Machine, chain: list[Inode]) -> bool:
    disks = machine.qemu.disks.values() if machine.qemu is not None else ()
    return any(disk.chain[0] is chain[0] for disk in disks)


class _Compare(_Work):
    """hosts/helper/program/comparing.py: make one image read like another, or tell where it does not."""

    def __init__(self, machine: Machine, manager: Manager, wish: dict[str, Any]) -> None:
        files: Files = machine.files
        source = files.chain(wish["source"])
        if "dest_socket" in wish:
            assert machine.view is not None
            dest, shown = [], machine.view.disks[wish["dest"]]
        else:
            dest = files.chain(wish["dest"])
            shown = read(dest)
        self._writes, self._dest = bool(wish["write"]), dest[0] if dest else None
        self._wanted, self._has = read(source), shown
        size = source[0].image.size if source[0].image is not None else 0
        locked = _in_use_for_writing(machine, source) or (self._writes and _in_use_for_writing(machine, dest))
        super().__init__(machine, manager, "comparing", source, self._dest if self._writes else None)
        self._all = list(range(size // REGION))
        self._at, self._written = 0, 0
        self._first: list[int] = []
        self._size = size
        if locked:
            self.status, self.words, self._all = 1, 'Failed to get "write" lock', []

    def _step(self) -> bytes:
        if self.status or self._at > len(self._all):
            self._end()
            return b""
        if self._at < len(self._all):
            region = self._all[self._at]
            if self._wanted.get(region, 0) != self._has.get(region, 0):
                self._first.append(region * REGION)
                if self._writes:
                    assert self._dest is not None
                    assert self._dest.image is not None
                    self._dest.image.regions[region] = self._wanted.get(region, 0)
                    self._written += REGION
                    self._machine.files.touch(self._dest)
        self._at += 1
        state = {
            "at": min(self._size, self._at * REGION), "size": self._size, "source_read": self._at * REGION,
            "dest_read": self._at * REGION, "written": self._written, "zeroed": 0,
            "differing": len(self._first) * REGION, "first": self._first[:5], "done": self._at > len(self._all),
        }  # fmt: skip
        return json.dumps(state).encode() + b"\n"

    def wait(self) -> tuple[int, str]:
        self._end()
        return self.status, self.words


def start(machine: Machine, manager: Manager, argv: Sequence[str]) -> _Convert:
    """Start qemu-img convert."""
    assert tuple(argv[:2]) == ("qemu-img", "convert"), argv
    return _Convert(machine, manager, list(argv))


def start_own(machine: Machine, manager: Manager, module: str, wish: dict[str, Any]) -> _Compare:
    """Start a module of the helper's program as a process of its own."""
    assert module == "comparing", module
    return _Compare(machine, manager, wish)
