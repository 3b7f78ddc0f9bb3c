"""Domain XML: reading disks and the rest out of it, and pointing it somewhere else.

Formats: https://libvirt.org/formatdomain.html. lxml keeps namespaces and prefixes as they are, so that what
others have put into a domain (`qemu:commandline`, other managers' metadata) survives an edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lxml import etree

from blockferry.hosts import exports
from blockferry.hosts.inventory import Disk, DiskSource, Mirror, NamedPath, Secret, Snapshot, Volume
from blockferry.hosts.libvirt import xml_paths
from blockferry.hosts.libvirt.disk_xml import CarriedElements, DiskBeforeMove

MARK_URI = "urn:blockferry:move:1"
MARK_PREFIX = "blockferry"

NVRAM_DIRECTORY = "/var/lib/libvirt/qemu/nvram"
"""Where libvirt's system instance keeps the UEFI variables of a VM whose XML does not say; no setting changes it."""

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


@dataclass(frozen=True, slots=True)
class ParsedDisk:
    """One `<disk>` of one XML."""

    target: str
    device: str
    bus: str
    source: DiskSource | None
    read_only: bool
    shareable: bool
    transient: bool
    cache: str | None
    io: str | None
    discard: str | None
    mirror: Mirror | None
    serial: str | None
    iothread: bool
    encrypted: bool = False
    secret: Secret | None = None
    sliced: bool = False
    copy_on_read: bool = False
    alias: str = ""


@dataclass(frozen=True, slots=True)
class ParsedDomain:
    """What we read out of a domain's XML."""

    name: str
    disks: tuple[ParsedDisk, ...]
    nvram: str | None
    tpm: bool
    mark: str | None
    mark_journal: str = ""
    agent: str | None = None
    unsavable: str = ""  # a device that keeps the VM from being saved to a memory file; "" as far as can be told
    named: tuple[NamedPath, ...] = ()
    volumes: tuple[Volume, ...] = ()  # without their paths
    memory: int = 0  # bytes, as much as it can have


def parse(xml: str) -> ParsedDomain:
    """Read a domain's XML, live or inactive."""
    root = etree.fromstring(xml.encode(), _PARSER)
    mark = root.find(f"./metadata/{{{MARK_URI}}}move")
    tpm = root.find("./devices/tpm/backend")
    threaded = _threaded_controllers(root)
    return ParsedDomain(
        name=root.findtext("name") or "",
        disks=tuple(_disk(element, threaded) for element in root.iterfind("./devices/disk")),
        nvram=_nvram_path(root),
        tpm=tpm is not None and tpm.get("type") == "emulator",
        mark=None if mark is None else mark.get("id"),
        mark_journal="" if mark is None else mark.get("journal", ""),
        agent=_agent(root),
        unsavable=_unsavable(root),
        named=tuple(_named(root)),
        volumes=tuple(_volume(volume) for volume in xml_paths.volumes(root)),
        memory=_memory(root),
    )


_UNITS = {"b": 1, "bytes": 1, "KB": 1000, "KiB": 1024, "k": 1024, "MB": 1000**2, "MiB": 1024**2, "M": 1024**2}
_UNITS |= {"GB": 1000**3, "GiB": 1024**3, "G": 1024**3}


def _memory(root: etree._Element) -> int:
    """Bytes of `<memory>`, which libvirt itself writes in KiB; 0 where it does not stand."""
    element = root.find("memory")
    if element is None or not (element.text or "").strip().isdigit():
        return 0
    return int(str(element.text)) * _UNITS.get(element.get("unit", "KiB"), 1024)


_NO_STORAGE = (xml_paths.Role.SOCKET, xml_paths.Role.PROGRAM, xml_paths.Role.DEVICE)


def _named(root: etree._Element) -> Iterator[NamedPath]:
    for name in xml_paths.names(root):
        yield NamedPath(name.path, str(name.role), name.is_tree, name.role not in _NO_STORAGE)


def _volume(volume_name: xml_paths.VolumeName) -> Volume:
    """A volume with its format; of a backing store the format stands beside the source."""
    around = volume_name.element.getparent()
    assert around is not None
    driver, format, target = around.find("driver"), around.find("format"), around.find("target")
    said = format if format is not None else driver
    return Volume(
        volume_name.pool,
        volume_name.volume,
        "" if target is None else target.get("dev") or target.get("dir") or "",
        "raw" if said is None else said.get("type", "raw") or "raw",
        closed=_closed(around),
    )


