"""What paths of the host are: their kind, where links lead, what their file systems can hold and have free."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.helper.files import absolute
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.runner import Runner

LOOK_S = 60.0


def look(runner: Runner, paths: Iterable[str], *, mounted: bool = False) -> dict[str, PathFacts]:
    """What each path is; one call for all. `mounted`: and what directories are mounted from.

    Raises HostCommandFailed, also when they do not answer for a minute.
    """
    wanted = tuple(dict.fromkeys(paths))
    absolute(*wanted)
    if not wanted:
        return {}
    answer = runner.call("paths.look", timeout_s=LOOK_S, paths=list(wanted), mounted=mounted)
    try:
        found = msgspec.convert(answer, type=tuple[PathFacts, ...])
    except msgspec.ValidationError as error:
        raise HostCommandFailed("looking at paths", 0, str(error)) from None
    return {path_facts.path: path_facts for path_facts in found}


def holes(runner: Runner, directories: Iterable[str]) -> dict[str, bool | None]:
    """Whether a part of a file there can be made a hole (fallocate(2)); None where that could not be tried.

    A file without a name is made for it, where the file system has that (O_TMPFILE), else one that is gone at once.
    Raises HostCommandFailed.
    """
    wanted = tuple(dict.fromkeys(directories))
    absolute(*wanted)
    if not wanted:
        return {}
    return dict(runner.call("paths.holes", timeout_s=LOOK_S, directories=list(wanted)))
