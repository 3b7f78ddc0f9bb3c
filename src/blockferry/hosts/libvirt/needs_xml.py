"""Reads out of a domain's XML what the VM needs of a host. https://libvirt.org/formatdomain.html"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import libvirt
from lxml import etree

from blockferry.hosts.libvirt import interface_xml, xml_paths
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.xml_paths import Role
from blockferry.hosts.vm_needs import Listen, Medium, NeededPath, Presence, Unmovable, VmNeeds

_UNITS = {"b": 1, "bytes": 1, "KB": 1000, "KiB": 1024, "k": 1024, "MB": 1000**2, "MiB": 1024**2, "M": 1024**2}
_UNITS |= {"GB": 1000**3, "GiB": 1024**3, "G": 1024**3}

_AS_THEY_ARE = frozenset(
    {
        *(Role.KERNEL, Role.INITRD, Role.DTB, Role.SHIM, Role.ACPI, Role.LOADER, Role.TEMPLATE, Role.FW_CFG, Role.ROM),
        *(Role.FILESYSTEM, Role.DIRECTORY, Role.CONFIG, Role.PROGRAM, Role.DEVICE, Role.DATA, Role.SOCKET),
    }
)
"""What must be there before QEMU starts."""

_MADE = (Role.LOG, Role.PSTORE, Role.MEMORY)
"""What QEMU or libvirt makes, in a directory that must be there."""

_OUTSIDE = ("disk", "hostdev", "tpm", "emulator", "mirror", "blkiotune", "bootloader")
"""Elements whose paths other rules look after."""

_MADE_BY_LIBVIRT = ("/var/lib/libvirt/qemu/", "/run/libvirt/", "/var/run/libvirt/", "/dev/pts/")


def of_vm(connection: Connection, uuid: str) -> VmNeeds:
    """What a VM needs: of a running one by its live XML as libvirt would send it, else by its configuration.

    Raises HostUnreachable, LibvirtFailed.
    """
    with connection.doing(f"describe VM {uuid}"):
        domain = connection.raw.lookupByUUIDString(uuid)
        if not domain.isActive():
            return parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        needs = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
        if not domain.isPersistent():
            return needs
        return with_networks_of(needs, domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def with_networks_of(needs: VmNeeds, config: str) -> VmNeeds:
    """What a running VM needs, and the networks that its next start needs besides, by its configuration."""
    known = {(nic.kind, nic.source) for nic in needs.nics}
    later = (nic for nic in interface_xml.nics(xml_paths.parse(config)) if (nic.kind, nic.source) not in known)
    return replace(needs, nics=(*needs.nics, *later))


def parse(xml: str) -> VmNeeds:
    root = xml_paths.parse(xml)
    kind = root.find("./os/type")
    cpu, tpm = root.find("./cpu"), root.find("./devices/tpm/backend")
    memory = _bytes(root.find("./memory"))
    mode = "" if cpu is None else cpu.get("mode", "custom" if cpu.find("model") is not None else "")
    return VmNeeds(
        virt_type=root.get("type", ""),
        emulator=root.findtext("./devices/emulator") or "",
        arch="" if kind is None else kind.get("arch", ""),
        machine="" if kind is None else kind.get("machine", ""),
        cpu_mode=mode,
        cpu_xml="" if cpu is None else etree.tostring(cpu, encoding="unicode").strip(),
        vcpus=int(root.findtext("./vcpu") or 1),
        memory=memory,
        locked=root.find("./memoryBacking/locked") is not None,
        hugepages=_hugepages(root, memory),
        nodes=_nodes(root),
        pinned=_pinned(root),
        nics=tuple(interface_xml.nics(root)),
        filters=frozenset(
            name
            for filterref in root.iterfind("./devices/interface/filterref")
            if (name := filterref.get("filter", ""))
        ),
        host_devices=tuple(_host_devices(root)),
        unmovable=tuple(_unmovable(root)),
        paths=tuple(dict.fromkeys(_paths(root))),
        media=tuple(_media(root)),
        loader=(root.findtext("./os/loader") or "").strip(),
        odd_variables=_odd_variables(root),
        tpm="" if tpm is None else tpm.get("type", ""),
        odd_tpm=_odd_tpm(tpm),
        listens=tuple(_listens(root)),
        security=frozenset(_labels(root)),
        arguments=any(
            etree.QName(element).localname == "commandline" for element in root if isinstance(element.tag, str)
        ),
    )


def _odd_variables(root: etree._Element) -> str:
    if root.find("./os/varstore") is not None:
        return "a store that QEMU keeps itself (<varstore>)"
    nvram = root.find("./os/nvram")
    kind = "file" if nvram is None else nvram.get("type", "file")
    return "" if kind == "file" else f"no file (<nvram type='{kind}'>)"


def _odd_tpm(backend: etree._Element | None) -> str:
    if backend is None:
        return ""
    if backend.get("type") != "emulator":
        return "is no emulated one of libvirt's"
    if backend.find("encryption") is not None:
        return "keeps its state encrypted; the other host does not have its secret"
    return "" if backend.find("source") is None else "keeps its state at a place of its own (<source>)"


def _labels(root: etree._Element) -> Iterator[str]:
    """The security models of which the XML itself demands a label."""
    for seclabel in root.iterfind("./seclabel"):
        if seclabel.get("model") and seclabel.get("type") != "none":
            yield seclabel.get("model", "")


def _pinned(root: etree._Element) -> frozenset[int]:
    sets = [root.find("./vcpu"), *root.iterfind("./cputune/*[@cpuset]")]
    named = [
        element
        for element in sets
        if element is not None and element.tag in ("vcpu", "vcpupin", "emulatorpin", "iothreadpin")
    ]
    return frozenset(number for element in named for number in numbers(element.get("cpuset", "")))


def numbers(said: str) -> frozenset[int]:
    """The numbers of a set as libvirt writes it: "0-3,^2,8"."""
    found: set[int] = set()
    without: set[int] = set()
    for part in (one.strip() for one in said.split(",")):
        where = without if part.startswith("^") else found
        first, _, last = part.lstrip("^").partition("-")
        if first.isdigit():
            where.update(range(int(first), int(last or first) + 1))
    return frozenset(found - without)


def _bytes(element: etree._Element | None) -> int:
    if element is None or not (element.text or "").strip().isdigit():
        return 0
    return int(str(element.text)) * _UNITS.get(element.get("unit", "KiB"), 1024)


def _hugepages(root: etree._Element, memory: int) -> dict[int, int]:
    """Page size -> bytes. A size holds the guest's NUMA cells that it names; the one that names none, the rest."""
    if root.find("./memoryBacking/hugepages") is None:
        return {}
    cells = {
        int(one.get("id", at)): int(one.get("memory", "0")) * _UNITS.get(one.get("unit", "KiB"), 1024)
        for at, one in enumerate(root.iterfind("./cpu/numa/cell"))
    }
    found: dict[int, int] = {}
    left, rest = memory, 0
    for page in root.iterfind("./memoryBacking/hugepages/page"):
        size = int(page.get("size", "0")) * _UNITS.get(page.get("unit", "KiB"), 1024)
        if page.get("nodeset"):
            share = sum(cells.get(number, 0) for number in numbers(page.get("nodeset", "")))
            found[size] = found.get(size, 0) + share
            left -= share
        else:
            rest = size
    if rest or not found:
        found[rest] = found.get(rest, 0) + max(0, left)
    return found


