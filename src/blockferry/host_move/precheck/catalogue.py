"""The findings that only a move to another host can have. Those of any move: storage_move/precheck/finding.py."""

from __future__ import annotations

from blockferry.storage_move.precheck import finding as any_move
from blockferry.storage_move.precheck.finding import Finding, FindingKind, Severity

_E, _W = Severity.ERROR, Severity.WARNING

CATALOGUE: dict[str, FindingKind] = {
    kind.code: kind
    for kind in (
        FindingKind(
            "SAME_HOST", _E, "Source and destination are the same host",
            "Both URIs lead to the libvirt of one machine: its UUID is the same.",
            "Name another host, or move the storage only: `blockferry move VM --to DATASTORE`.",
        ),
        FindingKind(
            "VM_NAME_TAKEN", _E, "Another VM at the destination has this name",
            "libvirt takes no second VM of one name.",
            "Rename one of them while it is off: `virsh domrename OLD NEW`.",
        ),
        FindingKind(
            "VM_UUID_TAKEN", _E, "A VM with this UUID is defined at the destination",
            "It is this VM (left behind by an earlier migration) or a copy of it. Both must never run.",
            "If it is not needed there: `virsh undefine --keep-nvram NAME` on the destination.",
        ),
        FindingKind(
            "CPU_MISSING", _E, "The destination cannot give the VM its CPU",
            "The guest was told at its start which CPU features it has, and uses them. libvirt compares the VM's CPU "
            "with what QEMU can offer there.",
            "Give the VM a CPU that both hosts have (`virsh hypervisor-cpu-baseline`), and power-cycle it.",
        ),
        FindingKind(
            "CPU_DIFFERS", _W, "The CPUs of the two hosts differ, and the VM sees the host's own",
            "With host-passthrough the guest has the source's CPU exactly. A newer one at the destination usually "
            "works, but neither QEMU nor libvirt promises it.",
            "Use cpu mode host-model or a named model for VMs that move.",
        ),
        FindingKind(
            "CPU_UNKNOWN", _W, "libvirt cannot compare the VM's CPU with the destination's",
            "For this architecture or virtualization type libvirt has no comparison. QEMU refuses at the start of "
            "the migration what it cannot do; the VM then keeps running at the source.",
            "",
        ),
        FindingKind(
            "NO_KVM", _E, "The destination cannot run this kind of VM",
            "The VM's virtualization type (KVM) is not available there: no /dev/kvm, or not for QEMU's user.",
            "Enable virtualization in the firmware and load kvm_intel or kvm_amd; then restart libvirtd.",
        ),
        FindingKind(
            "EMULATOR_MISSING", _E, "The VM's emulator is not at the destination",
            "The XML names the program, and the destination has none at that path.",
            "Install QEMU there, or change <emulator> (`virsh edit VM`) and power-cycle the VM.",
        ),
        FindingKind(
            "MACHINE_TYPE_MISSING", _E, "The destination's QEMU does not have the VM's machine type",
            "The machine type fixes the virtual hardware for the VM's life. A QEMU has those of its own and of "
            "earlier releases, never of later ones; distributions have their own names.",
            "Update QEMU at the destination, or give the VM an older machine type and power-cycle it.",
        ),
        FindingKind(
            "QEMU_OLDER", _W, "The destination's QEMU is older than the VM's",
            "QEMU promises migration to newer releases. To an older one it works where that has the machine type, "
            "but nobody tests it as much.",
            "Move to a host with the same or a newer QEMU where there is one.",
        ),
        FindingKind(
            "LIBVIRT_OLDER", _W, "The destination's libvirt is older",
            "What the newer libvirt writes into a VM's XML the older may not know; then it refuses the VM before "
            "anything was touched.",
            "Update libvirt at the destination first.",
        ),
        FindingKind(
            "NETWORK_MISSING", _E, "A network of the VM is not at the destination",
            "The VM's interfaces name networks and bridges by name; they must be there and active.",
            "`virsh net-start NAME` on the destination, or --map-network OLD=NEW where it has another name there.",
        ),
        FindingKind(
            "NETWORK_NOT_NAMED", _E, "--map-network names a network that the VM is not on",
            "The name before the `=` must be that of a network, bridge or device that an interface of the VM names.",
            "Correct the name before the `=`: `virsh domiflist VM`.",
        ),
        FindingKind(
            "NETWORK_FILTER_MISSING", _E, "A network filter of the VM is not at the destination",
            "An interface has a <filterref>. libvirt refuses to start the VM where there is no filter of this name.",
            "`virsh nwfilter-define FILE` on the destination.",
        ),
        FindingKind(
            "HOST_DEVICE", _E, "A device of the host is passed through to the VM",
            "Such a device stays where it is, and its state cannot be sent.",
            "Detach it first: `virsh detach-device VM FILE --live`.",
        ),
        FindingKind(
            "DEVICE_UNMOVABLE", _E, "A device of the VM cannot be migrated",
            "QEMU or libvirt refuses to send its state.",
            "Detach it, or move the VM while it is off.",
        ),
        FindingKind(
            "PATH_MISSING", _E, "A file that the VM needs is not at the destination",
            "Firmware, kernels, ROMs, sockets, devices and directories are named by their path. They are not disks, "
            "and are not copied.",
            "Install or copy it to the same path there.",
        ),
        FindingKind(
            "MEDIUM_MISSING", _E, "A CD or floppy in a drive is not at the destination",
            "QEMU opens the medium at its start there.",
            "Eject it: `virsh change-media VM TARGET --eject`, or copy it to the same path.",
        ),
        FindingKind(
            "MEDIUM_DROPPED", _W, "An optional CD or floppy is not at the destination",
            "Its startupPolicy lets libvirt start the VM without it: the guest sees an empty drive.",
            "",
        ),
        FindingKind(
            "TPM_MISSING", _E, "The destination has no swtpm",
            "The VM has an emulated TPM. Its state travels with it and needs swtpm there.",
            "Install swtpm and swtpm-tools on the destination, then restart libvirtd.",
        ),
        FindingKind(
            "MEMORY_SHORT", _E, "The destination has not enough free memory",
            "The guest's memory must fit into what is free there now (buffers and cache count as free).",
            "Stop or move other VMs there first.",
        ),
        FindingKind(
            "MEMORY_LOCKED", _W, "All of the VM's memory is locked",
            "None of it can be swapped out at the destination, and the memory lock limit must allow it.",
            "",
        ),
        FindingKind(
            "HUGEPAGES_SHORT", _E, "The destination has not enough free huge pages",
            "The VM's memory is made of huge pages of a size; so many must be free there.",
            "On the destination: `virsh allocpages PAGESIZE COUNT`.",
        ),
        FindingKind(
            "NUMA_MISSING", _E, "NUMA nodes or CPUs that the VM is bound to are not at the destination",
            "The XML pins the VM to nodes or CPUs by number.",
            "Change <numatune>, <cputune> or cpuset: `virsh edit VM`; or `virsh vcpupin`, `virsh numatune`.",
        ),
        FindingKind(
            "TOO_MANY_CPUS", _E, "The VM has more CPUs than its machine type can have at the destination",
            "QEMU there has a lower limit.",
            "Update QEMU at the destination.",
        ),
        FindingKind(
            "CPUS_OVERCOMMITTED", _W, "The VM has more CPUs than the destination",
            "It runs, but its CPUs wait for each other.",
            "",
        ),
        FindingKind(
            "SECURITY_MODEL_MISSING", _E, "The VM demands a security driver that the destination does not have",
            "Its XML has a <seclabel> of that model (SELinux, AppArmor).",
            "Remove the <seclabel>, or enable that security driver there.",
        ),
        FindingKind(
            "SECURITY_DIFFERS", _W, "The security drivers of the two hosts differ",
            "The VM is confined in another way (or not at all) at the destination.",
            "Set security_driver in /etc/libvirt/qemu.conf alike.",
        ),
        FindingKind(
            "QEMU_USER_DIFFERS", _W, "QEMU runs as another user at the destination, and disks stay where they are",
            "libvirt changes the owner of the shared images at the switch; a file system without that right "
            "(root_squash) refuses it.",
            "Set user and group in /etc/libvirt/qemu.conf alike.",
        ),
        FindingKind(
            "COMPRESSION_UNSUPPORTED", _E, "libvirt cannot compress the memory in this way",
            "zlib and zstd need libvirt 9.4 or newer on both hosts.",
            "Take --compress xbzrle, or leave --compress out.",
        ),
        FindingKind(
            "CLOCKS_APART", _W, "The clocks of the two hosts differ",
            "The guest's own clock jumps by as much when it next reads its hardware clock, and certificates may not "
            "be valid yet, or no longer.",
            "Run chrony or systemd-timesyncd on both hosts.",
        ),
        FindingKind(
            "TLS_MISSING", _E, "TLS is wanted, and a certificate is missing",
            "QEMU encrypts the migration with its own certificates, on both hosts.",
            "docs/host-tls.md has the five commands.",
        ),
        FindingKind(
            "TLS_NOT_ASKED", _E, "TLS is required, and this move would not use it",
            "require_tls refuses to send a guest's memory and disks in plain.",
            "Let this move use TLS, or set require_tls = false in the configuration.",
        ),
        FindingKind(
            "TLS_ONE_SIDED", _W, "Only one of the hosts has TLS certificates: memory and disks are sent in plain",
            "The migration is encrypted where both hosts have certificates.",
            "docs/host-tls.md has the five commands; tls = \"off\" in the configuration says that plain is meant.",
        ),
        FindingKind(
            "TLS_EXPIRED", _E, "A TLS certificate is not valid now",
            "By the clock of the host that it lies on, it has expired, or is not valid yet.",
            "Make a new one; docs/host-tls.md has the commands.",
        ),
        FindingKind(
            "TLS_NAME", _E, "The destination's TLS certificate is for another name",
            "The source's QEMU checks that the certificate names the address that it connects to.",
            "Make a certificate with that name, or give the address that it names.",
        ),
        FindingKind(
            "TLS_KEY", _E, "A TLS certificate has a key that libvirt does not take",
            "libvirt demands the key usage `encryption`, which keys on elliptic curves do not have.",
            "Make it with an RSA key.",
        ),
        FindingKind(
            "OWN_NAME_UNKNOWN", _E, "The destination cannot resolve its own name",
            "libvirt there looks up its own host name, and refuses the migration when it finds nothing.",
            "Add a line `ADDRESS NAME` to /etc/hosts of the destination.",
        ),
        FindingKind(
            "ADDRESS_UNKNOWN", _E, "The source cannot resolve the destination's name",
            "The data goes from host to host, so the source must know the destination by this name.",
            "Add the name to /etc/hosts of the source, or give an address.",
        ),
        FindingKind(
            "PORT_CLOSED", _E, "The source cannot connect to the destination's migration ports",
            "A listener was started on the destination, and the source tried to connect to it. Memory and disks each "
            "need a port of the range migration_port_min to migration_port_max (qemu.conf).",
            "Open the range in the destination's firewall.",
        ),
        FindingKind(
            "WRONG_MACHINE", _E, "The address leads to another machine than the destination",
            "What answered there was not the listener that was started on the destination.",
            "Correct the name in /etc/hosts or DNS of the source, or give the right address.",
        ),
        FindingKind(
            "PORTS_TAKEN", _E, "No migration port is free at the destination",
            "Every port of the range that was tried is in use there.",
            "End what uses them (`ss -ltnp`), or widen the range in /etc/libvirt/qemu.conf.",
        ),
        FindingKind(
            "PEER_UNREACHABLE", _E, "The source's libvirt cannot reach the destination's",
            "For a peer-to-peer migration the source's libvirtd, as root, connects to the destination's.",
            "Try it on the source: `virsh -c URI version`. With qemu+ssh, root there needs a key and the host key.",
        ),
        FindingKind(
            "HOST_CALLS_MISSING", _E, "A host cannot carry out blockferry's calls by itself",
            "What a move does to a VM is done by virsh on its host, in one step with a look at who runs the move, so "
            "that a late call does nothing.",
            "Install virsh there (libvirt-clients), and let the user that blockferry logs in as use libvirt.",
        ),
        FindingKind(
            "LISTEN_ADDRESS", _E, "The destination does not have an address at which the VM listens",
            "VNC, SPICE or a serial device listen at an address of the host that the XML names.",
            "Let it listen at 0.0.0.0 or 127.0.0.1, or add the address to the destination.",
        ),
        FindingKind(
            "LISTEN_PORT_TAKEN", _E, "A port at which the VM listens is in use at the destination",
            "The XML names the port; another program or VM has it there.",
            "Use autoport='yes', or free the port.",
        ),
        FindingKind(
            "SAVED_STATE_STAYS", _E, "The VM has a saved state",
            "The saved memory belongs to the disks as they are and to this host.",
            "Start it (`virsh start VM`), or give the state up: `virsh managedsave-remove VM`.",
        ),
        FindingKind(
            "SNAPSHOTS_STAY", _E, "The VM has snapshots, and libvirt does not migrate VMs that have any",
            "Their metadata lies on the source host only.",
            "`virsh snapshot-list VM`; delete them first.",
        ),
        FindingKind(
            "CHECKPOINTS_STAY", _E, "The VM has checkpoints, whose metadata libvirt does not send",
            "What libvirt knows of them would be lost with the VM's definition on the source host: the next backup "
            "would have to be a full one.",
            "`virsh checkpoint-list VM`; delete them first.",
        ),
        FindingKind(
            "VM_TRANSIENT", _E, "The VM has no persistent definition",
            "A transient VM leaves nothing at either host by which it could be told whose it is once it has ended.",
            "Define it first: `virsh dumpxml VM > VM.xml; virsh define VM.xml`.",
        ),
        FindingKind(
            "UEFI_VARIABLES", _E, "The VM's UEFI variables cannot be taken along",
            "They must be in a file of their own that is small, and there must be a place for it at the destination.",
            "Make the directory there, or let the VM have them in a file (`virsh edit VM`) and power-cycle it.",
        ),
        FindingKind(
            "FIRMWARE_DIFFERS", _E, "The VM's firmware has another size at the destination",
            "It is another build. The VM's UEFI variables are laid out for the firmware that it has, and a running VM "
            "needs flash of exactly the same size.",
            "Install the same firmware package on both hosts.",
        ),
        FindingKind(
            "TPM_STATE", _E, "The state of the VM's TPM cannot be taken along",
            "That of an emulated TPM goes along where libvirt keeps it itself, unencrypted.",
            "",
        ),
        FindingKind(
            "TPM_TAKEN", _E, "The destination has the state of a TPM of this VM already",
            "It may be newer or of another life of the VM; it is not written over.",
            "If it is not needed, remove that directory on the destination.",
        ),
        FindingKind(
            "VM_STATE", _E, "The VM is neither running, paused nor off",
            "Only VMs in one of these states move to another host.",
            "Start it or shut it down.",
        ),
        FindingKind(
            "CHAIN_STAYS", _E, "A disk that goes along stands on a backing file",
            "Only disks of one image go to another host yet.",
            "Make it one image first: `virsh blockpull VM TARGET --wait`, or `blockferry move VM --to DATASTORE` on "
            "its own host, which flattens the chain.",
        ),
        FindingKind(
            "CACHE_STALE", _E, "A shared disk is cached, and QEMU is too old to drop what it has cached",
            "What the destination has cached of the image may be older than what the source has written. QEMU drops "
            "it from version 4.0 on.",
            "Set cache='none' and power-cycle the VM, or send the disk along.",
        ),
        FindingKind(
            "MEDIUM_DIFFERS", _E, "A CD or floppy in a drive is another file at the destination",
            "Both hosts have a file at that path, and what is in them differs.",
            "Eject it: `virsh change-media VM TARGET --eject`, or copy it to the same path.",
        ),
        FindingKind(
            "DISK_NOT_SHARED", _E, "A disk stays, and the destination does not have it",
            "A disk that does not go along must be the very same file on both hosts.",
            "Send it along: --to DATASTORE.",
        ),
        FindingKind(
            "DISK_NOT_PROVEN_SHARED", _E, "A disk stays, and it is not proven that both hosts have the same file",
            "The path is there on both hosts, but the file systems are not known to be one. Two different files would "
            "mean a VM with a wrong disk.",
            "Send it along: --to DATASTORE.",
        ),
        FindingKind(
            "CACHE_UNSAFE", _E, "A shared disk is cached in a way that loses writes when the host changes",
            "With cache='unsafe' QEMU never flushes: the destination would read old data.",
            "Change the cache mode to none and power-cycle the VM, or send the disk along.",
        ),
        FindingKind(
            "NOT_STORAGE_FIRST", _E, "A disk cannot go to the other host before its running VM",
            "Where the disks are to go first an overlay beside the old image takes the guest's writes while the image "
            "is copied, and is committed into it again if the VM stays.",
            "Do not ask for it: libvirt then copies the disks, and begins anew after a break.",
        ),
        FindingKind(
            "QEMU_ARGUMENTS", _W, "The VM has arguments of its own for QEMU",
            "What <qemu:commandline> names is not looked at: it must be there and the same at the destination.",
            "",
        ),
    )
}  # fmt: skip

EVERY_FINDING: dict[str, FindingKind] = {**any_move.CATALOGUE, **CATALOGUE}
"""Of all moves, by code."""


def finding(code: str, text: str, remedy: str | None = None) -> Finding:
    """A finding with the sentence of this case, of this catalogue or of that of any move."""
    kind = CATALOGUE.get(code)
    if kind is None:
        return any_move.finding(code, text, remedy)
    return Finding(code, kind.severity, text, kind.remedy if remedy is None else remedy)
