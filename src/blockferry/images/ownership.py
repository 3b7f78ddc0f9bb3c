"""Owner, group, mode, ACLs and labels of files on the host: given to new files as the old ones have them.

What libvirt has changed for a running QEMU does not count: it notes on each file what was there before
(`remember_owner` in qemu.conf), and puts that back when the VM is off. A new file is given the same before a QEMU opens
it, so that libvirt notes the right owner of it, too. Done by `ownership_program.py`, in the host's own python3.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from blockferry.errors import HostCommandFailed
from blockferry.images.files import absolute
from blockferry.images.runner import Runner
from blockferry.images.shipping import PYTHON, program
from blockferry.model.access import QemuUser

_PROGRAM = program("ownership_program")
LOOK_S = 60.0

_NO_SUCH_PROGRAM = 127
_PLAIN = 'chown --reference="$1" -- "$2" && chmod --reference="$1" -- "$2"'


@dataclass(frozen=True, slots=True)
class NotGiven:
    """What a file could not be given: "owner", "mode", "ACL" or an attribute's name; and why."""

    what: str
    errno: int

    def __str__(self) -> str:
        return f"{self.what}: {os.strerror(self.errno)}"


def like(runner: Runner, source: str, dest: str) -> tuple[NotGiven, ...]:
    """Give `dest` what `source` has: owner, group, mode, POSIX ACLs, SELinux label, user attributes.

    Returns what the destination's file system did not take. May be repeated. Raises HostCommandFailed when one of both
    cannot be looked at.
    """
    absolute(source, dest)
    try:
        return _not_given(_ask(runner, ["like", source, dest]))
    except HostCommandFailed as error:
        if error.status != _NO_SUCH_PROGRAM:
            raise
    runner.run(["sh", "-c", _PLAIN, "sh", source, dest])  # a host without python3: what coreutils can
    return ()


def give(runner: Runner, dest: str, uid: int, gid: int, mode: int) -> tuple[NotGiven, ...]:
    """Give `dest` this owner, group and mode, and no ACL. Errors as `like`."""
    absolute(dest)
    return _not_given(_ask(runner, ["give", dest, uid, gid, mode]))


def cannot_hold(runner: Runner, directory: str, source: str) -> tuple[NotGiven, ...]:
    """What a file in `directory` could not be given of `source`; tried on a file that never has a name."""
    absolute(directory, source)
    return _not_given(_ask(runner, ["hold", directory, source]))


def unreachable(runner: Runner, user: QemuUser, directories: Iterable[str]) -> dict[str, str]:
    """Directory -> the first one on the way to it, or itself, that this user cannot pass. Those within reach are left
    out, and what does not exist yet. Tried as that user, not computed. Raises HostCommandFailed."""
    wanted = tuple(dict.fromkeys(directories))
    if not wanted:
        return {}
    absolute(*wanted)
    found = _ask(runner, ["reach", [user.uid, user.gid, user.groups], list(wanted)])
    return {path: stop for path, stop in zip(wanted, found, strict=True) if stop}


def _ask(runner: Runner, order: Sequence[Any]) -> list[Any]:
    result = runner.run([PYTHON, "-I", "-S", "-c", _PROGRAM], stdin=json.dumps([order]).encode(), timeout_s=LOOK_S)
    [answer] = json.loads(result.stdout)
    return list(answer)


def _not_given(answer: Sequence[Sequence[Any]]) -> tuple[NotGiven, ...]:
    return tuple(NotGiven(str(what), int(number)) for what, number in answer)
