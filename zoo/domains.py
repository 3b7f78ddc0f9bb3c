"""Domain and pool XML of a host, as an administrator would write it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from zoo.spec import Disk, Pool, Vm

NAMESPACE = uuid.UUID("b10cfe77-0000-4000-8000-000000000011")


def vm_uuid(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"vm {name}"))


def pool_uuid(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"pool {name}"))


@dataclass(frozen=True, slots=True)
class Option:
    """What an option adds to a disk: attributes of <driver>, children of <driver>, <source> and <disk>."""

    driver: Mapping[str, str]
    in_driver: str = ""
    in_source: str = ""
    in_disk: str = ""
    buses: tuple[str, ...] = ()  # (): any
    formats: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


def _driver(**attributes: str) -> Option:
    return Option(attributes)


OPTIONS: dict[str, Option] = {
    "cache-none": Option({"cache": "none"}),
    "cache-writethrough": Option({"cache": "writethrough"}),
    "cache-directsync": Option({"cache": "directsync"}),
    "cache-unsafe": Option({"cache": "unsafe"}),
    "native": Option({"cache": "none", "io": "native"}),
    "io-threads": _driver(io="threads"),
    "io-uring": _driver(io="io_uring"),
    "discard": _driver(discard="unmap"),
    "detect-zeroes": Option({"discard": "unmap", "detect_zeroes": "unmap"}),
    "copy-on-read": _driver(copy_on_read="on"),
    "error-stop": _driver(error_policy="stop", rerror_policy="stop"),
    "error-report": _driver(error_policy="report"),
    "iothread": Option({"iothread": "1"}, buses=("virtio",)),
    "queues": Option({"queues": "1", "event_idx": "on", "ioeventfd": "on"}, buses=("virtio",)),
    "metadata-cache": Option(
        {}, in_driver="<metadata_cache><max_size unit='bytes'>1048576</max_size></metadata_cache>", formats=("qcow2",)
    ),
    "iotune": Option({}, in_disk="<iotune><total_iops_sec>5000</total_iops_sec></iotune>"),
    "serial": Option({}, in_disk="<serial>ZOO-4711</serial>"),
    "wwn": Option({}, in_disk="<wwn>5000c50015ea71ac</wwn>", buses=("scsi", "ide")),
    "vendor": Option({}, in_disk="<vendor>ZOO</vendor><product>ANIMAL</product>", buses=("scsi",)),
    "blockio": Option(
        {}, in_disk="<blockio logical_block_size='512' physical_block_size='4096'/>", buses=("virtio", "scsi")
    ),
    "boot-order": Option({}, in_disk="<boot order='1'/>"),
    "user-alias": Option({}, in_disk="<alias name='ua-system-disk'/>"),
    "seclabel-none": Option({}, in_source="<seclabel model='dac' relabel='no'/>"),
    "seclabel-dac": Option({}, in_source="<seclabel model='dac' relabel='yes'><label>+0:+0</label></seclabel>"),
    "readonly": Option({}, in_disk="<readonly/>", buses=("virtio", "scsi")),
    "shareable": Option({"cache": "none"}, in_disk="<shareable/>", formats=("raw",)),
}
"""Every option that a disk of a bare VM takes. Two with one attribute are not combined (zoo/generate.py)."""

Put = tuple[str, Callable[[str], str]]

ROLES: dict[str, Put] = {
    "bios": ("os", lambda path: f"<loader type='rom'>{path}</loader>"),
    "code": ("os", lambda path: f"<loader readonly='yes' type='pflash'>{path}</loader>"),
    "vars": ("os", lambda path: f"<nvram>{path}</nvram>"),
    "kernel": ("os", lambda path: f"<kernel>{path}</kernel>"),
    "initrd": ("os", lambda path: f"<initrd>{path}</initrd>"),
    "serial-log": ("devices", lambda path: f"<serial type='pty'><log file={_q(path)} append='on'/></serial>"),
    "serial-file": ("devices", lambda path: f"<serial type='file'><source path={_q(path)} append='on'/></serial>"),
    "share": (
        "devices",
        lambda path: (
            f"<filesystem type='mount' accessmode='mapped'><source dir={_q(path)}/><target dir='share'/></filesystem>"
        ),
    ),
    "virtiofs": (
        "devices",
        lambda path: (
            "<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/>"
            f"<source dir={_q(path)}/><target dir='virtiofs'/></filesystem>"
        ),
    ),
    "vhost-user": (
        "devices",
        lambda path: (
            "<filesystem type='mount'><driver type='virtiofs'/>"
            f"<source socket={_q(path)}/><target dir='elsewhere'/></filesystem>"
        ),
    ),
    "nvdimm": (
        "devices",
        lambda path: (
            f"<memory model='nvdimm'><source><path>{path}</path></source>"
            "<target><size unit='KiB'>4096</size><node>0</node></target></memory>"
        ),
    ),
    "fwcfg": ("top", lambda path: f"<sysinfo type='fwcfg'><entry name='opt/zoo/note' file={_q(path)}/></sysinfo>"),
    "rom": (
        "devices",
        lambda path: (
            "<interface type='user'><mac address='52:54:00:00:00:11'/><model type='virtio'/>"
            f"<rom file={_q(path)}/></interface>"
        ),
    ),
}
"""Where a file of a role is named, and how. The path is escaped for text already."""


TPMS: dict[str, str] = {
    "": "",
    "emulator": "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>",
    "external": (
        "<tpm model='tpm-tis'><backend type='external'>"
        "<source type='unix' mode='connect' path='/run/somebody/tpm.sock'/></backend></tpm>"
    ),
}


def _q(escaped: str) -> str:
    return '"' + escaped.replace('"', "&quot;") + '"'


def domain_xml(vm: Vm, real: Callable[[str], Path], loops: Mapping[str, str], *, running: bool = False) -> str:
    """The domain's XML. `loops`: the device over each file that is a block disk. running: without persistent-only."""
    parts: dict[str, list[str]] = {"os": [], "devices": [], "top": []}
    roles = {named.role for named in vm.named}
    for named in vm.named:
        where, text = ROLES[named.role]
        parts[where].append(text(escape(str(real(named.place)))))
    disks = [disk for disk in vm.disks if not (running and disk.only)]
    boots = any("boot-order" in disk.options for disk in disks)
    memory = "<memory unit='MiB'>32</memory>"
    if "nvdimm" in roles:
        memory = (
            "<maxMemory slots='2' unit='MiB'>256</maxMemory><memory unit='MiB'>36</memory>"
            "<cpu><numa><cell id='0' cpus='0' memory='32' unit='MiB'/></numa></cpu>"
        )
    if roles & {"virtiofs", "vhost-user"}:
        memory += "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    os_order = ("<loader", "<nvram", "<kernel", "<initrd")
    in_os = sorted(parts["os"], key=lambda text: next(n for n, tag in enumerate(os_order) if text.startswith(tag)))
    controllers = "<controller type='usb' model='none'/>"
    if any(disk.bus == "usb" for disk in disks):
        controllers = "<controller type='usb' model='qemu-xhci'/>"
    if any(disk.bus == "scsi" for disk in disks):
        controllers += "<controller type='scsi' model='virtio-scsi'/>"
    return f"""\
<domain type='qemu'>
  <name>{escape(vm.name)}</name>
  <uuid>{vm_uuid(vm.name)}</uuid>
  {memory}
  {"<iothreads>1</iothreads>" if any("iothread" in disk.options for disk in disks) else ""}
  {"".join(parts["top"])}
  <os><type arch='x86_64' machine='pc'>hvm</type>{"".join(in_os)}{"" if boots else "<boot dev='hd'/>"}</os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {"".join(disk_xml(disk, real, loops) for disk in disks)}
    {controllers}
    <memballoon model='none'/>
    {"".join(parts["devices"])}
    {TPMS[vm.tpm]}
  </devices>
</domain>
"""


