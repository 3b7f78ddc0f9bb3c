"""Configuration: all of it optional, with defaults that need none.

TOML files, the later over the earlier: /etc/blockferry/config.toml, then the user's (or only the one named by
BLOCKFERRY_CONFIG). Environment over files: LIBVIRT_DEFAULT_URI, BLOCKFERRY_URI, BLOCKFERRY_JOURNAL.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import platformdirs

from blockferry.errors import ConfigInvalid, nearest

SYSTEM_FILE = Path("/etc/blockferry/config.toml")


def default_journal() -> str:
    """The journal's URL when none is configured: one for the machine as root, one for the user otherwise."""
    if os.geteuid() == 0:
        return "sqlite:////var/lib/blockferry/journal.db"
    return f"sqlite:///{platformdirs.user_state_path('blockferry') / 'journal.db'}"


@dataclass(frozen=True, slots=True)
class Config:
    """What can be configured."""

    uri: str = "qemu:///system"
    journal: str = ""  # URL; empty: default_journal()
    suspended_start: bool | None = None  # start copies with the VM suspended: always, never, or as QEMU needs it

    @classmethod
    def load(cls) -> Config:
        """By files and environment. Raises ConfigInvalid naming file, key and the nearest known key."""
        config = cls()
        named = os.environ.get("BLOCKFERRY_CONFIG")
        user = platformdirs.user_config_path("blockferry") / "config.toml"
        for path in [Path(named)] if named else [SYSTEM_FILE, user]:
            config = replace(config, **_read(path, must_exist=named is not None))
        uri = os.environ.get("BLOCKFERRY_URI") or os.environ.get("LIBVIRT_DEFAULT_URI") or config.uri
        journal = os.environ.get("BLOCKFERRY_JOURNAL") or config.journal or default_journal()
        return replace(config, uri=uri, journal=journal)


def _read(path: Path, must_exist: bool) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        if must_exist:
            raise ConfigInvalid(str(path), "there is no such file") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(str(path), str(error)) from error
    known = {field.name: field for field in fields(Config)}
    for key, value in values.items():
        if key not in known:
            guess = nearest(key, known)
            raise ConfigInvalid(str(path), f"unknown key {key!r}" + (f" (did you mean {guess[0]!r}?)" if guess else ""))
        wanted: type = bool if key == "suspended_start" else str
        if not isinstance(value, wanted):
            raise ConfigInvalid(str(path), f"{key} must be a {'true or false' if wanted is bool else 'text'}")
    return values
