"""What lies at many paths of a host, in one call; what images in its directories stand on.

An error at one path says nothing of the others: it is noted with its number (errno), never raised.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from typing import Any

from blockferry.hosts.datastore_id import Mounted
from blockferry.hosts.helper.files import absolute
from blockferry.hosts.images import qemu_img
from blockferry.hosts.path_identity import Kind, Listing, PathSeen, ReferencesSeen
from blockferry.hosts.runner import Runner

PATIENCE_S = 60.0
"""A datastore that does not answer for so long is a doubt; each old file of a move waits for it."""


def look(
    runner: Runner, paths: Iterable[str], directories: Iterable[str] = (), images: Iterable[str] = ()
) -> ReferencesSeen:
    """Look at paths, at the images in directories, five levels deep, and at these images, which may be block devices.

    Raises HostCommandFailed, HostUnreachable.

    Headers are read as they are, without the format that an XML gives: what a guest has written into a raw image may
    be taken for a name, which only makes us keep more.
    """
    wanted, wanted_in = list(dict.fromkeys(paths)), list(dict.fromkeys(directories))
    headers = list(dict.fromkeys(images))
    absolute(*wanted, *wanted_in, *headers)
    answer: dict[str, Any] = runner.call(
        "references.look", timeout_s=PATIENCE_S, paths=wanted, directories=wanted_in, images=headers
    )
    return ReferencesSeen(
        {path: _seen(path, one) for path, one in answer["paths"].items()},
        {path: _listing(one) for path, one in answer["directories"].items()},
        frozenset(answer["mounts"]),
        {device: Mounted(kind, source, "/") for device, (kind, source) in answer["mounted"].items()},
        answer["not_mounted"],
        {path: _header(path, one) for path, one in answer["headers"].items()},
    )


def _header(path: str, one: dict[str, Any]) -> Listing:
    """One image as a listing of its own."""
    if "errno" in one:
        return Listing(unread={path: os.strerror(one["errno"])})
    names = tuple(_absolute(path, name) for name in one["names"])
    return Listing({path: names} if names else {})


_PLACES = {
    "unmounted": "{} is not mounted",
    "empty": "{} is empty: its datastore may not be mounted",
    "elsewhere": "its directory is not there, only {}: its datastore may not be mounted",
    "unreadable": "{} cannot be read",
    "device": "the device {} is not there",
    "gone": "",
}


_UNREAD = {-1: "it lies too deep to be looked at", -2: "there is too much to be looked at"}
"""The helper's own numbers (program/reference_calls.py) beside errno."""


def _seen(path: str, one: dict[str, Any]) -> PathSeen:
    if "errno" in one:
        return PathSeen(path, error=os.strerror(one["errno"]))
    if "absent" in one:
        place, _, where = str(one["absent"]).partition(" ")
        nearest, empty = (where if place == word else "" for word in ("elsewhere", "empty"))
        return PathSeen(path, absent=_PLACES[place].format(where), nearest=nearest, empty=empty)
    mode = one["mode"]
    kind: Kind = "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "other"
    return PathSeen(
        path,
        (one["device"], one["inode"]),
        "block" if stat.S_ISBLK(mode) else kind,
        one["size"],
        one["mtime_ns"],
        one["filesystem"],
        (one["place"][0], one["place"][1]),
        one["capacity"],
        bool(one["exported"]),
    )


def _listing(one: dict[str, Any]) -> Listing:
    if "errno" in one:
        return Listing(problem=os.strerror(one["errno"]))
    if "unmounted" in one:
        return Listing(problem=f"{one['unmounted']} is not mounted")
    found = {path: tuple(_absolute(path, name) for name in names) for path, names in one["found"]}
    unread = {path: _UNREAD.get(number) or os.strerror(number) for path, number in one["unread"]}
    return Listing(found, unread, empty=one["count"] == 0)


def _absolute(image: str, name: str) -> str:
    """A name as it stands in an image's header; a relative one counts from the image's directory.

    Its `..` stay: what they lead to depends on links, which only the host can follow.
    """
    plain = qemu_img.plain_path(name)
    if "://" in plain or plain.startswith("json:"):
        return plain
    return posixpath.join(posixpath.dirname(image), plain)
