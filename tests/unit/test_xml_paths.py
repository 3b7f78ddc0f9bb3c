"""The catalogue of what an XML names: a VM that uses everything, read and renamed."""

from __future__ import annotations

import pytest

from blockferry.hosts.libvirt import domain_xml, xml_paths
from blockferry.hosts.libvirt.xml_paths import Role

EVERYTHING = """\
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>/not/a/file</name><title>/not/title</title><description>/not/words</description>
  <metadata><x:app xmlns:x='urn:x' cloudinit='/h/OTHER/ci.iso'><x:disk>/h/OTHER/disk</x:disk>
    <x:os><kernel>/h/OTHER/kernel</kernel></x:os></x:app></metadata>
  <resource><partition>/not/machine</partition></resource>
  <blkiotune><device><path>/h/DEVICE/tuned</path></device></blkiotune>
  <sysinfo type='fwcfg'><entry name='opt/x' file='/h/FW_CFG/x'/><entry name='opt/y'>word</entry></sysinfo>
  <os firmware='efi'>
    <loader>/h/LOADER/code.fd</loader><nvram template='/h/TEMPLATE/vars' type='file'>
    <source file='/h/NVRAM/vars.fd'/></nvram>
    <kernel>/h/KERNEL/k</kernel><initrd> /h/INITRD/i </initrd><cmdline>/not/cmdline</cmdline>
    <dtb>/h/DTB/d</dtb><shim>/h/SHIM/s</shim><acpi><table type='slic'>/h/ACPI/t</table></acpi>
    <varstore template='/h/TEMPLATE/store' path='/h/NVRAM/store.json'/>
  </os>
  <launchSecurity type='tdx'><quoteGenerationService path='/h/SOCKET/qgs'/></launchSecurity>
  <devices>
    <emulator>/h/PROGRAM/qemu</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/h/IMAGE/vda &amp; "x".qcow2' startupPolicy='optional'>
        <slices><slice type='storage' offset='1' size='2'/></slices>
        <reservations managed='no'><source type='unix' path='/h/SOCKET/pr' mode='client'/></reservations>
        <encryption format='luks'><secret type='passphrase' usage='/not/secret'/></encryption>
        <dataStore type='file'><format type='raw'/><source file='/h/DATA/vda.raw'/></dataStore>
      </source>
      <backingStore type='file'><format type='qcow2'/><source file='/h/BACKING/1'/>
        <backingStore type='block'><format type='raw'/><source dev='/h/BACKING/2'/></backingStore></backingStore>
      <mirror type='file' file='/h/MIRROR/old'><source file='/h/MIRROR/new'/></mirror>
      <target dev='vda'/></disk>
    <disk type='block' device='lun'><source dev='/h/IMAGE/lv'/><target dev='sda'/></disk>
    <disk type='dir' device='floppy'><source dir='/h/DIRECTORY/floppy'/><target dev='fda'/></disk>
    <disk type='vhostuser'><source type='unix' path='/h/SOCKET/vhost'/><target dev='vdb'/></disk>
    <disk type='volume'><source pool='p' volume='v.qcow2' startupPolicy='optional'/><target dev='vdc'/></disk>
    <disk type='network'><source protocol='rbd' name='pool/image'><config file='/h/CONFIG/ceph.conf'/></source>
      <target dev='vdd'/></disk>
    <disk type='network'><source protocol='nbd' name='x'><host transport='unix' socket='/h/SOCKET/nbd'/></source>
      <target dev='vde'/></disk>
    <disk type='network'><source protocol='ssh' name='x'><identity username='u' keyfile='/h/CONFIG/id'/>
      <knownHosts path='/h/CONFIG/known'/></source><target dev='vdf'/></disk>
    <disk type='nvme'><source type='pci' namespace='1'><address domain='0x0000'/></source><target dev='vdg'/></disk>
    <filesystem type='mount'><source dir='/h/DIRECTORY/9p'/><target dir='/not/mounted'/></filesystem>
    <filesystem type='mount'><driver type='virtiofs'/><binary path='/h/PROGRAM/virtiofsd'/>
      <source dir='/h/DIRECTORY/virtiofs'/><target dir='tag'/></filesystem>
    <filesystem type='mount'><driver type='virtiofs'/><source socket='/h/SOCKET/fs'/><target dir='t'/></filesystem>
    <filesystem type='file'><source file='/h/FILESYSTEM/fs.img'/><target dir='/not'/></filesystem>
    <filesystem type='block'><source dev='/h/DEVICE/fs'/><target dir='/not'/></filesystem>
    <filesystem type='volume'><source pool='p' volume='v2'/><target dir='/not'/></filesystem>
    <interface type='vhostuser'><source type='unix' path='/h/SOCKET/net' mode='server'/></interface>
    <interface type='vdpa'><source dev='/h/DEVICE/vdpa'/></interface>
    <interface type='ethernet'><script path='/h/PROGRAM/up'/><downscript path='/h/PROGRAM/down'/>
      <backend tap='/h/DEVICE/tun' vhost='/h/DEVICE/vhost' logFile='/h/LOG/passt'/><rom file='/h/ROM/pxe'/></interface>
    <interface type='direct'><source dev='eth0' mode='bridge'/></interface>
    <serial type='file'><source path='/h/CHARACTER/serial'/><log file='/h/LOG/serial' append='on'/></serial>
    <parallel type='dev'><source path='/h/CHARACTER/lp0'/></parallel>
    <console type='pty' tty='/h/DEVICE/pts'><source path='/h/CHARACTER/pts'/></console>
    <channel type='unix'><source mode='bind' path='/h/CHARACTER/agent'/></channel>
    <smartcard mode='host-certificates'><certificate>c</certificate><database>/h/DIRECTORY/nss</database></smartcard>
    <smartcard mode='passthrough' type='unix'><source mode='bind' path='/h/CHARACTER/card'/></smartcard>
    <redirdev bus='usb' type='dev'><source path='/h/CHARACTER/redir'/></redirdev>
    <rng model='virtio'><backend model='random'>/h/DEVICE/urandom</backend></rng>
    <rng model='virtio'><backend model='egd' type='unix'><source path='/h/CHARACTER/egd'/></backend></rng>
    <tpm model='tpm-tis'><backend type='passthrough'><device path='/h/DEVICE/tpm0'/></backend></tpm>
    <tpm model='tpm-crb'><backend type='emulator'><source type='dir' path='/h/TPM/state'/></backend></tpm>
    <pstore backend='acpi-erst'><path>/h/PSTORE/erst</path><size unit='KiB'>64</size></pstore>
    <memory model='nvdimm'><source><path>/h/MEMORY/nvdimm</path></source><target/></memory>
    <shmem name='s'><server path='/h/SOCKET/shmem'/></shmem>
    <hostdev mode='capabilities' type='storage'><source><block>/h/DEVICE/block</block></source></hostdev>
    <hostdev mode='capabilities' type='misc'><source><char>/h/DEVICE/char</char></source></hostdev>
    <input type='passthrough'><source evdev='/h/DEVICE/event1'/></input>
    <input type='evdev'><source dev='/h/DEVICE/event2'/></input>
    <graphics type='vnc' socket='/h/SOCKET/vnc'><listen type='socket' socket='/h/SOCKET/listen'/></graphics>
    <graphics type='spice'><gl enable='yes' rendernode='/h/DEVICE/dri'/></graphics>
    <video><model type='virtio'><acceleration rendernode='/h/DEVICE/render'/></model></video>
    <audio id='1' type='file' path='/h/AUDIO/wav'/>
    <audio id='2' type='oss'><input dev='/h/DEVICE/dsp'/></audio>
    <crypto model='virtio' type='qemu'><backend model='builtin' queues='1'/></crypto>
    <lease><target path='/h/OTHER/lease'/></lease>
    <gadget><flux capacitor='/h/OTHER/attribute'>/h/OTHER/text</flux></gadget>
  </devices>
  <qemu:commandline><qemu:arg value='-drive'/><qemu:arg value='file=/h/ARGUMENT/a,,b.img,format=raw,x=/h/ARGUMENT/c'/>
    <qemu:env name='X' value='/h/ARGUMENT/env'/></qemu:commandline>
</domain>"""


