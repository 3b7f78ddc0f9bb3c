"""A move changes nothing of the persistent XML but paths: a VM with every element that a disk may have."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Datastore, Host, Lab
from tests.system.voyage import Line

pytestmark = pytest.mark.lab

NAME = "elements"

_XML = """\
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><iothreads>1</iothreads>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk' snapshot='external'>
      <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap' detect_zeroes='unmap'
              error_policy='stop' rerror_policy='report' queues='1' iothread='1' queue_size='256' event_idx='on'
              ioeventfd='on'>
        <metadata_cache><max_size unit='bytes'>2097152</max_size></metadata_cache>
      </driver>
      <source file='{home}/vda.qcow2' startupPolicy='mandatory'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
      <iotune><total_bytes_sec>104857600</total_bytes_sec><total_iops_sec>5000</total_iops_sec></iotune>
      <blockio logical_block_size='512' physical_block_size='4096'/>
      <geometry cyls='16' heads='16' secs='63'/>
      <serial>SERIAL-1</serial>
      <boot order='2'/>
      <alias name='ua-first'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x0a' function='0x0'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='writeback' error_policy='enospace' copy_on_read='off'/>
      <source file='{home}/sda.raw'/>
      <target dev='sda' bus='scsi' rotation_rate='7200'/>
      <serial>SERIAL-2</serial>
      <wwn>5000c50015ea71aa</wwn>
      <vendor>BLOCKF</vendor>
      <product>FERRY</product>
      <boot order='1'/>
      <address type='drive' controller='0' bus='0' target='0' unit='3'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='writethrough'>
        <metadata_cache><max_size unit='KiB'>1024</max_size></metadata_cache>
      </driver>
      <source file='{home}/vdb.qcow2'>
        <seclabel model='dac' relabel='yes'><label>+64055:+64055</label></seclabel>
      </source>
      <backingStore/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
</domain>"""


@pytest.fixture
def twin(lab_session: Lab, lab_host: Host, ssd: Datastore) -> Iterator[Datastore]:
    """A directory of ssd's file system, to clone to."""
    store = lab_session.datastore("elements-twin", beside=ssd)
    lab_host.attach(store)
    yield store
    lab_host.detach(store)


@pytest.fixture
def elements(lab_host: Host, old_san: Datastore, ssd: Datastore, twin: Datastore) -> Iterator[str]:
    home = old_san.home(NAME)
    home.mkdir()
    owner = lab_host.qemu_owner
    for name, kind in (("vda.qcow2", "qcow2"), ("sda.raw", "raw"), ("vdb.qcow2", "qcow2")):
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, str(home / name), "8M"], check=True)
        owner.own(home / name)
    xml = _XML.format(name=NAME, home=home).replace("+64055:+64055", f"+{owner.uid}:+{owner.gid}")
    lab_host.virsh("define", "/dev/stdin", stdin=xml)
    yield NAME
    lab_host.run(["virsh", "-q", "destroy", NAME], check=False)
    lab_host.run(["virsh", "-q", "undefine", NAME, "--managed-save"], check=False)
    for store in (old_san, ssd, twin):
        store.clear_vm(NAME)


def persistent(host: Host, store: Datastore) -> str:
    """The persistent XML, with the paths below its datastore as `HERE`."""
    xml = host.virsh("dumpxml", "--inactive", NAME)
    assert str(store.path) in xml
    return xml.replace(f"'{store.path}/", "'HERE/").replace("  <metadata/>\n", "")


def live_disk(host: Host, target: str) -> str:
    [found] = [one for one in host.virsh("dumpxml", NAME).split("<disk ")[1:] if f"<target dev='{target}'" in one]
    return found.split("</disk>")[0]


def test_every_element_stays(
    elements: str, lab_host: Host, line: Line, old_san: Datastore, ssd: Datastore, twin: Datastore, tmp_path: Path
) -> None:
    """Live by every method, and off; with what the running VM has of its images, too."""
    before = persistent(lab_host, old_san)
    for text in ("metadata_cache", "seclabel", "startupPolicy", "<backingStore/>", "wwn", "iotune"):
        assert text in before, before
    lab_host.virsh("start", elements)
    ways = (("mirror", ssd), ("changed-blocks", old_san), ("snapshot", ssd), ("clone", twin))
    for method, store in ways:
        line.must("move", elements, "--to", store.name, "--method", method)
        assert persistent(lab_host, store) == before, method
        assert "<seclabel model='dac' relabel='no'/>" in live_disk(lab_host, "vda"), method
        for target in ("vda", "vdb"):
            assert "<metadata_cache>" in live_disk(lab_host, target), method
            assert "<seclabel" in live_disk(lab_host, target), method
    volumes = {store.name: lab_host.virsh("vol-list", store.name) for store in (old_san, ssd, twin)}
    for store in (old_san, ssd):
        assert f"{store.path}/{NAME}" not in volumes[store.name], "the pool that it has left was not refreshed"
    lab_host.virsh("destroy", elements)
    assert line.must("move", elements, "--to", old_san.name).move["plan"]["method"] == "cold"
    assert persistent(lab_host, old_san) == before
    lab_host.virsh("start", elements)
    line.must("move", elements, "--to", ssd.name, point="switched-noted:fail")  # it is tried again
    assert persistent(lab_host, ssd) == before
