"""What follows a disk to another image, live and in the persistent XML."""

from __future__ import annotations

import pytest
from lxml import etree

from blockferry.hosts.libvirt import disk_xml, domain_xml
from blockferry.hosts.libvirt.disk_xml import DiskBeforeMove

DISK = """\
<disk type='file' device='disk'><driver name='qemu' type='{kind}'{driver}{cache}\
<source {source}>{label}</source>{below}<target dev='vda' bus='virtio'/><iotune><total_iops_sec>{iops}</total_iops_sec>\
</iotune>{more}</disk>"""
CACHE = "><metadata_cache><max_size unit='bytes'>1048576</max_size></metadata_cache></driver>"
LABEL = "<seclabel model='dac' relabel='no'/>"


def disk(
    path: str, kind: str = "qcow2", attributes: str = "", cache: str = CACHE, label: str = LABEL, below: str = "",
    iops: int = 100, more: str = "", driver: str = "",
) -> str:  # fmt: skip
    return DISK.format(
        kind=kind, driver=driver, cache=cache, source=f"file='{path}'{attributes}", label=label, below=below, iops=iops,
        more=more,
    )  # fmt: skip


def domain(xml: str) -> str:
    return f"<domain type='qemu'><name>web01</name><devices>{xml}</devices></domain>"


def same(one: str, other: str) -> None:
    assert etree.tostring(etree.fromstring(one), method="c14n") == etree.tostring(
        etree.fromstring(other), method="c14n"
    )


def chain(*paths: str) -> str:
    found = "<backingStore/>"
    for path in reversed(paths):
        found = f"<backingStore type='file'><format type='qcow2'/><source file='{path}'/>{found}</backingStore>"
    return found


@pytest.mark.parametrize(
    ("old", "by_libvirt", "names", "wanted"),
    [
        # what libvirt drops when it points the disk to another image
        (
            disk("/a/v"),
            disk("/b/v", cache="/>", label="", below="<backingStore/>"),
            None,
            disk("/b/v"),
        ),
        # it has done nothing yet
        (
            disk("/a/v", attributes=" startupPolicy='optional'"),
            disk("/a/v", attributes=" startupPolicy='optional'"),
            None,
            disk("/b/v", attributes=" startupPolicy='optional'"),
        ),
        # what the owner has changed of the device meanwhile stays
        (
            disk("/a/v"),
            disk("/b/v", iops=7, driver=" cache='none'"),
            None,
            disk("/b/v", iops=7, driver=" cache='none'"),
        ),
        # the end of a chain stays one; a chain goes when it was made one image, and is renamed when it was kept
        (disk("/a/v", below="<backingStore/>"), disk("/b/v"), None, disk("/b/v", below="<backingStore/>")),
        (disk("/a/v", below=chain("/a/base")), disk("/b/v", below="<backingStore/>"), None, disk("/b/v")),
        (
            disk("/a/v", below=chain("/a/mid", "/t/base")),
            disk("/b/v"),
            {"/a/v": "/b/v", "/a/mid": "/b/mid"},
            disk("/b/v", below=chain("/b/mid", "/t/base")),
        ),
        # encryption written the old way
        (
            disk("/a/v", more="<encryption format='luks'><secret type='passphrase' usage='x'/></encryption>"),
            disk("/b/v", label="<encryption format='luks'><secret type='passphrase' usage='x'/></encryption>"),
            None,
            disk("/b/v", more="<encryption format='luks'><secret type='passphrase' usage='x'/></encryption>"),
        ),
    ],
    ids=["dropped", "untouched", "owner's", "no chain", "flattened", "chain kept", "encryption"],
)
def test_a_disk_is_as_before_but_for_its_path(
    old: str, by_libvirt: str, names: dict[str, str] | None, wanted: str
) -> None:
    found = domain_xml.repoint(domain(by_libvirt), {"vda": ("/b/v", "qcow2")}, {}, {"vda": DiskBeforeMove(old, names)})
    same(found, domain(wanted))
    again = domain_xml.repoint(found, {"vda": ("/b/v", "qcow2")}, {}, {"vda": DiskBeforeMove(old, names)})
    same(again, domain(wanted))


def test_below_an_overlay_its_own_header_tells() -> None:
    """An end of the chain there would hide the base."""
    old = disk("/a/v", below="<backingStore/>")
    found = domain_xml.repoint(
        domain(old), {"vda": ("/a/o", "qcow2")}, {}, {"vda": DiskBeforeMove(old, {}, overlay=True)}
    )
    same(found, domain(disk("/a/o")))


def test_what_a_copy_is_given() -> None:
    carried = disk_xml.carried(domain(disk("/a/v")), "vda")
    made = domain_xml.copy_destination_xml("/b/o", "qcow2", backing=("/b/v", "raw"), carried=carried)
    root = etree.fromstring(made)
    assert [label.get("relabel") for label in root.iter("seclabel")] == ["no", "no"]
    assert root.find("./driver/metadata_cache/max_size") is not None
    assert root.find("./backingStore/format/metadata_cache") is None, "a raw image has none"
    cached = "<format type='qcow2'><metadata_cache><max_size unit='bytes'>9</max_size></metadata_cache></format>"
    overlay = disk("/a/o", cache="/>", below=chain("/a/v").replace("<format type='qcow2'/>", cached))
    carried = disk_xml.carried(domain(overlay), "vda")
    made = domain_xml.copy_destination_xml("/b/o", "qcow2", backing=("/b/v", "qcow2"), carried=carried)
    assert etree.fromstring(made).find("./driver/metadata_cache") is None
    assert etree.fromstring(made).find("./backingStore/format/metadata_cache") is not None
    raw = etree.fromstring(domain_xml.copy_destination_xml("/b/v", "raw", carried=carried))
    assert raw.find("./driver/metadata_cache") is None
    taken = etree.fromstring(domain_xml.snapshot_xml({"vda": "/a/o"}, ["vdb"], {"vda": carried}))
    assert taken.find("./disks/disk[@name='vda']/source/seclabel") is not None
    assert disk_xml.carried(domain(disk("/a/v")), "vdz") == disk_xml.CarriedElements()
