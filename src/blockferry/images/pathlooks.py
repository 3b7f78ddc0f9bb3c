"""What paths of the host are: their kind, where links lead, what their file systems can hold and have free."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

from blockferry.errors import HostCommandFailed
from blockferry.images.files import absolute
from blockferry.images.runner import Runner
from blockferry.images.shipping import PYTHON, program
from blockferry.model.places import Look

_PROGRAM = program("pathlooks_program")
LOOK_S = 60.0


def look(runner: Runner, paths: Iterable[str]) -> dict[str, Look]:
    """What each path is; one command for all. Raises HostCommandFailed, also when they do not answer for a minute."""
    wanted = tuple(dict.fromkeys(paths))
    absolute(*wanted)
    if not wanted:
        return {}
    asked = json.dumps({"paths": wanted}).encode()
    result = runner.run([PYTHON, "-I", "-c", _PROGRAM], stdin=asked, timeout_s=LOOK_S)
    try:
        found = msgspec.convert(json.loads(result.stdout), type=tuple[Look, ...])
    except (ValueError, msgspec.ValidationError) as error:
        raise HostCommandFailed("looking at paths", result.status, str(error)) from None
    return {one.path: one for one in found}


def holes(runner: Runner, directories: Iterable[str]) -> dict[str, bool | None]:
    """Whether a part of a file there can be made a hole (fallocate(2)); None where that could not be tried.

    A file without a name is made for it, where the file system has that (O_TMPFILE), else one that is gone at once.
    Raises HostCommandFailed.
    """
    wanted = tuple(dict.fromkeys(directories))
    absolute(*wanted)
    if not wanted:
        return {}
    asked = json.dumps({"holes": wanted}).encode()
    result = runner.run([PYTHON, "-I", "-c", _PROGRAM], stdin=asked, timeout_s=LOOK_S)
    try:
        return msgspec.convert(json.loads(result.stdout), type=dict[str, bool | None])
    except (ValueError, msgspec.ValidationError) as error:
        raise HostCommandFailed("looking at directories", result.status, str(error)) from None
