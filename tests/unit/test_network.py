"""Exports of servers: how they are named, what libvirt is told of them, what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from blockferry.base.errors import ImageUnreadable
from blockferry.base.units import GiB
from blockferry.hosts import exports
from blockferry.hosts.exports import NetworkExport
from blockferry.hosts.images import network_exports
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Vm
from blockferry.hosts.libvirt import domain_xml
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move import decide
from blockferry.storage_move.actions import Fail
from blockferry.storage_move.destination import placement
from blockferry.storage_move.facts import ExportFact, Facts
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.observation import UNKNOWABLE, DiskSide, DiskView, Observation
from blockferry.storage_move.pace.record import MeasuredRecord
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.rules import precheck
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import IfNotConverging, Method, MoveRequest, OnBreak, Preallocation, Provision
from blockferry.storage_move.switch.record import ConfigurationRecord

STORE = Datastore("ssd", "u", "dir", True, "/ssd", 100 * GiB, 100 * GiB)
THERE = "nbd://store1:10809/web01-vda"
names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=30)


@given(names, st.sampled_from(["store1", "10.0.0.7", "fd00::7"]), st.integers(1, 65535))
def test_an_address_comes_back_as_it_was(name: str, host: str, port: int) -> None:
    lun = NetworkExport(f"iqn.2026-11.example:{name.replace('/', '-')}/7", host, port, protocol=exports.ISCSI)
    image = "pool/" + (re.sub("[/@:]", "-", name) or "x")
    by_conf = NetworkExport(image, protocol=exports.RBD, port=exports.PORTS[exports.RBD], conf=f"/etc/ceph/{name}.conf")
    by_monitor = NetworkExport(image, host, port, protocol=exports.RBD)
    for network_export in (
        NetworkExport(name, host, port),
        NetworkExport(name, socket=f"/run/{name}.sock"),
        lun,
        by_conf,
        by_monitor,
    ):
        assert exports.parse(network_export.uri) == network_export
        disk = etree.fromstring(domain_xml.copy_destination_xml(network_export.uri, "raw"))
        source = domain_xml._source(disk)
        assert source is not None
        assert (source.kind, source.path, source.export, source.place) == (
            "network",
            None,
            network_export.uri,
            network_export.uri,
        )
        assert source.storages == (network_export.storage,)


@pytest.mark.parametrize(
    "text",
    [
        "nbd://", "nbd:///x", "nbd://host:99999/x", "nbd://user@host/x", "nbd://host/x?tls=yes", "nbds://host/x",
        "nbd+unix:///x", "nbd+unix:///x?socket=rel", "nbd+unix://host/x?socket=/s",
        "iscsi://host/iqn", "iscsi://u%p@host/iqn/0", "iscsi://host/iqn/one", "rbd://pool/image", "rbd:///image",
        "rbd:///pool/space/image", "rbd:///pool/image@then", "rbd:///pool/image:id=admin", "rbd:///pool/image?conf=rel",
        "rbd:///pool/image?conf=/a&conf=/b", "rbd://:6789/pool/image", "nbd+unix:///x?socket=/a&socket=/b",
        "rbd:///pool/image?id=admin", "rbd://admin@mon1/pool/image", "rbd://mon1,mon2/", "iscsi://host/iqn/1?conf=/c",
        "json:{}", "nbd+unix:///x?socket=/s&tls=1",
    ],
)  # fmt: skip
def test_what_is_no_address_of_an_export_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="write it like nbd://"):
        exports.parse(text)


def test_one_export_has_one_address() -> None:
    assert exports.parse("nbd://store1/x").uri == exports.parse("nbd://store1:10809/x").uri
    assert exports.parse("iscsi://store1/iqn.x/1").uri == "iscsi://store1:3260/iqn.x/1"
    assert exports.parse("rbd://mon1/pool/x").uri == "rbd://mon1:6789/pool/x"
    assert exports.parse("rbd:///pool/x").uri == "rbd:///pool/x"
    assert not exports.is_export("/srv/ssd/web01.raw")
    assert not exports.is_export(None)


FILE = """<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
<source file='/old/vda.qcow2' index='1'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""
NETWORK = """<domain><devices><disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>
<source protocol='nbd' name='web01-vda' index='2'><host name='store1' port='10809'/></source>
<target dev='vda' bus='virtio'/></disk></devices></domain>"""


