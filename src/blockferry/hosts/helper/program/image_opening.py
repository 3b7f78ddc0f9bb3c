"""Images of a VM that has arrived, given to the user of its QEMU where that cannot open them.

On a shared file system that libvirt does not know as such, the source's libvirt gives the images back to their first
owner when it lets go of the VM, after the destination has taken them; then QEMU cannot let the guest run. libvirt gives
them to that user, too, when it starts a VM.
"""

from __future__ import annotations

import os
import re
import stat
import xml.etree.ElementTree as ElementTree
from typing import Any

from blockferry.hosts.helper.program import owner_calls
from blockferry.hosts.helper.program.suspended_vm import SuspendedVm

DESCRIBE_S = 30.0
LABEL = re.compile(r"\+(\d+):\+(\d+)")
"""The user of a VM's QEMU, as the live XML names it: https://libvirt.org/formatdomain.html#security-label"""

PROCESSES = "/run/libvirt/qemu"
"""Where libvirt notes the process of each VM."""


def may_open(uid: int, gid: int, found: os.stat_result, *, writes: bool) -> bool:
    """Whether the permissions alone let this user open the file."""
    wanted = 0o6 if writes else 0o4
    if uid == 0:
        return True
    if found.st_uid == uid:
        return found.st_mode >> 6 & wanted == wanted
    if found.st_gid == gid:
        return found.st_mode >> 3 & wanted == wanted
    return found.st_mode & wanted == wanted


def qemu_user(domain: ElementTree.Element) -> tuple[int, int] | None:
    """(uid, gid) of the VM's QEMU: of its process, else as its XML names them by number; None when neither tells.

    The XML of a VM that has just arrived from another host names no label now and then (libvirt 9.0).
    """
    running = process_user(domain.findtext("name") or "", domain.findtext("uuid") or "")
    if running is not None:
        return running
    for label in domain.iterfind("./seclabel[@model='dac']"):
        match = LABEL.fullmatch((label.findtext("label") or "").strip())
        if match is not None:
            return int(match[1]), int(match[2])
    return None


def process_user(name: str, uuid: str) -> tuple[int, int] | None:
    """Effective (uid, gid) of this VM's QEMU on this host; None when there is none.

    The number that libvirt has noted may be another process's by now, and a VM of another host may bear the name: the
    command line has to name the VM's UUID.
    """
    try:
        with open(f"{PROCESSES}/{name}.pid", encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            if uuid.encode() not in command.read().split(b"\0"):
                return None
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        return int(lines["Uid"].split()[1]), int(lines["Gid"].split()[1])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def files_of(domain: ElementTree.Element, targets: list[str]) -> dict[str, bool]:
    """Path -> whether it is written to, of the disks with these targets that are files."""
    found = {}
    for disk in domain.iterfind("./devices/disk[@type='file']"):
        target, source = disk.find("target"), disk.find("source")
        path = "" if source is None else source.get("file", "")
        if target is not None and target.get("dev") in targets and path:
            found[path] = disk.get("device", "disk") == "disk"
    return found


def give(vm: SuspendedVm, targets: list[str]) -> dict[str, Any]:
    """Give the files of these disks to the user of the VM's QEMU, where it could not open them.

    {"given": paths, "failed": [[path, what, errno], ...]}. Called on a host that has the files; the VM's libvirt may be
    another host's.
    """
    described = vm.virsh("dumpxml", vm.uuid, seconds=DESCRIBE_S)
    domain = None if described is None else ElementTree.fromstring(described)
    user = None if domain is None else qemu_user(domain)
    given: list[str] = []
    failed: list[tuple[str, str, int]] = []
    if domain is None or user is None:
        return {"given": given, "failed": failed}
    for path, writes in files_of(domain, targets).items():
        try:
            found = os.stat(path)
        except OSError as error:
            failed.append((path, "owner", error.errno or 0))
            continue
        if not may_open(*user, found, writes=writes):
            left = owner_calls.give(path, *user, stat.S_IMODE(found.st_mode), {})
            failed += [(path, what, number) for what, number in left]
            given += [path] if not left else []
    return {"given": given, "failed": failed}


def call(uri: str, uuid: str, targets: list[str]) -> dict[str, Any]:
    """The same, for blockferry."""
    return give(SuspendedVm(uri, uuid), targets)
