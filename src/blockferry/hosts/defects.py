"""Known defects of QEMU and libvirt that can lose data, kill a VM or hang in what we do. A table, and pure questions.

The one place that knows versions: the pre-check (findings, and which copies are started suspended), the choice of
the method, and `blockferry doctor` ask here. docs/defects.md is written from it. An entry has a reference that
somebody has read; what is inferred says so in `known_from`. Where a fix may have been backported and nobody has
looked it up, the version counts as affected.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

Version = tuple[int, int, int]

EVER: Version = (0, 0, 0)


def dotted(version: Version) -> str:
    return ".".join(map(str, version))


class Component(enum.Enum):
    QEMU = "QEMU"
    LIBVIRT = "libvirt"


class Harm(enum.Enum):
    """What it does at its worst."""

    LOSES_DATA = "loses data"
    KILLS_VM = "kills the VM"
    HANGS = "hangs"
    FAILS = "fails"  # an effect is refused or the daemon dies; the VM runs on
    EXPOSES = "exposes files of the host"


class Remedy(enum.Enum):
    """What blockferry does about it."""

    START_SUSPENDED = "jobs are started in a short suspension"
    NO_SYNCHRONOUS = "copies are made in the background, never synchronously"
    REFUSED = "a move of the running VM is refused"
    AVOIDED = "what we do does not meet it"
    PUT_RIGHT = "what it leaves behind is found and put right"
    TOLD = "it is said"


@dataclass(frozen=True, slots=True)
class Span:
    """Versions from `since` up to, not including, `fixed`; None: not fixed in any release that we know."""

    since: Version
    fixed: Version | None

    def holds(self, version: Version) -> bool:
        return self.since <= version and (self.fixed is None or version < self.fixed)


@dataclass(frozen=True, slots=True)
class Case:
    """One disk's copy, as far as defects ask."""

    live: bool
    synchronous: bool
    shallow: bool = False
    source_format: str = "qcow2"
    bus: str = "virtio"
    iothread: bool = False
    discard: bool = False  # discard='unmap'
    io: str | None = None
    copy_on_read: bool = False  # copy_on_read='on'

    @property
    def may_skip(self) -> bool:
        """Whether QEMU's first look at the source can find areas that it does not copy."""
        return self.source_format != "raw" or self.shallow


@dataclass(frozen=True, slots=True)
class Defect:
    """One entry. `spans` are one per branch of releases: a stable release may be cured before a newer one.

    `concerns` tells whether a copy (or, with `anyway`, a disk) can meet it; the sentences are for administrators.
    """

    id: str
    component: Component
    title: str
    spans: tuple[Span, ...]
    harm: Harm
    what: str
    touches: str
    remedy: Remedy
    instead: str
    references: tuple[str, ...]
    known_from: str
    concerns: Callable[[Case], bool]
    anyway: bool = False  # a host or VM has it whether something is moved or not: only `doctor` tells
    distributions: str = ""

    def affects(self, version: Version) -> bool:
        return any(span.holds(version) for span in self.spans)


_COMMIT = "https://gitlab.com/qemu-project/qemu/-/commit/"
_ISSUE = "https://gitlab.com/qemu-project/qemu/-/issues/"
_PVE = "https://git.proxmox.com/?p=pve-qemu.git;a=commit;h="
_LIST = "https://lore.kernel.org/qemu-devel/"
_NEWS = "https://libvirt.org/news.html"

