"""A definition whose disks have names that no storage has, and the way back."""

from __future__ import annotations

from blockferry.hosts.libvirt import barred_xml, domain_xml

XML = """<domain><name>a</name><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/srv/a&amp;b.qcow2'>
<seclabel model='dac' relabel='no'/></source><target dev='vda'/></disk>
<disk type='block' device='lun'><source dev='/dev/x'/><target dev='vdb'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target dev='vdc'/></disk>
<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdd'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk>
<disk type='file' device='cdrom'><source file='/srv/iso'/><target dev='sdb'/></disk>
</devices></domain>"""
END = barred_xml.ending("m1")


def test_there_and_back() -> None:
    barred = barred_xml.barred(XML, ("vda", "vdb", "vdc", "vdd", "sda"), END)
    assert barred_xml.targets(barred, END) == ("vda", "vdb", "vdc", "vdd")
    assert barred_xml.targets(barred, barred_xml.ending("m2")) == ()
    [vda, *_rest] = domain_xml.parse(barred).disks
    assert vda.source is not None
    assert vda.source.path == f"/srv/a&b.qcow2{END}"
    assert barred_xml.barred(barred, ("vda",), END) == barred, "a second time changes nothing"
    free = barred_xml.free(barred, END)
    assert barred_xml.targets(free, END) == ()
    assert free == barred_xml.free(XML, END)
