"""What was last seen of each host, in a file of this machine: a cache, which may be lost at any time."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec
import platformdirs

from blockferry.fleet.host_listing import HostListing

log = logging.getLogger(__name__)

VERSION = 1


class _File(msgspec.Struct):
    version: int
    hosts: tuple[HostListing, ...]


def default_file() -> Path:
    """Return where it is kept: for the machine as root, for the user otherwise (XDG_CACHE_HOME)."""
    if os.geteuid() == 0 and not os.environ.get("XDG_CACHE_HOME"):
        return Path("/var/cache/blockferry/hosts.json")
    return platformdirs.user_cache_path("blockferry") / "hosts.json"


def read(path: Path) -> tuple[HostListing, ...]:
    """Return what was seen last. Nothing where the file is not there, cannot be read, or is of another version."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        log.info("%s is not used: %s", path, error)
        return ()
    return file.hosts if file.version == VERSION else ()


def write(path: Path, hosts: Iterable[HostListing]) -> None:
    """Keep what was seen. A file that cannot be written is logged, and hurts nobody."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".hosts-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(_File(VERSION, tuple(hosts))))
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        log.info("%s is not written: %s", path, error)