def _closed(element: etree._Element) -> bool:
    """Whether the backing chain of a disk ends in the XML: `<backingStore/>` without a source is its end.

    https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
    """
    below = element.find("backingStore")
    while below is not None and below.find("source") is not None:
        below = below.find("backingStore")
    return below is not None


_UNSAVABLE = (
    ("./devices/hostdev", "a device of the host passed through"),
    ("./devices/interface[@type='hostdev']", "a network device of the host passed through"),
    ("./devices/interface[@type='vdpa']", "a vDPA network device"),
    ("./devices/filesystem/driver[@type='virtiofs']", "a directory of the host shared by virtiofs"),
    ("./devices/shmem", "memory shared with others (shmem)"),
    ("./launchSecurity", "its memory encrypted"),
)
"""What libvirt 9.0 refuses to save (qemuMigrationSrcIsAllowed), or QEMU; what else they do shows when it is tried."""


def _unsavable(root: etree._Element) -> str:
    return next((words for path, words in _UNSAVABLE if root.find(path) is not None), "")


def _agent(root: etree._Element) -> str | None:
    """The state of the guest agent's channel; libvirt says "connected" while a program in the guest has it open."""
    channel = root.find("./devices/channel/target[@name='org.qemu.guest_agent.0']")
    return None if channel is None else channel.get("state", "disconnected")


def _nvram_path(root: etree._Element) -> str | None:
    """The file of the UEFI variables; `<nvram type='file'>` has it in a `<source>` (libvirt 8.5).

    With `<os firmware='efi'>` libvirt 9.0 fills it in at each start only, so that a persistent XML says nothing of it.
    """
    nvram = root.find("./os/nvram")
    if nvram is not None:
        source = nvram.find("source")
        path = (nvram.text or "") if source is None else source.get("file") or ""
        return path.strip() or None
    os_element = root.find("./os")
    automatic = os_element is not None and os_element.get("firmware") == "efi"
    return f"{NVRAM_DIRECTORY}/{root.findtext('name')}_VARS.fd" if automatic else None


def _point_nvram(domain: etree._Element, files: Mapping[str, str]) -> None:
    path, os_element = _nvram_path(domain), domain.find("./os")
    if path is None or path not in files or os_element is None:
        return
    nvram = os_element.find("nvram")
    if nvram is None:
        nvram = etree.SubElement(os_element, "nvram")
    source = nvram.find("source")
    if source is None:
        nvram.text = files[path]
    else:
        source.set("file", files[path])


def merge(live: ParsedDomain | None, config: ParsedDomain | None) -> tuple[Disk, ...]:
    """The disks of a VM from its live and its persistent XML, in the order of the XML that is in force."""
    lives = {disk.target: disk for disk in live.disks} if live else {}
    configs = {disk.target: disk for disk in config.disks} if config else {}
    disks = []
    for target in dict.fromkeys([*lives, *configs]):
        now = lives.get(target) or configs[target]
        disks.append(
            Disk(
                target=target,
                device=now.device,
                bus=now.bus,
                live=lives[target].source if target in lives else None,
                config=configs[target].source if target in configs else None,
                read_only=now.read_only,
                shareable=now.shareable,
                transient=now.transient,
                cache=now.cache,
                io=now.io,
                discard=now.discard,
                mirror=now.mirror,
                serial=now.serial,
                iothread=now.iothread,
                encrypted=any(one[target].encrypted for one in (lives, configs) if target in one),
                secret=_same_secret([one[target].secret for one in (lives, configs) if target in one]),
                sliced=any(one[target].sliced for one in (lives, configs) if target in one),
                copy_on_read=now.copy_on_read,
                alias=lives[target].alias if target in lives else "",
            )
        )
    return tuple(disks)


def _same_secret(secrets: Sequence[Secret | None]) -> Secret | None:
    return secrets[0] if all(secret == secrets[0] for secret in secrets) else None


