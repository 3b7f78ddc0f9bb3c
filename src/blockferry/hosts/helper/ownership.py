"""Owner, group, mode, ACLs and labels of files on the host: given to new files as the old ones have them.

What libvirt has changed for a running QEMU does not count: it notes on each file what was there before
(`remember_owner` in qemu.conf), and puts that back when the VM is off. A new file is given the same before a QEMU opens
it, so that libvirt notes the right owner of it, too. Done by the host's helper.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from blockferry.hosts.helper.files import absolute
from blockferry.hosts.qemu_user import QemuUser
from blockferry.hosts.runner import Runner

LOOK_S = 60.0


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
    return _not_given(runner.call("owners.like", timeout_s=LOOK_S, source=source, dest=dest))


def like_on(runner: Runner, source: str, other: Runner, dest: str) -> tuple[NotGiven, ...]:
    """The same where `dest` is on another host (`other`). Users and groups go by their names; those of whose names
    that host has none go by their numbers."""
    absolute(source, dest)
    told = runner.call("owners.told", timeout_s=LOOK_S, path=source)
    return _not_given(other.call("owners.as_told", timeout_s=LOOK_S, dest=dest, **told))


def give(runner: Runner, dest: str, uid: int, gid: int, mode: int) -> tuple[NotGiven, ...]:
    """Give `dest` this owner, group and mode, and no ACL. Errors as `like`."""
    absolute(dest)
    return _not_given(runner.call("owners.give", timeout_s=LOOK_S, dest=dest, uid=uid, gid=gid, mode=mode))


def open_images(
    runner: Runner, uri: str, uuid: str, targets: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, tuple[NotGiven, ...]]]:
    """Give the files of these disks to the user of the VM's QEMU, where it could not open them.

    `uri`: libvirt as the host itself calls it. (The files that were given, path -> what could not be given to it.)
    """
    said = runner.call("arrival.open_images", timeout_s=LOOK_S, uri=uri, uuid=uuid, targets=list(targets))
    failed: dict[str, tuple[NotGiven, ...]] = {}
    for path, what, number in said["failed"]:
        failed[path] = (*failed.get(path, ()), NotGiven(str(what), int(number)))
    return tuple(said["given"]), failed


def cannot_hold(runner: Runner, directory: str, source: str) -> tuple[NotGiven, ...]:
    """What a file in `directory` could not be given of `source`; tried on a file that never has a name."""
    absolute(directory, source)
    return _not_given(runner.call("owners.hold", timeout_s=LOOK_S, directory=directory, source=source))


def unreachable(runner: Runner, user: QemuUser, directories: Iterable[str]) -> dict[str, str]:
    """Directory -> the first one on the way to it, or itself, that this user cannot pass. Those within reach are left
    out, and what does not exist yet. Tried as that user, not computed. Raises HostCommandFailed."""
    wanted = tuple(dict.fromkeys(directories))
    if not wanted:
        return {}
    absolute(*wanted)
    groups = None if user.groups is None else list(user.groups)
    found = runner.call(
        "owners.reach", timeout_s=LOOK_S, uid=user.uid, gid=user.gid, groups=groups, directories=list(wanted)
    )
    return {path: stop for path, stop in zip(wanted, found, strict=True) if stop}


def openable(runner: Runner, user: QemuUser, device: str) -> int:
    """0 when this user can open the device for reading and writing, else the errno. Tried as that user.

    Raises HostCommandFailed.
    """
    absolute(device)
    groups = None if user.groups is None else list(user.groups)
    return int(runner.call("owners.open", timeout_s=LOOK_S, uid=user.uid, gid=user.gid, groups=groups, path=device))


def _not_given(answer: Sequence[Sequence[Any]]) -> tuple[NotGiven, ...]:
    return tuple(NotGiven(str(what), int(number)) for what, number in answer)