def test_the_configuration_follows_in_both_directions() -> None:
    there = domain_xml.parse(domain_xml.repoint(FILE, {"vda": (THERE, "raw")}, {}))
    [disk] = there.disks
    assert disk.source is not None
    assert (disk.source.kind, disk.source.export, disk.source.format) == ("network", THERE, "raw")
    back = domain_xml.repoint(NETWORK, {"vda": ("/ssd/vda.qcow2", "qcow2")}, {})
    assert "store1" not in back
    assert "protocol" not in back
    [disk] = domain_xml.parse(back).disks
    assert disk.source == DiskSource("file", "/ssd/vda.qcow2", "qcow2", description="/ssd/vda.qcow2")


@pytest.mark.parametrize(
    "source",
    [
        "<source protocol='nbd' name='x' tls='yes'><host name='h'/></source>",
        "<source protocol='nbd' name='x'><host name='h'/><host name='i'/></source>",
        "<source protocol='rbd' name='pool/x'><host name='h'/><host name='i'/></source>",
        "<source protocol='rbd' name='pool/space/x'><host name='h'/></source>",
        "<source protocol='rbd' name='pool/x'><snapshot name='then'/></source>",
        "<source protocol='rbd' name='pool/x'/><auth username='u'><secret type='ceph' usage='s'/></auth>",
        "<source protocol='iscsi' name='iqn.2026-11.example:x'><host name='h'/></source>",
        "<source protocol='nbd' name='x'/>",
        "<source protocol='nbd' name='x'><host name='h'/><encryption format='luks'/></source>",
        "<source protocol='nbd' name='x'><host name='h'/><slices><slice type='storage' size='2'/></slices></source>",
    ],
)
def test_what_is_more_than_a_plain_export_is_not_taken_for_one(source: str) -> None:
    found = domain_xml._source(etree.fromstring(f"<disk type='network'>{source}</disk>"))
    assert found is not None
    assert found.place is None
    assert found.description


def test_a_host_is_the_same_in_capitals() -> None:
    disk = etree.fromstring(
        "<disk type='network'><source protocol='nbd' name='x'><host name='Store1'/></source></disk>"
    )
    source = domain_xml._source(disk)
    assert source is not None
    assert source.export == exports.parse("nbd://STORE1/x").uri == "nbd://store1:10809/x"
    assert source.storages == (exports.parse("nbd://Store1/x").storage,)


def test_what_qemu_img_is_told() -> None:
    assert network_exports.filename(THERE) == THERE
    told = network_exports.filename("rbd://mon1/pool/a%2C%5Cb?conf=/etc/ceph/x.conf")
    assert told.startswith("json:")
    assert json.loads(told.removeprefix("json:")) == {
        "driver": "raw",
        "file": {
            "driver": "rbd", "pool": "pool", "image": "a,\\b", "conf": "/etc/ceph/x.conf",
            "server": [{"host": "mon1", "port": "6789"}],
        },
    }  # fmt: skip
    bare = json.loads(network_exports.filename("rbd:///pool/x").removeprefix("json:"))
    assert bare["file"] == {"driver": "rbd", "pool": "pool", "image": "x"}
    with pytest.raises(ValueError, match="write it like"):
        network_exports.filename("json:{}")


AUTH = "<auth username='u'><secret type='iscsi' usage='s'/></auth>"