def view_xml(socket: str, scratch: Mapping[str, str], every: Sequence[str]) -> str:
    """A pull-mode backup of the disks in `scratch` (target -> file), none of the others.

    https://libvirt.org/formatbackup.html
    """
    backup = etree.Element("domainbackup", mode="pull")
    etree.SubElement(backup, "server", transport="unix", socket=socket)
    disks = etree.SubElement(backup, "disks")
    for target in every:
        disk = etree.SubElement(disks, "disk", name=target, backup="yes" if target in scratch else "no")
        if target in scratch:
            disk.set("type", "file")
            disk.set("exportname", target)
            etree.SubElement(disk, "driver", type="qcow2")
            etree.SubElement(disk, "scratch", file=scratch[target])
    return etree.tostring(backup, encoding="unicode")


def view_socket(xml: str) -> str | None:
    """The unix socket of a pull-mode backup's server."""
    server = etree.fromstring(xml.encode()).find("./server[@transport='unix']")
    return None if server is None else server.get("socket")


def paths(xml: str) -> set[str]:
    """Every file, directory and device that an XML names, wherever it stands (snapshots hold whole domains)."""
    return set(names(xml))


def volumes(xml: str) -> tuple[Volume, ...]:
    """The volumes of pools that an XML names, without their paths; also of a snapshot or a saved state."""
    root = etree.fromstring(xml.encode(), _PARSER)
    return tuple(dict.fromkeys(_volume(volume) for volume in xml_paths.volumes(root)))


def names(xml: str) -> dict[str, xml_paths.Role]:
    """The same, each with what it is for; with the UEFI variables that libvirt names by itself."""
    root = etree.fromstring(xml.encode(), _PARSER)
    found: dict[str, xml_paths.Role] = {}
    for name in xml_paths.names(root):
        found.setdefault(name.path, name.role)
    return {**dict.fromkeys(_nvrams(root), xml_paths.Role.NVRAM), **found}


def _nvrams(root: etree._Element) -> set[str]:
    return {path for domain in _domains(root) if (path := _nvram_path(domain)) is not None}


def _domains(root: etree._Element) -> list[etree._Element]:
    """The domains that an XML describes: itself, or those in a snapshot."""
    return list(root.iter("domain", "inactiveDomain"))


def _disk_files(root: etree._Element) -> set[str]:
    """What disks name, not network interfaces and the like, at any depth."""
    sources = [source for disk in root.iter("disk") for source in disk.iter("source")]
    return {str(path) for source in sources for path in (source.get("file"), source.get("dev")) if path}


def has_metadata(xml: str) -> bool:
    """Whether a domain's XML has a `<metadata>`."""
    return etree.fromstring(xml.encode(), _PARSER).find("metadata") is not None


def unmarked(xml: str) -> str:
    """The XML without our mark, and without a `<metadata>` that is empty then; as it is where there is no mark."""
    root = etree.fromstring(xml.encode(), _PARSER)
    marks = list(root.iter(f"{{{MARK_URI}}}move"))
    empty = [element for element in root.iter("metadata") if len(element) == 0 and not (element.text or "").strip()]
    if not marks and not empty:
        return xml
    for mark in marks:
        above = mark.getparent()
        if above is not None:
            above.remove(mark)
    for metadata in list(root.iter("metadata")):
        above = metadata.getparent()
        if above is not None and len(metadata) == 0:
            above.remove(metadata)
    return etree.tostring(root, encoding="unicode")


_SIGNATURE = "<!-- Written by blockferry for the VM {uuid}; it replaces and removes this file. -->"


def signed(xml: str, uuid: str) -> str:
    """The XML with a first line that says that blockferry has written it, and for which VM."""
    return f"{_SIGNATURE.format(uuid=uuid)}\n{xml}"


def is_signed(text: str, uuid: str) -> bool:
    return text.startswith(_SIGNATURE.format(uuid=uuid))


def snapshot(xml: str) -> Snapshot:
    """Read a snapshot's metadata. https://libvirt.org/formatsnapshot.html"""
    root = etree.fromstring(xml.encode(), _PARSER)
    kinds: dict[str, list[str]] = {}
    for disk in root.iterfind("./disks/disk"):
        kinds.setdefault(disk.get("snapshot", ""), []).append(disk.get("name", ""))
    memory = root.find("./memory")
    return Snapshot(
        name=root.findtext("name") or "",
        internal=tuple(kinds.get("internal", ())),
        external=tuple(kinds.get("external", ())),
        files=tuple(sorted(_disk_files(root) | _nvrams(root))),
        memory=None if memory is None else memory.get("file"),
    )