def _nodes(root: etree._Element) -> frozenset[int]:
    found: set[int] = set()
    for numatune in root.iterfind("./numatune/*[@nodeset]"):
        if numatune.get("mode", "strict") in ("strict", "restrictive"):
            found |= numbers(numatune.get("nodeset", ""))
    return frozenset(found)


def _host_devices(root: etree._Element) -> Iterator[str]:
    for hostdev in root.iterfind("./devices/hostdev"):
        yield f"the {(hostdev.get('type') or hostdev.get('mode') or '').upper()} device {_name_of(hostdev)}".rstrip()
    for devices in root.iterfind("./devices/interface[@type='hostdev']"):
        teaming = devices.find("teaming")
        if teaming is None or teaming.get("type") != "transient":
            yield f"the PCI network device {_name_of(devices)}".rstrip()
    for devices in root.iterfind("./devices/disk[@type='nvme']"):
        yield f"the NVMe disk {_target(devices)}"


def _name_of(element: etree._Element) -> str:
    """A device of the host as `virsh nodedev-list` and lspci name it."""
    source = element.find("source")
    if source is None:
        return ""
    address, vendor, product = source.find("address"), source.find("vendor"), source.find("product")
    if vendor is not None and product is not None:
        return f"{vendor.get('id', '')}:{product.get('id', '')}".replace("0x", "")
    if address is not None and address.get("uuid"):
        return str(address.get("uuid"))
    if address is not None and address.get("slot"):
        parts = [int(address.get(one, "0"), 0) for one in ("domain", "bus", "slot", "function")]
        return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)
    if address is not None and address.get("device"):
        return f"{address.get('bus')}:{address.get('device')}"
    adapter = source.find("adapter")
    said = [source.findtext("block"), source.findtext("char"), None if adapter is None else adapter.get("name")]
    return next((one for one in said if one), "")


