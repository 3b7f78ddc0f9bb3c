"""Every reason against a move to another host, all at once. Pure: from facts to findings."""

from __future__ import annotations

import errno
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from blockferry.base.units import format_size
from blockferry.host_move.precheck import support, tls_rules, variables_rules, way_rules
from blockferry.host_move.precheck.catalogue import finding
from blockferry.host_move.precheck.host_move_facts import Asked, HostFacts, Sharing
from blockferry.hosts.defects import Version, dotted
from blockferry.hosts.host_traits import CpuAnswer
from blockferry.hosts.inventory import Datastore, Disk
from blockferry.hosts.neighbour_facts import Certificate
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.vm_needs import NeededPath, Presence
from blockferry.storage_move.precheck.finding import Finding
from blockferry.storage_move.precheck.space import RESERVE
from blockferry.storage_move.summary import SpaceEstimate

CLOCK_S = 1.0
"""Clocks that differ by more are told: NTP keeps hosts within milliseconds."""

COMPRESSES_CHANNELS = (9, 4)
"""The libvirt from which on zlib and zstd can be asked for (its release notes)."""

_OWN_MEMORY = 256 << 20
"""What QEMU takes beside the guest's memory, about: video, tables, buffers of the migration. Bytes."""

_MACHINE_VERSION = re.compile(r"-(\d+)\.(\d+)$")


def findings(facts: HostFacts, asked: Asked) -> list[Finding]:
    """All that stands against the move, and what is good to know; nothing at all for a VM that simply moves."""
    if facts.source.host.uuid and facts.source.host.uuid == facts.destination.host.uuid:
        name = facts.destination.hostname
        return [finding("SAME_HOST", f"{facts.vm.name} is on {name} already: both URIs lead to that host.")]
    parts = (
        _identity(facts),
        support.unsupported(facts, asked),
        variables_rules.findings(facts),
        _busy(facts),
        _program(facts),
        _cpu(facts),
        _memory(facts),
        _placement(facts),
        _networks(facts, asked),
        _devices(facts),
        _paths(facts),
        _listens(facts),
        _security(facts, asked),
        _space(facts, asked),
        _staying(facts, asked),
        _clock(facts),
        _ways(facts, asked),
        _tls(facts, asked),
        _compression(facts, asked),
        way_rules.findings(facts, asked),
    )
    return [one for part in parts for one in part]


def between(facts: HostFacts, asked: Asked) -> list[Finding]:
    """What stands between two hosts, whichever VM is to go from one to the other: ways, clocks, certificates."""
    return [one for part in (_clock(facts), _ways(facts, asked), _tls(facts, asked)) for one in part]


def _identity(facts: HostFacts) -> Iterator[Finding]:
    vm, there = facts.vm, facts.destination
    if vm.uuid in there.vms:
        known = there.vms[vm.uuid]
        called = "" if known == vm.name else f" as {known}"
        text = f"{vm.name} (UUID {vm.uuid}) is defined on {there.hostname}, too{called}."
        yield finding("VM_UUID_TAKEN", text, f"If it is not needed there: `virsh undefine --keep-nvram {known}`.")
    elif vm.name in there.vms.values():
        yield finding("VM_NAME_TAKEN", f"{there.hostname} has another VM called {vm.name}.")


