"""Gathers what the pre-check of a move to another host wants to know, from both hosts. Changes nothing on them."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from blockferry.base.errors import BlockferryError
from blockferry.host_move import cold_copy
from blockferry.host_move.precheck.host_move_facts import Asked, HostFacts, PeerTrial, Sharing, TlsSeen
from blockferry.hosts import qemu_process
from blockferry.hosts.datastore_id import file_of
from blockferry.hosts.helper import holding, neighbours
from blockferry.hosts.helper import paths as helper_paths
from blockferry.hosts.host import Host
from blockferry.hosts.host_traits import CpuAnswer, CpuVerdict, Hypervisor
from blockferry.hosts.inventory import Datastore, Disk, PowerState, Vm
from blockferry.hosts.libvirt import capabilities, domain_list, needs_xml
from blockferry.hosts.neighbour_facts import ClockSeen
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.vm_needs import Presence, VmNeeds
from blockferry.storage_move.destination import datastore_places

TLS_DIRECTORIES = ("/etc/pki/libvirt-migrate", "/etc/pki/qemu")
"""Where QEMU's certificates for migration are, where qemu.conf does not say: the first one that is there."""

TLS_FILES = ("ca-cert.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem")
PORTS = (49152, 49215)
"""The range in which libvirt takes ports for memory and for disks, where qemu.conf does not say."""

COLD_PORTS = (cold_copy.FIRST_PORT, cold_copy.FIRST_PORT + cold_copy.PORTS - 1)
"""The range that disks go to that we copy: of a VM that is off, or before it."""

PEER_S = 20.0


def gather(source: Host, destination: Host, name: str, asked: Asked, tls: TlsSeen | None = None) -> HostFacts:
    """All that `rules.findings` wants to know of the VM `name` and of both hosts.

    On the destination listeners stand at a few ports for as long as the source tries them. Raises VmNotFound,
    HostUnreachable, LibvirtFailed, HostCommandFailed.
    """
    vm = _vm(source, name)
    here, there = source.connection, destination.connection
    needs = needs_xml.of_vm(here, vm.uuid)
    our_capabilities, their_capabilities = capabilities.of_host(here), capabilities.of_host(there)
    ours = capabilities.traits(here, source.uri, our_capabilities)
    theirs = capabilities.traits(there, destination.uri, their_capabilities)
    facts = HostFacts(
        vm=vm,
        needs=needs,
        source=ours,
        destination=theirs,
        hypervisor=capabilities.hypervisor(there, needs, their_capabilities),
        cpu=_cpu(source, destination, vm, needs, our_capabilities),
    )
    if ours.host.uuid == theirs.host.uuid:
        return facts
    stores = datastore_places.datastores(destination)
    staying = [disk for disk in vm.disks if disk.device in ("disk", "lun") and disk.target not in asked.disks]
    looks = _looks(destination, needs, staying)
    span = _span(destination)
    names = neighbours.names(destination.runner)
    trial = None
    if not vm.state.active:
        span = COLD_PORTS
    if vm.state.active or asked.disks:
        trial = neighbours.try_ports(source.runner, destination.runner, asked.address or names.name, span)
    copy_trial = None
    if vm.state.active and asked.storage_first:
        copy_trial = neighbours.try_ports(source.runner, destination.runner, asked.address or names.name, COLD_PORTS)
    return replace(
        facts,
        running_qemu=_running(source, vm),
        stores=stores,
        sharing=_sharing(source, stores, staying, looks),
        links=neighbours.links(destination.runner),
        paths=looks,
        binds=dict(
            zip(
                needs.listens,
                neighbours.bindable(destination.runner, [(listen.address, listen.port) for listen in needs.listens]),
                strict=True,
            )
        ),
        clock=_clock(source, destination),
        names=names,
        ports=trial,
        copy_ports=copy_trial,
        copy_span=COLD_PORTS,
        port_span=span,
        peer=peer(source, asked.peer_uri) if asked.peer_uri else None,
        no_calls=_no_calls({ours.hostname: source, theirs.hostname: destination}),
        tls=None if asked.tls_off else tls or tls_seen(source, destination),
    )


ANY_VM = Vm("a VM", "", PowerState.RUNNING, persistent=True, disks=())
NO_NEEDS = VmNeeds("", "", "", "")


def between(source: Host, destination: Host, asked: Asked) -> tuple[HostFacts, HostFacts]:
    """What holds for any VM between two hosts, for `rules.between`: of one that runs, and of one that is off.

    The certificates are looked at in any case. Raises as `gather`.
    """
    here, there = source.connection, destination.connection
    facts = HostFacts(
        vm=ANY_VM,
        needs=NO_NEEDS,
        source=capabilities.traits(here, source.uri, capabilities.of_host(here)),
        destination=capabilities.traits(there, destination.uri, capabilities.of_host(there)),
        hypervisor=Hypervisor(frozenset(), frozenset()),
        cpu=CpuVerdict(CpuAnswer.NOT_ASKED),
    )
    names = neighbours.names(destination.runner)
    span, address = _span(destination), asked.address or names.name
    running, off = (
        replace(facts, ports=neighbours.try_ports(source.runner, destination.runner, address, ports), port_span=ports)
        for ports in (span, COLD_PORTS)
    )
    running = replace(
        running,
        clock=_clock(source, destination),
        names=names,
        peer=peer(source, asked.peer_uri),
        no_calls=_no_calls({facts.source.hostname: source, facts.destination.hostname: destination}),
        tls=tls_seen(source, destination),
    )
    return running, off


def _span(destination: Host) -> tuple[int, int]:
    """The ports that libvirt takes there."""
    conf = neighbours.qemu_conf(destination.runner)
    return int(conf.get("migration_port_min", PORTS[0])), int(conf.get("migration_port_max", PORTS[1]))


