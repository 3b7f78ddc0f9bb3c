"""VMs: what libvirt tells about its domains, and the small changes that we make to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import libvirt

from blockferry.base.errors import BlockferryError, VmNotFound, nearest
from blockferry.hosts.host_facts import NamesBeside
from blockferry.hosts.inventory import PowerState, Snapshot, Vm
from blockferry.hosts.libvirt import domain_xml, pools, xml_paths
from blockferry.hosts.libvirt.connection import Connection

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,  # shutting down: QEMU is still there
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.OFF,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PAUSED,
}
_PAUSE_REASONS = {
    libvirt.VIR_DOMAIN_PAUSED_USER: "user",
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "migration",
    libvirt.VIR_DOMAIN_PAUSED_SAVE: "save",
    libvirt.VIR_DOMAIN_PAUSED_DUMP: "dump",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "ioerror",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "watchdog",
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "starting up",
}


def names(connection: Connection) -> tuple[str, ...]:
    """The names of all VMs, running or not."""
    with connection.doing("list the VMs"):
        return tuple(sorted(domain.name() for domain in connection.raw.listAllDomains(0)))


def all_vms(connection: Connection) -> tuple[Vm, ...]:
    """Every VM with its disks, by name. One that vanishes while we look is left out.

    What libvirt can tell of all VMs in one call is asked so: of 500 VMs each call more takes a tenth of a second.
    """
    for _ in range(LISTED_AT_MOST):
        read, whole = _read_all(connection)
        if whole:
            break
    # Asked after the XMLs: a snapshot that was taken in between names what the VM's own XML names no longer.
    saved, points = _with(connection, _SAVED), _with(connection, _CHECKPOINTS)
    snapshots = _with(connection, _SNAPSHOTS)
    generator = (
        replace(
            vm,
            has_managed_save=vm.uuid in saved,
            snapshots=_names_of(connection, one, one.listAllSnapshots) if vm.uuid in snapshots else (),
            checkpoints=_names_of(connection, one, one.listAllCheckpoints) if vm.uuid in points else (),
        )
        for one, vm in read
    )
    return tuple(sorted(generator, key=lambda vm: vm.name))


LISTED_AT_MOST = 4
"""So often the VMs are listed while others come and go: one that is defined anew, or comes up, is not to be missed."""


def _read_all(connection: Connection) -> tuple[list[tuple[libvirt.virDomain, Vm]], bool]:
    """The VMs as their XML tells of them; and whether none has come, gone or been defined anew meanwhile."""
    with connection.doing("list the VMs"):
        domains = connection.raw.listAllDomains(0)
    traits = _traits(connection)
    seen = [(domain, _read_unless_gone(connection, domain, traits)) for domain in domains]
    now = _traits(connection)
    changed = (traits.persistent ^ now.persistent) | (traits.active ^ now.active)
    if changed:  # started or shut off meanwhile: such a VM is read by itself
        seen = [(one, _read_unless_gone(connection, one) if vm and vm.uuid in changed else vm) for one, vm in seen]
    read = [(one, vm) for one, vm in seen if vm is not None]
    new = (now.persistent | now.active) - {vm.uuid for _, vm in read}
    return read, len(read) == len(seen) and not new


_ACTIVE = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
_PERSISTENT = libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT
_AUTOSTART = libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART
_SAVED = libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE
_SNAPSHOTS = libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT
_CHECKPOINTS = libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT


@dataclass(frozen=True, slots=True)
class _Traits:
    """The UUIDs of the VMs of which something holds."""

    persistent: frozenset[str]
    autostart: frozenset[str]
    active: frozenset[str]


def _traits(connection: Connection) -> _Traits:
    return _Traits(*(_with(connection, one) for one in (_PERSISTENT, _AUTOSTART, _ACTIVE)))


def _with(connection: Connection, trait: int) -> frozenset[str]:
    """The UUIDs of the VMs that have a trait: one of libvirt's VIR_CONNECT_LIST_DOMAINS_*."""
    with connection.doing("list the VMs"):
        return frozenset(str(listAllDomain.UUIDString()) for listAllDomain in connection.raw.listAllDomains(trait))


