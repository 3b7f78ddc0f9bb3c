"""Speaks QMP with the QEMU of a VM that libvirt has lost.

It only reads ("query-..."), and does one thing more where
the wish and QEMU's own status ask for it together: WISH `cont` lets a guest run whose processors stand still
("paused"); WISH `quit` ends a QEMU whose guest has powered off ("shutdown"), which libvirt starts with -no-shutdown.

QEMU serves one client of its monitor at a time. While libvirt holds it, there is no greeting: then nothing is asked.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 5.0


class NotReached(Exception):
    """Why the monitor could not be asked, a clause."""


def arguments(pid: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [word.decode("utf-8", "surrogateescape") for word in file.read().split(b"\0")]
    except OSError as error:
        raise NotReached(f"process {pid} cannot be looked at ({error.strerror})") from None


def values(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at in range(len(words) - 1) if words[at] == option]


def socket_path(pid: str, words: list[str]) -> str:
    """Where QEMU's own monitor listens: by the path in its command line, or by the descriptor that libvirt gave it."""
    for one in values(words, "-chardev"):
        if not re.match(r"socket,id=charmonitor(,|$)", one):
            continue
        options = dict(option.partition("=")[::2] for option in one.split(",")[1:])
        if "path" in options:
            return options["path"]
        if "fd" in options:
            return listening(pid, options["fd"])
    raise NotReached("its command line names no monitor of libvirt's")


def listening(pid: str, descriptor: str) -> str:
    try:
        inode = re.match(r"socket:\[(\d+)\]$", os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        with open(f"/proc/{pid}/net/unix") as file:
            rows = [line.split(None, 7) for line in file]
    except OSError as error:
        raise NotReached(f"its monitor's socket cannot be looked at ({error.strerror})") from None
    for row in rows:
        if inode is not None and len(row) == 8 and row[6] == inode[1]:
            return row[7].rstrip("\n")
    raise NotReached("its monitor listens on no path")


class Gone(NotReached):
    """Its socket has been removed: it cannot be reached any more."""


class Monitor:
    """One conversation. Every answer is waited for until a common deadline."""

    def __init__(self, path: str) -> None:
        self.until = time.monotonic() + PATIENCE_S
        self.buffer = b""
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.link.settimeout(PATIENCE_S)
        try:
            self.link.connect(path)
        except FileNotFoundError as error:
            raise Gone(f"its monitor {path} cannot be connected to ({error.strerror})") from None
        except OSError as error:
            raise NotReached(f"its monitor {path} cannot be connected to ({error.strerror})") from None
        if "QMP" not in self.read():
            raise NotReached("its monitor does not speak QMP")
        self.ask("qmp_capabilities")

    def read(self) -> dict[str, Any]:
        while b"\n" not in self.buffer:
            left = self.until - time.monotonic()
            if left <= 0:
                raise NotReached("its monitor does not answer; libvirt or another program may hold it")
            self.link.settimeout(left)
            try:
                data = self.link.recv(1 << 16)
            except OSError as error:
                if error.errno is None:  # the time is up: socket.timeout, which is TimeoutError only from 3.10 on
                    continue
                raise NotReached(f"its monitor broke off ({error.strerror})") from None
            if not data:
                raise NotReached("its monitor broke off")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        found = json.loads(line)
        return found if isinstance(found, dict) else {}

    def ask(self, command: str) -> Any:
        self.link.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while True:
            said = self.read()
            if "return" in said:
                return said["return"]
            if "error" in said:
                raise NotReached(f"it refuses {command} ({said['error'].get('class', '')})")


def talk(pid: str, uuid: str, wish: str) -> dict[str, Any]:
    words = arguments(pid)
    if uuid not in values(words, "-uuid"):
        raise NotReached(f"process {pid} is not its QEMU any more")
    monitor = Monitor(socket_path(pid, words))
    if monitor.ask("query-uuid").get("UUID") != uuid:
        raise NotReached("its monitor belongs to another VM")
    did = False
    status = monitor.ask("query-status")["status"]
    if wish == "cont" and status == "paused":
        monitor.ask("cont")
        did, status = True, monitor.ask("query-status")["status"]
    said = {
        "status": status,
        "block": monitor.ask("query-block"),
        "named": monitor.ask("query-named-block-nodes"),
        "jobs": monitor.ask("query-jobs"),
    }
    if wish == "quit" and status == "shutdown":
        monitor.ask("quit")
        did = True
    return {**said, "did": did}


def ask(pid: int, uuid: str, wish: str) -> dict[str, Any]:
    """What QEMU says of itself, or why it could not be asked: `problem`."""
    try:
        return talk(str(pid), uuid, wish)
    except NotReached as why:
        return {"problem": str(why), "gone": isinstance(why, Gone)}


def alive(pid: int, uuid: str) -> bool:
    """Whether the process has this UUID in its command line."""
    try:
        return uuid in arguments(str(pid))
    except NotReached:
        return False


CALLS: dict[str, Callable[..., Any]] = {"ask": ask, "alive": alive}
