"""Which files of a VM's home go along, and which stay: a table over entries, and properties of the rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockferry.hosts.file_use import FileUse
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, PowerState, Vm
from blockferry.hosts.libvirt import domain_xml
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.home import rules as home_rules
from blockferry.storage_move.home.rules import HomeEntry

SAN = Datastore("san", "u1", "dir", True, "/san")
NESTED = Datastore("nested", "u2", "dir", False, "/san/prod")
HOME = "/san/web01"


def a_vm(*paths: str, name: str = "web01", nvram: str | None = None) -> Vm:
    sources = [DiskSource("file", path, "qcow2") for path in paths]
    disks = tuple(Disk(f"vd{number}", "disk", "virtio", None, one) for number, one in enumerate(sources))
    return Vm(name, "uuid", PowerState.OFF, True, disks, nvram=nvram, config_nvram=nvram)


@pytest.mark.parametrize(
    ("vm", "stores", "named", "found"),
    [
        (a_vm("/san/web01/vda.qcow2"), (SAN,), (), ["/san/web01"]),
        (a_vm("/san/x.qcow2", "/san/deep/web01/vda.qcow2"), (SAN,), (), ["/san/deep/web01", "/san/web01"]),
        (a_vm("/san/vda.qcow2"), (SAN,), (), ["/san/web01"]),
        (a_vm("/san/vda.qcow2"), (SAN,), ("/san/b/web01/vmlinuz",), ["/san/b/web01", "/san/web01"]),
        (a_vm("/elsewhere/web01/vda.qcow2"), (SAN,), (), []),
        (a_vm("/san/prod/vda.qcow2", name="prod"), (SAN, NESTED), (), []),
        (a_vm("/san/prod/vda.qcow2", name="prod"), (SAN, replace(NESTED, active=True)), (), ["/san/prod/prod"]),
        (a_vm("/san/a_b/vda.qcow2", name="a/b"), (SAN,), (), ["/san/a_b"]),
        (a_vm("/san/vda.qcow2", name="a/b"), (SAN,), (), ["/san/a_b"]),
    ],
)
def test_where_a_home_may_be(vm: Vm, stores: tuple[Datastore, ...], named: tuple[str, ...], found: list[str]) -> None:
    assert home_rules.candidates(vm, stores, named) == found


FREE, HELD = FileUse("the kernel"), FileUse("the kernel", True, "its path cannot be changed while the VM runs")


@pytest.mark.parametrize(
    ("entry", "uses", "others", "why"),
    [
        (HomeEntry(f"{HOME}/notes.txt", "file"), (), {}, home_rules.UNNAMED),
        (HomeEntry(f"{HOME}/detached.qcow2", "file"), (), {}, home_rules.UNNAMED),
        (HomeEntry(f"{HOME}/vmlinuz", "file"), (FREE,), {}, ""),
        (HomeEntry(f"{HOME}/boot/vmlinuz", "file"), (FREE,), {}, ""),
        (HomeEntry(f"{HOME}/vmlinuz", "file"), (FREE, HELD), {}, "cannot be changed while"),
        (HomeEntry(f"{HOME}/vmlinuz", "file", written_by="cat (7)"), (FREE,), {}, "cat (7) has it open"),
        (HomeEntry(f"{HOME}/vmlinuz", "file"), (FREE,), {f"{HOME}/vmlinuz": "VM b refers to it"}, "VM b refers"),
        (HomeEntry(f"{HOME}/vmlinuz", "link"), (FREE,), {}, "a symbolic link, the kernel"),
        (HomeEntry(f"{HOME}/com1", "other"), (FREE,), {}, "no plain file"),
        (HomeEntry(f"{HOME}/web01_VARS.fd", "file"), (), {}, ""),
        (HomeEntry(f"{HOME}/web010_VARS.fd", "file"), (), {}, home_rules.UNNAMED),
        (HomeEntry(f"{HOME}/web01_VARS.fd", "file"), (), {f"{HOME}/b": "VM b"}, "another VM names a file"),
        (HomeEntry(f"{HOME}/web01-cidata.iso", "file"), (), {}, ""),
        (HomeEntry(f"{HOME}/web01-data.iso", "file"), (), {}, home_rules.UNNAMED),
        (HomeEntry(f"{HOME}/x.iso", "file", label="CIDATA"), (), {}, ""),
        (HomeEntry("/san/debian-12.iso", "file"), (FREE,), {}, home_rules.UNNAMED),
        (HomeEntry("/san/web01-seed.iso", "file"), (FREE,), {}, ""),
        (HomeEntry("/san/web01-12.iso", "file"), (FREE,), {}, home_rules.UNNAMED),
        (HomeEntry("/var/nvram/web01.fd", "file"), (), {}, ""),
    ],
)
def test_what_goes_along(entry: HomeEntry, uses: tuple[FileUse, ...], others: dict[str, str], why: str) -> None:
    vm = a_vm(f"{HOME}/vda.qcow2", nvram="/var/nvram/web01.fd")
    named = {entry.path: uses} if uses else {}
    going, staying = home_rules.sort_out(vm, HOME, [entry], named, others, {f"{HOME}/vda.qcow2"})
    assert [small_file.path for small_file in going] == ([] if why else [entry.path])
    assert [staying_file.path for staying_file in staying] == ([entry.path] if why else [])
    assert why in "".join(staying_file.why for staying_file in staying)


def test_what_is_not_looked_into() -> None:
    entries = [
        HomeEntry(f"{HOME}/isos", "directory"),
        HomeEntry(f"{HOME}/isos/a.iso", "file"),
        HomeEntry(f"{HOME}/share", "directory"),
        HomeEntry(f"{HOME}/share/vmlinuz", "file"),
        HomeEntry(f"{HOME}/plain", "directory"),
        HomeEntry(f"{HOME}/plain/vmlinuz", "file"),
        HomeEntry(f"{HOME}/web01.xml", "file", ours=True),
        HomeEntry(f"{HOME}/vda.qcow2", "file"),
    ]
    uses = {
        f"{HOME}/isos/a.iso": (FREE,),
        f"{HOME}/share": (FileUse("the directory"),),
        f"{HOME}/share/vmlinuz": (FREE,),
        f"{HOME}/plain/vmlinuz": (FREE,),
    }
    vm, images = a_vm(f"{HOME}/vda.qcow2"), {f"{HOME}/vda.qcow2"}
    going, staying = home_rules.sort_out(vm, HOME, entries, uses, {}, images, apart=(f"{HOME}/isos",))
    assert [small_file.path for small_file in going] == [f"{HOME}/plain/vmlinuz"]
    assert [staying_file.path for staying_file in staying] == [f"{HOME}/isos", f"{HOME}/share"]
    going, staying = home_rules.sort_out(vm, HOME, entries, {**uses, HOME: (FileUse("the directory"),)}, {}, images)
    assert (going, [staying_file.path for staying_file in staying]) == ((), [HOME])


def test_a_place_whose_file_is_not_known_keeps_what_is_only_recognised() -> None:
    entries = [HomeEntry(f"{HOME}/web01_VARS.fd", "file"), HomeEntry(f"{HOME}/vmlinuz", "file")]
    vm = a_vm(f"{HOME}/vda.qcow2")
    uses = {f"{HOME}/vmlinuz": (FREE,)}
    going, staying = home_rules.sort_out(vm, HOME, entries, uses, {}, set(), unknown="a volume cannot be looked up")
    assert [small_file.path for small_file in going] == [f"{HOME}/vmlinuz"]
    assert [staying_file.path for staying_file in staying] == [f"{HOME}/web01_VARS.fd"]


NAMES = st.sampled_from(["vmlinuz", "web01_VARS.fd", "notes", "a/web01-cidata.iso", "a/b/x.iso", "vda.qcow2"])
ENTRIES = st.builds(
    HomeEntry,
    NAMES.map(lambda name: f"{HOME}/{name}"),
    st.sampled_from(["file", "link", "other"]),
    label=st.sampled_from(["", "cidata"]),
    written_by=st.sampled_from(["", "cat (7)"]),
)


@given(
    st.lists(ENTRIES, unique_by=lambda one: one.path),
    st.dictionaries(NAMES.map(lambda name: f"{HOME}/{name}"), st.lists(st.sampled_from([FREE, HELD])).map(tuple)),
    st.dictionaries(NAMES.map(lambda name: f"{HOME}/{name}"), st.just("VM b refers to it")),
)
def test_what_somebody_else_names_or_cannot_be_renamed_never_goes(
    entries: list[HomeEntry], uses: dict[str, tuple[FileUse, ...]], others: dict[str, str]
) -> None:
    vm, images = a_vm(f"{HOME}/vda.qcow2"), {f"{HOME}/vda.qcow2"}
    going, staying = home_rules.sort_out(vm, HOME, entries, uses, others, images)
    paths = {small_file.path for small_file in going}
    known = {entry.path: entry for entry in entries}
    assert not paths & {staying_file.path for staying_file in staying}
    assert not paths & set(others)
    assert not paths & images
    for path in paths:
        assert known[path].kind == "file"
        assert not known[path].written_by
        assert not any(use.fixed for use in uses.get(path, ()))
        assert uses.get(path) or home_rules.is_recognised(vm.name, known[path])


@pytest.mark.parametrize(
    ("path", "dest"),
    [
        (f"{HOME}/a.iso", "/ssd/web01/a.iso"),
        (f"{HOME}/b/a.iso", "/ssd/web01/b/a.iso"),
        ("/x/a.iso", "/ssd/web01/a.iso"),
    ],
)
def test_where_a_file_goes(path: str, dest: str) -> None:
    assert home_rules.destination("/ssd/web01", HOME, path) == dest


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ("1:5:10:10:abc", "1:5:10:10:abc", True),
        ("1:5:10:10:abc", "2:5:11:12:abc", True),
        ("1:5:10:10:abc", "1:5:10:10:abd", False),
        ("1:5:10:10:", "1:5:10:10:", True),
        ("1:5:10:10:", "1:5:10:11:", False),
        ("1:5:10:10:", "1:5:10:10:abc", False),
        ("1:5:10:10:abc", "", False),
    ],
)
def test_fingerprints(then: str, now: str, same: bool) -> None:
    assert home_effects.same(then, now) is same


def test_a_mark_leaves_no_trace_in_the_xml() -> None:
    bare = "<domain><name>a</name><os/></domain>"
    other = "<domain><name>a</name><metadata><x:y xmlns:x='urn:other'/></metadata></domain>"
    mark = "<b:move xmlns:b='urn:blockferry:move:1' id='1'/>"
    assert domain_xml.unmarked(bare) == bare
    assert domain_xml.unmarked(other) == other
    assert "metadata" not in domain_xml.unmarked(bare.replace("<os/>", f"<metadata>{mark}</metadata><os/>"))
    cleared = domain_xml.unmarked(other.replace("</metadata>", f"{mark}</metadata>"))
    assert "blockferry" not in cleared
    assert "urn:other" in cleared


def test_metadata_is_known_by_its_first_line() -> None:
    text = domain_xml.signed("<domain/>", "1234")
    assert domain_xml.is_signed(text, "1234")
    assert not domain_xml.is_signed(text, "5678")
    assert not domain_xml.is_signed("<domain/>", "1234")


def test_a_file_is_renamed_wherever_the_configuration_names_it() -> None:
    xml = (
        "<domain><os><kernel>/o/k</kernel></os><devices><disk type='file' device='cdrom'><source file='/o/a.iso'/>"
        "<backingStore/><target dev='sda'/></disk><serial type='file'><source path='/o/log'/></serial></devices>"
        "</domain>"
    )
    found = domain_xml.repoint(xml, {}, {"/o/k": "/n/k", "/o/a.iso": "/n/a.iso", "/o/log": "/n/log"})
    assert "/o/" not in found
    assert found.count("/n/") == 3
