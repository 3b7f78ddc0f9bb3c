"""Every place in libvirt's XML that names a file, a directory or a device: one catalogue, for reading and for renaming.

It holds for a domain, and for the domains that stand in a snapshot, a checkpoint or a saved state.
Source: libvirt's schemas (src/conf/schemas/domaincommon.rng, storagecommon.rng, domainsnapshot.rng) of 9.0, and
https://libvirt.org/formatdomain.html for what came later: `<pstore>` (10.7), `<dataStore>` and the TPM's `<source>`
(10.10), `<shim>` (11.2), `<varstore>` (12.1), `<quoteGenerationService>` (11.6). Not in it, because no XML names them:
what libvirt itself keeps below /var/lib/libvirt/qemu, and the UEFI variables of `<os firmware='efi'>` (domainxml).
"""

from __future__ import annotations

import enum
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lxml import etree

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


class Role(enum.StrEnum):
    """What a name is for, in words that a message can use."""

    IMAGE = "disk"
    BACKING = "backing image"
    DATA = "data file of a disk"
    MIRROR = "destination of a block job"
    KERNEL = "kernel"
    INITRD = "initrd"
    DTB = "device tree"
    SHIM = "shim"
    ACPI = "ACPI table"
    LOADER = "firmware"
    NVRAM = "UEFI variables"
    TEMPLATE = "template of the UEFI variables"
    FW_CFG = "fw_cfg file"
    ROM = "option ROM"
    CHARACTER = "character device"
    LOG = "log file"
    MEMORY = "memory backing file"
    DIRECTORY = "directory"
    FILESYSTEM = "file system image"
    AUDIO = "audio file"
    TPM = "TPM"
    PSTORE = "pstore"
    DEVICE = "device"
    SOCKET = "socket"
    PROGRAM = "program"
    CONFIG = "configuration file"
    SAVED_MEMORY = "memory of a snapshot"
    ARGUMENT = "argument of QEMU"
    OTHER = "another element"  # not in the catalogue: it holds an absolute path, and that is all we know

    @property
    def known(self) -> bool:
        """Whether the place is in the catalogue: only then is the name replaced by `rename`."""
        return self not in (Role.ARGUMENT, Role.OTHER)


TREES = (Role.DIRECTORY, Role.TPM)
"""Roles of directories that are used with all that lies in them."""


@dataclass(frozen=True, slots=True)
class Name:
    """One place that names something. `where`: the attribute, "" for the element's text."""

    element: etree._Element
    where: str
    path: str
    role: Role

    @property
    def is_tree(self) -> bool:
        """Whether a directory is named with all that lies in it."""
        return self.role in TREES

    def replace(self, path: str) -> None:
        """Name another path at this place. Only for a role that is known."""
        if self.where:
            self.element.set(self.where, path)
        else:
            self.element.text = path


@dataclass(frozen=True, slots=True)
class VolumeName:
    """A `<source pool= volume=>`: libvirt turns it into a path at the VM's start."""

    element: etree._Element
    pool: str
    volume: str


_CATALOGUE: tuple[tuple[str, Role], ...] = (
    # disks, at any depth of a chain; the first line that fits counts
    ("reservations/source@path", Role.SOCKET),
    ("backingStore/source@file", Role.BACKING),
    ("backingStore/source@dev", Role.BACKING),
    ("dataStore/source@file", Role.DATA),
    ("dataStore/source@dev", Role.DATA),
    ("mirror/source@file", Role.MIRROR),
    ("mirror/source@dev", Role.MIRROR),
    ("mirror@file", Role.MIRROR),
    ("disk/source@file", Role.IMAGE),
    ("disk/source@dev", Role.IMAGE),
    ("disk/source@dir", Role.DIRECTORY),
    ("disk/source@path", Role.SOCKET),
    ("source/config@file", Role.CONFIG),
    ("source/host@socket", Role.SOCKET),
    ("source/identity@keyfile", Role.CONFIG),
    ("source/knownHosts@path", Role.CONFIG),
    ("disk@name", Role.IMAGE),  # a snapshot may name a disk by its path
    ("scratch@file", Role.IMAGE),
    ("scratch@dev", Role.IMAGE),
    ("memory@file", Role.SAVED_MEMORY),
    ("blkiotune/device/path", Role.DEVICE),
    # what it starts from
    ("os/kernel", Role.KERNEL),
    ("os/initrd", Role.INITRD),
    ("os/dtb", Role.DTB),
    ("os/shim", Role.SHIM),
    ("os/loader", Role.LOADER),
    ("os/nvram/source@file", Role.NVRAM),
    ("os/nvram/source@dev", Role.NVRAM),
    ("os/nvram@template", Role.TEMPLATE),
    ("os/nvram", Role.NVRAM),
    ("os/varstore@template", Role.TEMPLATE),
    ("os/varstore@path", Role.NVRAM),
    ("acpi/table", Role.ACPI),
    ("sysinfo/entry@file", Role.FW_CFG),
    ("rom@file", Role.ROM),
    ("bootloader", Role.PROGRAM),
    # devices
    ("emulator", Role.PROGRAM),
    ("filesystem/source@dir", Role.DIRECTORY),
    ("filesystem/source@file", Role.FILESYSTEM),
    ("filesystem/source@dev", Role.DEVICE),
    ("filesystem/source@socket", Role.SOCKET),
    ("filesystem/binary@path", Role.PROGRAM),
    ("memory/source/path", Role.MEMORY),
    ("tpm/backend/device@path", Role.DEVICE),
    ("tpm/backend/source@path", Role.TPM),
    ("pstore/path", Role.PSTORE),
    ("hostdev/source/block", Role.DEVICE),
    ("hostdev/source/char", Role.DEVICE),
    ("rng/backend/source@path", Role.CHARACTER),
    ("rng/backend", Role.DEVICE),
    ("input/source@dev", Role.DEVICE),
    ("input/source@evdev", Role.DEVICE),
    ("interface/source@path", Role.SOCKET),
    ("interface/source@dev", Role.DEVICE),
    ("interface/script@path", Role.PROGRAM),
    ("interface/downscript@path", Role.PROGRAM),
    ("interface/backend@tap", Role.DEVICE),
    ("interface/backend@vhost", Role.DEVICE),
    ("interface/backend@logFile", Role.LOG),
    ("audio@path", Role.AUDIO),
    ("audio/input@dev", Role.DEVICE),
    ("audio/output@dev", Role.DEVICE),
    ("audio@serverName", Role.SOCKET),
    ("graphics@socket", Role.SOCKET),
    ("graphics/listen@socket", Role.SOCKET),
    ("graphics/gl@rendernode", Role.DEVICE),
    ("video/model/acceleration@rendernode", Role.DEVICE),
    ("video/source@path", Role.SOCKET),
    ("shmem/server@path", Role.SOCKET),
    ("smartcard/database", Role.DIRECTORY),
    ("lease/target@path", Role.OTHER),
    ("launchSecurity/quoteGenerationService@path", Role.SOCKET),
    # serial, parallel, console, channel, smartcard, redirdev, rng, crypto: the same source everywhere
    ("log@file", Role.LOG),
    ("source@path", Role.CHARACTER),
    ("console@tty", Role.DEVICE),
)