def disk_xml(disk: Disk, real: Callable[[str], Path], loops: Mapping[str, str]) -> str:
    attributes: dict[str, str] = {}
    in_driver, in_source, in_disk = "", "", ""
    for name in disk.options:
        option = OPTIONS[name]
        attributes.update(option.driver)
        in_driver += option.in_driver
        in_source += option.in_source
        in_disk += option.in_disk
    if disk.device == "cdrom":
        in_disk += "<readonly/>"
    kind, source = disk.form, ""
    if disk.form == "volume":
        source = f"<source pool={quoteattr(disk.pool)} volume={quoteattr(real(disk.place).name)}>{in_source}</source>"
    elif disk.form == "block":
        source = f"<source dev={quoteattr(loops[disk.place])}>{in_source}</source>"
    elif disk.form == "file":
        source = f"<source file={quoteattr(str(real(disk.place)))}>{in_source}</source>"
    else:
        kind = "file"
    words = "".join(f" {name}='{value}'" for name, value in attributes.items())
    driver = f"<driver name='qemu' type='{disk.format}'{words}>{in_driver}</driver>"
    return (
        f"<disk type='{kind}' device='{disk.device}'>{driver}"
        f"{source}<target dev='{disk.target}' bus='{disk.bus}'/>{in_disk}</disk>\n"
    )


def pool_xml(pool: Pool, real: Callable[[str], Path], device: str) -> str:
    """The pool's XML. `device`: what a pool of the kind fs mounts."""
    source = f"<source><device path={quoteattr(device)}/><format type='ext4'/></source>" if pool.kind == "fs" else ""
    return (
        f"<pool type='{pool.kind}'><name>{escape(pool.name)}</name><uuid>{pool_uuid(pool.name)}</uuid>"
        f"{source}<target><path>{escape(str(real(pool.place)))}</path></target></pool>"
    )