_VIRTIOFS = "Stop the VM, or unmount the directory in the guest and detach it, then move."
_REFUSED: tuple[tuple[str, str, str], ...] = (
    ("./devices/filesystem[driver]", "the shared directory {path} (virtiofs)", _VIRTIOFS),
    ("./devices/filesystem", "the shared directory {path} (9p)", _VIRTIOFS),
    ("./devices/interface[@type='vdpa']", "a vDPA network device", "Detach it, or move the VM while it is off."),
    ("./devices/disk[@type='vhostuser']", "the vhost-user disk {target}", "Detach it first."),
    ("./devices/disk[@type='vhostvdpa']", "the vDPA disk {target}", "Detach it first."),
    ("./devices/shmem", "memory shared with others (shmem)", "Detach it first."),
    ("./devices/input[@type='passthrough']", "an input device of the host", "Detach it first."),
    ("./devices/input[@type='evdev']", "an input device of the host (evdev)", "Move the VM while it is off."),
    ("./devices/smartcard[@mode='host']", "the host's smartcard reader", "Detach it first."),
    ("./devices/tpm/backend[@type='passthrough']", "the host's own TPM", "Remove it first."),
    ("./launchSecurity", "encrypted memory (launchSecurity)", "Move the VM while it is off."),
    ("./cpu[@migratable='off']", "a CPU with migratable='off'", "Remove it from the XML and power-cycle the VM."),
)  # fmt: skip


def _unmovable(root: etree._Element) -> Iterator[Unmovable]:
    seen: set[etree._Element] = set()
    for path, what, remedy in _REFUSED:
        for element in root.iterfind(path):
            driver = element.find("driver")
            if element in seen or (path.endswith("[driver]") and (driver is None or driver.get("type") != "virtiofs")):
                continue
            seen.add(element)
            source = element.find("source")
            where = "" if source is None else source.get("dir") or source.get("socket") or ""
            yield Unmovable(what.format(path=where, target=_target(element)), remedy)
    timer = root.find("./clock/timer[@name='tsc']")
    fixed = timer is not None and timer.get("frequency")
    if root.find("./cpu/feature[@name='invtsc'][@policy='require']") is not None and not fixed:
        remedy = "Add <timer name='tsc' frequency='...'/> to the XML and power-cycle the VM."
        yield Unmovable("the CPU feature invtsc without a fixed TSC frequency", remedy)


def _target(element: etree._Element) -> str:
    target = element.find("target")
    return "" if target is None else target.get("dev") or target.get("dir") or ""


def _paths(root: etree._Element) -> Iterator[NeededPath]:
    for name in xml_paths.names(root):
        around = [str(iterancestor.tag) for iterancestor in (name.element, *name.element.iterancestors())]
        if any(one in around for one in _OUTSIDE) or name.path.startswith(_MADE_BY_LIBVIRT):
            continue
        if name.role is Role.CHARACTER:
            yield from _character(name)
        elif name.role in _MADE or (name.role is Role.SOCKET and not _connects(name.element)):
            yield NeededPath(name.path, name.role.value, Presence.PARENT)
        elif name.role in _AS_THEY_ARE:
            yield NeededPath(name.path, name.role.value)


def _character(name: xml_paths.Name) -> Iterator[NeededPath]:
    above = name.element.getparent()
    kind = "" if above is None else above.get("type", "")
    what = "character device" if above is None else f"{above.tag} device"
    if kind == "pty":
        return
    made = kind == "file" or (kind == "unix" and not _connects(name.element))
    yield NeededPath(name.path, what, Presence.PARENT if made else Presence.FILE)


def _connects(source: etree._Element) -> bool:
    """Whether QEMU connects to a socket that somebody else makes."""
    return source.get("mode") in ("connect", "client")


def _media(root: etree._Element) -> Iterator[Medium]:
    for disk in root.iterfind("./devices/disk"):
        source = disk.find("source")
        path = None if source is None else source.get("file") or source.get("dev")
        if disk.get("device") in ("cdrom", "floppy") and source is not None and path:
            optional = source.get("startupPolicy") in ("optional", "requisite")
            yield Medium(_target(disk), path, optional)


def _listens(root: etree._Element) -> Iterator[Listen]:
    for graphics in root.iterfind("./devices/graphics"):
        port = 0 if graphics.get("autoport") == "yes" else max(0, int(graphics.get("port", "0")))
        kind = graphics.get("type", "").upper()
        listens = [listen for listen in graphics.iterfind("listen") if listen.get("type", "address") == "address"]
        places = [listen.get("address", "") for listen in listens] or ([graphics.get("listen", "")] if port else [])
        for address in places:
            if address or port:
                yield Listen(kind, address or "127.0.0.1", port)
    for devices in root.iterfind("./devices/*[@type='tcp']/source[@mode='bind']"):
        above = devices.getparent()
        assert above is not None
        yield Listen(f"the {above.tag} device", devices.get("host", "127.0.0.1"), int(devices.get("service", "0") or 0))
