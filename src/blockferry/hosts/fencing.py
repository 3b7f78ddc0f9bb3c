"""What a destination does when it stops answering, and how it can be fenced. Pure: facts of the kernel in, steps out.

A request to a block device or a file system ends by itself only where somebody set a time: a SCSI or NVMe disk has the
kernel's own time-outs, a hard NFS mount or a multipath device that queues has none. Where it does not, the storage can
be fenced instead (a fence): then every request that waits fails at once, and the guest goes on at its source.

Sources: umount2(2) MNT_FORCE (aborts pending requests; 9p, ceph, cifs, fuse, lustre, NFS); the kernel's
filesystems/fuse.rst (`abort`: an error for all waiting and all new requests); dm-multipath's message `fail_if_no_path`
(multipath.conf(5), no_path_retry); Red Hat's Storage Administration Guide, "SCSI command timer and device status".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blockferry.base.units import format_duration

HANGING_S = 1.5
"""A destination that has not answered for so long is called hanging: it is told, and nothing is begun there."""

BEAT_S = 0.5
LATE_S = 1.0
"""A hang begins up to one beat before it is noticed, and the rest is the fence's own time."""

FORCED = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "lustre")
"""File systems whose waiting requests `umount -f` ends (umount2(2)); FUSE has its own, stronger way."""

MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class MountFact:
    """A mounted file system, by its superblock. `members`: the devices of a btrfs."""

    kind: str
    source: str
    point: str
    options: str = ""
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockFact:
    """A block device; `below` are the devices it stands on (for a loop device the superblock of its file)."""

    name: str
    below: tuple[str, ...] = ()
    loop: bool = False
    partition: bool = False
    dm_name: str = ""
    dm_uuid: str = ""
    scsi: bool = False
    transport: str = ""  # of a SCSI disk that lies behind a network: "iSCSI", "Fibre Channel"
    timeout: str = ""  # seconds, of a SCSI disk's commands


@dataclass(frozen=True, slots=True)
class PathFact:
    """A directory: what it is without links, the superblock it lies on ("major:minor"), where that is mounted."""

    real: str
    device: str
    mount: str


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """What the host's kernel knows of some directories and all that is below them."""

    paths: Mapping[str, PathFact]
    mounts: Mapping[str, MountFact]  # by superblock
    blocks: Mapping[str, BlockFact]  # by device
    fuse: tuple[str, ...] = ()  # the names in /sys/fs/fuse/connections
    root: bool = True


@dataclass(frozen=True, slots=True)
class FenceStep:
    """One step of a fence: a text into a file of the kernel's, a forced unmount, or a program.

    `again`: worth repeating while it hangs on.
    """

    kind: str  # "write", "umount", "run"
    path: str = ""
    text: str = ""
    argv: tuple[str, ...] = ()
    again: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """What is known of one destination's directory when it hangs."""

    directory: str  # without links
    device: str  # the superblock
    mount: str
    endless: bool  # may wait for ever, unless it is fenced
    why: str  # what it is, for people: "an NFS mount", "a local disk (sda)"
    steps: tuple[FenceStep, ...] = ()  # nothing: it cannot be fenced
    how: str = ""  # what the steps do, for people
    cuts: tuple[str, ...] = ()  # the devices and superblocks that are fenced
    chain: tuple[str, ...] = ()  # all on the way down to them: the destination's own
    anyway: bool = False  # somebody else's use does not stand in the way: the administrator's own command
    unfenced: str = ""  # why there are no steps, a clause
    others: tuple[str, ...] = ()  # who else uses it now


