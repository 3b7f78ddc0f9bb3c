"""A migration that is begun by a process on its source host, and only for the process that runs the move.

The lock of the move (holder_calls.py) is held from the look at the note until libvirt says that the migration is under
way, or until the call has ended. Whoever takes the move over waits for the lock, and then sees the migration. So none
begins after another process has looked.

Once it is under way libvirt does it by itself (peer to peer), whatever becomes of this process; the process stays to
tell its end.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program import holder_calls
from blockferry.hosts.helper.program.orders import say, stay
from blockferry.hosts.helper.program.suspended_vm import SuspendedVm

LOOK_S = 0.1

MOST_WORDS = 4000


def is_under_way(vm: SuspendedVm) -> bool:
    """Whether libvirt says that the VM is being migrated to another host."""
    return holder_calls.OUTGOING in (vm.virsh("domjobinfo", vm.uuid) or "")


def migrate(lock: int, wish: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Begin the migration, and return its virsh once libvirt says that it is under way, or once it has ended."""
    vm = SuspendedVm(wish["uri"], wish["uuid"])
    with holder_calls.as_files(wish["texts"]) as files:
        process = subprocess.Popen(
            holder_calls.argv_of(wish["uri"], wish["words"], files),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": ""},
            start_new_session=True,
            pass_fds=(lock, *files.values()),
        )
        while process.poll() is None and not is_under_way(vm):
            time.sleep(LOOK_S)
    return process


def alone(wish: dict[str, Any]) -> None:
    """Begin the migration of the VM `uuid` for the process with this number, and tell its end."""
    stay()
    say({"ready": os.getpid()})
    try:
        with holder_calls.locked(wish["move"]) as lock:
            standing = holder_calls.BUSY if lock is None else holder_calls.standing(wish["move"], wish["number"])
            if lock is None or standing != holder_calls.HOLDER:
                say({"over": -1, "refused": standing, "words": ""})
                return
            process = migrate(lock, wish)
    except OSError as error:
        say({"over": -1, "refused": "", "words": str(error)})
        return
    say({"begun": ""})
    _, words = process.communicate()
    said = words.decode("utf-8", "replace").strip()[-MOST_WORDS:]
    say({"over": process.returncode, "refused": "", "words": said})


CALLS: dict[str, Callable[..., Any]] = {}