def _vm(source: Host, name: str) -> Vm:
    """The VM, with the block jobs that its XML does not show."""
    vm = domain_list.vm(source.connection, name)
    if not vm.state.active:
        return vm
    seen = source.control(vm.uuid, vm.name).look(tuple(disk.target for disk in vm.disks))
    jobs = {disk.target: disk.other_job for disk in seen.disks}
    return replace(vm, disks=tuple(replace(one, other_job=jobs.get(one.target)) for one in vm.disks))


def _running(source: Host, vm: Vm) -> tuple[int, int, int] | None:
    if not vm.state.active:
        return None
    return qemu_process.program_of(source.runner, source.uri, vm.name, vm.uuid).version


def _cpu(source: Host, destination: Host, vm: Vm, needs: VmNeeds, our_capabilities: str) -> CpuVerdict:
    """The destination's verdict on the VM's CPU; on the source's own, where the guest sees that.

    A VM that is off gets the destination's own CPU at its next start, where its XML asks for the host's.
    """
    if needs.cpu_mode in ("host-passthrough", "maximum"):
        if not vm.state.active:
            return CpuVerdict(CpuAnswer.NOT_ASKED)
        wanted = capabilities.hypervisor(source.connection, needs, our_capabilities).host_cpu
        if not wanted:
            return CpuVerdict(CpuAnswer.UNKNOWN, "the source's libvirt does not tell its own CPU")
        return capabilities.compare_cpu(destination.connection, needs, wanted)
    if needs.cpu_mode != "custom":
        return CpuVerdict(CpuAnswer.NOT_ASKED)
    return capabilities.compare_cpu(destination.connection, needs, needs.cpu_xml)


def _looks(destination: Host, needs: VmNeeds, staying: Iterable[Disk]) -> dict[str, PathFacts]:
    wanted = [
        path.path if path.presence is Presence.FILE else posixpath.dirname(path.path)
        for path in needs.paths
        if path.path.startswith("/")
    ]
    wanted += [medium.path for medium in needs.media]
    wanted += [needs.emulator] if needs.emulator else []
    wanted += [disk.source.path for disk in staying if disk.source is not None and disk.source.path]
    return helper_paths.look(destination.runner, wanted)


def _sharing(
    source: Host, stores: tuple[Datastore, ...], staying: Iterable[Disk], looks: Mapping[str, PathFacts]
) -> dict[str, Sharing]:
    """Whether both hosts have the same file, by what their datastores stand on; names of pools prove nothing."""
    here = datastore_places.directories(datastore_places.datastores(source))
    there = datastore_places.directories(stores)
    found = {}
    for disk in staying:
        if disk.source is None:
            continue
        if disk.source.export:
            found[disk.target] = Sharing.SAME  # the address of a server
            continue
        path = disk.source.path
        look = None if path is None else looks.get(path)
        if path is None or look is None or look.kind == "unknown":
            found[disk.target] = Sharing.UNKNOWN
        elif look.kind in ("absent", "dangling"):
            found[disk.target] = Sharing.ABSENT
        else:
            file_id, other = file_of(path, here), file_of(path, there)
            known = file_id is not None and other is not None
            found[disk.target] = Sharing.UNKNOWN if not known else Sharing.SAME if file_id == other else Sharing.OTHER
    return found


def _clock(source: Host, destination: Host) -> ClockSeen:
    """The destination's clock against the source's, by way of ours."""
    clock_seen, other = neighbours.clock(source.runner), neighbours.clock(destination.runner)
    return ClockSeen(other.ahead - clock_seen.ahead, clock_seen.doubt + other.doubt)


def _no_calls(hosts: Mapping[str, Host]) -> dict[str, str]:
    problems = {name: holding.problem(host.runner, host.uri) for name, host in hosts.items()}
    return {name: why for name, why in problems.items() if why}


def peer(source: Host, uri: str) -> PeerTrial:
    """Have virsh on the source connect to the destination's libvirt, as the source's libvirtd would: as root there."""
    try:
        done = source.runner.run(
            ["virsh", "-q", "-r", "-k", "5", "-K", "2", "-c", uri, "version"], timeout_s=PEER_S, check=False
        )
    except BlockferryError as error:
        return PeerTrial(uri, error.sentence)
    if done.status == 0:
        return PeerTrial(uri)
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return PeerTrial(uri, lines[-1].removeprefix("error: ") if lines else f"virsh ended with status {done.status}")


def tls_seen(source: Host, destination: Host) -> TlsSeen:
    """The certificates of both hosts."""
    ours = _tls_directory(source, neighbours.qemu_conf(source.runner))
    theirs = _tls_directory(destination, neighbours.qemu_conf(destination.runner))
    now = time.time()
    return TlsSeen(
        neighbours.certificates(source.runner, [f"{ours}/{one}" for one in TLS_FILES if "server" not in one]),
        neighbours.certificates(destination.runner, [f"{theirs}/{one}" for one in TLS_FILES if "client" not in one]),
        now + neighbours.clock(source.runner).ahead,
        now + neighbours.clock(destination.runner).ahead,
    )


def _tls_directory(host: Host, conf: Mapping[str, str]) -> str:
    """Where libvirt lets QEMU find its certificates (qemu.conf, migrate_tls_x509_cert_dir)."""
    for key in ("migrate_tls_x509_cert_dir", "default_tls_x509_cert_dir"):
        if conf.get(key):
            return conf[key].rstrip("/")
    looks = helper_paths.look(host.runner, TLS_DIRECTORIES)
    return next((one for one in TLS_DIRECTORIES if looks[one].kind == "directory"), TLS_DIRECTORIES[-1])