def test_a_vm_that_uses_everything() -> None:
    """Each path of the example says in its second part what it is expected to be."""
    found = xml_paths.paths(EVERYTHING)
    assert {path: role.name for path, role in found.items()} == {path: path.split("/")[2] for path in found}
    expected = {word for line in EVERYTHING.splitlines() for word in line.replace("<", "'").split("'") if "/h/" in word}
    assert len(found) >= len(expected), "several on a line of QEMU's arguments"
    assert not any(path.startswith("/not") for path in found)
    assert '/h/IMAGE/vda & "x".qcow2' in found
    assert "/h/ARGUMENT/a,b.img" in found
    assert {role for role in Role if role is not Role.SAVED_MEMORY} == set(found.values())


def test_every_known_place_is_renamed_and_no_other() -> None:
    found = xml_paths.paths(EVERYTHING)
    new = {path: path.replace("/h/", "/new/") for path in found}
    renamed = domain_xml.rename(EVERYTHING, new)
    known = {path: role for path, role in found.items() if role.known}
    assert xml_paths.paths(renamed) == {new[path] if path in known else path: role for path, role in found.items()}
    left = xml_paths.unrenamed(xml_paths.parse(renamed), new)
    assert {name.path for name in left} == set(found) - set(known), "a caller can see what still names the old path"
    back = domain_xml.rename(renamed, {new[path]: path for path in known})
    assert domain_xml.rename(back, {}) == domain_xml.rename(EVERYTHING, {}).replace(" /h/INITRD/i ", "/h/INITRD/i")


