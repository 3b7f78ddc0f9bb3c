"""Who has an image open: the last question before a file is removed, and the first before it is read or written.

No single look answers it, so there are three, all done by the host's helper (hosts/helper/program/user_calls.py):

- QEMU's own locks: byte 100 + n of the image is locked while someone uses permission n, byte 200 + n while someone
  denies it to others (QEMU docs/system/images: image locking). The kernel is asked what would stand in the way of a
  lock of ours (fcntl(2), F_OFD_GETLK), and asks the server of a network file system, so that QEMUs on other hosts are
  seen. No lock is taken, so no QEMU that starts just then meets one, and nothing in the image changes. Of an image
  that we may not open, the kernel's table of this host's locks is read (/proc/locks).
- open file descriptors and mapped files in /proc, by device and inode, for programs that take no locks (and block
  devices, where QEMU's lock sits on a device node of the VM's own mount namespace).
- what the kernel itself uses, which no process has open: loop devices, swap, targets (LIO, NVMe), open files of NFS
  clients, mounts. What cannot be seen in these ways is in docs/quarantine.md.

What could not be looked at is a doubt, and a doubt counts as a user.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from blockferry.base.errors import HostCallFailed, HostCommandFailed, ImageUnreadable
from blockferry.hosts.helper.files import absolute
from blockferry.hosts.runner import Runner

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
PATIENCE_S = 60.0
"""A file system that does not answer for so long is an error."""


@dataclass(frozen=True, slots=True)
class Users:
    """Everyone who has an image open, as far as one could look."""

    locked: bool
    """A QEMU (or qemu-img, qemu-nbd...) holds image locks, here or on another host."""
    openers: tuple[tuple[int, str], ...]
    """Processes with the file open: process id and command name."""
    kernel: tuple[str, ...]
    """What of the kernel uses it: "loop device /dev/loop0"."""
    unseen_processes: int
    """Processes whose files one may not see; not 0 means that `openers` may lack someone."""
    doubts: tuple[str, ...] = ()
    """What else could not be looked at, clauses: somebody may use it all the same."""
    locks_unseen: bool = False
    """QEMU's locks could not be looked at, so that `locked` says nothing; it is the first of the doubts then."""

    @property
    def any(self) -> bool:
        """Whether someone uses it for certain."""
        return self.locked or bool(self.openers) or bool(self.kernel)

    @property
    def why(self) -> str:
        """Who uses it, or what could not be looked at, as a clause; "" when it is certain that nobody does.

        Processes that one may not look at are not in it.
        """
        if self.openers:
            return f"{', '.join(f'{name} ({pid})' for pid, name in self.openers)} still has it open"
        if self.kernel:
            return f"{', '.join(self.kernel)} still uses it"
        if self.locked:
            return "somebody still has it open"
        return self.doubts[0] if self.doubts else ""


def users_of(runner: Runner, path: str) -> Users:
    """All users of the image. Raises ImageUnreadable if it is absent, HostCommandFailed."""
    answer = _look(runner, [path])
    return _users(answer, _existing(answer, path))


def users_of_all(runner: Runner, paths: Iterable[str]) -> dict[str, Users]:
    """The same of many images in one call; those that are absent, or cannot be looked at, are missing in it.

    The host's processes are gone through once, whatever the number of files. Raises HostCommandFailed.
    """
    answer = _look(runner, dict.fromkeys(paths))
    return {path: _users(answer, one) for path, one in answer["files"].items() if "errno" not in one}


def _users(answer: dict[str, Any], one: dict[str, Any]) -> Users:
    locks, doubts = one["locks"], list(answer["doubts"])
    if "errno" in locks:
        doubts.insert(0, f"whether a QEMU has it open cannot be looked at ({os.strerror(locks['errno'])})")
    openers = tuple((pid, name) for pid, name, _, _ in one["openers"])
    kernel = tuple(who for who, _ in one["kernel"])
    return Users(bool(locks.get("used")), openers, kernel, answer["unseen"], tuple(doubts), "errno" in locks)


def writer(runner: Runner, path: str) -> str:
    """Who has the file open in a way that lets him write to it, in words; "" when nobody is seen to.

    Whoever only reads it (a VM that stands on it) does not count. Raises ImageUnreadable if it is absent,
    HostCommandFailed.
    """
    answer = _look(runner, [path])
    one = _existing(answer, path)
    for who, writes in one["kernel"]:
        if writes:
            return str(who)
    for pid, name, writes, _ in one["openers"]:
        if writes:
            return f"{name} ({pid})"
    if _locks(path, one)["written"]:
        return "a QEMU, here or on another host,"
    return f"somebody, as far as can be told ({answer['doubts'][0]})," if answer["doubts"] else ""


def writing_qemus(runner: Runner, paths: Iterable[str]) -> tuple[tuple[int, str], ...]:
    """(process id, path) of every QEMU of a VM on this host that has one of these files open for writing.

    Programs like qemu-img and qemu-nbd do not count. Files that are absent have none. Raises HostCommandFailed,
    also when nobody was found and a process could be looked at only in part.
    """
    wanted = list(dict.fromkeys(paths))
    if not wanted:
        return ()
    found = []
    answer = _look(runner, wanted, locks=False)
    for path, one in answer["files"].items():
        if "errno" not in one:
            found += [(pid, path) for pid, _, writes, runs_vm in one["openers"] if writes and runs_vm]
        elif one["errno"] not in _ABSENT:
            raise _failed(path, one["errno"])
    if answer["partly"] and not found:
        raise HostCommandFailed(f"users of {wanted[0]}", 1, "some processes could be looked at only in part")
    return tuple(sorted(found))


def in_use(runner: Runner, path: str) -> bool:
    """Whether a QEMU has the image open, also read-only, as a backing file or on another host of a shared
    file system. Changes nothing in the image, not even its times.

    True, too, when the file system does not tell of locks. Raises ImageUnreadable if it is absent, or cannot be opened
    and the kernel's table of locks does not answer it; HostCommandFailed.
    """
    return bool(_locks(path, _existing(_look(runner, [path]), path))["used"])


def openers(runner: Runner, path: str) -> tuple[tuple[int, str], ...]:
    """Process id and command name of everyone on this host who has the file or block device open.

    Without root's rights only one's own processes are seen (`users_of` says how many were not).
    Raises ImageUnreadable if it is absent, HostCommandFailed.
    """
    return users_of(runner, path).openers


def _look(runner: Runner, paths: Iterable[str], *, locks: bool = True) -> dict[str, Any]:
    wanted = list(paths)
    absolute(*wanted)
    answer: dict[str, Any] = runner.call("users.look", timeout_s=PATIENCE_S, paths=wanted, locks=locks)
    return answer


def _existing(answer: dict[str, Any], path: str) -> dict[str, Any]:
    one: dict[str, Any] = answer["files"][path]
    if "errno" in one:
        if one["errno"] in _ABSENT:
            raise ImageUnreadable(path, "It does not exist.")
        raise _failed(path, one["errno"])
    return one


def _failed(path: str, number: int) -> HostCallFailed:
    return HostCallFailed(f"users of {path}", 1, os.strerror(number), number, errno.errorcode.get(number, ""))


def _locks(path: str, one: dict[str, Any]) -> dict[str, bool]:
    """A file system that does not tell of locks may hide a QEMU on another host."""
    locks: dict[str, Any] = one["locks"]
    if "errno" not in locks:
        return locks
    if not locks["opened"]:
        raise ImageUnreadable(path, os.strerror(locks["errno"]))
    return {"used": True, "written": True}
