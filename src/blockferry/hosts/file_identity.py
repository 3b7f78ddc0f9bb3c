"""Which files paths of a host are, by what is mounted there: what the journal writes down beside a path."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.datastore_id import FileId, file_at, on_host
from blockferry.hosts.helper import paths as helper_paths
from blockferry.hosts.runner import Runner


def files_at(runner: Runner, host: str, paths: Iterable[str]) -> dict[str, FileId]:
    """Return path -> file. `host`: libvirt's UUID. Links on the way are followed, those at the end are not.

    A file of which more than its host is not known is that host's. Raises HostUnreachable.
    """
    directories = {path: posixpath.dirname(posixpath.normpath(path)) for path in paths}
    try:
        looks = helper_paths.look(runner, directories.values(), mounted=True)
    except HostCommandFailed:
        return {path: on_host(host, path) for path in directories}
    return {path: file_at(looks[directory].mounted, host, path) for path, directory in directories.items()}