def test_volumes() -> None:
    found = [(volume.pool, volume.volume) for volume in xml_paths.volumes(xml_paths.parse(EVERYTHING))]
    assert found == [("p", "v.qcow2"), ("p", "v2")]


@pytest.mark.parametrize("around", ["domainsnapshot", "domaincheckpoint", "domstatus"])
def test_domains_inside_of_others(around: str) -> None:
    inside = EVERYTHING.replace("<domain ", "<inactiveDomain ").replace("</domain>", "</inactiveDomain>")
    memory = "<memory snapshot='external' file='/h/SAVED_MEMORY/s1'/><disks><disk name='/h/IMAGE/by-path'/></disks>"
    found = xml_paths.paths(f"<{around}>{memory}{EVERYTHING}{inside}</{around}>")
    assert found == {
        **xml_paths.paths(EVERYTHING),
        "/h/SAVED_MEMORY/s1": Role.SAVED_MEMORY,
        "/h/IMAGE/by-path": Role.IMAGE,
    }


def test_a_path_written_otherwise_is_renamed_too() -> None:
    xml = "<domain><devices><disk><source file='/a//b/../vda.qcow2'/></disk></devices></domain>"
    assert xml_paths.paths(domain_xml.rename(xml, {"/a/vda.qcow2": "/new"})) == {"/new": Role.IMAGE}


def test_what_a_tree_is() -> None:
    trees = {name.path for name in xml_paths.names(xml_paths.parse(EVERYTHING)) if name.is_tree}
    assert {"/h/DIRECTORY/9p", "/h/DIRECTORY/virtiofs", "/h/DIRECTORY/floppy", "/h/TPM/state"} <= trees


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        ("file=/srv/my images/a.qcow2,format=qcow2", "/srv/my images/a.qcow2"),
        ("/srv/my images/a.qcow2", "/srv/my images/a.qcow2"),
        ("file=/srv/a, b.qcow2".replace(",", ",,"), "/srv/a, b.qcow2"),
        ("file=/srv/it's/a b.qcow2,if=none", "/srv/it's/a b.qcow2"),
        ('{"driver":"file","filename":"/srv/my images/a.qcow2"}', "/srv/my images/a.qcow2"),
        ("file:/a b /c d.img,x=1", "/a b /c d.img"),
    ],
)
def test_a_path_with_blanks_in_an_argument_of_qemu(argument: str, path: str) -> None:
    quoted = argument.replace('"', "&quot;")
    xml = f'<domain xmlns:qemu="urn:q"><qemu:commandline><qemu:arg value="{quoted}"/></qemu:commandline></domain>'
    assert xml_paths.paths(xml).get(path) is Role.ARGUMENT
