"""What is read out of domain XML for the table of defects and for the proof."""

from __future__ import annotations

import pytest

from blockferry.hosts.libvirt import domain_xml

DOMAIN = """\
<domain><name>web01</name><metadata>{metadata}</metadata><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' {driver}/><source file='/a/vda.qcow2'/>
<target dev='{target}' bus='{bus}'/><address type='drive' controller='{controller}'/></disk>
<controller type='scsi' index='0'/><controller type='scsi' index='1'><driver iothread='2'/></controller>
<controller type='sata' index='1'/>
</devices></domain>"""


@pytest.mark.parametrize(
    ("bus", "controller", "driver", "threaded"),
    [
        ("virtio", "0", "", False),
        ("virtio", "0", "iothread='1'", True),
        ("scsi", "0", "", False),
        ("scsi", "1", "", True),
        ("sata", "1", "", False),
    ],
)
def test_who_serves_a_disk(bus: str, controller: str, driver: str, threaded: bool) -> None:
    xml = DOMAIN.format(metadata="", driver=driver, target="vda", bus=bus, controller=controller)
    parsed = domain_xml.parse(xml)
    assert parsed.disks[0].iothread is threaded
    assert domain_xml.merge(None, parsed)[0].iothread is threaded


def test_a_disk_of_many_iothreads() -> None:
    xml = DOMAIN.format(metadata="", driver="", target="vda", bus="virtio", controller="0")
    xml = xml.replace("type='qcow2' />", "type='qcow2'><iothreads><iothread id='1'/></iothreads></driver>")
    assert domain_xml.parse(xml).disks[0].iothread


@pytest.mark.parametrize(("words", "journal"), [(" journal='j1'", "j1"), ("", "")])
def test_a_mark_names_its_journal(words: str, journal: str) -> None:
    mark = f"<b:move xmlns:b='{domain_xml.MARK_URI}' id='abcd'{words}/>"
    parsed = domain_xml.parse(DOMAIN.format(metadata=mark, driver="", target="vda", bus="virtio", controller="0"))
    assert (parsed.mark, parsed.mark_journal) == ("abcd", journal)


def test_every_path_that_an_xml_names() -> None:
    """A snapshot holds whole domains: before, inactive, and its own disks."""
    inner = DOMAIN.format(metadata="", driver="", target="vda", bus="virtio", controller="0")
    xml = (
        f"<domainsnapshot><disks><disk name='vda'><source file='/a/s1.qcow2'/></disk></disks>{inner}"
        "<inactiveDomain><devices><disk><source dev='/dev/vg/lv'/><backingStore><source file='/a/base.raw'/>"
        "</backingStore></disk></devices></inactiveDomain></domainsnapshot>"
    )
    assert domain_xml.paths(xml) == {"/a/s1.qcow2", "/a/vda.qcow2", "/dev/vg/lv", "/a/base.raw"}


@pytest.mark.parametrize(
    ("os_", "path"),
    [
        ("<os/>", None),
        ("<os><nvram> /a/vars </nvram></os>", "/a/vars"),
        ("<os><nvram template='/t'>/a/vars</nvram></os>", "/a/vars"),
        ("<os><nvram type='file'><source file='/a/vars'/></nvram></os>", "/a/vars"),
        ("<os><nvram type='network'><source protocol='nbd' name='x'/></nvram></os>", None),
        ("<os firmware='efi'/>", "/var/lib/libvirt/qemu/nvram/web01_VARS.fd"),
        ("<os firmware='efi'><nvram>/a/vars</nvram></os>", "/a/vars"),
        ("<os firmware='bios'/>", None),
    ],
)
def test_where_the_uefi_variables_are(os_: str, path: str | None) -> None:
    xml = f"<domain><name>web01</name>{os_}<devices/></domain>"
    assert domain_xml.parse(xml).nvram == path
    moved = domain_xml.repoint(xml, {}, {str(path): "/b/vars", "/other": "/c"})
    assert domain_xml.parse(moved).nvram == (path and "/b/vars")
    if path is not None:
        back = domain_xml.repoint(moved, {}, {"/b/vars": path})
        assert domain_xml.parse(back).nvram == path
        assert "/b/vars" in domain_xml.paths(moved)
    snapshot = f"<domainsnapshot>{xml}{xml.replace('domain>', 'inactiveDomain>')}</domainsnapshot>"
    assert domain_xml.paths(snapshot) - {"/t"} == ({path} if path else set())
    renamed = domain_xml.paths(domain_xml.rename(snapshot, {str(path): "/b/vars"}))
    assert renamed - {"/t"} == ({"/b/vars"} if path else set())


def test_a_metadata_cache_goes_with_the_qcow2() -> None:
    """libvirt refuses it for every other format, and the move stood still after its switch (found by the zoo)."""
    xml = (
        "<domain><devices><disk type='file'><driver name='qemu' type='qcow2'><metadata_cache>"
        "<max_size unit='bytes'>1048576</max_size></metadata_cache></driver><source file='/a.qcow2'/>"
        "<target dev='vda'/></disk></devices></domain>"
    )
    assert "metadata_cache" not in domain_xml.repoint(xml, {"vda": ("/b.raw", "raw")}, {})
    assert "metadata_cache" in domain_xml.repoint(xml, {"vda": ("/b.qcow2", "qcow2")}, {})