@dataclass(frozen=True, slots=True)
class Fencing:
    """What the user wants: the limit in seconds (None: never), and `auto`, `off` or the words of a program."""

    limit_s: float | None = 5.0
    command: tuple[str, ...] = ("auto",)


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a watch guards: the places of the new images, and what is this move's own there.

    `pairs`: (old image, new image); `ours`: the new files and directories. Paths without links.
    """

    places: tuple[Storage, ...]
    pairs: tuple[tuple[str, str], ...]
    ours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DestinationHealth:
    """What the watch says of the destination. Seconds."""

    seconds: float = 0.0  # for which it has not answered until now
    directory: str = ""
    times: int = 0  # how often it hung
    longest: float = 0.0
    refused: str = ""  # why it is not fenced although it is time
    fenced: str | None = None  # the directory whose storage was fenced
    fenced_after: float | None = None

    @property
    def hanging(self) -> bool:
        return self.seconds >= HANGING_S


ANSWERING = DestinationHealth()
USUAL = Fencing()


@dataclass(frozen=True, slots=True)
class _Below:
    """What was found below a device."""

    endless: bool
    why: str
    steps: tuple[FenceStep, ...] = ()
    how: str = ""
    cuts: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()


def storage(facts: StorageFacts, path: str, wanted: Fencing) -> Storage:
    """What a directory of a destination does when it hangs, and what is to be done then."""
    here = facts.paths[path]
    below = _superblock(facts, here.device, ())
    steps, how, anyway = below.steps, below.how, False
    unfenced = "" if steps else "there is no way to cut it off"
    if wanted.command == ("off",) or wanted.limit_s is None:
        steps, how, unfenced = (), "", "it is not to be fenced, as asked"
    elif wanted.command != ("auto",):
        device = facts.blocks.get(here.device)
        words = {"mount": here.mount, "device": f"/dev/{device.name}" if device else _source(facts, here.device)}
        argv = tuple(_fill(word, words) for word in wanted.command)
        steps, how, anyway, unfenced = (FenceStep("run", argv=argv),), f"`{' '.join(argv)}`", True, ""
    elif steps and not facts.root:
        steps, how, unfenced = (), "", "only root can cut it off"
    return Storage(
        directory=here.real,
        device=here.device,
        mount=here.mount,
        endless=below.endless,
        why=below.why,
        steps=steps,
        how=how,
        cuts=below.cuts,
        chain=below.chain or (here.device,),
        anyway=anyway,
        unfenced=unfenced,
    )


def _fill(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _source(facts: StorageFacts, device: str) -> str:
    mount = facts.mounts.get(device)
    return mount.source if mount else ""


def _superblock(facts: StorageFacts, device: str, above: tuple[str, ...]) -> _Below:
    chain = (*above, device)
    mount = facts.mounts.get(device)
    major, _, minor = device.partition(":")
    kind = mount.kind if mount else ""
    connection = minor if major == "0" else str(int(major) << 20 | int(minor)) if major.isdigit() else ""
    if kind in ("fuse", "fuseblk") or kind.startswith("fuse.") or (not kind and connection in facts.fuse):
        name = kind.removeprefix("fuse.") if "." in kind else "FUSE"
        if connection in facts.fuse:
            step = FenceStep("write", f"/sys/fs/fuse/connections/{connection}/abort", "1")
            return _Below(True, f"a {name} file system", (step,), "its FUSE connection is aborted", (device,), chain)
        steps = (FenceStep("umount", mount.point),) if mount else ()
        return _Below(True, f"a {name} file system", steps, "`umount -f`" if steps else "", (device,), chain)
    if mount is not None and kind in FORCED:
        name = {"nfs4": "nfs", "smb3": "cifs"}.get(kind, kind)
        what = f"{'an' if name == 'nfs' else 'a'} {name.upper()} mount ({mount.source})"
        soft = name == "nfs" and bool({"soft", "softerr"} & set(mount.options.split(",")))
        step = FenceStep("umount", mount.point, again=True)
        return _Below(not soft, f"{what}, mounted soft" if soft else what, (step,), "`umount -f`", (device,), chain)
    if kind in MEMORY:
        return _Below(False, "held in memory", chain=chain)
    if mount is not None and mount.members:
        return _all(facts, mount.members, chain)
    if major != "0" and device in facts.blocks:
        return _block(facts, device, chain)
    return _Below(True, f"a file system of the kind {kind}" if kind else "storage of an unknown kind", chain=chain)


def _block(facts: StorageFacts, device: str, chain: tuple[str, ...]) -> _Below:
    block_fact = facts.blocks.get(device)
    if block_fact is None:
        return _Below(True, "a device that is not known", chain=chain)
    if block_fact.dm_uuid.startswith("mpath-"):
        step = FenceStep("run", argv=("dmsetup", "message", block_fact.dm_name, "0", "fail_if_no_path"))
        how = f"multipath device {block_fact.dm_name} no longer queues"
        return _Below(True, f"multipath device {block_fact.dm_name}", (step,), how, (device,), chain)
    if block_fact.loop:
        below = (
            _superblock(facts, block_fact.below[0], chain)
            if block_fact.below
            else _Below(True, "an unknown file", chain=chain)
        )
        return _Below(
            below.endless, f"/dev/{block_fact.name} on {below.why}", below.steps, below.how, below.cuts, below.chain
        )
    if block_fact.below:
        return _all(facts, block_fact.below, chain)
    if block_fact.scsi:
        timeout = f" (after {block_fact.timeout} s a try)" if block_fact.timeout else ""
        why = f"{block_fact.transport} disk {block_fact.name}".strip() + f", whose requests the kernel ends{timeout}"
        if not block_fact.transport:
            # One that spins up, or reads a weak sector, may well be silent for longer than the limit.
            return _Below(False, f"local {why}", chain=chain)
        step = FenceStep("write", f"/sys/block/{block_fact.name}/device/state", "offline")
        return _Below(False, why, (step,), f"disk {block_fact.name} is set offline", (device,), chain)
    if block_fact.name.startswith("nvme"):
        return _Below(False, f"NVMe disk {block_fact.name}, whose requests the kernel ends", chain=chain)
    if block_fact.name.startswith("vd"):
        return _Below(False, f"disk {block_fact.name} of this host's own hypervisor", chain=chain)
    if block_fact.name.startswith(("ram", "pmem", "zram", "mmcblk")):
        return _Below(False, f"local disk {block_fact.name}", chain=chain)
    return _Below(True, f"/dev/{block_fact.name}, which sets no time to its requests as far as is known", chain=chain)


def _all(facts: StorageFacts, devices: tuple[str, ...], chain: tuple[str, ...]) -> _Below:
    """What stands on several devices hangs when one does, and is fenced only when each can be."""
    found = [_block(facts, device, (*chain, device)) for device in devices]
    fenced = all(below.steps for below in found)
    return _Below(
        endless=any(below.endless for below in found),
        why=" and ".join(dict.fromkeys(below.why for below in found)),
        steps=tuple(step for below in found for step in below.steps) if fenced else (),
        how=" and ".join(below.how for below in found) if fenced else "",
        cuts=tuple(cut for below in found for cut in below.cuts),
        chain=tuple(dict.fromkeys(link for below in found for link in below.chain)),
    )


def unbounded(storage: Storage) -> str:
    """Why a write of the guest could wait for ever at this destination, in a clause; "" when it could not."""
    if not storage.endless or (storage.steps and not storage.others):
        return ""
    if storage.others:
        return f"{storage.why} may hang for ever, and it would not be fenced, because {storage.others[0]}"
    return f"{storage.why} may hang for ever, and {storage.unfenced}"


def bound_s(wanted: Fencing) -> float | None:
    """Seconds for which a write of the guest waits at most at a destination that is fenced; None: no bound."""
    return None if wanted.limit_s is None else wanted.limit_s + BEAT_S + LATE_S


def bound(storage: Storage, wanted: Fencing, *, synchronous: bool) -> str:
    """What happens to the guest when this destination hangs, a sentence for the plan."""
    if not synchronous:
        text = "the guest goes on, its writes do not wait for the destination"
        if storage.steps and not storage.others and wanted.limit_s is not None:
            text += f"; around the switch it is fenced after {format_duration(wanted.limit_s)} ({storage.how})"
        return text
    limit = bound_s(wanted)
    if storage.steps and not storage.others and limit is not None:
        return f"the guest's writes wait for at most {format_duration(limit)}, then it is fenced: {storage.how}"
    if storage.endless:
        return f"the guest's writes wait as long as it does, there is no bound: {storage.why}"
    return f"the guest's writes wait until the kernel ends the requests: {storage.why}"