def rename(xml: str, names: Mapping[str, str]) -> str:
    """Any XML of libvirt's with these files elsewhere, wherever it names them: a snapshot holds whole domains."""
    root = etree.fromstring(xml.encode(), _PARSER)
    for domain in _domains(root):
        _point_nvram(domain, names)
    xml_paths.rename(root, names)
    return etree.tostring(root, encoding="unicode")


def copy_destination_xml(
    path: str,
    format: str,
    *,
    block: bool = False,
    backing: tuple[str, str] | None = None,
    secret: Secret | None = None,
    carried: CarriedElements = CarriedElements(),  # noqa: B008 - frozen
) -> str:
    """The `<disk>` that virDomainBlockCopy takes as destination; with a secret it is opened as LUKS.

    `carried`: of the disk as it is, what libvirt does not carry over to the destination by itself.

    Only source, driver type and backing store of it count (https://libvirt.org/html/libvirt-libvirt-domain.html,
    virDomainBlockCopy). Without an end of the chain (`<backingStore/>`) libvirt would probe the image.
    """
    if exports.is_export(path):
        disk = etree.Element("disk", type="network")
        etree.SubElement(disk, "driver", name="qemu", type=format)
        source = _network_source(path)
        disk.append(source)
    else:
        disk = etree.Element("disk", type="block" if block else "file")
        driver = etree.SubElement(disk, "driver", name="qemu", type=format)
        if format == "qcow2":
            carried.add_cache(driver)
        source = etree.SubElement(disk, "source", {"dev" if block else "file": path})
        carried.add_labels(source)
    if secret is not None:
        encryption = etree.SubElement(source, "encryption", format="luks")
        etree.SubElement(encryption, "secret", {"type": "passphrase", secret.by: secret.value})
    below = etree.SubElement(disk, "backingStore")
    if backing is not None:
        below.set("type", "file")
        below_format = etree.SubElement(below, "format", type=backing[1])
        if backing[1] == "qcow2":
            carried.add_cache_below(below_format)
        carried.add_labels(etree.SubElement(below, "source", file=backing[0]))
    return etree.tostring(disk, encoding="unicode")


def snapshot_xml(
    overlays: Mapping[str, str], others: Iterable[str], carried: Mapping[str, CarriedElements] | None = None
) -> str:
    """The `<domainsnapshot>` that puts existing qcow2 overlays above these disks (target -> path), and no others."""
    root = etree.Element("domainsnapshot")
    disks = etree.SubElement(root, "disks")
    for target, path in overlays.items():
        disk = etree.SubElement(disks, "disk", name=target, snapshot="external", type="file")
        etree.SubElement(disk, "driver", type="qcow2")
        source = etree.SubElement(disk, "source", file=path)
        (carried or {}).get(target, CarriedElements()).add_labels(source)
    for target in others:
        etree.SubElement(disks, "disk", name=target, snapshot="no")
    return etree.tostring(root, encoding="unicode")


def mark_xml(move: str, journal: str) -> str:
    """Return the element with which a VM is marked: the move's id and its journal's."""
    return etree.tostring(etree.Element("move", id=move, journal=journal), encoding="unicode")


def repoint(
    xml: str,
    disks: Mapping[str, tuple[str, str]],
    files: Mapping[str, str],
    before: Mapping[str, DiskBeforeMove] | None = None,
) -> str:
    """The persistent XML with these disks and files elsewhere; everything else stays as it is.

    `disks`: target -> (path, format). `files`: old path -> new path, of whatever else the XML names: media, UEFI
    variables, kernel, logs and so on. `before`: target -> its disk as it was before the move; libvirt drops some of it
    when it points the disk to another image by itself.
    """
    root, new = etree.fromstring(xml.encode(), _PARSER), set(files.values())
    for element in root.iterfind("./devices/disk"):
        target_element = element.find("target")
        target = "" if target_element is None else target_element.get("dev") or ""
        source = element.find("source")
        if target in disks:
            if before is not None and target in before:
                before[target].restore(element)
            _repoint_disk(element, *disks[target], known=before is not None and target in before)
        elif source is not None and source.get("file") in new:
            _forget_end_of_chain(element)
    _point_nvram(root, files)
    xml_paths.rename(root, files)
    return etree.tostring(root, encoding="unicode")