@pytest.mark.parametrize(
    ("xml", "place"),
    [
        ("<source protocol='iscsi' name='iqn.x/1'><host name='other' port='3261'/></source>", "iscsi://portal/iqn.x/1"),
        (AUTH + "<source protocol='iscsi' name='iqn.x/1'><host name='portal'/></source>", "iscsi://portal/iqn.x/1"),
        ("<source protocol='iscsi' name='iqn.x'><host name='portal'/></source>", "iscsi://portal/iqn.x/0"),
        ("<source protocol='rbd' name='p/x'><host name='a'/><host name='b'/></source>", "rbd:///p/x"),
        (AUTH + "<source protocol='rbd' name='p/x'/>", "rbd://mon1/p/x?conf=/c"),
        ("<source protocol='nbd' name='x' tls='yes'><host name='h'/></source>", "nbd://h/x"),
        ("<source protocol='nbd' name='x'><host name='g'/><host name='h'/></source>", "nbd://h:10809/x"),
    ],
)
def test_one_storage_is_known_by_every_address(xml: str, place: str) -> None:
    """A VM uses it in a way that is not moved, or by another way: still it is not overwritten."""
    source = domain_xml._source(etree.fromstring(f"<disk type='network'>{xml}</disk>"))
    assert source is not None
    assert exports.parse(place).storage in source.storages
    assert source.export != exports.parse(place).uri


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("nbd://h/x", "nbd://i/x"), ("nbd://h:1/x", "nbd://h:2/x"), ("iscsi://h/iqn.x/1", "iscsi://h/iqn.x/2"),
        ("rbd:///p/x", "rbd:///q/x"), ("rbd:///p/x", "iscsi://p/p/1"), ("nbd://h/x", "nbd+unix:///x?socket=/s"),
    ],
)  # fmt: skip
def test_two_storages_are_not_taken_for_one(one: str, other: str) -> None:
    assert exports.parse(one).storage != exports.parse(other).storage


def test_two_disks_do_not_go_to_one_storage_by_two_addresses() -> None:
    first, second = "iscsi://portal1:3260/iqn.x/1", "iscsi://portal2:3260/iqn.x/1"
    sources = {name: replace(RAW, path=f"/old/web01/{name}.raw") for name in ("vda", "vdb")}
    disks = tuple(Disk(name, "disk", "virtio", source, source) for name, source in sources.items())
    known = facts(RAW)
    chains = {name: (Image(str(source.path), "raw", GiB, GiB),) for name, source in sources.items()}
    known = replace(
        known, vm=replace(known.vm, disks=disks), chains=chains,
        exports={place: ExportFact(GiB) for place in (first, second)},
    )  # fmt: skip
    found, plan = codes(MoveRequest("web01", None, {"vda": first, "vdb": second}), known)
    assert "EXPORT_IN_USE" in found
    assert plan is None


def facts(source: DiskSource, size: int = GiB, state: PowerState = PowerState.RUNNING, **export: object) -> Facts:
    disk = Disk("vda", "disk", "virtio", source if state.active else None, source)
    image = Image(source.place or "", source.format, GiB, GiB)
    return Facts(
        "qemu:///system", Vm("web01", "u", state, True, (disk,)), (STORE,), (9, 0, 0), (7, 2, 0), {"vda": (image,)},
        available={"ssd": 100 * GiB}, exports={THERE: ExportFact(size, **export)},  # type: ignore[arg-type]
    )  # fmt: skip


def elsewhere(known: Facts) -> Facts:
    return replace(known, exports={"nbd://alias/web01-vda": ExportFact(GiB)})


RAW = DiskSource("file", "/old/web01/vda.raw", "raw")
EXPORT = DiskSource("network", None, "raw", export=THERE, description=THERE)
IN, OUT = MoveRequest("web01", None, {"vda": THERE}), MoveRequest("web01", "ssd")


def codes(request: MoveRequest, known: Facts) -> tuple[set[str], Plan | None]:
    found, plan = precheck(request, known, "abcd")
    return {finding.code for finding in found}, plan


def test_in_and_out() -> None:
    found, plan = codes(IN, facts(RAW))
    assert plan is not None, found
    [disk] = plan.disks
    assert (disk.source.path, disk.dest.path, disk.dest.format, disk.release.files) == (
        RAW.path,
        THERE,
        "raw",
        (RAW.path,),
    )
    assert (plan.method, plan.pace.if_not_converging, plan.home) == (Method.CHANGED_BLOCKS, IfNotConverging.WAIT, None)
    assert not disk.copy.resumable
    assert "EXPORT_OVERWRITTEN" in found
    found, plan = codes(OUT, facts(EXPORT))
    assert plan is not None, found
    [disk] = plan.disks
    assert (disk.source.path, disk.dest.path, disk.release.files) == (THERE, "/ssd/web01-vda.raw", ())
    assert "EXPORT_STAYS" in found
    _, plan = codes(IN, facts(RAW, state=PowerState.OFF))
    assert plan is not None
    assert plan.method is Method.COLD