DEFECTS: tuple[Defect, ...] = (
    Defect(
        id="QEMU_3273",
        component=Component.QEMU,
        title="mirror misses writes of its first moments",
        spans=(Span((8, 0, 0), (10, 0, 9)), Span((10, 1, 0), (10, 2, 2))),
        harm=Harm.LOSES_DATA,
        what="A guest's write that lands while the job takes its first look at the disk is never copied; the job "
        "becomes ready, the switch succeeds, and the write is gone.",
        touches="the start of every live copy whose source is not raw, of every kept chain, and of every commit of an "
        "overlay that is in use",
        remedy=Remedy.START_SUSPENDED,
        instead="These jobs are started while the VM is suspended for that look. A disk for which it would take long "
        "goes by way of an overlay, so that the VM stands still for less than 0.1 s (docs/design/start-race.md).",
        references=(
            _ISSUE + "3273",
            _COMMIT + "167ef239fbdcc4bde126e47668bfc4839b873b19",
            _COMMIT + "32125b14606a454ed109ea6d9da32c747e94926f",
            _PVE + "63c5803edb041d867515d09f01f766b2298d5783",
        ),
        known_from="The fix names the commit that brought it (8.0: synchronous copies; from 8.2 on all). It is in "
        "10.0.9 and 10.2.2 by Debian's changelog, in the source of 10.0.13, and in 11.0.0; 10.1 was not looked up and "
        "counts as affected, and of 8.0 to 9.2 no release with it is known.",
        concerns=lambda case: case.live and case.may_skip,
        distributions="Proxmox carries the fix since its package of 10.2.1 (March 2026). Debian 12 (7.2.22) is older "
        "than the defect; Debian 13 has the fix since 1:10.0.10 (its bug 1129349).",
    ),
    Defect(
        id="QEMU_MIRROR_NULL_JOB",
        component=Component.QEMU,
        title="a write between the start of mirror and its job crashes QEMU",
        spans=(Span(EVER, (7, 2, 0)),),
        harm=Harm.KILLS_VM,
        what="Between putting its filter into place and making its job QEMU follows a null pointer for any guest's "
        "write: the VM is gone as if its plug had been pulled.",
        touches="the start of every live copy",
        remedy=Remedy.START_SUSPENDED,
        instead="The copies are started while the VM is suspended.",
        references=(
            _COMMIT + "da93d5c84e56e6b4e84aa8e98b6b984c9b6bb528",
            _LIST + "20221111152744.261358-4-kwolf@redhat.com/",
        ),
        known_from="patch text; the gap is older than the oldest QEMU that we accept",
        concerns=lambda case: case.live,
    ),
    Defect(
        id="QEMU_MIRROR_EARLY_WRITE",
        component=Component.QEMU,
        title="a write during the start of a synchronous mirror crashes QEMU",
        spans=(Span(EVER, (8, 0, 0)),),
        harm=Harm.KILLS_VM,
        what="The job is known to its filter before its lists and bitmaps exist; a write from another thread in these "
        "microseconds crashes QEMU.",
        touches="the start of a synchronous copy of a disk that an iothread serves",
        remedy=Remedy.START_SUSPENDED,
        instead="Such copies are started while the VM is suspended. Without an iothread there is no yield in that "
        "window, and 136 starts under load on 7.2.22 had no crash (docs/measured.md).",
        references=(
            _COMMIT + "32125b14606a454ed109ea6d9da32c747e94926f",
            _LIST + "20230203152202.49054-3-kwolf@redhat.com/",
        ),
        known_from="patch text, merged in February 2023; that an iothread is needed is read in the source of 7.2",
        concerns=lambda case: case.live and case.synchronous and case.iothread,
        distributions="Not in Debian's 7.2.22.",
    ),
    Defect(
        id="QEMU_MIRROR_CONFLICT_CRASH",
        component=Component.QEMU,
        title="mirror crashes QEMU when two of its requests meet",
        spans=(Span((6, 1, 0), (6, 2, 0)),),
        harm=Harm.KILLS_VM,
        what="mirror_wait_on_conflicts follows a null pointer: the VM is gone in the middle of the copy.",
        touches="every live copy",
        remedy=Remedy.REFUSED,
        instead="Such a QEMU is not trusted with a live copy: move the VM while it is off, or update QEMU and "
        "power-cycle "
        "the VM.",
        references=(
            _COMMIT + "66fed30c9cd11854fc878a4eceb507e915d7c9cd",
            "https://bugzilla.redhat.com/show_bug.cgi?id=2001404",
        ),
        known_from="patch text; Proxmox still needed the patch on 6.1.1",
        concerns=lambda case: case.live,
    ),
    Defect(
        id="QEMU_ACTIVE_MIRROR_STARVES",
        component=Component.QEMU,
        title="a synchronous mirror makes no progress while the guest writes",
        spans=(Span(EVER, (7, 2, 0)),),
        harm=Harm.HANGS,
        what="The job copies nothing as long as any write of the guest is under way: on a busy VM it never gets in "
        "step.",
        touches="synchronous copies",
        remedy=Remedy.NO_SYNCHRONOUS,
        instead="changed-blocks instead of mirror.",
        references=(
            _COMMIT + "d69a879bdf1aed586478eaa161ee064fe1b92f1a",
            "https://bugzilla.redhat.com/show_bug.cgi?id=2123297",
        ),
        known_from="patch text",
        concerns=lambda case: case.live and case.synchronous,
    ),
    Defect(
        id="QEMU_ACTIVE_MIRROR_ZEROES",
        component=Component.QEMU,
        title="a short write of zeros crashes QEMU in a synchronous mirror",
        spans=(Span((10, 1, 0), (11, 0, 0)),),
        harm=Harm.KILLS_VM,
        what="A guest's write of zeros (or discard) shorter than the job's granularity trips an assertion: the VM is "
        "gone.",
        touches="synchronous copies, for as long as they run",
        remedy=Remedy.NO_SYNCHRONOUS,
        instead="changed-blocks instead of mirror.",
        references=(
            _COMMIT + "4a7b1bd18d2e1a6b3796e177ae5df9b198264a0b",
            _COMMIT + "7e277545b90874171128804e256a538fb0e8dd7e",
            "https://bugzilla.proxmox.com/show_bug.cgi?id=7222",
        ),
        known_from="patch text: it names the commit of May 2025 that brought it. Proxmox needed the patch on 10.2.1 "
        "and "
        "not on 11.0.0; stable releases in between were not looked up.",
        concerns=lambda case: case.live and case.synchronous,
        distributions="Proxmox carries the fix since its package of 10.1.2 (February 2026).",
    ),
    Defect(
        id="SHALLOW_SYNCHRONOUS",
        component=Component.LIBVIRT,
        title="a shallow copy with synchronous writes hides lower layers",
        spans=(Span(EVER, None),),
        harm=Harm.LOSES_DATA,
        what="Writes smaller than a cluster reach a destination that has no backing file yet; the rest of the cluster "
        "reads as zeros after the switch.",
        touches="kept chains (--chain keep)",
        remedy=Remedy.NO_SYNCHRONOUS,
        instead="A kept chain is copied in the background only; --method mirror is refused for it (METHOD_CHAIN).",
        references=("measured.md#10-a-kept-chain-and-synchronous-writes-lose-data-qemu-7222-libvirt-900",),
        known_from="found by our judge with libvirt 9.0.0 and QEMU 7.2.22; other versions count as affected",
        concerns=lambda case: case.live and case.synchronous and case.shallow,
    ),
    Defect(
        id="LIBVIRT_COPY_ON_READ",
        component=Component.LIBVIRT,
        title="a live copy of a disk with copy_on_read='on' leaves its filter above the old image",
        spans=(Span(EVER, None),),
        harm=Harm.LOSES_DATA,
        what="After the switch the filter node stays above the old image, which QEMU keeps open for writing. A second "
        "switch in the same run of the VM succeeds for libvirt, but QEMU goes on writing to the image before: all that "
        "is written since is missing from the image that the configuration names.",
        touches="live copies of disks with copy_on_read='on'",
        remedy=Remedy.REFUSED,
        instead="Power the VM off and move it then; or set copy_on_read='off' in its configuration (`virsh edit`), "
        "power-cycle it, and move it live.",
        references=("measured.md#14-copy-on-read-and-two-live-copies-lose-data-qemu-7222-libvirt-900",),
        known_from="measured with libvirt 9.0.0 and QEMU 7.2.22: two `virsh blockcopy --pivot`; other versions count "
        "as affected",
        concerns=lambda case: case.live and case.copy_on_read,
    ),
    Defect(
        id="QEMU_DISCARD_WRITE_RACE",
        component=Component.QEMU,
        title="qcow2: a discard during a write to the same cluster corrupts the image",
        spans=(Span(EVER, (10, 0, 11)), Span((10, 1, 0), (11, 0, 2))),
        harm=Harm.LOSES_DATA,
        what="The cluster is freed while a write still links it, and is handed out again: two places of the disk share "
        "one cluster, and overwrite each other. `qemu-img check` sees it, the guest does not.",
        touches="qcow2 images with discard='unmap' under any load; synchronous copies to qcow2 clusters above 64 KiB",
        remedy=Remedy.TOLD,
        instead="mirror lets one request at a time into each granule, and its granule is the destination's cluster up "
        "to "
        "64 KiB, so copies to such images do not meet it. An image that has it already is copied as the guest reads "
        "it: "
        "check sources before a move with `qemu-img check` (VM off), or leave out discard='unmap'.",
        references=(
            _COMMIT + "b8bfb1478d61512f851badd0d912c6661a2efee7",
            "https://patchew.org/QEMU/20260421155628.3600671-1-den@openvz.org/",
            _PVE + "5f99027aab8b4cdcf08b4708e0be93aec554b833",
        ),
        known_from="patch text: latent since 1.0, fixed upstream after 11.0.0 (May 2026); in 10.0.11 and 11.0.2 by "
        "Debian's changelog, other stable branches were not looked up. That copies do not meet it is inferred from "
        "mirror's source, not run.",
        concerns=lambda case: case.source_format == "qcow2" and case.discard,
        anyway=True,
        distributions="Proxmox carries the fix since its package of 11.0.0 (May 2026), Debian 13 since 1:10.0.11.",
    ),
    Defect(
        id="QEMU_DRAIN_IOTHREAD_STUCK",
        component=Component.QEMU,
        title="an iothread stops serving its disk after a drain",
        spans=(Span((8, 1, 0), (8, 2, 2)),),
        harm=Harm.HANGS,
        what="When a block job starts or ends while the iothread polls, the guest's requests may never be looked at "
        "again: "
        "its I/O stands still.",
        touches="start and end of live copies of disks that an iothread serves",
        remedy=Remedy.TOLD,
        instead="Stopping and continuing the VM wakes the queues, and our switch does that. Should the guest stand "
        "still "
        "during a copy: `virsh suspend VM; virsh resume VM`.",
        references=(
            _COMMIT + "5bdbaebcce18fe6a627cafad2043ec08f3de5744",
            "https://issues.redhat.com/browse/RHEL-3934",
            _PVE + "4ff04bdfa5f7f23cd2466789df1bf71559e84203",
        ),
        known_from="patch text; list of commits of 8.2.2",
        concerns=lambda case: case.live and case.iothread,
    ),
    Defect(
        id="QEMU_STOP_IOTHREAD_DEADLOCK",
        component=Component.QEMU,
        title="suspending a busy VM with virtio-blk and an iothread deadlocks",
        spans=(Span((8, 1, 0), (8, 2, 2)),),
        harm=Harm.HANGS,
        what="QEMU hangs in the command that stops the VM; only killing it helps.",
        touches="our suspensions (start, switch) of a VM whose virtio disk an iothread serves",
        remedy=Remedy.TOLD,
        instead="Nothing can be done from outside: update QEMU and power-cycle the VM, or move it while it is off.",
        references=(
            _COMMIT + "bfa36802d1704fc413c590ebdcc4e5ae0eacf439",
            "https://issues.redhat.com/browse/RHEL-15394",
            _PVE + "ed159bc32a8ec2241132574ea16f6c45a5d71503",
        ),
        known_from="patch text; list of commits of 8.2.2; the first version is inferred",
        concerns=lambda case: case.live and case.iothread and case.bus == "virtio",
    ),
    Defect(
        id="QEMU_DISMISS_IOTHREAD_DEADLOCK",
        component=Component.QEMU,
        title="ending a block job deadlocks with an iothread under load",
        spans=(Span((8, 2, 2), (10, 1, 0)),),
        harm=Harm.HANGS,
        what="QEMU waits for the guest's requests while it holds the lock that they wait for; the whole process hangs.",
        touches="the end of a job on a disk that an iothread serves while the guest does I/O",
        remedy=Remedy.TOLD,
        instead="A copy that succeeds ends by the switch, in a suspension, when the guest sends no requests. One that "
        "is cancelled or given up does not, nor do the commit of an overlay and a verification: suspend such a VM "
        "before you cancel, and leave --verify out.",
        references=(
            _LIST + "20250530151125.955508-1-f.ebner@proxmox.com/",
            _COMMIT + "5bdbaebcce18fe6a627cafad2043ec08f3de5744",
        ),
        known_from="report with a bisection and a backtrace through job-dismiss; fixes merged in June 2025, before "
        "10.1",
        concerns=lambda case: case.live and case.iothread,
    ),
    Defect(
        id="QEMU_IDE_TRIM_DRAIN",
        component=Component.QEMU,
        title="a trim on an IDE or SATA disk deadlocks with a drain",
        spans=(Span((7, 0, 0), (10, 0, 10)), Span((10, 1, 0), None)),
        harm=Harm.HANGS,
        what="When a block job starts in the middle of a trim of the guest, QEMU waits for ever; only killing it "
        "helps.",
        touches="start and end of live copies of IDE and SATA disks with discard='unmap'",
        remedy=Remedy.TOLD,
        instead="Stop trims in the guest for the move (fstrim.timer, mount option discard), or move it while it is "
        "off.",
        references=(
            _COMMIT + "7e5cdb345f77d76cb4877fe6230c4e17a7d0d0ca",
            "https://lists.nongnu.org/archive/html/qemu-devel/2023-03/msg02506.html",
            "https://git.proxmox.com/?p=pve-qemu.git;a=blob;f=debian/patches/extra/"
            "0002-ide-avoid-potential-deadlock-when-draining-during-tr.patch",
        ),
        known_from="patch text; Proxmox still carries its fix on 11.0.0. 10.0.10 has 'ide: Minimal fix for deadlock "
        "between TRIM and drain' by Debian's changelog; which newer release has it was not looked up. The first "
        "version is inferred from the date "
        "of "
        "the commit (January 2022).",
        concerns=lambda case: case.live and case.bus in ("ide", "sata") and case.discard,
    ),
    Defect(
        id="CVE_2023_5088",
        component=Component.QEMU,
        title="a reset of an IDE or SATA disk may overwrite its first sector",
        spans=(Span(EVER, (7, 2, 7)), Span((8, 0, 0), (8, 1, 5))),
        harm=Harm.LOSES_DATA,
        what="A guest whose disk is slow resets it; a write under way then goes to sector 0, where the partition "
        "table is.",
        touches="live copies of IDE and SATA disks: a copy at full speed makes them slow",
        remedy=Remedy.TOLD,
        instead="Give the copy a --bandwidth that leaves the guest its share, or move it while it is off.",
        references=(
            "https://nvd.nist.gov/vuln/detail/CVE-2023-5088",
            "https://lists.nongnu.org/archive/html/qemu-devel/2023-08/msg04239.html",
            _PVE + "8160772",
        ),
        known_from="patch text; Debian's list of 7.2.7; Proxmox needed the patch on 8.1.2 and not on 8.1.5",
        concerns=lambda case: case.live and case.bus in ("ide", "sata"),
        distributions="Debian 12 since 1:7.2+dfsg-7+deb12u3.",
    ),
    Defect(
        id="QEMU_IO_URING_SHORT_READ",
        component=Component.QEMU,
        title="io_uring: a short read is continued at the wrong place",
        spans=(Span((5, 0, 0), (7, 1, 0)),),
        harm=Harm.LOSES_DATA,
        what="A read that the kernel answers in part (rare) returns wrong data, to the guest as well as to the copy.",
        touches="live copies of disks with io='io_uring'",
        remedy=Remedy.TOLD,
        instead="Move the VM while it is off (qemu-img does not use io_uring), or change to io='native' first.",
        references=(
            _COMMIT + "c06fc7ce147e57ab493bad9263f1601b8298484b",
            "https://lkml.kernel.org/r/YrrFGO4A1jS0GI0G@atmark-techno.com",
        ),
        known_from="patch text; Proxmox needed it on 7.0.0 and not on 7.1.0",
        concerns=lambda case: case.live and case.io == "io_uring",
    ),
    Defect(
        id="CVE_2024_4467",
        component=Component.QEMU,
        title="qemu-img info opens files that a malicious qcow2 names",
        spans=(Span(EVER, (7, 2, 13)), Span((8, 0, 0), (9, 0, 2))),
        harm=Harm.EXPOSES,
        what="An image made by an attacker makes `qemu-img info` read or fill other files of the host.",
        touches="every command that looks at images: they run as root",
        remedy=Remedy.TOLD,
        instead="Images that guests or strangers have made as files (not written as a disk) are to be kept out of "
        "datastores until QEMU is updated. A format is always given to qemu-img, never probed.",
        references=(
            "https://nvd.nist.gov/vuln/detail/CVE-2024-4467",
            _PVE + "b242e7f",
        ),
        known_from="Debian's list of 7.2.13; Proxmox carried the patch on 9.0.0. Other stable branches were not "
        "looked up.",
        concerns=lambda case: True,
        anyway=True,
        distributions="Debian 12 since 1:7.2+dfsg-7+deb12u7.",
    ),
    Defect(
        id="LIBVIRT_JOB_TRANSITIONS",
        component=Component.LIBVIRT,
        title="block jobs are not always put away",
        spans=(Span((9, 0, 0), (9, 1, 0)),),
        harm=Harm.FAILS,
        what="libvirt's states of a block job miss some transitions: a job that is over may stay on its disk, and "
        "later "
        "operations on the disk are refused.",
        touches="the end of live copies",
        remedy=Remedy.AVOIDED,
        instead="A disk counts as switched when the live XML says so, never because a call returned; a job that stays "
        "is "
        "waited for, and the move parks rather than guess. Three cases of 1,461 of our fault matrix with 9.0.0 may "
        "have been this: QEMU refused a copy or a commit with 'Need a root block node' after a job that libvirt had "
        "forgotten. The move failed, or was parked, with all writes in place (docs/reliability.md); once the VM has "
        "been off it goes on.",
        references=(_NEWS + "#v9-1-0-2023-03-01",),
        known_from="libvirt's release notes of 9.1.0",
        concerns=lambda case: case.live,
    ),
    Defect(
        id="LIBVIRT_LOSES_VM",
        component=Component.LIBVIRT,
        title="libvirtd that is killed while it concludes a block job forgets the running VM",
        spans=(Span(EVER, (11, 3, 0)),),
        harm=Harm.LOSES_DATA,
        what="For 5 to 20 ms at the end of each copy and each commit of an active overlay, libvirtd's status file of "
        "the VM holds <mirror ... job=''>, which libvirtd refuses to read at its next start. When it is killed then, "
        "it says that the VM is shut off while its QEMU runs, and the configuration may name the images from before "
        "the job: the next start would use stale blocks. A stop by SIGTERM (systemctl restart, an update of the "
        "package) does not do it: libvirtd finishes what it is at.",
        touches="the end of every live copy, also of one that is cancelled, and of every commit",
        remedy=Remedy.PUT_RIGHT,
        instead="A VM is taken for off only when the host has no QEMU process of it. One that is lost is left running: "
        "its guest is let run if the move had suspended it, its QEMU is asked which images it writes to, and the "
        "configuration is made to name those; nothing is copied cold and nothing is removed. Shut it down from inside "
        "the guest, then `blockferry resume` goes on (docs/design/lost-vm.md).",
        references=(
            "https://gitlab.com/libvirt/libvirt/-/blob/v9.0.0/src/qemu/qemu_blockjob.c",
            "https://gitlab.com/libvirt/libvirt/-/blob/v11.3.0/src/qemu/qemu_blockjob.c",
        ),
        known_from="The sources: 9.0.0 clears the job's type before it saves the status (qemuBlockJobEventProcess), "
        "11.3.0 after the job is put away. The commit between 10.0.0 (others report the same message with it) and "
        "11.3.0 was looked for and not found: the release notes of 10.1.0 to 11.3.0 do not name it, and libvirt's "
        "repository (1.15 GB) was larger than what could be fetched; so 11.3.0 counts as the first without it. "
        "Measured with 9.0.0; not seen with 12.9.0 in 11 moves.",
        concerns=lambda case: case.live,
        distributions="Debian 12 (9.0.0) has it, Debian 13 (11.3.0) has not.",
    ),
    Defect(
        id="LIBVIRT_XML_WAITS",
        component=Component.LIBVIRT,
        title="reading a VM's XML waits for whoever works on it",
        spans=(Span((11, 0, 0), (11, 5, 0)),),
        harm=Harm.FAILS,
        what="virDomainGetXMLDesc takes the VM's job lock and may time out after 30 s while another call holds it.",
        touches="every look at a VM during a move",
        remedy=Remedy.AVOIDED,
        instead="A look that fails is taken again. In a suspension it costs the guest time: the guard lets the VM run "
        "after 3 s, and the switch is tried again.",
        references=(_NEWS + "#v11-5-0-2025-07-01", _NEWS + "#v11-0-0-2025-01-15"),
        known_from="libvirt's release notes of 11.0.0 and 11.5.0 (there: for incoming migration)",
        concerns=lambda case: case.live,
    ),
    Defect(
        id="LIBVIRT_BACKUP_CRASH",
        component=Component.LIBVIRT,
        title="libvirtd may crash when it is asked about a VM during a backup",
        spans=(Span(EVER, (10, 8, 0)),),
        harm=Harm.FAILS,
        what="The daemon dies and is started again; VMs and their jobs run on.",
        touches="what uses a backup job (verification by a frozen view)",
        remedy=Remedy.AVOIDED,
        instead="A lost connection is no failure: the move waits for libvirtd and looks again.",
        references=(_NEWS + "#v10-8-0-2024-10-01",),
        known_from="libvirt's release notes of 10.8.0, which do not name the first version",
        concerns=lambda case: True,
        anyway=True,
    ),
    Defect(
        id="CVE_2023_3750",
        component=Component.LIBVIRT,
        title="libvirtd may crash when several clients look up volumes",
        spans=(Span((8, 3, 0), (9, 6, 0)),),
        harm=Harm.FAILS,
        what="The daemon (libvirtd or virtstoraged) dies and is started again; VMs and their jobs run on.",
        touches="looking at datastores",
        remedy=Remedy.AVOIDED,
        instead="A lost connection is no failure: the move waits for libvirtd and looks again.",
        references=("https://nvd.nist.gov/vuln/detail/CVE-2023-3750", _NEWS + "#v9-6-0-2023-08-01"),
        known_from="libvirt's release notes of 9.6.0",
        concerns=lambda case: True,
        anyway=True,
        distributions="Debian 12 since 9.0.0-4+deb12u1.",
    ),
)


