"""Formats: what is asked of a new image, images in several files, encrypted disks; with real images throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import tenacity
from lxml import etree
from paper_host import PaperSite

from blockferry.base.errors import HostCommandFailed, UsageError
from blockferry.base.units import GiB, KiB, MiB
from blockferry.cli.types import ClusterSize
from blockferry.hosts.helper import files
from blockferry.hosts.images import conversion, qemu_img
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Secret, Vm
from blockferry.hosts.libvirt import domain_xml
from blockferry.hosts.runner import LocalRunner
from blockferry.safety import proof
from blockferry.storage_move.destination import placement
from blockferry.storage_move.destination.effects import _cold_options, _preallocation
from blockferry.storage_move.disk_plan import DiskPlan, LuksPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.home.home_survey import Home
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.rules import precheck
from blockferry.storage_move.precheck.space import needed
from blockferry.storage_move.request import ChainPolicy, Method, MoveRequest, Preallocation, Provision
from blockferry.storage_move.survey import _candidates, survey

pytestmark = pytest.mark.slow

RUNNER = LocalRunner("qemu:///system")
STORE = Datastore("ssd", "u", "dir", True, "/ssd", 100 * GiB, 100 * GiB)


def asked(
    request: MoveRequest,
    image: Image,
    state: PowerState = PowerState.RUNNING,
    users: Mapping[str, tuple[str, ...]] | None = None,
    headers: Mapping[str, int] | None = None,
    **disk: object,
) -> tuple[set[str], Plan | None]:
    """The codes of what the pre-check finds, and the plan."""
    source = DiskSource("file", image.path, image.format)
    one = Disk("vda", "disk", "virtio", source if state.active else None, source, **disk)  # type: ignore[arg-type]
    facts = Facts(
        "qemu:///system", Vm("web01", "u", state, True, (one,)), (STORE,), (9, 0, 0), (7, 2, 0), {"vda": (image,)},
        available={"ssd": 100 * GiB}, users=users or {}, luks_headers=headers or {},
    )  # fmt: skip
    findings, plan = precheck(request, facts, "abcd")
    return {found.code for found in findings}, plan


def the_disk(request: MoveRequest, image: Image, **more: object) -> DiskPlan:
    _, plan = asked(request, image, **more)  # type: ignore[arg-type]
    assert plan is not None
    return plan.disks[0]


RAW = Image("/san/vda.raw", "raw", 8 * MiB, 4 * MiB)
QCOW2 = Image("/san/vda.qcow2", "qcow2", 8 * MiB, 4 * MiB, cluster_size=2 * MiB, compat="1.1")
EXTENDED = replace(QCOW2, cluster_size=128 * KiB, extended_l2=True)
TO = MoveRequest("web01", "ssd")


def test_clusters_are_as_they_were_or_as_asked() -> None:
    assert the_disk(TO, QCOW2).dest.cluster_size == 2 * MiB
    assert the_disk(replace(TO, cluster_size=4 * KiB), QCOW2).dest.cluster_size == 4 * KiB
    assert the_disk(replace(TO, format="qcow2"), RAW).dest.cluster_size is None
    assert the_disk(replace(TO, format="raw"), QCOW2).dest.cluster_size is None
    assert the_disk(TO, EXTENDED).dest.extended_l2
    assert not the_disk(replace(TO, cluster_size=4 * KiB), EXTENDED).dest.extended_l2
    assert not the_disk(replace(TO, format="raw"), EXTENDED).dest.extended_l2


@pytest.mark.parametrize(
    ("more", "image"),
    [
        ({"cluster_size": 4 * KiB}, RAW),
        ({"preallocation": Preallocation.METADATA}, RAW),
        ({"preallocation": Preallocation.FULL, "format": "vmdk"}, RAW),
        ({"cluster_size": 4 * KiB, "format": "raw"}, QCOW2),
    ],
)
def test_what_a_format_cannot_be_made_with_is_said(more: dict[str, object], image: Image) -> None:
    with pytest.raises(UsageError, match="does not go with disk vda"):
        asked(replace(TO, **more), image)  # type: ignore[arg-type]


def test_what_is_reserved() -> None:
    assert the_disk(replace(TO, preallocation=Preallocation.FALLOC), QCOW2).dest.thick
    assert not the_disk(replace(TO, preallocation=Preallocation.METADATA), QCOW2).dest.thick
    full = replace(RAW, allocation=RAW.virtual_size)
    assert the_disk(TO, full).dest.thick
    assert not the_disk(replace(TO, preallocation=Preallocation.OFF), full).dest.thick
    for image, discard, expected in ((RAW, None, True), (QCOW2, None, False), (QCOW2, "unmap", True)):
        codes, _ = asked(replace(TO, preallocation=Preallocation.FULL), image, discard=discard)
        assert ("FULL_RESERVED" in codes) is expected
    made = the_disk(replace(TO, provision=Provision.THICK), QCOW2)
    assert _preallocation(made) == "falloc"
    assert (
        _preallocation(replace(made, chain=replace(made.chain, backing=("/b", "raw")))) == "off"
    )  # QEMU refuses both together


def test_small_clusters_take_space_and_limit_the_size() -> None:
    small = the_disk(replace(TO, cluster_size=512), replace(QCOW2, virtual_size=GiB))
    assert needed(small) >= small.sizes.allocation + GiB // 512 * 10
    assert placement.holds_size("qcow2", 128 * GiB, 512)
    assert not placement.holds_size("qcow2", 128 * GiB + 512, 512)
    codes, plan = asked(replace(TO, cluster_size=512), replace(QCOW2, virtual_size=129 * GiB))
    assert "FORMAT_CANNOT_HOLD" in codes
    assert plan is None


def test_what_qcow2_of_that_cluster_size_holds_is_what_qemu_says(tmp_path: Path) -> None:
    for size, works in ((128 * GiB, True), (128 * GiB + 512, False)):
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", str(tmp_path / "a"), str(size)]
        assert placement.holds_size("qcow2", size, 512) is works
        assert (RUNNER.run(words, check=False).status == 0) is works


@pytest.mark.parametrize("text", ["3KiB", "256", "4MiB", "many"])
def test_a_cluster_size_that_qemu_does_not_take(text: str) -> None:
    with pytest.raises(Exception, match=r"power of two|size"):
        ClusterSize().convert(text, None, None)


@pytest.mark.parametrize(
    ("state", "more", "refused"),
    [
        (PowerState.RUNNING, {}, True),
        (PowerState.PAUSED, {}, True),
        (PowerState.OFF, {}, False),
        (PowerState.OFF, {"format": "qcow2"}, True),
        (PowerState.OFF, {"verify": True}, True),
        (PowerState.OFF, {"provision": Provision.THICK}, True),
    ],
)
def test_an_encrypted_disk_is_never_decrypted(state: PowerState, more: dict[str, object], refused: bool) -> None:
    """A LUKS disk that libvirt opens is raw to qemu-img; only the XML tells."""
    codes, plan = asked(replace(TO, **more), RAW, state, encrypted=True)  # type: ignore[arg-type]
    assert ("ENCRYPTED_IMAGE" in codes) is refused
    assert (plan is None) is refused
    if plan is not None:
        assert plan.disks[0].encryption.sealed
        assert plan.disks[0].dest.format == "raw"


SECRET = Secret("uuid", "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f")


@pytest.mark.parametrize(
    ("more", "headers", "refused"),
    [
        ({}, {"vda": 2 * MiB}, False),
        ({"method": Method.CHANGED_BLOCKS}, {"vda": 2 * MiB}, False),
        ({}, {}, True),
        ({"format": "qcow2"}, {"vda": 2 * MiB}, True),
        ({"verify": True}, {"vda": 2 * MiB}, True),
        ({"provision": Provision.THICK}, {"vda": 2 * MiB}, True),
        ({"method": Method.SNAPSHOT}, {"vda": 2 * MiB}, True),
    ],
)
def test_luks_in_a_raw_file_moves_while_the_vm_runs(
    more: dict[str, object], headers: dict[str, int], refused: bool
) -> None:
    codes, plan = asked(replace(TO, **more), RAW, headers=headers, encrypted=True, secret=SECRET)  # type: ignore[arg-type]
    assert (plan is None) is refused
    if plan is not None:
        disk = plan.disks[0]
        assert disk.encryption.sealed, "while the VM is off it is copied as it is"
        assert disk.encryption.luks == LuksPlan(2 * MiB, SECRET)
        assert not disk.overlays.source, "an overlay would hold the guest's writes unencrypted"
        assert disk.sizes.allocation == disk.sizes.virtual
        assert "LUKS_FULL" in codes
        assert not plan.stays_shut
        assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_what_a_secret_is_read_from() -> None:
    uuid = f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET.value}'/></encryption>"
    usage = "<encryption format='luks' engine='qemu'><secret type='passphrase' usage='of-web01'/></encryption>"
    other = "<encryption format='luks' engine='librbd'><secret type='passphrase' usage='of-web01'/></encryption>"
    qcow = uuid.replace("luks", "qcow")
    below = f"<backingStore type='file'><format type='raw'/><source file='/b'>{uuid}</source></backingStore>"
    for words, expected in (
        ("<source file='/a'/>", None),
        (f"<source file='/a'>{uuid}</source>", SECRET),
        (f"<source file='/a'/>{uuid}", SECRET),
        (f"<source file='/a'>{usage}</source>", Secret("usage", "of-web01")),
        (f"<source file='/a'>{other}</source>", None),
        (f"<source file='/a'>{qcow}</source>", None),
        (f"<source file='/a'/>{below}", None),
        (f"<source file='/a'>{uuid}</source>{below}", None),
    ):
        disk = f"<disk type='file' device='disk'><driver type='raw'/>{words}<target dev='vda' bus='virtio'/></disk>"
        live = domain_xml.parse(f"<domain><name>a</name><devices>{disk}</devices></domain>")
        assert domain_xml.merge(live, live)[0].secret == expected
        if expected is not None:
            changed = disk.replace(expected.value, "another")
            config = domain_xml.parse(f"<domain><name>a</name><devices>{changed}</devices></domain>")
            assert domain_xml.merge(live, config)[0].secret is None, "the next start would use another secret"


def test_a_destination_with_a_secret() -> None:
    xml = domain_xml.copy_destination_xml("/b/a.raw", "raw", secret=SECRET)
    [encryption] = etree.fromstring(xml).findall("./source/encryption")
    assert encryption.get("format") == "luks"
    assert encryption.find("secret").attrib == {"type": "passphrase", "uuid": SECRET.value}  # type: ignore[union-attr]
    assert "encryption" not in domain_xml.copy_destination_xml("/b/a.raw", "raw")


def test_the_header_of_a_luks_image_is_found_and_copied(tmp_path: Path) -> None:
    old, new = tmp_path / "old.luks", tmp_path / "new.luks"
    words = ["--object", "secret,id=s,data=geheim", "-o", "key-secret=s,iter-time=10", str(old), "1M"]
    create = ["qemu-img", "create", "-q", "-f", "luks", *words]
    tenacity.retry(stop=tenacity.stop_after_attempt(10), reraise=True)(RUNNER.run)(create)
    header = qemu_img.luks_header(RUNNER, str(old))
    assert header is not None
    assert old.stat().st_size == header + MiB
    qemu_img.create(RUNNER, str(new), "raw", old.stat().st_size)
    files.copy_head(RUNNER, str(old), str(new), header)
    assert new.stat().st_size == old.stat().st_size
    assert new.read_bytes()[:header] == old.read_bytes()[:header]
    secret = ["--object", "secret,id=s,data=geheim"]
    image = f"driver=luks,key-secret=s,file.driver=file,file.filename={new}"
    assert RUNNER.run(["qemu-io", *secret, "--image-opts", "-c", "read 0 64k", image]).status == 0
    plain = tmp_path / "plain.raw"
    plain.write_bytes(bytes(MiB))
    assert qemu_img.luks_header(RUNNER, str(plain)) is None
    with pytest.raises(HostCommandFailed):
        files.copy_head(RUNNER, str(old), str(tmp_path / "absent"), header)


def test_encryption_is_read_from_all_places_of_the_xml() -> None:
    luks = (
        "<encryption format='luks'><secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/></encryption>"
    )
    plain = "<source file='/a'/>"
    for words, expected in (
        (plain, False),
        (f"<source file='/a'>{luks}</source>", True),
        (plain + luks, True),
        (
            f"{plain}<backingStore type='file'><format type='raw'/><source file='/b'>{luks}</source></backingStore>",
            True,
        ),
    ):
        disk = f"<disk type='file' device='disk'><driver type='raw'/>{words}<target dev='vda' bus='virtio'/></disk>"
        xml = f"<domain><name>a</name><devices>{disk}</devices></domain>"
        assert domain_xml.parse(xml).disks[0].encrypted is expected
        assert domain_xml.merge(None, domain_xml.parse(xml))[0].encrypted is expected


def test_an_encrypted_image_is_copied_as_it_is(tmp_path: Path) -> None:
    """Byte for byte, so that the same secret opens it; no secret is given."""
    old, new = tmp_path / "old.qcow2", tmp_path / "new.qcow2"
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    secret = ["--object", "secret,id=s,data=geheim"]
    create = ["qemu-img", "create", "-q", "-f", "qcow2", *secret, "-o", options, str(old), "1M"]
    # On a busy machine QEMU now and then says that it is "Unable to get accurate CPU usage", and makes none.
    tenacity.retry(stop=tenacity.stop_after_attempt(10), reraise=True)(RUNNER.run)(create)
    conversion.convert(RUNNER, str(old), "raw", str(new), "raw")
    assert new.read_bytes() == old.read_bytes()


def extents(path: Path) -> Path:
    """A VMDK of a descriptor and a file of extents, as VMware leaves them."""
    RUNNER.run(["qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", str(path), "8M"])
    return path.with_name(f"{path.stem}-flat.vmdk")


def test_the_files_of_an_image(tmp_path: Path) -> None:
    flat = extents(tmp_path / "a.vmdk")
    assert qemu_img.chain(RUNNER, str(tmp_path / "a.vmdk"), "vmdk")[0].parts == (str(flat),)
    for subformat in ("monolithicSparse", "streamOptimized"):
        path = tmp_path / f"{subformat}.vmdk"
        RUNNER.run(["qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", str(path), "8M"])
        assert qemu_img.chain(RUNNER, str(path), "vmdk")[0].parts == ()
    data, image = tmp_path / "d.raw", tmp_path / "q.qcow2"
    options = f"extended_l2=on,data_file={data}"
    RUNNER.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(image), "8M"])
    layer = qemu_img.chain(RUNNER, str(image), "qcow2")[0]
    assert (layer.parts, layer.extended_l2) == ((str(data),), True)


def test_parts_of_a_vmdk_are_released_last_and_seen_to_change() -> None:
    image = Image("/san/vda.vmdk", "vmdk", 8 * MiB, 4 * MiB, parts=("/san/vda-flat.vmdk",))
    disk = the_disk(replace(TO, format="qcow2"), image)
    assert disk.release.files == ("/san/vda.vmdk", "/san/vda-flat.vmdk")
    assert disk.source.parts == disk.release.parts == ("/san/vda-flat.vmdk",)


DATA_FILE = replace(QCOW2, data_file="/san/d.raw", parts=("/san/d.raw",))


def test_an_image_with_a_data_file_becomes_one_image() -> None:
    for state in (PowerState.RUNNING, PowerState.OFF):
        codes, plan = asked(TO, DATA_FILE, state)
        assert "DATA_FILE" in codes
        assert plan is not None
        disk = plan.disks[0]
        assert disk.release.files == ("/san/vda.qcow2", "/san/d.raw")
        assert disk.source.parts == disk.release.parts == ("/san/d.raw",)
        assert not disk.overlays.source, "the fingerprint of a base below an overlay is of one file"
        assert not disk.copy.resumable
    codes, plan = asked(replace(TO, method=Method.SNAPSHOT), DATA_FILE)
    assert "METHOD_SNAPSHOT" in codes
    assert plan is None


def test_a_data_file_that_others_use_is_never_among_what_goes() -> None:
    _, plan = asked(TO, DATA_FILE, users={"/san/d.raw": ("other",)})
    assert plan is not None
    assert plan.disks[0].release.files == ("/san/vda.qcow2",)
    assert plan.disks[0].source.parts == ("/san/d.raw",)


def test_a_part_is_needed_and_no_small_file_of_the_home(tmp_path: Path) -> None:
    """Found by reading: the extents of a disk that stays were taken for files of the home, copied there and removed."""
    site = PaperSite(tmp_path)
    try:
        home = tmp_path / "san" / "web01"
        site.pool("san", tmp_path / "san")
        site.pool("ssd", tmp_path / "ssd")
        home.mkdir()
        qemu_img.create(RUNNER, str(home / "vda.qcow2"), "qcow2", MiB)
        flat = extents(home / "vdb.vmdk")
        (home / "notes.txt").write_text("small")
        site.define("web01", {"vda": home / "vda.qcow2"})
        domain = site.connection.raw.lookupByName("web01")
        second = (
            f"<disk type='file' device='disk'><driver name='qemu' type='vmdk'/><source file='{home / 'vdb.vmdk'}'/>"
            "<target dev='vdb' bus='virtio'/></disk></devices>"
        )
        site.connection.raw.defineXML(domain.XMLDesc().replace("</devices>", second))
        facts = survey(site, MoveRequest("web01", None, {"vda": "ssd"}, home="ssd"), (), None, suspended_start=None)
        assert facts.home_files == ()
        assert [home_stay.path for home_stay in facts.home_stays] == [str(home / "notes.txt")]
        said = proof.blocker(site, str(flat), proof.Claims(), patience_s=0)
        assert said is not None
        assert "vdb.vmdk" in said
        site.undefine("web01")
        said = proof.blocker(site, str(flat), proof.Claims(), patience_s=0)
        assert said == f"the volume {home / 'vdb.vmdk'} stands on it", "the image is there still"
        (home / "vdb.vmdk").unlink()
        assert proof.blocker(site, str(flat), proof.Claims(), patience_s=0) is None
    finally:
        site.connection.close()


@pytest.mark.parametrize(
    ("format", "more", "least"),
    [
        ("raw", {"thick": True, "preallocation": "falloc"}, 8 * MiB),
        ("raw", {"thick": True, "preallocation": "full"}, 8 * MiB),
        ("qcow2", {"thick": True, "preallocation": "falloc", "cluster_size": 4 * KiB}, 8 * MiB),
        ("qcow2", {"thick": True, "preallocation": "full", "cluster_size": MiB}, 8 * MiB),
        ("qcow2", {"preallocation": "metadata", "cluster_size": 128 * KiB, "extended_l2": True}, 0),
        ("qcow2", {"cluster_size": 512}, 0),
    ],
)
def test_cold_copies_are_made_as_asked(tmp_path: Path, format: str, more: dict[str, object], least: int) -> None:
    old, new = tmp_path / "old.raw", tmp_path / "new"
    old.write_bytes(b"\1" * MiB + bytes(7 * MiB))
    disk = the_disk(replace(TO, format=format), RAW)
    disk = replace(disk, dest=replace(disk.dest, **more))  # type: ignore[arg-type]
    thick = disk.dest.thick and disk.dest.preallocation != "falloc"
    conversion.convert(RUNNER, str(old), "raw", str(new), format, thick=thick, options=_cold_options(disk))
    made = qemu_img.chain(RUNNER, str(new), format)[0]
    assert made.allocation >= least
    assert least or made.allocation < 3 * MiB
    assert made.cluster_size == disk.dest.cluster_size
    assert made.extended_l2 is disk.dest.extended_l2
    assert conversion.compare(RUNNER, str(old), "raw", str(new), format).identical


def same_names() -> Facts:
    """Three disks, each on a base of the same name, and one whose own name is what another would fall back to."""
    names = {"vda": "web01-vdb", "vdb": "web01-vdb", "vdc": "top"}
    disks, chains = [], {}
    for target, name in names.items():
        source = DiskSource("file", f"/san/{target}/{name}.qcow2", "qcow2")
        disks.append(Disk(target, "disk", "virtio", source, source))
        bases = (Image(f"/san/{target}/{number}/base.qcow2", "qcow2", GiB, GiB) for number in (1, 2))
        chains[target] = (Image(str(source.path), "qcow2", GiB, GiB), *bases)
    vm = Vm("web01", "u", PowerState.RUNNING, True, tuple(disks))
    return Facts(
        "qemu:///system", vm, (STORE,), (9, 0, 0), (7, 2, 0), chains, available={"ssd": 100 * GiB}
    )  # fmt: skip


@pytest.mark.parametrize("chain", list(ChainPolicy))
def test_no_two_images_of_a_move_get_one_name(chain: ChainPolicy) -> None:
    """They would be copied over each other, and the old ones removed."""
    _, plan = precheck(replace(TO, chain=chain), same_names(), "abcd")
    assert plan is not None
    made = [path for disk in plan.disks for path in (disk.dest.path, *(layer.dest for layer in disk.chain.layers))]
    assert len(made) == len(set(made)) == (9 if chain.reuses else 3)


def test_every_name_that_a_plan_may_take_is_looked_at() -> None:
    known = same_names()
    looked_at = set(_candidates(known.vm, (STORE,), known.chains, Home(None), replace(TO, chain=ChainPolicy.KEEP)))
    _, plan = precheck(replace(TO, chain=ChainPolicy.KEEP), known, "abcd")
    assert plan is not None
    for disk in plan.disks:
        assert {disk.dest.path, *(layer.dest for layer in disk.chain.layers)} <= looked_at
        there = replace(known, existing=frozenset({disk.chain.layers[-1].dest}))
        found, other = precheck(replace(TO, chain=ChainPolicy.KEEP), there, "abcd")
        assert "NAME_TAKEN" in {finding.code for finding in found}
        assert other is not None
        assert other.made <= looked_at
