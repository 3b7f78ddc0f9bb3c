"""On what a recorded run ran: processor, kernel, libvirt, QEMU, and the commit of the program."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def machine(checkout: Path) -> dict[str, str]:
    """Return the facts of this machine and the commit of the checkout that holds this path ("-dirty" with changes)."""
    return {
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "libvirt": _first_line("libvirtd", "--version"),
        "qemu": _first_line("qemu-system-x86_64", "--version"),
        "blockferry": _first_line("git", "-C", str(checkout), "describe", "--always", "--dirty"),
    }


def _first_line(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.partition("\n")[0].strip() or "unknown"