@dataclass(frozen=True, slots=True)
class Versions:
    """What runs on a host, or what a VM runs in."""

    libvirt: Version
    qemu: Version

    def of(self, component: Component) -> Version:
        return self.qemu if component is Component.QEMU else self.libvirt


def present(versions: Versions) -> tuple[Defect, ...]:
    """Every defect that a host has by its versions, in the order of the table."""
    return tuple(defect for defect in DEFECTS if defect.affects(versions.of(defect.component)))


def met(versions: Versions, case: Case, remedy: Remedy | None = None) -> tuple[Defect, ...]:
    """The defects of a host that this copy can meet; `remedy`: only those dealt with in this way."""
    return tuple(
        defect
        for defect in present(versions)
        if not defect.anyway and defect.concerns(case) and (remedy is None or defect.remedy is remedy)
    )


def starts_suspended(versions: Versions, case: Case) -> bool:
    """Whether this copy must be started in a suspension."""
    return bool(met(versions, case, Remedy.START_SUSPENDED))


def against_synchronous(versions: Versions) -> Defect | None:
    """The defect that forbids synchronous copies of whole disks on this host, None if there is none."""
    found = met(versions, Case(live=True, synchronous=True, source_format="raw"), Remedy.NO_SYNCHRONOUS)
    return found[0] if found else None
