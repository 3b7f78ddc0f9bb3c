"""What a pre-check can find: a catalogue of codes, and findings that carry the facts of one case.

`blockferry explain CODE` prints the catalogue's text, docs/errors.md is generated from it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.Enum):
    """An error refuses the move, a warning is shown and the move goes on."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class FindingKind:
    """One kind of finding: its code, and what it means for the administrator who reads it."""

    code: str
    severity: Severity
    title: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for or against a move, with its facts in a sentence."""

    code: str
    severity: Severity
    text: str
    remedy: str = ""

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

CATALOGUE: dict[str, FindingKind] = {
    kind.code: kind
    for kind in (
        FindingKind(
            "SHARED_DISK", _E, "The disk is shared with other VMs",
            "A disk marked <shareable/> may be written by several VMs at once; a copy that follows one of them misses "
            "the writes of the others.",
            "Take the disk out of the move, or detach it from the other VMs and remove <shareable/>.",
        ),
        FindingKind(
            "PASSTHROUGH_LUN", _E, "The disk is a LUN passed through to the guest",
            "With device='lun' the guest sends SCSI commands to the device itself; QEMU cannot mirror those.",
            "Move the content inside the guest, or attach the LUN as an ordinary disk.",
        ),
        FindingKind(
            "UNSUPPORTED_SOURCE", _E, "The disk's source is of a kind that cannot be moved",
            "Files and block devices can be moved; this one is something else (network, NVMe, a directory).",
            "Leave this disk out with --disk for the others.",
        ),
        FindingKind(
            "QEMU_CANNOT_REACH", _E, "QEMU could not open a disk at the destination",
            "libvirt runs QEMU as a user of its own, who needs the x permission of every directory above an image. It "
            "was tried as that user, with the groups that QEMU has.",
            "Let that user pass the directory: `setfacl -m u:libvirt-qemu:x DIRECTORY`.",
        ),
        FindingKind(
            "OWNER_LOST", _W, "The destination cannot keep the owner or mode of the files",
            "Its file system has no owners, no ACLs, or does not let root set them (CIFS, vfat, NFS with root_squash). "
            "The copies get what the file system gives.",
            "See that QEMU's user may open files there, or take another datastore (docs/ownership.md).",
        ),
        FindingKind(
            "EXPORT_UNUSABLE", _E, "The network block device cannot be used",
            "Its server must run, know the export and let it be read and written before the move begins; nothing "
            "is made there.",
            "Look at it with `qemu-img info ADDRESS` on the VM's host.",
        ),
        FindingKind(
            "EXPORT_SIZE", _E, "The network block device has another size than the disk",
            "The guest would see its disk grow, or lose the end of it.",
            "Have its server export exactly as many bytes as the disk has.",
        ),
        FindingKind(
            "EXPORT_FORMAT", _E, "A network block device holds raw disks only",
            "An image format on top of an export is not made and not read.",
            "Add --format raw.",
        ),
        FindingKind(
            "EXPORT_IN_USE", _E, "The network block device is used already",
            "It is the disk of a VM on this host, or two disks would go to it.",
            "Name another export.",
        ),
        FindingKind(
            "EXPORT_LIMITS", _E, "This cannot be done with a network block device",
            "Overlays, clones, verification, going on from a broken copy, snapshots and checkpoints need files on both "
            "sides.",
            "Leave the option out, or move to a datastore of files.",
        ),
        FindingKind(
            "EXPORT_OFF", _E, "A VM that is off cannot leave a network block device",
            "Between the copy and the switch nothing tells whether somebody wrote there: an export has neither locks "
            "nor times.",
            "Start the VM and move it while it runs, or use `qemu-img convert`.",
        ),
        FindingKind(
            "EXPORT_OVERWRITTEN", _W, "What the network block device holds is overwritten",
            "It was named, and nobody on this host uses it; what other hosts do with it cannot be seen.",
            "",
        ),
        FindingKind(
            "EXPORT_STAYS", _I, "The network block device keeps its content",
            "blockferry never removes what is behind a server.",
            "",
        ),
        FindingKind(
            "UNSUPPORTED_FORMAT", _E, "The disk's format cannot be read or written",
            "blockferry moves raw, qcow2 and vmdk images.",
            "Convert the disk with qemu-img while the VM is off.",
        ),
        FindingKind(
            "READ_ONLY_DISK", _E, "The disk is a removable medium",
            "A CD or floppy follows the home of the VM and is no disk to be moved.",
            "Leave it out of --disk.",
        ),
        FindingKind(
            "TRANSIENT_DISK", _E, "The disk is transient",
            "A <transient/> disk loses its writes when the VM stops; its overlay cannot be moved.",
            "Remove <transient/>, or move the VM while it is off.",
        ),
        FindingKind(
            "JOB_ON_DISK", _E, "Another job runs on the disk",
            "Only one block job (copy, commit, pull, backup) can run on a disk at a time; it is not ours and is not "
            "touched.",
            "Wait for it, or end it: `virsh blockjob VM DISK --abort`; a backup: `virsh domjobabort VM`.",
        ),
        FindingKind(
            "JOB_ON_VM", _E, "Another job runs on the VM",
            "A migration, backup, save or dump is under way.",
            "Wait for it (`virsh domjobinfo VM`), or end it: `virsh domjobabort VM`.",
        ),
        FindingKind(
            "MOVE_UNDER_WAY", _E, "The VM is being moved already",
            "Another blockferry move holds this VM, of this journal or (by its mark on the VM) of another one.",
            "`blockferry moves` shows it. A mark of a journal that is gone for good: `blockferry orphans --abandoned`.",
        ),
        FindingKind(
            "DESTINATION_FULL", _E, "The destination has not enough free space",
            "The copy would not fit into what is free now, less what other moves have yet to write there.",
            "Free space there, choose another datastore, or thin provisioning.",
        ),
        FindingKind(
            "DESTINATION_OVERCOMMITTED", _W, "The destination is overcommitted",
            "If all thin images there grew to their full size, they would not fit.",
            "Watch its free space, or choose another datastore.",
        ),
        FindingKind(
            "NOTHING_TO_MOVE", _E, "Source and destination are the same",
            "Every disk that was asked for lives on the destination already.",
            "Name another datastore.",
        ),
        FindingKind(
            "DISK_ALREADY_THERE", _I, "The disk is at the destination already",
            "It stays where it is.",
            "",
        ),
        FindingKind(
            "DATASTORE_INACTIVE", _E, "The datastore is not active",
            "libvirt has not started the pool, so what lies there cannot be known.",
            "`virsh pool-start NAME`.",
        ),
        FindingKind(
            "DATASTORE_KIND", _E, "The datastore is of a kind that cannot take images yet",
            "Destinations are pools of files: dir, fs, netfs.",
            "Choose a datastore of such a kind.",
        ),
        FindingKind(
            "DATASTORE_MISSING", _E, "The datastore's directory is not there or cannot be written",
            "The pool is active but its directory is missing, not mounted, or read-only.",
            "Mount it, then `virsh pool-refresh NAME`.",
        ),
        FindingKind(
            "NAME_COLLISION", _E, "A file of that name is at the destination already",
            "It is not ours and is never overwritten, and no other name is free.",
            "Move it away, or choose another datastore. `blockferry orphans` tells whether an earlier move left it.",
        ),
        FindingKind(
            "NAME_TAKEN", _I, "The disk gets another name: a file of its own name is at the destination already",
            "What is there is not ours and is never overwritten. The new file is called after VM and disk instead.",
            "`blockferry orphans` tells whether an earlier move left the file that is there.",
        ),
        FindingKind(
            "KEPT_HERE", _I, "An old disk of this VM is in quarantine at the destination",
            "It was kept when the VM left this datastore. It can be gone back to as it was, removed, or become the "
            "copy: then both are compared, only what differs is written, and it is no old disk any more.",
            "Add --use-kept, or see `blockferry quarantine list`.",
        ),
        FindingKind(
            "KEPT_USED", _W, "An old disk in quarantine becomes the copy",
            "As asked (--use-kept): both are compared, and only what differs is written. The old disk is written over: "
            "it cannot be gone back to any more. If the move is cancelled or fails before the first write it is in "
            "quarantine again; after that it is a copy of this move, and removed or kept as those are (--on-break).",
            "Leave out --use-kept to have the disk copied beside it.",
        ),
        FindingKind(
            "KEPT_UNUSED", _W, "An old disk in quarantine cannot become the copy",
            "It must be as it was kept, only because that was asked for, one image of the same format and size without "
            "snapshots, under one name (a hard link may be a backup), and nothing may need it. While the VM runs, an "
            "overlay has to take its writes meanwhile.",
            "",
        ),
        FindingKind(
            "NAME_SHORTENED", _I, "The disk gets another name: its own is too long for the destination",
            "While it is made, a marker file lies beside it whose name is some bytes longer.",
            "",
        ),
        FindingKind(
            "NAME_TOO_LONG", _E, "A name is too long for the destination",
            "While a file is made, others lie beside it whose names are some bytes longer: its marker, with --verify "
            "the view. File systems take names of 255 bytes, some less.",
            "Rename the file, or for `<vm>.xml` the VM (`virsh domrename`), while the VM is off.",
        ),
        FindingKind(
            "HOME_UNUSABLE", _E, "The VM's home cannot be made at the destination",
            "There a directory of the VM's name takes its metadata, and disks that do not lie flat. It must be a "
            "directory that can be written, on that datastore, and none of a datastore's own.",
            "Move away what is there, or choose another datastore.",
        ),
        FindingKind(
            "FORMAT_CANNOT_HOLD", _E, "The format cannot hold a disk of that size",
            "The format counts in sectors of 512 bytes (or has an upper limit); the guest would see another size.",
            "Choose --format raw.",
        ),
        FindingKind(
            "IMAGE_USED_ELSEWHERE", _E, "Another VM uses the image",
            "It is the disk or the backing file of another VM; moving it away would break that VM, and copying it "
            "while two write to it would be wrong.",
            "Give the other VM a disk of its own, or for a backing file: --chain keep leaves the shared layer alone.",
        ),
        FindingKind(
            "IMAGE_UNREADABLE", _E, "The image cannot be read",
            "qemu-img cannot make sense of it, or it is missing.",
            "`qemu-img info FILE`, `qemu-img check FILE`.",
        ),
        FindingKind(
            "SNAPSHOTS", _E, "The VM has snapshots that cannot be carried",
            "Their metadata names the old files; after the move they could not be reverted to (docs/snapshots.md).",
            "`virsh snapshot-list VM`; delete or commit them first.",
        ),
        FindingKind(
            "INTERNAL_SNAPSHOTS", _E, "The image holds internal snapshots that would be lost",
            "A copy carries what the guest sees now, not what is saved inside the qcow2 file.",
            "Power the VM off: the file is then copied as it is, with all its snapshots.",
        ),
        FindingKind(
            "CHECKPOINTS_LOST", _E, "The VM has checkpoints that the destination's format cannot carry",
            "Changed-block tracking lives in bitmaps of the qcow2 image; raw and vmdk have none, so the next backup "
            "would silently be wrong or fail.",
            "Keep the format, or delete the checkpoints: `virsh checkpoint-list VM`.",
        ),
        FindingKind(
            "BITMAPS_LOST", _W, "The image's bitmaps are not copied",
            "Bitmaps say what has changed since a backup. libvirt knows no checkpoint of these, so they are a backup "
            "program's; only qcow2 holds any.",
            "Make the next backup a full one, or keep the format and the layers (leave out --format, --chain keep).",
        ),
        FindingKind(
            "COMPRESSION_LOST", _I, "The image is compressed, its copy is not",
            "A copy is written as QEMU writes: in whole clusters. It takes what the content takes.",
            "",
        ),
        FindingKind(
            "CHECKPOINTS_VOID", _W, "What has changed since the VM's checkpoints cannot be told closely after the move",
            "The copy carries their bitmaps, and in these everything that was copied counts as changed: the next "
            "incremental backup of another program is right, but about as large as a full one. Points of "
            "`blockferry cbt` belong to the old images: `blockferry changes` says TRACKING_LOST for them.",
            "After the move make a new point (`blockferry cbt point VM`), and a full backup.",
        ),
        FindingKind(
            "MANAGED_SAVE", _E, "The VM has a saved state",
            "A managed save holds the guest's memory together with the old paths of its disks.",
            "Start the VM, or `virsh managedsave-remove VM`.",
        ),
        FindingKind(
            "ENCRYPTED_IMAGE", _E, "The image is encrypted",
            "A running QEMU copies what the guest reads, so the new image would be decrypted, while the "
            "configuration still says that it is encrypted. LUKS in a raw file is moved, running or off; LUKS in a "
            "qcow2 while the VM is off: as it is, without --verify, and the secret stays.",
            "Power the VM off and move it then, in its own format; or leave this disk out.",
        ),
        FindingKind(
            "DATA_FILE", _I, "The image keeps its data in a second file, and becomes one",
            "A qcow2 with an external data file is copied into one image. The data file is as old as the image: it is "
            "proven unneeded, removed or kept after it.",
            "",
        ),
        FindingKind(
            "TOO_OLD", _E, "libvirt or QEMU is too old",
            "What blockferry needs is not there.",
            "libvirt 8.0 (January 2022) and QEMU 6.0 (April 2021) are the oldest that will do.",
        ),
        FindingKind(
            "OTHER_QEMU", _I, "The VM runs in another QEMU than the installed one",
            "A VM keeps the QEMU that it was started with. What is chosen by QEMU's version and its known defects goes "
            "by that; copies are started suspended if either of the two needs it, as a VM that is powered off and "
            "started again in the middle of a move goes on in the installed one.",
            "After an update of QEMU: power-cycle the VM when it suits.",
        ),
        FindingKind(
            "QEMU_UNKNOWN", _W, "Which QEMU the VM runs in cannot be told",
            "Its process is asked on the host (/proc/PID/exe --version), as root, and only if the program is called "
            "QEMU and is root's. What is chosen by QEMU's version goes by the installed one instead, which is wrong "
            "if QEMU was updated since the VM was started, or the VM has its own.",
            "Run as root. If QEMU was updated since, power-cycle the VM first.",
        ),
        FindingKind(
            "KNOWN_DEFECT", _W, "A defect of the VM's QEMU or the host's libvirt may meet this move",
            "It can lose data, kill the VM or make it hang while we do what you ask. As an error: the move of the "
            "running "
            "VM is refused. docs/defects.md lists the defects that we know, with references.",
            "`blockferry doctor` shows those of the host. Update, and power-cycle the VM; or move it while it is off.",
        ),
        FindingKind(
            "BLOCK_GRAPH", _E, "QEMU does not use the image that libvirt names",
            "QEMU's own block graph says that the guest's writes go to another image, and that is the truth: something "
            "has gone wrong with an earlier copy of this disk in the present run of the VM (docs/defects.md, "
            "LIBVIRT_COPY_ON_READ). The image that libvirt and the configuration name is stale.",
            "Delete neither image. Shut the VM down, let its configuration name the image that QEMU uses "
            "(`virsh edit VM`), start it, and move it then.",
        ),
        FindingKind(
            "METHOD_NEEDS_POWER", _E, "The method does not fit the VM's power state",
            "cold needs a VM that is off; mirror and changed-blocks need one that runs.",
            "Use --method auto.",
        ),
        FindingKind(
            "METHOD_CHAIN", _E, "mirror cannot keep a backing chain",
            "While it runs, the copy has no backing file yet; a guest's write that is smaller than a cluster would "
            "hide what the lower layers hold of that cluster.",
            "Use --method changed-blocks (or auto), or --chain flatten.",
        ),
        FindingKind(
            "CONTRACT_MIRROR", _W, "With mirror, the guest's latency depends on the destination, too",
            "The copy's speed follows the guest as asked, but each of the guest's writes also waits until the "
            "destination has it; if that is slow, no speed of the copy helps.",
            "Use --method changed-blocks (or auto): there no write waits for the destination.",
        ),
        FindingKind(
            "HANG_UNBOUNDED", _W, "Nothing bounds how long the guest's writes wait for the destination",
            "With mirror each of the guest's writes waits until the destination has it. This destination may stop "
            "answering for ever (a hard NFS mount, a device that queues), and it cannot be fenced, or is not to be.",
            "Use --method changed-blocks (or auto): there no write waits for the destination. Or give a way to cut it "
            "off (`fence` in the configuration, docs/reliability.md).",
        ),
        FindingKind(
            "CONFIG_DIFFERS", _E, "The VM's live and persistent configuration name different files",
            "It cannot be told which of the two is meant; or the disk is in one of them only: attached to the running "
            "VM but not for its next start, or only for that.",
            "`virsh dumpxml VM` and `virsh dumpxml --inactive VM`; bring them in line first (`virsh attach-disk` or "
            "`virsh detach-disk` with --config, or power-cycle the VM).",
        ),
        FindingKind(
            "PAUSED_ON_ERROR", _W, "The VM is paused because of an I/O error",
            "A request to its disk failed; most often its datastore is full. Its disks can be moved all the same, if "
            "they can be read. QEMU repeats the failed requests when the VM is resumed, at the new place: nothing "
            "that was acknowledged is lost.",
            "`--paused resume` lets it run once its disks are at the destination; else `virsh resume VM` afterwards.",
        ),
        FindingKind(
            "VM_LOST", _E, "libvirt has lost the VM",
            "libvirt says that it is off, but its QEMU runs and writes to its disks.",
            "Shut it down from inside the guest; when its QEMU still lives then, end it with `kill`.",
        ),
        FindingKind(
            "POWER_UNSURE", _E, "It is not certain that the VM is off",
            "libvirt says so, but the host's processes could not be looked at. Were its QEMU alive, a copy would lack "
            "writes.",
            "Run blockferry as a user who sees all processes of the host (root).",
        ),
        FindingKind(
            "VM_CRASHED", _W, "The guest has crashed",
            "QEMU still holds its disks; they are moved as they are.",
            "",
        ),
        FindingKind(
            "VOLUME_AS_FILE", _I, "The disk is named as a volume of a pool",
            "The VM's XML names the disk by pool and volume. At the destination it is named by its path: for libvirt "
            "that is the same, whether the pool is active or not.",
            "",
        ),
        FindingKind(
            "CDROM_STAYS", _W, "The inserted ISO stays where it is",
            "It lies outside of the VM's home, most likely a library that others use too.",
            "",
        ),
        FindingKind(
            "HOME_FILES_STAY", _I, "Files of the old home stay there",
            "Only files that are known to be the VM's go along, and only when every XML that names them can be "
            "changed (docs/home.md). The old directory stays as long as it is not empty.",
            "",
        ),
        FindingKind(
            "NVRAM_FOLLOWS", _W, "The UEFI variables follow once the VM has been powered off",
            "libvirt cannot change their path while the VM runs. The move waits for that (`blockferry moves`) and is "
            "finished by the next command after it.",
            "`--firmware leave` leaves them where they are.",
        ),
        FindingKind(
            "FIRMWARE_NOW", _W, "The VM stands still while its UEFI variables move",
            "As asked, it is saved to a memory file when its disks are across, and restored with the variables in "
            "their new place. Its guest notices a jump of the clock, and others that it does not answer.",
            "`--firmware next-boot` moves them once it has been powered off.",
        ),
        FindingKind(
            "FIRMWARE_NOT_NOW", _E, "The UEFI variables cannot move while the VM runs",
            "That takes a save to a memory file and a restore, which libvirt or QEMU refuses for this VM.",
            "`--firmware next-boot` moves them once it has been powered off.",
        ),
        FindingKind(
            "FIRMWARE_NO_ROOM", _E, "There is no room for the VM's memory",
            "libvirt saves it in a directory of its own on the host, for as long as the VM stands still.",
            "Make room there, or use `--firmware next-boot`.",
        ),
        FindingKind(
            "NVRAM_STAYS", _W, "The UEFI variables stay where they are",
            "Their file belongs to the VM all the same; do not remove its datastore.",
            "",
        ),
        FindingKind(
            "TPM_STAYS", _I, "The vTPM's state stays where it is",
            "libvirt keeps it outside of datastores, in the host's own directory; a move of the storage on one host "
            "changes nothing for it.",
            "",
        ),
        FindingKind(
            "CHAIN_FLATTENED", _I, "The backing chain becomes one image",
            "All layers' content is copied into one file.",
            "--chain keep keeps the layers.",
        ),
        FindingKind(
            "TEMPLATE_REUSED", _I, "A layer is not copied: the same image is at the destination already",
            "Both were read and compared, and neither has changed since. The image is not ours: it is never written to "
            "and never removed.",
            "--template none copies the layer.",
        ),
        FindingKind(
            "TEMPLATE_NOT_REUSED", _I, "An image at the destination does not take a layer's place",
            "Only one that reads the same, is as large, and that nobody writes to, does.",
            "",
        ),
        FindingKind(
            "TEMPLATE_UNUSABLE", _E, "The image that was named takes no layer's place",
            "It has to read like a lower layer of a disk that moves, and be of its format and size; and nobody may "
            "write to it.",
            "Leave out --template, or name another image.",
        ),
        FindingKind(
            "THIN_BECOMES_THICK", _W, "A thin disk becomes thick",
            "As asked, or because the format has no thin form.",
            "",
        ),
        FindingKind(
            "LUKS_FULL", _I, "The new encrypted image takes all of its size",
            "What a guest has never written is not known to be zeros in an encrypted image, and is copied with the "
            "rest.",
            "Move it while the VM is off: then the holes of the file stay.",
        ),
        FindingKind(
            "FULL_RESERVED", _W, "The new image's space is reserved, but not written",
            "The copy of a running VM's disk leaves holes in a raw image, and in any image if the disk passes discards "
            "on (discard='unmap'). They are reserved at the end, as with --preallocation falloc.",
            "",
        ),
        FindingKind(
            "CANNOT_TRIM", _E, "The guest cannot be asked to trim its disks",
            "--trim needs a running VM with a guest agent that answers, and at least one disk that passes discards on. "
            "`trim = true` in the configuration is only a wish: there it is a warning.",
            "Start qemu-guest-agent in the guest and give the VM its channel (org.qemu.guest_agent.0), or leave out "
            "--trim.",
        ),
        FindingKind(
            "TRIM_IGNORED", _W, "A disk does not pass the guest's discards on",
            "Without discard='unmap' in the disk's <driver> QEMU ignores what the guest discards: trimming gives "
            "nothing back there.",
            "Add discard='unmap' to the disk's <driver>; it holds from the next start of the VM.",
        ),
        FindingKind(
            "OLD_QCOW2", _I, "The image is of the old qcow2 format (compat 0.10)",
            "The copy is made as compat 1.1, which QEMU has understood since 2013.",
            "",
        ),
        FindingKind(
            "CANNOT_VERIFY", _E, "The host cannot compare images",
            "`--verify` reads both sides on the host with libnbd for Python.",
            "Install python3-libnbd there (Fedora, RHEL: python3-libnbd, too), or do without --verify.",
        ),
        FindingKind(
            "NO_ADMIN_ACCESS", _E, "The host's files cannot be reached",
            "Host-side work (qemu-img, the home's files) runs over the same transport as the URI and did not work.",
            "Use a qemu+ssh:// URI with a login that works, or run blockferry on the host.",
        ),
        FindingKind(
            "RESUME_FROM", _I, "A broken copy is gone on with",
            "An earlier move of this VM to the same place broke and its copy was kept. Both sides are read and "
            "compared; only what differs is written. While the VM runs, an overlay takes its writes meanwhile.",
            "--from-scratch copies all of it anew.",
        ),
        FindingKind(
            "RESUME_REPLACED", _W, "A broken copy is replaced",
            "What an earlier move has left at the destination cannot be gone on with here, or was not to be.",
            "",
        ),
        FindingKind(
            "RESUME_NOT", _I, "A copy that breaks would begin anew",
            "Going on from a broken copy means to compare both sides, with an overlay that takes the guest's writes if "
            "the VM runs; here that is not possible, or was not asked for.",
            "",
        ),
        FindingKind(
            "CHECKPOINT_PAUSES", _I, "The VM is suspended for moments during the copy",
            "So that a copy that breaks can be gone on with, QEMU has to write out the tables of a qcow2 image. It "
            "does that only when the VM stops, so the VM is suspended and let run once per 5 % of the copy, not more "
            "often than every 30 s (with --on-break keep: at every 5 %): 14 to 170 ms each were measured.",
            "--on-break remove does without, and so does --method snapshot, which copies the disk outside of QEMU.",
        ),
        FindingKind(
            "START_OVERLAY", _I, "An overlay keeps the start of the copy short",
            "On this QEMU (defect QEMU_3273) a copy has to begin while the VM stands still, and for this disk that "
            "would take long. So the guest writes to an overlay, the disk below it is copied, and the overlay "
            "follows. The VM stands still for less than 0.1 s at a time, however large the disk; for longer only when "
            "the overlay is committed at the end, and only if the guest has written more than about 2 GiB meanwhile.",
            "",
        ),
        FindingKind(
            "START_PAUSE", _W, "The VM stands still when the copy begins",
            "On this QEMU (defect QEMU_3273) a copy has to begin while the VM stands still, for as long as QEMU looks "
            "at the disk. As an error: for more than a second.",
            "Move the VM while it is off, or update QEMU; the finding says what keeps the disk from going by way of an "
            "overlay, which has no such pause.",
        ),
        FindingKind(
            "OVERLAY_SPACE", _W, "Little room for the overlay",
            "Until the switch the guest's writes go to an overlay beside the old disk. If that datastore fills up, "
            "QEMU pauses the guest. As an error: there is too little room to begin.",
            "Make room on the source's datastore, or choose --method changed-blocks, which needs no overlay (with "
            "--from-scratch, if a broken copy would be gone on with).",
        ),
        FindingKind(
            "METHOD_SNAPSHOT", _E, "The method snapshot cannot be used here",
            "It needs a persistent VM, whose disk is a raw or qcow2 file that is moved as one image, and a host with "
            "libnbd for Python (the package python3-libnbd).",
            "Choose another method.",
        ),
        FindingKind(
            "METHOD_CLONE", _E, "The method clone cannot be used here",
            "The file system clones a file as it is: source and destination must be on one that shares blocks (XFS "
            "with reflink, btrfs), and nothing can be changed on the way. A running VM needs an overlay besides, so it "
            "must be persistent.",
            "Choose another method, or leave it to `auto`.",
        ),
        FindingKind(
            "CLONE_SHARES", _I, "The disk is cloned: old and new file share their blocks",
            "A clone takes no space. As long as both files are there, a block that is overwritten in one of them takes "
            "new space; when the old disk is removed, the new one has all of its blocks to itself.",
            "Do not keep the old disk for long (--keep-source) where space is short.",
        ),
        FindingKind(
            "SOURCE_SHARED", _I, "The old files lie on a file system that other hosts may use",
            "On NFS, CIFS, Ceph, GFS2, OCFS2, GlusterFS or behind FUSE another host may have a VM that uses an old "
            "file, or stands on it; this host cannot see that. So they are kept by default, in quarantine.",
            "If no other host uses them: --delete-source, or later `blockferry quarantine purge --now PATH`.",
        ),
        FindingKind(
            "NO_HOST_GUARD", _W, "No guard on the VM's host",
            "The VM is on another host. While a move has it suspended (milliseconds at the switch), a guard on this "
            "side resumes it when blockferry dies, and a second guard on its own host when the link is cut. The second "
            "one needs virsh there. Without it the VM stays suspended until the link is back.",
            "Install virsh on the VM's host (libvirt-clients, libvirt-client).",
        ),
        FindingKind(
            "SAME_FILE", _E, "Source and destination are the same file",
            "The two paths lead to one file (a link, or one directory mounted twice); copying it onto itself would "
            "destroy it.",
            "Choose another datastore.",
        ),
    )
}  # fmt: skip


def finding(code: str, text: str, remedy: str | None = None, severity: Severity | None = None) -> Finding:
    """A finding of a kind in the catalogue, with the sentence of this case."""
    kind = CATALOGUE[code]
    return Finding(code, severity or kind.severity, text, kind.remedy if remedy is None else remedy)