@pytest.mark.parametrize(
    ("request_", "known", "code"),
    [
        (IN, facts(RAW, size=GiB + 512), "EXPORT_SIZE"),
        (IN, facts(RAW, size=GiB - 512), "EXPORT_SIZE"),
        (IN, facts(RAW, problem="Connection refused"), "EXPORT_UNUSABLE"),
        (IN, facts(RAW, users=("vdb of db01",)), "EXPORT_IN_USE"),
        (IN, facts(EXPORT), "EXPORT_LIMITS"),
        (replace(IN, disks={"vda": "nbd://alias/web01-vda"}), elsewhere(facts(EXPORT)), "EXPORT_LIMITS"),
        (IN, facts(DiskSource("file", "/old/vda.qcow2", "qcow2")), "EXPORT_FORMAT"),
        (replace(IN, format="qcow2"), facts(RAW), "EXPORT_FORMAT"),
        (replace(IN, verify=True), facts(RAW), "EXPORT_LIMITS"),
        (replace(IN, method=Method.SNAPSHOT), facts(RAW), "EXPORT_LIMITS"),
        (replace(IN, on_break=OnBreak.KEEP), facts(RAW), "EXPORT_LIMITS"),
        (replace(IN, provision=Provision.THICK), facts(RAW), "EXPORT_LIMITS"),
        (replace(IN, preallocation=Preallocation.FALLOC), facts(RAW), "EXPORT_LIMITS"),
        (replace(IN, cluster_size=65536), facts(RAW), "EXPORT_LIMITS"),
        (replace(OUT, method=Method.CLONE), facts(EXPORT), "EXPORT_LIMITS"),
        (replace(OUT, verify=True), facts(EXPORT), "EXPORT_LIMITS"),
        (OUT, facts(EXPORT, state=PowerState.OFF), "EXPORT_OFF"),
        (OUT, facts(replace(EXPORT, format="qcow2")), "EXPORT_FORMAT"),
        (OUT, facts(replace(EXPORT, export="")), "UNSUPPORTED_SOURCE"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(request_: MoveRequest, known: Facts, code: str) -> None:
    found, plan = codes(request_, known)
    assert code in found
    assert plan is None


def test_a_mirror_to_an_export_has_no_bound_and_that_is_said() -> None:
    found, plan = codes(replace(IN, method=Method.MIRROR), facts(RAW))
    assert plan is not None
    assert "HANG_UNBOUNDED" in found


def test_a_vm_that_goes_off_on_its_way_out_is_not_copied_cold() -> None:
    """Nothing would tell that it was started and written to meanwhile."""
    _, plan = codes(OUT, facts(EXPORT))
    assert plan is not None
    view = DiskView("vda", None, DiskSide.SOURCE, fingerprint=UNKNOWABLE)
    seen = Observation(
        PowerState.OFF,
        True,
        (view,),
        Record(
            configuration=ConfigurationRecord(marked=True),
            home=HomeRecord(copied=True),
            measured=MeasuredRecord(done=True),
        ),
        mark="abcd",
    )
    action = decide.decide(plan, seen)
    assert isinstance(action, Fail), action
    assert "network block device" in action.problem


def test_an_export_gives_no_file_its_name() -> None:
    path = placement.image_path(STORE, "web01", "vda", THERE, "raw", in_home=False, taken=frozenset())
    assert path == "/ssd/web01-vda.raw"


def test_a_server_that_is_not_there_is_quoted() -> None:
    with pytest.raises(ImageUnreadable, match=r"refused|Failed to connect"):
        network_exports.size(LocalRunner("qemu:///system"), "nbd://127.0.0.1:1/x")
