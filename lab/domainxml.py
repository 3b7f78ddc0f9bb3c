"""The domain XML of a guest: a small PC that boots the lab's kernel directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from lab.bootimage import Boot
from lab.guestspec import DiskSpec

_RECONNECT = "<reconnect enabled='yes' timeout='1'/>"

_AGENT = """\
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
"""


def domain_xml(
    name: str,
    disks: Sequence[DiskSpec],
    *,
    boot: Boot,
    channels: Path,
    memory_bytes: int,
    cache: str | None,
    discard: str | None,
    vcpus: int,
    machine: str,
    agent: bool,
    extra_devices: str,
    extra_os: str = "",
) -> str:
    """Domain XML; `extra_devices` and `extra_os` are put into <devices> and <os> as they are."""
    cmdline = boot.cmdline + (" lab.cdrom" if "cdrom" in extra_devices else "")
    cmdline += " lab.network" if "<interface" in extra_devices else ""
    return f"""\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='b'>{memory_bytes}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    {extra_os}
    <kernel>{boot.kernel}</kernel>
    <initrd>{boot.initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{"".join(_disk(disk, cache, discard) for disk in disks)}\
    <controller type='usb' model='none'/>
    <serial type='unix'>
      <source mode='connect' path={quoteattr(str(channels / "console.sock"))}>{_RECONNECT}</source>
    </serial>
{_channel("lab.judge", channels / "judge.sock")}\
{_channel("lab.control", channels / "control.sock")}\
{_AGENT if agent else ""}\
    <memballoon model='none'/>
    {extra_devices}
  </devices>
</domain>
"""


def _disk(disk: DiskSpec, cache: str | None, discard: str | None) -> str:
    options = (f" cache='{cache}'" if cache else "") + (f" discard='{discard}'" if discard else "")
    return f"""\
    <disk type='file' device='disk'>
      <driver name='qemu' type='{disk.format}'{options}/>
      <source file={quoteattr(disk.path)}/>
      <target dev='{disk.target}' bus='virtio'/>
    </disk>
"""


def _channel(name: str, socket: Path) -> str:
    # QEMU connects, and connects again: so nothing here depends on who starts first, and during a migration
    # both QEMUs reach the same collector.
    return f"""\
    <channel type='unix'>
      <source mode='connect' path={quoteattr(str(socket))}>{_RECONNECT}</source>
      <target type='virtio' name='{name}'/>
    </channel>
"""