_NO_NAMES = (
    "title",
    "description",
    "domain/name",
    "inactiveDomain/name",
    "resource/partition",  # a control group
    "os/cmdline",
    "os/root",  # the guest's own device
    "os/init",
    "os/initarg",
    "os/initdir",
    "filesystem/target@dir",  # where the guest mounts it
    "secret@usage",  # by what libvirt finds a secret
)
"""What may hold an absolute path and names nothing of the host."""

_ARGUMENTS = ("arg", "env", "property")  # of <qemu:commandline> and <qemu:override>
_IN_ARGUMENT = tuple(re.compile(rf"(?:^|[=:,\s\"'])(?=(/[^{end}]+))") for end in (r",\s\"'", r",\"'", ","))
"""Where a path ends cannot be told: it may hold blanks and quotes. Each way of reading it counts."""


def parse(xml: str) -> etree._Element:
    """The root of an XML of libvirt's."""
    return etree.fromstring(xml.encode(), _PARSER)


def names(root: etree._Element) -> Iterator[Name]:
    """Each place that names a file, directory or device by an absolute path, in the order of the XML.

    An attribute or a text that is an absolute path and stands where the catalogue knows nothing is named, too
    (`Role.OTHER`; `Role.ARGUMENT` for the parts of `<qemu:arg>`).
    """
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue  # a comment
        if etree.QName(element).namespace and etree.QName(element).localname in _ARGUMENTS:
            value = str(element.get("value", "")).replace(",,", "\0")
            for fromkey in dict.fromkeys(path for form in _IN_ARGUMENT for path in form.findall(value)):
                yield Name(element, "value", fromkey.replace("\0", ","), Role.ARGUMENT)
            continue
        for attribute, content in element.attrib.items():
            if str(content).startswith("/"):
                yield from _name(element, str(attribute), str(content))
        text = (element.text or "").strip()
        if text.startswith("/"):
            yield from _name(element, "", text)


def volumes(root: etree._Element) -> Iterator[VolumeName]:
    """Each place that names a volume of a storage pool."""
    for element in root.iter("source"):
        pool, volume = element.get("pool"), element.get("volume")
        if pool and volume:
            yield VolumeName(element, str(pool), str(volume))


def paths(xml: str) -> dict[str, Role]:
    """Every path that an XML names, and what for (the first place that names it)."""
    found: dict[str, Role] = {}
    for name in names(parse(xml)):
        found.setdefault(name.path, name.role)
    return found


def rename(root: etree._Element, new: Mapping[str, str]) -> None:
    """Name these paths elsewhere (old path -> new path), at each place that the catalogue knows.

    A place that it does not know stays as it is; `unrenamed` tells of those.
    """
    by_normal = {posixpath.normpath(old): path for old, path in new.items()}
    for name in list(names(root)):
        if name.role.known and (path := by_normal.get(posixpath.normpath(name.path))) is not None:
            name.replace(path)


def unrenamed(root: etree._Element, new: Mapping[str, str]) -> list[Name]:
    """The places that name one of these paths and that `rename` leaves alone."""
    normal = {posixpath.normpath(old) for old in new}
    return [name for name in names(root) if not name.role.known and posixpath.normpath(name.path) in normal]


def _name(element: etree._Element, where: str, path: str) -> Iterator[Name]:
    around = [etree.QName(iterancestor) for iterancestor in (element, *element.iterancestors())]
    place = "/".join(str(q_name.localname) for q_name in reversed(around)) + (f"@{where}" if where else "")
    role = next((role for end, role in _CATALOGUE if _ends(place, end)), Role.OTHER)
    if any(q_name.namespace for q_name in around):
        role = Role.OTHER  # what others have put there; it only looks like an element of libvirt's
    if role is Role.OTHER and (any(_ends(place, one) for one in _NO_NAMES) or (not where and "\n" in path)):
        return
    yield Name(element, where, path, role)


def _ends(place: str, end: str) -> bool:
    return place == end or place.endswith(f"/{end}")
