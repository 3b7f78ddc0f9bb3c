"""What a host can run, by libvirt's word. https://libvirt.org/formatcaps.html, formatdomaincaps.html"""

from __future__ import annotations

import libvirt
from lxml import etree

from blockferry.base.errors import LibvirtFailed
from blockferry.hosts.host_traits import CpuAnswer, CpuVerdict, HostTraits, Hypervisor, NumaNode
from blockferry.hosts.identity import HostId
from blockferry.hosts.libvirt import security_model
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.vm_needs import VmNeeds

_KIB = 1024
_UNITS = {"b": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

_ANSWERS = {
    libvirt.VIR_CPU_COMPARE_INCOMPATIBLE: CpuAnswer.LESS,
    libvirt.VIR_CPU_COMPARE_IDENTICAL: CpuAnswer.SAME,
    libvirt.VIR_CPU_COMPARE_SUPERSET: CpuAnswer.MORE,
}


def of_host(connection: Connection) -> str:
    """A host's capabilities, XML. libvirt may look at every QEMU of the host before it answers, so ask once."""
    with connection.doing("tell its capabilities"):
        return str(connection.raw.getCapabilities())


def traits(connection: Connection, uri: str, capabilities: str) -> HostTraits:
    """A host as libvirt describes it now. `capabilities`: see `of_host`. Raises HostUnreachable, LibvirtFailed."""
    version, qemu = connection.versions()
    hostname, node = connection.hostname(), connection.node()
    root = etree.fromstring(capabilities.encode())
    with connection.doing("tell what its host has"):
        raw = connection.raw
        networks = {
            str(listAllNetwork.name()): bool(listAllNetwork.isActive()) for listAllNetwork in raw.listAllNetworks(0)
        }
        filters = _filters(raw)
        vms = {str(listAllDomain.UUIDString()): str(listAllDomain.name()) for listAllDomain in raw.listAllDomains(0)}
    return HostTraits(
        host=HostId(uri, root.findtext("./host/uuid") or "", hostname),
        hostname=hostname,
        libvirt=version,
        qemu=qemu,
        memory=node.memory,
        memory_free=node.memory_free or 0,
        cpus=frozenset(int(cpu.get("id", "0")) for cpu in root.iterfind("./host/topology/cells/cell/cpus/cpu")),
        nodes=tuple(_node(connection, cell) for cell in root.iterfind("./host/topology/cells/cell")),
        security=frozenset(text for model in root.iterfind("./host/secmodel/model") if (text := model.text or "")),
        qemu_user=security_model.base_label(root),
        networks=networks,
        filters=filters,
        vms=vms,
    )


def _filters(raw: libvirt.virConnect) -> frozenset[str]:
    """Names of the network filters; none where this libvirt has no driver for them."""
    try:
        return frozenset(str(nwfilter.name()) for nwfilter in raw.listAllNWFilters(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return frozenset()
        raise


def _node(connection: Connection, cell: etree._Element) -> NumaNode:
    number = int(cell.get("id", "0"))
    sizes = [
        int(pages.get("size", "0")) * _UNITS.get(pages.get("unit", "KiB"), 1024) for pages in cell.iterfind("pages")
    ]
    huge = sizes[1:]  # the first one is the ordinary page
    free: dict[int, int] = {}
    if huge:
        with connection.doing("count its host's free pages"):
            answer = connection.raw.getFreePages([size // _KIB for size in huge], number, 1, 0)
        counts: dict[int, int] = next(iter(answer.values()), {})
        free = {int(size) * _KIB: int(count) for size, count in counts.items()}
    return NumaNode(number, frozenset(int(cpu.get("id", "0")) for cpu in cell.iterfind("./cpus/cpu")), free)


def hypervisor(connection: Connection, needs: VmNeeds, capabilities: str) -> Hypervisor:
    """What the host's emulator can do for such a VM. `capabilities`: see `of_host`. Raises HostUnreachable."""
    known = machines(capabilities, needs.arch)
    try:
        with connection.doing("tell what its emulator can do"):
            said = connection.raw.getDomainCapabilities(
                needs.emulator or None, needs.arch or None, needs.machine or None, needs.virt_type or None, 0
            )
    except LibvirtFailed as error:
        return Hypervisor(known.machines, known.virt_types, known.emulator, problem=error.message)
    return with_domain_capabilities(known, said)


def machines(capabilities: str, arch: str) -> Hypervisor:
    """Machine types, emulator and virtualization types of an architecture, of the host's capabilities XML."""
    root = etree.fromstring(capabilities.encode())
    for guest in root.iterfind("./guest/arch"):
        if guest.get("name") == arch:
            every = guest.findall("./machine") + guest.findall("./domain/machine")
            names = {element.text for element in every} | {element.get("canonical") for element in every}
            kinds = frozenset(domain.get("type", "") for domain in guest.iterfind("./domain"))
            return Hypervisor(frozenset(name for name in names if name), kinds, guest.findtext("./emulator") or "")
    return Hypervisor(frozenset(), frozenset())


def with_domain_capabilities(known: Hypervisor, xml: str) -> Hypervisor:
    root = etree.fromstring(xml.encode())
    tpm, vcpu = root.find("./devices/tpm"), root.find("./vcpu")
    backends = root.iterfind("./devices/tpm/enum[@name='backendModel']/value")
    swtpm = tpm is not None and tpm.get("supported") == "yes"
    return Hypervisor(
        machines=known.machines | {one for one in (root.findtext("./machine"),) if one},
        virt_types=known.virt_types,
        emulator=known.emulator,
        most_cpus=0 if vcpu is None else int(vcpu.get("max", "0")),
        tpm_backends=frozenset(backend.text or "" for backend in backends) if swtpm else frozenset(),
        loaders=frozenset(value.text or "" for value in root.iterfind("./os/loader/value")),
        host_cpu=_host_cpu(root),
    )


def _host_cpu(root: etree._Element) -> str:
    """The host's CPU as `<cpu>` of a domain, from what `host-model` would become there."""
    mode = root.find("./cpu/mode[@name='host-model'][@supported='yes']")
    if mode is None or mode.find("model") is None:
        return ""
    cpu = etree.Element("cpu", mode="custom", match="exact")
    for element in mode:
        if element.tag in ("model", "vendor", "feature"):
            cpu.append(etree.fromstring(etree.tostring(element)))
    return etree.tostring(cpu, encoding="unicode")


def compare_cpu(connection: Connection, needs: VmNeeds, cpu_xml: str) -> CpuVerdict:
    """Ask the host whether a VM of this machine type could have this CPU there. Raises HostUnreachable."""
    if not cpu_xml:
        return CpuVerdict(CpuAnswer.NOT_ASKED)
    arguments = (needs.emulator or None, needs.arch or None, needs.machine or None, needs.virt_type or None, cpu_xml)
    try:
        with connection.doing("compare CPUs"):
            answer = connection.raw.compareHypervisorCPU(*arguments, libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE)
    except LibvirtFailed as error:
        less = error.libvirt_code == "VIR_ERR_CPU_INCOMPATIBLE"
        return CpuVerdict(CpuAnswer.LESS if less else CpuAnswer.UNKNOWN, error.message)
    return CpuVerdict(_ANSWERS.get(answer, CpuAnswer.UNKNOWN))
