"""The host's directory for what our processes there must know of each other; it is empty after a boot."""

from __future__ import annotations

import os


def path() -> str:
    """Return the directory, made if it is missing. Raises SystemExit when it belongs to another user."""
    home = "/run/blockferry" if os.geteuid() == 0 else f"/tmp/blockferry-{os.geteuid()}"
    os.makedirs(home, mode=0o700, exist_ok=True)
    if os.lstat(home).st_uid != os.geteuid():
        raise SystemExit(f"{home} is somebody else's")
    return home


def problem() -> str:
    """Return why nothing can be written down here, a clause; "" when it can."""
    try:
        path()
    except (OSError, SystemExit) as error:
        return str(error)
    return ""
