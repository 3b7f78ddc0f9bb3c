"""What is said of changes since a point: never a list that could be too short."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import cli_fake
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import call

from blockferry.base.units import MiB
from blockferry.hosts.datastore_id import DatastoreId, FileId, SpaceId, SpaceKind, on_host
from blockferry.hosts.inventory import Disk, DiskSource, Image, PowerState
from blockferry.hosts.libvirt import checkpoints
from blockferry.hosts.tracking_points import NotedDisk, Point, PointNote, Present
from blockferry.tracking import rules as tracking_rules
from blockferry.tracking.rules import ChangedArea

VDA = NotedDisk("vda", "/old/vda.qcow2", "2", 64 * MiB)
VDB = NotedDisk("vdb", "/old/vdb.qcow2", "1", 32 * MiB)
NOW = Present(PowerState.RUNNING, "boot/66/4192963", (VDA, VDB))
NOTE = PointNote("boot/66/4192963", (VDA,))
POINT = Point("p1", 1_790_000_000.0, ("vda",), NOTE, {"vda": 65536})


def with_vda(**changes: object) -> Present:
    return replace(NOW, disks=(replace(VDA, **changes), VDB))  # type: ignore[arg-type]


def test_nothing_has_come_between() -> None:
    assert tracking_rules.lost(POINT, NOW, "vda") is None
    assert tracking_rules.status(POINT, NOW).good


LOSSES = {
    "another QEMU": (POINT, replace(NOW, run="boot/67/4192999"), "off since then"),
    "the same number after a reboot of the host": (POINT, replace(NOW, run="other/66/4192963"), "off since then"),
    "a QEMU that cannot be told from others": (POINT, replace(NOW, run=None), "off since then"),
    "another file": (POINT, with_vda(path="/new/vda.qcow2", node="7"), "is on /new/vda.qcow2 now"),
    "taken away and given back": (POINT, with_vda(node="9"), "has come between"),
    "grown": (POINT, with_vda(size=80 * MiB), "resized from 64.0 MiB to 80.0 MiB"),
    "grown by a sector": (POINT, with_vda(size=64 * MiB + 512), "resized"),
    "shrunk": (POINT, with_vda(size=32 * MiB), "resized"),
    "no such disk": (POINT, replace(NOW, disks=(VDB,)), "no such disk any more"),
    "no bitmap": (replace(POINT, bitmaps={"vda": None}), NOW, "bitmap is gone"),
    "somebody else's": (replace(POINT, note=None), NOW, "somebody else made"),
    "a disk that was not covered": (replace(POINT, note=PointNote(NOTE.run, (VDB,))), NOW, "does not cover"),
}
VOUCHED_FOR = {"another QEMU", "the same number after a reboot of the host", "a QEMU that cannot be told from others"}


@pytest.mark.parametrize("what", LOSSES)
def test_a_loss_is_noticed(what: str) -> None:
    point, now, words = LOSSES[what]
    why = tracking_rules.lost(point, now, "vda")
    assert why is not None
    assert words in why
    assert not tracking_rules.status(point, now).good
    # The user can vouch for the time off, for nothing else.
    vouched = tracking_rules.lost(point, now, "vda", power_cycles=True)
    assert (vouched is None) == (what in VOUCHED_FOR)


@given(
    st.builds(
        Present,
        st.just(PowerState.RUNNING),
        st.sampled_from([None, NOTE.run, "boot/67/1"]),
        st.lists(
            st.builds(
                NotedDisk,
                st.sampled_from(["vda", "vdb"]),
                st.sampled_from([VDA.path, "/new/vda.qcow2"]),
                st.sampled_from(["1", "2"]),
                st.sampled_from([64 * MiB, 80 * MiB]),
            ),
            max_size=2,
            unique_by=lambda noted_disk: noted_disk.target,
        ).map(tuple),
    )
)
def test_only_what_is_as_it_was_is_vouched_for(now: Present) -> None:
    same = now.run == NOTE.run and now.disk("vda") == VDA
    assert (tracking_rules.lost(POINT, now, "vda") is None) == same


def test_a_vm_that_is_off_is_not_vouched_for() -> None:
    off = Present(PowerState.OFF, None, ())
    found = tracking_rules.status(replace(POINT, bitmaps={}), off)
    assert not found.good
    assert "off" in found.disks[0].why


@pytest.mark.parametrize(
    ("disk", "top", "words"),
    [
        ({}, Image("/old/vda.qcow2", "qcow2", 1, 1, compat="1.1"), None),
        ({}, Image("/old/vda.qcow2", "qcow2", 1, 1, compat="0.10"), "compat=1.1"),
        ({}, None, "cannot be read"),
        ({"read_only": True}, None, "read-only"),
        ({"shareable": True}, None, "another VM"),
        ({"transient": True}, None, "thrown away"),
        ({"live": DiskSource("file", "/old/vda.raw", "raw")}, None, "--format qcow2"),
        ({"live": DiskSource("network", None, "raw", description="nbd://h/e")}, None, "no file or block device"),
    ],
)
def test_which_disks_can_be_tracked(disk: dict[str, object], top: Image | None, words: str | None) -> None:
    one = Disk("vda", "disk", "virtio", DiskSource("file", "/old/vda.qcow2", "qcow2"), None)
    why = tracking_rules.untrackable(replace(one, **disk), top)  # type: ignore[arg-type]
    assert (why is None) == (words is None)
    assert words is None or words in (why or "")


def test_a_note_needs_a_process_and_every_disk() -> None:
    assert tracking_rules.note(NOW, ("vda",), 5.5) == replace(NOTE, at=5.5)
    assert tracking_rules.note(replace(NOW, run=None), ("vda",), 5.5) is None
    assert tracking_rules.note(NOW, ("vda", "vdc"), 5.5) is None


NAS, OTHER_NAS = (SpaceId(SpaceKind.NETWORK, server, "/vol") for server in ("nas", "nas2"))


@pytest.mark.parametrize(
    ("then", "today", "why"),
    [
        (on_host("A", "/a"), on_host("A", "/a"), None),
        (on_host("A", "/a"), on_host("B", "/a"), "on another file system, or on another host"),
        (DatastoreId(NAS).file("a"), DatastoreId(OTHER_NAS).file("a"), "on another file system, or on another host"),
        (DatastoreId(NAS).file("a"), on_host("B", "/a"), "on another file system, or on another host"),
        (DatastoreId(NAS).file("a"), DatastoreId(NAS).file("a"), None),
        (None, on_host("B", "/a"), None),  # a point of an older version tells the path alone
    ],
)
def test_one_path_on_two_hosts_is_one_image_by_proof_only(then: FileId | None, today: FileId, why: str | None) -> None:
    """The user vouches for what happened while the VM was off; not for another image at the same path."""
    point = replace(POINT, note=replace(NOTE, disks=(replace(VDA, file=then),)))
    now = replace(NOW, run="boot:2:2", disks=(replace(VDA, file=today),))
    told = tracking_rules.lost(point, now, "vda", power_cycles=True)
    assert told is None if why is None else why in (told or "")
    assert tracking_rules.lost(point, replace(now, run=NOTE.run), "vda") is None, "its QEMU has it open ever since"


def test_an_image_of_a_shared_datastore_is_one_under_two_paths() -> None:
    then, today = (replace(VDA, path=path, file=DatastoreId(NAS).file("a")) for path in ("/ssd/a", "/mnt/fast/a"))
    point = replace(POINT, note=replace(NOTE, disks=(then,)))
    now = replace(NOW, run="boot:2:2", disks=(today,))
    assert tracking_rules.lost(point, now, "vda", power_cycles=True) is None
    moved = replace(now, disks=(replace(today, file=DatastoreId(NAS).file("b")),))
    assert "it was on /ssd/a" in (tracking_rules.lost(point, moved, "vda", power_cycles=True) or "")


def test_the_oldest_of_ours_go() -> None:
    points = [replace(POINT, id=str(at), note=replace(NOTE, at=1e9 + at / 10)) for at in (3, 1, 2)]
    theirs = replace(POINT, id="0", created=0.0, note=None)
    assert [surplu.id for surplu in tracking_rules.surplus([*points, theirs], 1, "3")] == ["1", "2"]
    assert tracking_rules.surplus([*points, theirs], 3, "3") == ()
    # The new one stays also if the clock was set back.
    assert [surplu.id for surplu in tracking_rules.surplus([*points, theirs], 1, "1")] == ["2", "3"]


def test_areas_are_joined_and_end_with_the_disk() -> None:
    extents = [(0, 65536, True), (65536, 65536, True), (131072, 65536, False), (196608, 65536, True)]
    assert tracking_rules.areas(extents, 200000) == (ChangedArea(0, 131072), ChangedArea(196608, 3392))
    assert tracking_rules.areas([(0, 65536, False)], 65536) == ()
    assert tracking_rules.areas([], 0) == ()


@pytest.mark.parametrize(
    "extents",
    [
        [],
        [(0, 65536, True)],
        [(65536, 65536, True)],
        [(0, 65536, False), (131072, 65536, True)],
        [(0, 65536, False), (0, 131072, True)],
        [(0, 0, False), (0, 131072, True)],
    ],
)
def test_a_bitmap_that_was_not_read_whole_is_no_answer(extents: list[tuple[int, int, bool]]) -> None:
    with pytest.raises(ValueError, match="the bitmap was read"):
        tracking_rules.areas(extents, 131072)


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1), st.integers(0, 4))
def test_every_changed_byte_is_in_one_area(pieces: list[tuple[int, bool]], over: int) -> None:
    extents, at = [], 0
    for length, changed in pieces:
        extents.append((at, length, changed))
        at += length
    size = max(0, at - over)
    found = tracking_rules.areas(extents, size)
    told = [
        byte for changed_area in found for byte in range(changed_area.start, changed_area.start + changed_area.length)
    ]
    assert told == [byte for start, n, changed in extents if changed for byte in range(start, start + n) if byte < size]
    assert all(a.start + a.length < b.start for a, b in itertools.pairwise(found))


def test_the_note_stands_in_the_checkpoint() -> None:
    xml = checkpoints.checkpoint_xml("p1", NOTE, ["vda", "vdb"])
    made = xml.replace("</domaincheckpoint>", "<creationTime>1790000000</creationTime></domaincheckpoint>")
    assert checkpoints.parse(made, sizes=False) == replace(POINT, bitmaps={})
    assert checkpoints.parse(made, sizes=True).bitmaps == {"vda": None}
    sized = made.replace('checkpoint="bitmap"', 'checkpoint="bitmap" size="65536"')
    assert checkpoints.parse(sized, sizes=True) == POINT
    less = checkpoints.without(sized, {"vda"})
    assert checkpoints.parse(less, sizes=True).targets == ()


@pytest.mark.parametrize("text", ["", "nightly backup", "blockferry tracking 1: {", "blockferry tracking 2: {}"])
def test_a_checkpoint_without_our_note_is_somebody_elses(text: str) -> None:
    xml = f"<domaincheckpoint><name>c</name><description>{text}</description></domaincheckpoint>"
    assert checkpoints.parse(xml, sizes=False).note is None


def test_the_number_of_the_node_is_read_from_the_live_xml() -> None:
    xml = """<domain><devices>
      <disk type='file' device='disk'><source file='/a' index='2'/><target dev='vda'/></disk>
      <disk type='block' device='disk'><source dev='/dev/vg/b' index='1'/><target dev='vdb'/></disk>
      <disk type='file' device='cdrom'><source file='/c.iso' index='3'/><target dev='sda'/></disk>
      <disk type='network' device='disk'><source protocol='nbd' name='e' index='4'/><target dev='vdc'/></disk>
    </devices></domain>"""
    assert checkpoints.nodes(xml) == [("vda", "/a", "2"), ("vdb", "/dev/vg/b", "1")]


# ------------------------------------------------------------ the command line


def test_changes_on_the_command_line() -> None:
    client = cli_fake.FakeClient()
    result = call(client, "changes", "web01", "--disk", "vda", "--since", "bf-1", "--mark", "--json")
    assert result.exit_code == 0, result.output
    assert client.log[-1] == "changes web01 bf-1 vda '' None False"
    document = json.loads(result.stdout)
    assert document["kind"] == "changes"
    assert document["changes"]["disks"] == [
        {
            "target": "vda",
            "size": 1024**3,
            "changed": 131072,
            "areas": [{"start": 0, "length": 65536}, {"start": 131072, "length": 65536}],
        }
    ]
    assert (document["changes"]["since"], document["changes"]["until"]) == ("bf-1", "bf-2")
    result = call(client, "changes", "web01", "--since", "bf-1", "--mark", "tuesday", "--keep", "3")
    assert client.log[-1] == "changes web01 bf-1  'tuesday' 3 False"
    assert result.stdout.splitlines()[1].split() == ["vda", "0", "65536"]
    assert call(client, "changes", "web01", "--since", "bf-1", "--keep", "3").exit_code == 2


def test_points_on_the_command_line() -> None:
    client = cli_fake.FakeClient()
    result = call(client, "cbt", "status", "web01")
    assert "lost: the VM has been off" in result.stdout
    assert "vdc cannot be tracked" in result.stderr
    document = json.loads(call(client, "cbt", "status", "web01", "--json").stdout)["tracking"]
    assert [(one["id"], one["good"], one["ours"]) for one in document["points"]] == [("bf-1", False, True)]
    assert [one["good"] for one in document["points"][0]["disks"]] == [True, False]
    made = json.loads(call(client, "cbt", "point", "web01", "--name", "x", "--keep", "2", "--json").stdout)
    assert (made["kind"], made["id"], made["disks"], made["made"]) == ("point", "x", ["vda"], True)
    assert call(client, "cbt", "enable", "web01").stdout == "bf-1\n"
    assert json.loads(call(client, "cbt", "disable", "web01", "--json").stdout)["dropped"] == ["bf-1"]
    assert "bf-9 was dropped." in call(client, "cbt", "drop", "web01", "bf-9").stdout