def _forget_end_of_chain(element: etree._Element) -> None:
    """Take away the `<backingStore/>` that libvirt writes down for a medium when its copy is switched to."""
    for below in element.findall("backingStore"):
        if len(below) == 0 and not below.attrib:
            element.remove(below)


def _repoint_disk(element: etree._Element, place: str, format: str, *, known: bool = False) -> None:
    """`place`: a path, or the address of an export. To one and from one nothing of the old source stays.

    `known`: the images below it are as they are to be, by what the disk was before.
    """
    source = element.find("source")
    if source is None:
        source = etree.SubElement(element, "source")
    if exports.is_export(place) or element.get("type") == "network":
        new = _network_source(place) if exports.is_export(place) else etree.Element("source", file=place)
        new.tail = source.tail
        element.replace(source, new)
    else:
        for name in ("dev", "pool", "volume", "mode", "index"):
            if name in source.attrib:
                del source.attrib[name]
        source.set("file", place)
    element.set("type", "network" if exports.is_export(place) else "file")
    driver = element.find("driver")
    if driver is None:
        driver = etree.Element("driver", name="qemu")
        element.insert(0, driver)
    driver.set("type", format)
    if format != "qcow2":
        for cache in driver.findall("metadata_cache"):
            driver.remove(cache)  # libvirt refuses it for every other format
    for below in element.findall("backingStore") if not known else ():
        element.remove(below)  # libvirt looks at the image's own header again at the next start


def _threaded_controllers(root: etree._Element) -> set[tuple[str, str]]:
    """(bus, index) of the controllers that an iothread serves; their disks are served by it."""
    return {
        (controller.get("type", ""), controller.get("index", "0"))
        for controller in root.iterfind("./devices/controller")
        if _has_iothread(controller.find("driver"))
    }


def _has_iothread(driver: etree._Element | None) -> bool:
    return driver is not None and (driver.get("iothread") is not None or driver.find("iothreads") is not None)


def _disk(element: etree._Element, threaded: set[tuple[str, str]]) -> ParsedDisk:
    target = element.find("target")
    driver = element.find("driver")
    address = element.find("address")
    controller = "0" if address is None else address.get("controller", "0")
    bus = "" if target is None else target.get("bus", "")
    attributes: dict[str, str] = {} if driver is None else {str(k): str(v) for k, v in driver.items()}
    return ParsedDisk(
        target="" if target is None else target.get("dev", ""),
        device=element.get("device", "disk"),
        bus=bus,
        source=_source(element),
        read_only=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        transient=element.find("transient") is not None,
        cache=attributes.get("cache"),
        io=attributes.get("io"),
        discard=attributes.get("discard"),
        mirror=_mirror(element.find("mirror")),
        serial=element.findtext("serial"),
        iothread=_has_iothread(driver) or (bus, controller) in threaded,
        # of the source, in the old way of the disk, or of a layer below: https://libvirt.org/formatstorageencryption.html
        encrypted=element.find(".//encryption") is not None,
        secret=_secret(element),
        sliced=element.find(".//slices") is not None,
        copy_on_read=attributes.get("copy_on_read") == "on",
        alias="" if (alias := element.find("alias")) is None else alias.get("name", ""),
    )


def _secret(element: etree._Element) -> Secret | None:
    """Of the disk's own image, where all that QEMU needs is one passphrase; None for whatever else there is."""
    every = element.findall(".//encryption")
    own = [*element.findall("./source/encryption"), *element.findall("./encryption")]
    if len(every) != 1 or own != every or own[0].get("format") != "luks" or own[0].get("engine", "qemu") != "qemu":
        return None
    secrets = own[0].findall("secret")
    if len(secrets) != 1 or secrets[0].get("type") != "passphrase":
        return None
    return next((Secret(by, str(secrets[0].get(by))) for by in ("uuid", "usage") if secrets[0].get(by)), None)