def _names_of(connection: Connection, domain: libvirt.virDomain, listed: Callable[[int], list[Any]]) -> tuple[str, ...]:
    """The names of a VM's snapshots or checkpoints; none of a VM that has gone since."""
    try:
        return tuple(sorted(str(one.getName()) for one in listed(0)))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return ()
        with connection.doing(f"describe VM {domain.name()}"):
            raise


def vm(connection: Connection, name: str) -> Vm:
    """One VM by name or UUID. Raises VmNotFound with the nearest names."""
    for lookup in (connection.raw.lookupByName, connection.raw.lookupByUUIDString):
        try:
            domain = lookup(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
                continue
            with connection.doing(f"look up VM {name}"):
                raise
        vm = _read_unless_gone(connection, domain)
        if vm is not None:
            return vm
    raise VmNotFound(name, connection.uri, nearest(name, names(connection)))


def names_beside(connection: Connection) -> NamesBeside:
    """Read the snapshots' metadata and the saved states of all VMs. Raises HostUnreachable, LibvirtFailed."""
    names_beside = NamesBeside({}, {})
    problems = []
    with connection.doing("list the VMs"):
        domains = connection.raw.listAllDomains(0)
    saving, with_snapshots = _with(connection, _SAVED), _with(connection, _SNAPSHOTS)
    for domain in domains:
        name, uuid = domain.name(), domain.UUIDString()
        try:
            if uuid in saving and (saved := saved_xml(connection, domain)) is not None:
                _add_names(connection, names_beside, saved, f"the saved state of VM {name}")
            snapshots = domain.listAllSnapshots(0) if uuid in with_snapshots else []
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                _raise_if_gone(connection, name)
                problems.append(f"the snapshots and the saved state of VM {name} name ({error.get_error_message()})")
            continue
        for snapshot in snapshots:
            what = f"snapshot {snapshot.getName()} of VM {name}"
            try:
                _add_names(connection, names_beside, snapshot.getXMLDesc(0), what)
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT):
                    _raise_if_gone(connection, name)
                    problems.append(f"{what} names ({error.get_error_message()})")
    return replace(names_beside, problems=tuple(problems))


def _add_names(connection: Connection, names_beside: NamesBeside, xml: str, what: str) -> None:
    for path, role in domain_xml.names(xml).items():
        (names_beside.trees if role in xml_paths.TREES else names_beside.paths)[path] = what
    for volume in (pools.locate(connection, one) for one in domain_xml.volumes(xml)):
        if volume.path is not None:
            names_beside.paths[volume.path] = what
        else:
            names_beside.unlocated.append((what, volume))


def _raise_if_gone(connection: Connection, name: str) -> None:
    """After an error about one VM: raise if libvirt does not answer at all."""
    with connection.doing(f"describe VM {name}"):
        connection.raw.getLibVersion()


