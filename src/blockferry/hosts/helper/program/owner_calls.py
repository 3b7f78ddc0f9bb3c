"""Who owns files, what they permit, and what a user can reach.

What could not be given to a file is told as a list of [what, errno].
"""

from __future__ import annotations

import base64
import contextlib
import errno
import grp
import json
import os
import pwd
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Failed = list[tuple[str, int]]

REMEMBERED = "trusted.libvirt.security."
"""libvirt's own notes on a file that a running QEMU uses: https://libvirt.org/formatdomain.html#security-label and
src/security/security_util.c. `ref_dac` counts the users, `dac` is "+uid:+gid" from before, `timestamp_dac` the time
of the boot in which it was written: what is of an earlier boot is worth nothing."""
CLOCK_S = 600
ACL = ("system.posix_acl_access", "system.posix_acl_default")
SELINUX = "security.selinux"


def attribute(path: str | int, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError:
        return None


def boot_time() -> int:
    with open("/proc/stat") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime "))


def remembered(path: str, model: str) -> str | None:
    """What libvirt has noted of a file before it changed it; None when it has not, or the note is stale."""
    count, value, of = (attribute(path, REMEMBERED + name) for name in ("ref_" + model, model, "timestamp_" + model))
    with contextlib.suppress(ValueError):
        if value and int(count or 0) > 0 and int(of or 0) >= boot_time() - CLOCK_S:
            return value.rstrip(b"\0").decode()
    return None


def facts(path: str) -> tuple[int, int, int, dict[str, bytes]]:
    """(uid, gid, permission bits, attributes that go along)."""
    stat_result = os.stat(path)
    uid, gid = stat_result.st_uid, stat_result.st_gid
    with contextlib.suppress(ValueError):
        user, _, group = (remembered(path, "dac") or "").partition(":")
        uid, gid = int(user.lstrip("+")), int(group.lstrip("+"))
    bits = stat.S_IMODE(stat_result.st_mode)
    if not stat.S_ISDIR(stat_result.st_mode):
        bits &= 0o777  # an image has no use for the others, and its content is its guest's
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listxattr(path)
    kept = {name: attribute(path, name) for name in names if name in (*ACL, SELINUX) or name.startswith("user.")}
    if (label := remembered(path, "selinux")) is not None:
        kept[SELINUX] = label.encode() + b"\0"
    if not (stat.S_ISREG(stat_result.st_mode) or stat.S_ISDIR(stat_result.st_mode)):
        kept.pop(SELINUX, None)  # a device's label is no file's
    return uid, gid, bits, {name: value for name, value in kept.items() if value is not None}


def give(dest: str | int, uid: int, gid: int, bits: int, attributes: Mapping[str, bytes]) -> Failed:
    """Give a file or descriptor these; what could not be given as [what, errno]."""
    failed: Failed = []

    def attempt(what: str, change: Callable[..., None], *values: object) -> None:
        try:
            change(*values)
        except OSError as error:
            failed.append((what, error.errno or 0))

    now = os.stat(dest)
    if (now.st_uid, now.st_gid) != (uid, gid):
        attempt("owner", os.chown, dest, uid, gid)
    for name in ACL:  # of the directory in which it was made
        if name not in attributes and attribute(dest, name) is not None:
            attempt("ACL", os.removexattr, dest, name)
    if stat.S_IMODE(os.stat(dest).st_mode) != bits:
        attempt("mode", os.chmod, dest, bits)
    for name, value in attributes.items():
        if attribute(dest, name) != value:
            attempt("ACL" if name in ACL else name, os.setxattr, dest, name, value)
    return failed


def like(source: str, dest: str) -> Failed:
    """`dest` gets owner, group, mode, POSIX ACLs, SELinux label and user attributes of `source` as they were before
    libvirt changed them for a running QEMU."""
    return give(dest, *facts(source))


ACL_USER, ACL_GROUP = 2, 8
"""Tags of entries for a named user or group (linux/posix_acl_xattr.h)."""


def user_name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return ""


def group_name(gid: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return ""


def user_number(name: str, uid: int) -> int:
    """This host's number of a user of another host; where it has no user of that name, the number from there."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name).pw_uid if name else uid
    return uid


def group_number(name: str, gid: int) -> int:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(name).gr_gid if name else gid
    return gid


def entries(acl: bytes) -> list[tuple[int, int, int]]:
    """(tag, permissions, id) of each entry of an ACL's attribute: a version, then two halves and a word each."""
    return [struct.unpack_from("<HHI", acl, at) for at in range(4, len(acl) - 7, 8)]


def told(path: str) -> dict[str, Any]:
    """What a file on another host needs to be owned like this one: numbers, the names behind them, attributes."""
    uid, gid, bits, attributes = facts(path)
    named = [entry for name in ACL for entry in entries(attributes.get(name, b""))]
    return {
        "uid": uid,
        "gid": gid,
        "bits": bits,
        "users": {str(one): user_name(one) for one in {uid, *(one for tag, _, one in named if tag == ACL_USER)}},
        "groups": {str(one): group_name(one) for one in {gid, *(one for tag, _, one in named if tag == ACL_GROUP)}},
        "attributes": {name: base64.b64encode(value).decode() for name, value in attributes.items()},
    }


def translated(acl: bytes, users: Mapping[str, str], groups: Mapping[str, str]) -> bytes:
    """An ACL of another host with this host's numbers."""
    found = acl[:4]
    for tag, permissions, number in entries(acl):
        if tag == ACL_USER:
            number = user_number(users.get(str(number), ""), number)
        elif tag == ACL_GROUP:
            number = group_number(groups.get(str(number), ""), number)
        found += struct.pack("<HHI", tag, permissions, number)
    return found


def as_told(
    dest: str, uid: int, gid: int, bits: int, users: Mapping[str, str], groups: Mapping[str, str],
    attributes: Mapping[str, str],
) -> Failed:  # fmt: skip
    """Give a file what another host has told of one. Users and groups are the same when their names are."""
    kept = {name: base64.b64decode(value) for name, value in attributes.items()}
    kept = {name: translated(value, users, groups) if name in ACL else value for name, value in kept.items()}
    return give(
        dest,
        user_number(users.get(str(uid), ""), uid),
        group_number(groups.get(str(gid), ""), gid),
        bits,
        kept,
    )


def hold(directory: str, source: str) -> Failed:
    """What a file in the directory could not be given of `source`, tried on one that never has a name."""
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        # A file system without nameless files; where nothing can be made, that is said elsewhere.
        known = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
        return [] if error.errno in known else [("file", error.errno or 0)]
    try:
        uid, gid, bits, attributes = facts(source)
        return give(descriptor, uid, gid, bits, attributes)
    finally:
        os.close(descriptor)


def groups_of(uid: int, gid: int) -> Sequence[int]:
    """As libvirt starts QEMU: initgroups(3) of the user, if the host knows a user of that number.

    For a child only: Python's lock is held while a directory service is asked.
    """
    with contextlib.suppress(KeyError):
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    return [gid]


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    if os.geteuid() == 0:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    elif os.geteuid() != uid:
        raise PermissionError(errno.EPERM, "only root can try as somebody else")


def stopped_at(directory: str) -> str:
    """The first directory that we cannot pass through; "" when there is none. What does not exist stops nobody."""
    path = "/"
    for part in ["", *directory.strip("/").split("/")]:
        path = os.path.join(path, part)
        try:
            os.stat(os.path.join(path, "."))
            if not os.access(path, os.X_OK):
                return path
        except FileNotFoundError:
            return ""
        except OSError:
            return path
    return ""


def reach(uid: int, gid: int, groups: Sequence[int] | None, directories: Sequence[str]) -> list[str]:
    """For each the first directory on the way that this user cannot pass, "" when there is none."""
    return [str(one) for one in as_another(uid, gid, groups, stopped_at, directories)]


def openable(path: str) -> int:
    """0 when we can open it for reading and writing, else the errno."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def open_as(uid: int, gid: int, groups: Sequence[int] | None, path: str) -> int:
    """0 when this user can open it for reading and writing, else the errno."""
    return int(as_another(uid, gid, groups, openable, [path])[0])


def as_another(
    uid: int, gid: int, groups: Sequence[int] | None, look: Callable[[str], Any], paths: Sequence[str]
) -> list[Any]:
    """What this user sees of each path.

    In a child: who has become another user does not come back. It holds none of the helper's descriptors, so that an
    end of the helper is seen while it waits for storage.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(writing, 0)
            for name in os.listdir("/proc/self/fd"):
                if name != "0":
                    with contextlib.suppress(OSError):
                        os.close(int(name))
            become(uid, gid, groups_of(uid, gid) if groups is None else groups)
            left = memoryview(json.dumps([look(path) for path in paths]).encode())
            while left:
                left = left[os.write(0, left) :]
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    if os.waitpid(child, 0)[1] != 0:
        raise PermissionError(errno.EPERM, "this user cannot be tried")
    found: list[Any] = json.loads(text)
    return found


def give_plain(dest: str, uid: int, gid: int, mode: int) -> Failed:
    """These, and no ACL."""
    return give(dest, uid, gid, mode, {})


CALLS: dict[str, Callable[..., Any]] = {
    "like": like,
    "told": told,
    "as_told": as_told,
    "give": give_plain,
    "reach": reach,
    "open": open_as,
    "hold": hold,
}