def _source(element: etree._Element) -> DiskSource | None:
    source = element.find("source")
    kind = element.get("type", "file")
    driver = element.find("driver")
    format = "raw" if driver is None else driver.get("type", "raw")
    if source is None:
        return None
    path = source.get("file") or source.get("dev")
    backing = []
    below = element.find("backingStore")
    while below is not None:
        inner = below.find("source")
        if inner is not None and (inner.get("file") or inner.get("dev")):
            backing.append(inner.get("file") or inner.get("dev") or "")
        below = below.find("backingStore")
    if path is None and kind == "file":
        return None
    return DiskSource(
        kind,
        path,
        format,
        tuple(backing),
        _describe(kind, source, path),
        "" if element.find("auth") is not None else _export(source),
        _storages(source),
        volume=f"{source.get('pool')}/{source.get('volume')}" if kind == "volume" else "",
        closed=_closed(element),
    )


def _export(source: etree._Element) -> str:
    """The address of a source that is a plain export of one server; "" for whatever else there is."""
    hosts = source.findall("host")
    protocol, name = str(source.get("protocol")), str(source.get("name", ""))
    known = ("host", "reconnect", "config") if protocol == exports.RBD else ("host", "reconnect")
    more = [child for child in source.iterchildren("*") if child.tag not in known]
    if protocol not in exports.PORTS or source.get("tls") == "yes" or len(hosts) > 1 or more:
        return ""
    config = source.find("config")
    conf = "" if config is None else str(config.get("file", ""))
    if not hosts:
        return _checked(exports.NetworkExport(name, port=exports.PORTS[protocol], protocol=protocol, conf=conf))
    (host,) = hosts
    if host.get("transport") == "unix":
        return exports.NetworkExport(name, socket=str(host.get("socket", ""))).uri if protocol == exports.NBD else ""
    if host.get("transport", "tcp") != "tcp" or not host.get("name"):
        return ""
    port = int(host.get("port") or exports.PORTS[protocol])
    return _checked(exports.NetworkExport(name, str(host.get("name")).lower(), port, protocol=protocol, conf=conf))


def _checked(export: exports.NetworkExport) -> str:
    """Its address; "" when that says less than the XML (libvirt takes a target without a LUN, an image's namespace)."""
    try:
        return export.uri if exports.parse(export.uri) == export else ""
    except ValueError:
        return ""


def _storages(source: etree._Element) -> tuple[str, ...]:
    """What storage a network disk is on, also one that is more than a plain export (TLS, CHAP, several hosts)."""
    protocol, name = str(source.get("protocol")), str(source.get("name", ""))
    if protocol not in exports.PORTS:
        return ()
    ways = [
        host.get("socket") or f"{host.get('name', '').lower()}:{host.get('port') or exports.PORTS[protocol]}"
        for host in source.findall("host")
    ]
    return tuple(dict.fromkeys(exports.storage(protocol, name, way) for way in ways or [""]))


def _network_source(place: str) -> etree._Element:
    """The <source> of an export. https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms"""
    export = exports.parse(place)
    source = etree.Element("source", protocol=export.protocol, name=export.name)
    if export.socket:
        etree.SubElement(source, "host", transport="unix", socket=export.socket)
    elif export.host:
        etree.SubElement(source, "host", name=export.host, port=str(export.port))
    if export.conf:
        etree.SubElement(source, "config", file=export.conf)
    return source


def _describe(kind: str, source: etree._Element, path: str | None) -> str:
    if path:
        return path
    if kind == "network":
        host = source.find("host")
        where = "" if host is None else host.get("name") or host.get("socket") or ""
        return f"{source.get('protocol')}://{where}/{source.get('name') or ''}"
    if kind == "volume":
        return f"volume {source.get('volume')} of pool {source.get('pool')}"
    return f"{kind} disk"


def _mirror(element: etree._Element | None) -> Mirror | None:
    if element is None:
        return None
    source = element.find("source")
    dest = (
        "" if source is None else source.get("file") or source.get("dev") or _export(source) or source.get("name") or ""
    )
    format = element.find("format")
    return Mirror(
        job=element.get("job", "copy"),
        dest=dest or element.get("file", ""),
        dest_format="" if format is None else format.get("type", ""),
        ready=element.get("ready") == "yes",
        # A job that libvirt is just putting away shows for a moment as a mirror without a kind.
        ending=element.get("ready") in ("pivot", "abort") or element.get("job") == "",
        encrypted=element.find("./source/encryption") is not None,
    )
