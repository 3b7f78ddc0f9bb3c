"""Removing a lab, whole or broken: found by what exists on the machine, not by what was written down.

A crashed run may have died between any two steps. So processes are found by the lab's directory in their command line
or environment, mounts by their mount point, loop devices by their backing file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError
from lab.process import ProcessId, kill_and_wait, marked_processes, run
from lab.state import ROOT, State

_YOUNG_SECONDS = 120
"""A directory without a readable state file is left alone this long: its maker may be about to write it."""


def inits(directory: Path) -> Iterator[ProcessId]:
    """The pid 1 of every host of this lab: a `reaper` that names the lab's directory."""
    wanted = os.fsencode(directory)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(argv) > 2 and argv[0].endswith(b"/reaper") and argv[1] == wanted:
            found = ProcessId.of(int(entry.name))
            if found is not None:
                yield found


def mounts(directory: Path) -> list[Path]:
    """Mount points below the lab's directory, deepest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point.is_relative_to(directory):
            found.append(point)
    return found[::-1]


def loops(directory: Path) -> list[str]:
    """Loop devices whose backing file lies (or lay) below the lab's directory."""
    listed = run(["losetup", "--json", "--list", "--output", "NAME,BACK-FILE"]).stdout
    if not listed.strip():
        return []
    devices = json.loads(listed)["loopdevices"]
    return [device["name"] for device in devices if (device["back-file"] or "").startswith(f"{directory}/")]


def end_devices(directory: Path) -> None:
    """Cut off every failing device: a process that hangs in one could not be killed before."""
    for process in list(marked_processes(directory)):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process.pid}/comm").read_text().strip() == "nbdfuse":
                kill_and_wait(process)


def remove(directory: Path) -> None:
    """End and remove everything of the lab in `directory`. May be repeated; raises when something stays."""
    end_devices(directory)
    for process in list(inits(directory)):
        kill_and_wait(process)
    me = os.getpid()
    for process in list(marked_processes(directory)):
        if process.pid != me:
            kill_and_wait(process)
    for point in mounts(directory):
        run(["umount", point], check=False)
    for point in mounts(directory):  # what was busy a moment ago, or hangs
        run(["umount", "-l", point], check=False)
    for device in loops(directory):
        run(["losetup", "--detach", device], check=False)
    if mounts(directory):
        raise LabError(f"lab {directory}: mounts remain, so its files are left alone: {mounts(directory)}")
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        shutil.rmtree(directory)
    if directory.parent == ROOT:
        with contextlib.suppress(OSError):  # other labs live in it
            ROOT.rmdir()


def orphaned(directory: Path) -> bool:
    """True when the process that made the lab is gone and nobody asked to keep it."""
    try:
        state = State.load(directory)
    except (OSError, ValueError, KeyError, TypeError):
        try:
            return time.time() - directory.stat().st_mtime > _YOUNG_SECONDS
        except OSError:
            return False
    return state.owner is not None and not state.owner.alive()


def labs(root: Path = ROOT) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []


def gc(root: Path = ROOT) -> list[Path]:
    """Remove every lab whose owner is gone; returns them. Safe at any time, also beside running labs."""
    removed = []
    for directory in labs(root):
        if orphaned(directory):
            remove(directory)
            removed.append(directory)
    return removed
