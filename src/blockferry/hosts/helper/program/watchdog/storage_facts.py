"""What a directory stands on, device by device, down to what answers or hangs. Only for storage that answers."""

from __future__ import annotations

import os

from blockferry.hosts.helper.program import mount_table
from blockferry.hosts.helper.program.loop_table import loop_file
from blockferry.hosts.helper.program.mount_table import Mount, mount_of
from blockferry.hosts.helper.program.watchdog.tables import Json, block, listed, number, read


def backing_device(name: str) -> str:
    """The superblock that a loop device's file lies on; "" when that cannot be told."""
    try:
        return number(loop_file(f"/dev/{name}")[0])
    except OSError:
        return ""


def facts(paths: list[str]) -> Json:
    """What the paths stand on. Touches them: only for storage that answers."""
    mounts = mount_table.parse(os.fsencode(read("/proc/self/mountinfo")))
    found: Json = {"root": os.geteuid() == 0, "paths": {}, "mounts": {}, "blocks": {}}
    found["fuse"] = listed("/sys/fs/fuse/connections")
    for path in paths:
        real = os.path.realpath(path)
        while not os.path.exists(real):
            real = os.path.dirname(real)
        device = number(os.stat(real).st_dev)
        here = mount_of(real, [mount for mount in mounts if mount.device == device])
        found["paths"][path] = {"real": os.path.realpath(path), "device": device, "mount": here.point if here else ""}
        collect(device, mounts, found)
    return found


def collect(device: str, mounts: list[Mount], json: Json) -> None:
    """Take down a device, the file systems on it, and all that is below."""
    if device in json["blocks"] or (device.startswith("0:") and device in json["mounts"]):
        return
    here = [mount for mount in mounts if mount.device == device]
    if here:
        mount = here[0]
        members = btrfs_members(mount.source) if mount.kind == "btrfs" else []
        words = {"kind": mount.kind, "source": mount.source, "point": mount.point, "options": mount.options}
        json["mounts"][device] = {**words, "members": members}
        for member in members:
            collect(member, mounts, json)
    one_block = None if device.startswith("0:") else block(device)
    if one_block is None:
        return
    home = os.path.realpath(f"/sys/dev/block/{device}")
    below = list(one_block.below)
    if one_block.backing_file:
        below.append(backing_device(one_block.name) or "?")
    json["blocks"][device] = {
        "name": one_block.name,
        "below": below,
        "loop": bool(one_block.backing_file),
        "partition": one_block.partition,
        "dm_name": read(f"{home}/dm/name"),
        "dm_uuid": read(f"{home}/dm/uuid"),
        "scsi": os.path.exists(f"{home}/device/scsi_level"),
        "transport": "iSCSI" if "/session" in home else "Fibre Channel" if "/rport-" in home else "",
        "timeout": read(f"{home}/device/timeout"),
    }
    for one_below in below:
        collect(one_below, mounts, json)


def btrfs_members(source: str) -> list[str]:
    name = os.path.basename(os.path.realpath(source))
    for volume in listed("/sys/fs/btrfs"):
        members = listed(f"/sys/fs/btrfs/{volume}/devices")
        if name in members:
            return [read(f"/sys/fs/btrfs/{volume}/devices/{member}/dev") for member in members]
    return []