def _busy(facts: HostFacts) -> Iterator[Finding]:
    vm = facts.vm
    if vm.job is not None:
        yield finding("JOB_ON_VM", f"{vm.name} is busy: {vm.job}.")
    for disk in vm.disks:
        what = disk.mirror.job if disk.mirror is not None else disk.other_job
        if what:
            yield finding("JOB_ON_DISK", f"{disk.target} of {vm.name} is busy: {what}.")
    if vm.has_managed_save:
        text = f"{vm.name} has a saved state on {facts.source.hostname}, which would be lost."
        yield finding("SAVED_STATE_STAYS", text, f"`virsh start {vm.name}`, or `virsh managedsave-remove {vm.name}`.")
    if vm.snapshots:
        text = f"{vm.name} has {_count(len(vm.snapshots), 'snapshot')}: {', '.join(vm.snapshots)}."
        yield finding("SNAPSHOTS_STAY", text)
    if vm.checkpoints:
        text = f"{vm.name} has {_count(len(vm.checkpoints), 'checkpoint')}: {', '.join(vm.checkpoints)}."
        yield finding("CHECKPOINTS_STAY", text)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _program(facts: HostFacts) -> Iterator[Finding]:
    vm, needs, there, can = facts.vm, facts.needs, facts.destination, facts.hypervisor
    if needs.virt_type and can.virt_types and needs.virt_type not in can.virt_types:
        text = f"{vm.name} needs {needs.virt_type.upper()}, which {there.hostname} does not offer."
        yield finding("NO_KVM", text)
        return
    place = facts.paths.get(needs.emulator)
    if needs.emulator and (place is None or place.kind == "absent") and needs.emulator != can.emulator:
        instead = f" QEMU is at {can.emulator} there." if can.emulator else ""
        yield finding("EMULATOR_MISSING", f"{needs.emulator} is not on {there.hostname}.{instead}")
        return
    ours = facts.running_qemu or facts.source.qemu
    if can.problem or needs.machine not in can.machines:
        text = f"QEMU {dotted(there.qemu)} on {there.hostname} does not have the machine type {needs.machine}"
        older = f"; {vm.name} runs in QEMU {dotted(ours)}" if ours > there.qemu else ""
        why = f" ({can.problem.rstrip('.')})" if can.problem and needs.machine in can.machines else ""
        yield finding("MACHINE_TYPE_MISSING", f"{text}{older}{why}.")
    elif vm.state.active and ours[:2] > there.qemu[:2]:
        yield _older_qemu(facts, ours)
    if facts.source.libvirt[:2] > there.libvirt[:2]:
        text = f"libvirt is {dotted(facts.source.libvirt)} here and {dotted(there.libvirt)} on {there.hostname}."
        yield finding("LIBVIRT_OLDER", text)