def saved_xml(connection: Connection, domain: libvirt.virDomain) -> str | None:
    """The XML of the managed save image; None without one.

    One that was broken off (libvirtd died in the save) is none: libvirt discards it at the next start.
    """
    if not domain.hasManagedSaveImage(0):
        return None
    try:
        return str(domain.managedSaveGetXMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED and _broken_off(connection, domain.name()):
            return None
        raise


_SAVES = "/var/lib/libvirt/qemu/save"
_PARTIAL = b"LibvirtQemudPart"
"""The first bytes of a save image that is not whole (libvirt, src/qemu/qemu_saveimage.h)."""


def _broken_off(connection: Connection, name: str) -> bool:
    """Whether the VM's managed save image is marked as not whole. libvirt's error has no code of its own for that."""
    try:
        return connection.first_bytes(f"{_SAVES}/{name}.save", len(_PARTIAL)) == _PARTIAL
    except (OSError, BlockferryError):
        return False


def snapshots(connection: Connection, name: str) -> tuple[Snapshot, ...]:
    """The snapshots of a VM, by name."""
    with connection.doing(f"list the snapshots of VM {name}"):
        found = connection.raw.lookupByName(name).listAllSnapshots(0)
        xmls = [snapshot.getXMLDesc(0) for snapshot in found]
    return tuple(sorted((domain_xml.snapshot(xml) for xml in xmls), key=lambda one: one.name))


def power_state(domain: libvirt.virDomain) -> tuple[PowerState, str | None]:
    """(state, why it is paused)."""
    state, reason = domain.state(0)
    power = _STATES.get(state, PowerState.RUNNING)
    return power, _PAUSE_REASONS.get(reason, "other") if power is PowerState.PAUSED else None


def _read_unless_gone(connection: Connection, domain: libvirt.virDomain, traits: _Traits | None = None) -> Vm | None:
    """`traits`: what was asked of all VMs already; then managed save, snapshots and checkpoints are left out."""
    try:
        return _read(connection, domain) if traits is None else _read_bare(connection, domain, traits)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        with connection.doing(f"describe VM {domain.name()}"):
            raise


def _read(connection: Connection, domain: libvirt.virDomain) -> Vm:
    uuid, none = frozenset((str(domain.UUIDString()),)), frozenset[str]()
    persistent = bool(domain.isPersistent())
    traits = _Traits(uuid if persistent else none, uuid if persistent and domain.autostart() else none, uuid)
    return replace(
        _read_bare(connection, domain, traits),
        has_managed_save=bool(domain.hasManagedSaveImage(0)),
        snapshots=tuple(sorted(snapshot.getName() for snapshot in domain.listAllSnapshots(0))),
        checkpoints=tuple(sorted(checkpoint.getName() for checkpoint in domain.listAllCheckpoints(0))),
    )


def _read_bare(connection: Connection, domain: libvirt.virDomain, traits: _Traits) -> Vm:
    uuid = str(domain.UUIDString())
    state, reason = power_state(domain) if uuid in traits.active else (PowerState.OFF, None)
    persistent = uuid in traits.persistent or not state.active  # only a persistent one can be off
    live = domain_xml.parse(domain.XMLDesc(0)) if state.active else None
    config = domain_xml.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) if persistent else None
    now = live or config
    assert now is not None, "a domain is active or persistent"
    return Vm(
        name=domain.name(),
        uuid=uuid,
        state=state,
        persistent=persistent,
        disks=domain_xml.merge(live, config),
        autostart=persistent and uuid in traits.autostart,
        nvram=now.nvram,
        config_nvram=config.nvram if config else None,
        tpm=now.tpm,
        agent=now.agent,
        memory=now.memory,
        unsavable=live.unsavable if live else "",
        job=job(domain) if state.active else None,
        mark=now.mark,
        mark_journal=now.mark_journal,
        pause_reason=reason,
        named=tuple(
            dict.fromkeys(name for parsed_domain in (live, config) if parsed_domain for name in parsed_domain.named)
        ),
        volumes=tuple(
            pools.locate(connection, volume)
            for volume in dict.fromkeys(
                volume for parsed_domain in (live, config) if parsed_domain for volume in parsed_domain.volumes
            )
        ),
    )


def job(domain: libvirt.virDomain, silent: str | None = None) -> str | None:
    """The domain job in flight (not a block job), None if there is none; `silent` if libvirt does not say."""
    try:
        stats = domain.jobStats(0)
    except libvirt.libvirtError:
        return silent  # another job holds the domain's lock just now; the effect itself will say so
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    operations = {
        value: name.removeprefix("VIR_DOMAIN_JOB_OPERATION_").lower().replace("_", " ")
        for name, value in vars(libvirt).items()
        if name.startswith("VIR_DOMAIN_JOB_OPERATION_") and isinstance(value, int)
    }
    return str(operations.get(stats.get("operation", -1), "a job"))