def _compression(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    if asked.compression not in ("zlib", "zstd"):
        return
    for host in (facts.source, facts.destination):
        if host.libvirt[:2] < COMPRESSES_CHANNELS:
            text = f"libvirt on {host.hostname} is {dotted(host.libvirt)}; --compress {asked.compression} needs 9.4."
            yield finding("COMPRESSION_UNSUPPORTED", text)


def _older_qemu(facts: HostFacts, ours: Version) -> Finding:
    """From a newer QEMU to an older one: its machine type must have existed when the older one was made."""
    there = facts.destination
    text = f"{facts.vm.name} runs in QEMU {dotted(ours)}; {there.hostname} has {dotted(there.qemu)}"
    version = _MACHINE_VERSION.search(facts.needs.machine)
    if version is not None and (int(version[1]), int(version[2])) > there.qemu[:2]:
        return finding("MACHINE_TYPE_MISSING", f"{text}, which is older than the machine type {facts.needs.machine}.")
    return finding("QEMU_OLDER", f"{text}. The machine type {facts.needs.machine} allows the move.")


def _cpu(facts: HostFacts) -> Iterator[Finding]:
    name, there, verdict = facts.vm.name, facts.destination.hostname, facts.cpu
    words = f" ({verdict.words.rstrip('.')})" if verdict.words else ""
    if verdict.answer is CpuAnswer.LESS:
        yield finding("CPU_MISSING", f"{there} cannot give {name} the CPU that it has{words}.")
    elif verdict.answer is CpuAnswer.UNKNOWN and facts.vm.state.active:
        yield finding("CPU_UNKNOWN", f"libvirt on {there} cannot compare the CPU of {name}{words}.")
    elif verdict.answer is CpuAnswer.MORE and facts.needs.cpu_mode in ("host-passthrough", "maximum"):
        text = f"{name} has the CPU of {facts.source.hostname} ({facts.needs.cpu_mode}); that of {there} is another."
        yield finding("CPU_DIFFERS", text)
    online, most = len(facts.destination.cpus), facts.hypervisor.most_cpus
    if most and facts.needs.vcpus > most:
        yield finding("TOO_MANY_CPUS", f"{name} has {facts.needs.vcpus} CPUs; QEMU on {there} takes {most}.")
    elif online and facts.needs.vcpus > online:
        yield finding("CPUS_OVERCOMMITTED", f"{name} has {facts.needs.vcpus} CPUs, {there} {online}.")


def _memory(facts: HostFacts) -> Iterator[Finding]:
    name, needs, there = facts.vm.name, facts.needs, facts.destination
    ordinary = max(0, needs.memory - sum(needs.hugepages.values()))
    if facts.vm.state.active and ordinary and ordinary + _OWN_MEMORY > there.memory_free:
        available, all_ = format_size(there.memory_free), format_size(there.memory)
        text = f"{name} needs {format_size(ordinary)} and about {format_size(_OWN_MEMORY)} for QEMU; "
        yield finding("MEMORY_SHORT", f"{text}{there.hostname} has {available} free of {all_}.")
    elif ordinary + _OWN_MEMORY > there.memory:
        text = f"{name} has {format_size(ordinary)} of memory; {there.hostname} has {format_size(there.memory)} in all."
        yield finding("MEMORY_SHORT", text)
    if needs.locked:
        yield finding("MEMORY_LOCKED", f"All memory of {name} is locked, {format_size(needs.memory)}.")
    nodes = [node for node in there.nodes if not needs.nodes or node.number in needs.nodes]
    for size, wanted in needs.hugepages.items():
        sizes = sorted({page for node in there.nodes for page in node.free_pages})
        page = size or (sizes[0] if sizes else 0)
        free = sum(node.free_pages.get(page, 0) for node in nodes)
        if page == 0 or free * page < wanted:
            kind = format_size(page) if page else "any size"
            text = f"{name} needs {format_size(wanted)} in huge pages of {kind}; {there.hostname} has {free} free."
            count = -(-wanted // page) - free if page else 0
            remedy = f"On {there.hostname}: `virsh allocpages {page >> 10}KiB {count} --add`." if page else None
            yield finding("HUGEPAGES_SHORT", text, remedy)


def _placement(facts: HostFacts) -> Iterator[Finding]:
    name, needs, there = facts.vm.name, facts.needs, facts.destination
    nodes = sorted(needs.nodes - {node.number for node in there.nodes})
    if nodes:
        text = f"{name} takes its memory from NUMA node {_list(nodes)}, which {there.hostname} does not have."
        yield finding("NUMA_MISSING", text)
    cpus = sorted(needs.pinned - there.cpus)
    if cpus:
        yield finding("NUMA_MISSING", f"{name} is pinned to CPU {_list(cpus)}, which {there.hostname} does not have.")


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _networks(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    there, seen = facts.destination, set()
    for nic in facts.needs.nics:
        kind, name, old = nic.at(asked.networks)
        if (kind, name) not in seen and (problem := _network_problem(facts, kind, name)):
            seen.add((kind, name))
            called = f"{name} (--map-network {old}={name})" if name != old else name
            text = f"{nic.what[0].upper()}{nic.what[1:]} of {facts.vm.name} is on {called}, {problem}."
            start = f"`virsh net-start {name}` there, or " if kind == "network" and name in there.networks else ""
            known = ", ".join(_networks_there(facts, kind)) or "none"
            remedy = f"{start}--map-network {old}=NAME, a {_KINDS[kind]} of {there.hostname}; it has: {known}."
            yield finding("NETWORK_MISSING", text, remedy)
    named = dict.fromkeys(name for nic in facts.needs.nics for name in (nic.source, nic.network) if name)
    for old, new in asked.networks.items():
        if old not in named and not asked.any_network:
            text = f"--map-network {old}={new}: {facts.vm.name} has no interface on {old}"
            yield finding("NETWORK_NOT_NAMED", f"{text}; it is on: {', '.join(named) or 'none'}.")
    for name in sorted(facts.needs.filters - there.filters):
        text = f"{facts.vm.name} has an interface with the network filter {name}, which {there.hostname} does not have."
        remedy = f"`virsh nwfilter-dumpxml {name} > {name}.xml` here, `virsh nwfilter-define {name}.xml` there."
        yield finding("NETWORK_FILTER_MISSING", text, remedy)


def _networks_there(facts: HostFacts, kind: str) -> list[str]:
    """The destination's networks that are active, or its bridges, or its devices."""
    if kind == "network":
        return sorted(name for name, active in facts.destination.networks.items() if active)
    kinds = ("device",) if kind == "device" else ("bridge", "ovs")
    return sorted(name for name, link in facts.links.items() if link in kinds and name != "lo")


_KINDS = {"network": "network", "bridge": "bridge", "ovs": "bridge of Open vSwitch", "device": "network device"}


def _network_problem(facts: HostFacts, kind: str, name: str) -> str:
    """A clause; "" when the network is there."""
    there = facts.destination.hostname
    if kind == "network":
        if name not in facts.destination.networks:
            return f"a network that {there} does not have"
        return "" if facts.destination.networks[name] else f"a network that is not active on {there}"
    link = facts.links.get(name)
    if link is None:
        return f"a {_KINDS[kind]} that {there} does not have"
    if kind in ("bridge", "ovs") and link == "device":
        return f"which is no bridge on {there}"
    if kind in ("bridge", "ovs") and link != kind:
        return f"which is a {_KINDS[link]} on {there}, and the interface asks for a {_KINDS[kind]} (virtualport)"
    return ""


def _devices(facts: HostFacts) -> Iterator[Finding]:
    name, needs = facts.vm.name, facts.needs
    for device in needs.host_devices:
        yield finding("HOST_DEVICE", f"{name} has {device} of {facts.source.hostname}.")
    if facts.vm.state.active:
        for unmovable in needs.unmovable:
            yield finding(
                "DEVICE_UNMOVABLE", f"{name} has {unmovable.what}, which cannot be migrated.", unmovable.remedy or None
            )
    if needs.tpm == "emulator" and not facts.hypervisor.problem and "emulator" not in facts.hypervisor.tpm_backends:
        yield finding("TPM_MISSING", f"{name} has an emulated TPM, and {facts.destination.hostname} has no swtpm.")
    if needs.arguments:
        yield finding("QEMU_ARGUMENTS", f"{name} has arguments of its own for QEMU (<qemu:commandline>).")


def _paths(facts: HostFacts) -> Iterator[Finding]:
    name, there = facts.vm.name, facts.destination.hostname
    seen = set()
    for path in facts.needs.paths:
        if path.path not in seen and (missing := _missing(path, facts.paths)):
            seen.add(path.path)
            text = f"The {path.what} of {name}, {path.path}: {missing} on {there}."
            remedy = (
                f"On {there}: `mkdir -p {posixpath.dirname(path.path)}`." if path.presence is Presence.PARENT else None
            )
            yield finding("PATH_MISSING", text, remedy)
    for medium in facts.needs.media:
        look = facts.paths.get(medium.path)
        if look is not None and look.kind in ("absent", "dangling"):
            text = f"{medium.path} in {medium.target} of {name} is not on {there}."
            if medium.optional:
                yield finding("MEDIUM_DROPPED", text)
            else:
                remedy = f"`virsh change-media {name} {medium.target} --eject --live`, or copy the file to {there}."
                yield finding("MEDIUM_MISSING", text, remedy)
        elif facts.sharing.get(medium.target) is Sharing.MEDIUM_DIFFERS:
            text = f"{medium.path} in {medium.target} of {name} is another file on {there}."
            yield finding("MEDIUM_DIFFERS", text)


def _missing(needed: NeededPath, looks: Mapping[str, PathFacts]) -> str:
    """A clause; "" when what is needed is there, or was not looked at."""
    if needed.presence is Presence.PARENT:
        directory = posixpath.dirname(needed.path)
        look = looks.get(directory)
        return f"there is no directory {directory}" if look is not None and look.kind != "directory" else ""
    look = looks.get(needed.path)
    return "it is not there" if look is not None and look.kind in ("absent", "dangling") else ""


def _listens(facts: HostFacts) -> Iterator[Finding]:
    name, there = facts.vm.name, facts.destination.hostname
    for listen in facts.needs.listens:
        number = facts.binds.get(listen, 0)
        if number == errno.EADDRNOTAVAIL:
            yield finding(
                "LISTEN_ADDRESS", f"{listen.what} of {name} listens at {listen.address}, no address of {there}."
            )
        elif number == errno.EADDRINUSE:
            yield finding(
                "LISTEN_PORT_TAKEN", f"{listen.what} of {name} listens at port {listen.port}, in use on {there}."
            )


def _security(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    here, there = facts.source, facts.destination
    lacking = sorted(facts.needs.security - there.security)
    if lacking:
        text = (
            f"{facts.vm.name} demands the security driver {', '.join(lacking)}, which {there.hostname} does not have."
        )
        yield finding("SECURITY_MODEL_MISSING", text)
    if here.security != there.security:
        models = [", ".join(sorted(host_traits.security)) or "none" for host_traits in (here, there)]
        text = f"Security drivers: {models[0]} on {here.hostname}, {models[1]} on {there.hostname}."
        yield finding("SECURITY_DIFFERS", text)
    stays = any(disk.target not in asked.disks for disk in _disks(facts))
    if stays and here.qemu_user and there.qemu_user and here.qemu_user != there.qemu_user:
        users = [host_traits.qemu_user.replace("+", "") for host_traits in (here, there)]
        text = f"QEMU runs as {users[0]} on {here.hostname} and as {users[1]} on {there.hostname}."
        yield finding("QEMU_USER_DIFFERS", text)


def _disks(facts: HostFacts) -> list[Disk]:
    return [disk for disk in facts.vm.disks if disk.device in ("disk", "lun")]


def _space(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    there = facts.destination.hostname
    stores = {datastore.name: datastore for datastore in facts.stores}
    for name in sorted({*asked.disks.values(), *asked.takes}):
        store = stores.get(name)
        if store is None:
            known = ", ".join(sorted(stores)) or "none"
            text = f"{there} has no datastore {name}; it has: {known}."
            yield finding("DATASTORE_MISSING", text, f"On {there}: `virsh pool-list --all`.")
            continue
        if not store.active:
            yield finding(
                "DATASTORE_INACTIVE", f"{name} is not active on {there}.", f"`virsh pool-start {name}` there."
            )
            continue
        if not store.is_directory:
            yield finding("DATASTORE_KIND", f"{name} on {there} is of the kind {store.kind}.")
            continue
        space = room(facts, asked, store)
        if asked.takes.get(name) and space.available_after < RESERVE:
            others = sum(facts.reserved.get(one, 0) for one in sharing_space(facts, store))
            promised = f" ({format_size(others)} more are promised to other moves)" if others else ""
            need = format_size(space.available_before - space.available_after)
            text = (
                f"{name} on {there} has {format_size(max(0, space.available_before))} free{promised}; the move needs "
            )
            yield finding("DESTINATION_FULL", f"{text}{need} and {format_size(RESERVE)} of reserve.")


def room(facts: HostFacts, asked: Asked, store: Datastore) -> SpaceEstimate:
    """Return a datastore of the destination before and after the move. What its images may grow to is not counted."""
    group = sharing_space(facts, store)
    before = store.available - sum(facts.reserved.get(one, 0) for one in group)
    after = before - sum(asked.takes.get(one, 0) for one in group)
    return SpaceEstimate(store.name, before, after, store.allocation + before - after, store.capacity)


def sharing_space(facts: HostFacts, store: Datastore) -> tuple[str, ...]:
    """Return the datastores of the destination that are on one file system with this one, itself among them."""
    return tuple(
        datastore.name for datastore in facts.stores if datastore.name == store.name or datastore.shares_space(store)
    )


def _staying(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    """Disks that do not go along: both hosts must have the same file, and QEMU must not keep writes to itself."""
    there = facts.destination.hostname
    for disk in _disks(facts):
        if disk.target in asked.disks or disk.source is None:
            continue
        name = f"{disk.target} of {facts.vm.name}"
        sharing = facts.sharing.get(disk.target, Sharing.UNKNOWN)
        place = disk.source.place or disk.source.description
        if sharing is Sharing.ABSENT:
            yield finding("DISK_NOT_SHARED", f"{name} stays, and {place} is not on {there}.")
        elif sharing in (Sharing.OTHER, Sharing.UNKNOWN):
            why = "is another file" if sharing is Sharing.OTHER else "could not be identified"
            yield finding("DISK_NOT_PROVEN_SHARED", f"{name} stays, and {place} {why} on {there}.")
        if disk.cache == "unsafe" and not disk.read_only:
            yield finding("CACHE_UNSAFE", f"{name} stays and has cache='unsafe'.")


def _clock(facts: HostFacts) -> Iterator[Finding]:
    if facts.clock is not None and abs(facts.clock.ahead) - facts.clock.doubt > CLOCK_S:
        way = "ahead of" if facts.clock.ahead > 0 else "behind"
        text = f"The clock of {facts.destination.hostname} is {abs(facts.clock.ahead):.1f} s {way} that of "
        yield finding("CLOCKS_APART", f"{text}{facts.source.hostname}.")


def _ways(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    here, there = facts.source.hostname, facts.destination.hostname
    if facts.names is not None and not facts.names.own:
        text = f"{there} cannot resolve its own name {facts.names.name}; libvirt refuses the migration then."
        yield finding("OWN_NAME_UNKNOWN", text, f"On {there}: a line `ADDRESS {facts.names.name}` in /etc/hosts.")
    trial = facts.ports
    if trial is not None and trial.name_error:
        text = f"{here} cannot resolve {trial.host}, to which it is to send {facts.vm.name}."
        yield finding(
            "ADDRESS_UNKNOWN", text, f"On {here}: a line `ADDRESS {trial.host}` in /etc/hosts; or give an address."
        )
    elif trial is not None:
        yield from _ports(facts)
        if facts.copy_ports is not None:
            yield from _ports(replace(facts, ports=facts.copy_ports, port_span=facts.copy_span))
    if facts.peer is not None and facts.peer.problem:
        text = f"libvirt on {here} cannot reach {facts.peer.uri}: {facts.peer.problem.rstrip('.')}."
        yield finding("PEER_UNREACHABLE", text, f"Try it on {here}: `virsh -c {facts.peer.uri} version`.")
    for host, why in facts.no_calls.items():
        yield finding("HOST_CALLS_MISSING", f"{host} cannot carry out blockferry's calls by itself: {why}.")


def _ports(facts: HostFacts) -> Iterator[Finding]:
    trial = facts.ports
    assert trial is not None
    here, there = facts.source.hostname, facts.destination.hostname
    where = trial.host if trial.host == trial.address else f"{trial.host} ({trial.address})"
    span = f"{facts.port_span[0]}-{facts.port_span[1]}"
    if not trial.ports:
        yield finding("PORTS_TAKEN", f"Of the ports {span} on {there} none that was tried is free.")
        return
    strange = [port for port, number in trial.ports.items() if number == errno.EREMCHG]
    if strange:
        text = f"{where}, tried from {here} at port {strange[0]}, is not {there}: something else answered."
        yield finding("WRONG_MACHINE", text)
        return
    closed = {port: number for port, number in trial.ports.items() if number != 0}
    if closed:
        named = ", ".join(f"{port} ({os.strerror(number)})" for port, number in sorted(closed.items()))
        text = f"{here} cannot connect to {where} at port {named}, where a listener of ours was."
        remedy = (
            f"On {there}, open TCP {span}: `firewall-cmd --permanent --add-port={span}/tcp && firewall-cmd --reload`."
        )
        yield finding("PORT_CLOSED", text, remedy)


def _tls(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    if asked.require_tls and not asked.tls:
        yield finding("TLS_NOT_ASKED", "require_tls is set, and this move is to go without TLS.")
    if facts.tls is None:
        return
    if not asked.tls:
        yield from _one_sided(facts, asked)
        return
    sides = (
        (facts.source.hostname, facts.tls.source, facts.tls.source_at),
        (facts.destination.hostname, facts.tls.destination, facts.tls.destination_at),
    )
    for host, files, now in sides:
        for file in files:
            yield from _certificate(host, file, now)
    there, address = facts.destination.hostname, asked.address or facts.address
    server = next(
        (certificate for certificate in facts.tls.destination if certificate.path.endswith("server-cert.pem")), None
    )
    if server is not None and server.names and tls_rules.certificate_name(facts.tls, address, there) is None:
        text = f"The certificate of {there} is for {', '.join(server.names)}, not {address}."
        yield finding("TLS_NAME", text)


def _one_sided(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    if facts.tls is None or asked.require_tls:
        return
    ours, theirs = tls_rules.has_files(facts.tls.source), tls_rules.has_files(facts.tls.destination)
    if ours != theirs:
        here, there = facts.source.hostname, facts.destination.hostname
        has, lacks = (here, there) if ours else (there, here)
        yield finding("TLS_ONE_SIDED", f"{has} has certificates, {lacks} does not have all of them.", _prepare(lacks))


def _certificate(host: str, file: Certificate, now: float) -> Iterator[Finding]:
    if file.errno:
        why = os.strerror(file.errno)
        yield finding("TLS_MISSING", f"{file.path} on {host} cannot be used: {why}.", _prepare(host))
    elif "key" in posixpath.basename(file.path):
        return
    elif file.until < 0:
        yield finding("TLS_MISSING", f"{file.path} on {host} is no certificate.", _prepare(host))
    elif now > file.until:
        yield finding("TLS_EXPIRED", f"{file.path} on {host} has expired {_days(now - file.until)} ago.")
    elif now < file.since:
        yield finding("TLS_EXPIRED", f"{file.path} on {host} is valid only in {_days(file.since - now)}.")
    elif file.curve:
        yield finding("TLS_KEY", f"{file.path} on {host} has a key on an elliptic curve.")


def _prepare(host: str) -> str:
    return f"docs/host-tls.md has the five commands for {host}."


def _days(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:.0f} days" if days >= 2 else f"{seconds / 3600:.1f} hours"
