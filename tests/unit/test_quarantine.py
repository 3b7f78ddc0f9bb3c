"""Going back to kept files: when it can be done, by tables; and what the commands say and ask."""

from __future__ import annotations

import dataclasses
import json

import pytest
from cli_fake import OLD, FakeClient, orphan_list
from hypothesis import given
from hypothesis import strategies as st

from blockferry.base.units import GiB
from blockferry.cli import main
from blockferry.cli.app import App
from blockferry.hosts.inventory import Disk, DiskSource, PowerState, Vm
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.leftovers.quarantine_rules import (
    DiskLoss,
    DiskSwap,
    KeptFile,
    Restore,
    Swap,
    beside,
    done_already,
    swap,
)
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import DiskPlan, DiskSizes, SourceImage
from blockferry.storage_move.firmware.plan import FirmwarePlan, NvramPlan
from blockferry.storage_move.home.plan import HomeFile, HomePlan
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.request import Method, SourcePolicy

TARGETS = ("vda", "vdb")
PRINT = KeptFingerprint(7, 4096, 10**18)


def disk_plan(target: str, **changes: object) -> DiskPlan:
    disk_plan = DiskPlan(
        target=target,
        source=SourceImage(path=f"/old/web01/{target}.raw", format="raw", kind="file", datastore="old"),
        dest=DestinationImage(path=f"/new/web01/{target}.qcow2", format="qcow2", datastore="ssd"),
        sizes=DiskSizes(virtual=GiB, allocation=GiB),
        release=ReleasePlan(files=(f"/old/web01/{target}.raw",)),
    )
    return dataclasses.replace(disk_plan, **changes)  # type: ignore[arg-type]


def a_plan(*disks: DiskPlan, home: HomePlan | None = None) -> Plan:
    return Plan(
        move="abcd",
        uri="qemu:///system",
        vm="web01",
        uuid="uuid",
        method=Method.COLD,
        method_reason="",
        disks=disks or tuple(map(disk_plan, TARGETS)),
        home=home,
        source=SourcePolicy(delete=False),
        domain=DomainPlan(persistent=True, was=PowerState.OFF),
    )


def a_vm(paths: dict[str, str], **changes: object) -> Vm:
    disks = tuple(
        Disk(target, "disk", "virtio", None, DiskSource("file", path, "qcow2", (), path))
        for target, path in paths.items()
    )
    return dataclasses.replace(Vm("web01", "uuid", PowerState.OFF, True, disks), **changes)  # type: ignore[arg-type]


def dests(plan: Plan) -> dict[str, str]:
    return {disk.target: disk.dest.path for disk in plan.disks}


def sources(plan: Plan) -> dict[str, str]:
    return {disk.target: disk.source.path for disk in plan.disks}


def rows(*paths: str) -> dict[str, Kept]:
    return {path: Kept(path, "abcd", "web01", "old", None, 1, "asked", "host", 1.0, "raw", PRINT) for path in paths}


def all_there(plan: Plan) -> dict[str, KeptFingerprint | None]:
    return {path: PRINT for disk in plan.disks for path in (disk.source.path, disk.dest.path, *disk.release.files)}


def test_not_back_to_an_old_disk_whose_overlay_is_kept_above_it() -> None:
    """The overlay has what was written during the copy; the old disk alone would go back to before it."""
    plan = a_plan()
    overlay = f"{plan.disks[0].source.path}.overlay"
    first = dataclasses.replace(plan.disks[0], overlays=dataclasses.replace(plan.disks[0].overlays, source=overlay))
    plan = dataclasses.replace(plan, disks=(first, *plan.disks[1:]))
    files = {**all_there(plan), overlay: PRINT}
    found = swap(plan, a_vm(dests(plan)), rows(overlay, *sources(plan).values()), files)
    assert found.problems == (f"{TARGETS[0]}: {overlay}, which stands on {first.source.path}, holds the newer writes",)
    assert swap(plan, a_vm(dests(plan)), rows(*sources(plan).values()), files).problems == ()


def test_back_with_all_disks() -> None:
    plan = a_plan()
    found = swap(plan, a_vm(dests(plan)), rows(*sources(plan).values()), all_there(plan))
    assert found.problems == ()
    assert found.back
    assert found.disks == tuple(
        DiskSwap(one, f"/new/web01/{one}.qcow2", "qcow2", f"/old/web01/{one}.raw", "raw") for one in TARGETS
    )


def test_what_goes_back_with_the_disks_and_what_does_not() -> None:
    nvram = NvramPlan("/old/web01/VARS.fd", "/new/web01/VARS.fd", 1)
    iso = HomeFile("/old/web01/cd.iso", "/new/web01/cd.iso", "iso", 1, "sda")
    plan = dataclasses.replace(
        a_plan(), firmware=FirmwarePlan(nvram), home=HomePlan("ssd", "/new/web01", "/old/web01", files=(iso,))
    )
    vm = a_vm({**dests(plan), "vdc": "/new/web01/vdc.qcow2"}, config_nvram=nvram.dest)
    files = {**all_there(plan), nvram.source: PRINT, iso.source: PRINT}
    kept = rows(*sources(plan).values(), nvram.source, iso.source)
    said = beside(plan, vm, swap(plan, vm, kept, files))
    assert said == (
        f"The ISO of sda goes back as well: {iso.dest} -> {iso.source}.",
        f"The UEFI variables go back as well: {nvram.dest} -> {nvram.source}.",
        "vdc was not in that move and stays as it is, with all that is on it now: /new/web01/vdc.qcow2.",
    )
    said = beside(plan, vm, swap(plan, vm, rows(*sources(plan).values()), files))
    assert said[0] == f"The UEFI variables stay as they are ({nvram.dest}): no others are kept of that move."
    back = a_vm(sources(plan), config_nvram=nvram.source)
    forth = swap(plan, back, rows(*dests(plan).values(), nvram.dest), {**files, nvram.dest: PRINT})
    assert beside(plan, back, forth) == (f"The UEFI variables go back as well: {nvram.source} -> {nvram.dest}.",)


def test_and_forward_again() -> None:
    plan = a_plan()
    found = swap(plan, a_vm(sources(plan)), rows(*dests(plan).values()), all_there(plan))
    assert found.problems == ()
    assert not found.back
    assert [(disk_swap.now, disk_swap.kept) for disk_swap in found.disks] == [
        (disk.source.path, disk.dest.path) for disk in plan.disks
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": PowerState.RUNNING}, "running"),
        ({"state": PowerState.PAUSED}, "paused"),
        ({"state": PowerState.CRASHED}, "crashed"),
        ({"has_managed_save": True}, "managed save"),
        ({"snapshots": ("s1",)}, "s1"),
    ],
)
def test_the_vm_must_be_off_and_unbound(changes: dict[str, object], words: str) -> None:
    plan = a_plan()
    found = swap(plan, a_vm(dests(plan), **changes), rows(*sources(plan).values()), all_there(plan))
    assert words in " ".join(found.problems)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ({"vda": "/new/web01/vda.qcow2", "vdb": "/third/vdb.qcow2"}, "vdb of web01 has changed"),
        ({"vda": "/new/web01/vda.qcow2"}, "vdb of web01 has changed since the move: it is gone"),
        ({"vda": "/new/web01/vda.qcow2", "vdb": "/old/web01/vdb.raw"}, "some disks"),
        ({}, "vda of web01 has changed"),
    ],
)
def test_the_vm_must_use_what_the_move_made(paths: dict[str, str], words: str) -> None:
    plan = a_plan()
    kept = rows(*sources(plan).values(), *dests(plan).values())
    found = swap(plan, a_vm(paths), kept, all_there(plan))
    assert words in " ".join(found.problems)
    assert found.disks == ()


@pytest.mark.parametrize(
    ("path", "now", "recorded", "words"),
    [
        ("/old/web01/vda.raw", None, PRINT, "is gone"),
        ("/old/web01/vdb.raw", dataclasses.replace(PRINT, mtime_ns=1), PRINT, "has been changed"),
        ("/old/web01/vdb.raw", dataclasses.replace(PRINT, inode=1), PRINT, "has been changed"),
        ("/old/web01/vdb.raw", dataclasses.replace(PRINT, size=1), PRINT, "has been changed"),
        ("/old/web01/vda.raw", PRINT, None, "not recorded"),
    ],
)
def test_the_old_files_must_be_as_they_were(
    path: str, now: KeptFingerprint | None, recorded: KeptFingerprint | None, words: str
) -> None:
    plan = a_plan()
    kept = rows(*sources(plan).values())
    kept[path] = dataclasses.replace(kept[path], fingerprint=recorded)
    found = swap(plan, a_vm(dests(plan)), kept, {**all_there(plan), path: now})
    assert (
        f"{path} {words}" in " ".join(found.problems) or f"{path} was when it was kept is {words}" in found.problems[0]
    )


def test_every_disk_must_have_been_kept() -> None:
    plan = a_plan()
    found = swap(plan, a_vm(dests(plan)), rows("/old/web01/vda.raw"), all_there(plan))
    assert found.problems == (
        "vdb: /old/web01/vdb.raw is not in quarantine: it was not kept, or was purged or restored",
    )


def test_a_chain_goes_back_whole_or_not_at_all() -> None:
    chain = ("/old/web01/vda.raw", "/old/base.qcow2")
    plan = a_plan(disk_plan("vda", release=ReleasePlan(chain)))
    assert swap(plan, a_vm(dests(plan)), rows(*chain), all_there(plan)).problems == ()
    assert (
        "/old/base.qcow2 is not in quarantine"
        in swap(plan, a_vm(dests(plan)), rows(chain[0]), all_there(plan)).problems[0]
    )


def test_a_block_device_proves_nothing() -> None:
    disk = disk_plan("vda")
    plan = a_plan(dataclasses.replace(disk, source=dataclasses.replace(disk.source, kind="block")))
    found = swap(plan, a_vm(dests(plan)), rows(*sources(plan).values()), all_there(plan))
    assert "block device" in found.problems[0]


def test_the_home_s_files_go_with_it_where_they_were_kept() -> None:
    files = (
        HomeFile("/old/nvram.fd", "/new/nvram.fd", "nvram", 1),
        HomeFile("/old/x.iso", "/new/x.iso", "iso", 1, "sda"),
    )
    plan = a_plan(home=HomePlan("ssd", "/new/web01", "/old/web01", files))
    there = {**all_there(plan), "/old/nvram.fd": PRINT, "/old/x.iso": PRINT}
    found = swap(plan, a_vm(dests(plan)), rows(*sources(plan).values(), "/old/nvram.fd"), there)
    assert found.files == {"/new/nvram.fd": "/old/nvram.fd"}


@given(st.data())
def test_nothing_is_gone_back_to_unless_all_is_in_order(data: st.DataObject) -> None:
    plan = a_plan()
    everything = [*sources(plan).values(), *dests(plan).values()]
    kept = rows(*data.draw(st.sets(st.sampled_from(everything))))
    there = {path: data.draw(st.sampled_from((PRINT, None, KeptFingerprint(1, 1, 1)))) for path in everything}
    paths = {target: data.draw(st.sampled_from(everything)) for target in TARGETS}
    state = data.draw(st.sampled_from(list(PowerState)))
    found = swap(plan, a_vm(paths, state=state), kept, there)
    if found.problems:
        return
    assert state is PowerState.OFF
    for disk in found.disks:
        assert disk.kept in kept
        assert there[disk.kept] == PRINT
        assert paths[disk.target] == disk.now
    assert {disk.kept for disk in found.disks}.isdisjoint(paths.values())


@pytest.mark.parametrize(
    ("since_now", "since_then", "done"),
    [
        ({}, {"/old/web01/vda.raw": 1.0, "/old/web01/vdb.raw": 1.0}, False),  # as after the move
        ({"/new/web01/vda.qcow2": 9.0}, {"/old/web01/vda.raw": 1.0, "/old/web01/vdb.raw": 1.0}, False),
        ({"/new/web01/vda.qcow2": 9.0, "/new/web01/vdb.qcow2": 9.1}, {"/old/web01/vda.raw": 1.0}, False),
    ],
)
def test_an_interrupted_restore_is_told_by_what_was_put_aside_last(
    since_now: dict[str, float], since_then: dict[str, float], done: bool
) -> None:
    plan = a_plan()
    kept = rows(*since_now, *since_then)
    kept = {path: dataclasses.replace(one, since={**since_now, **since_then}[path]) for path, one in kept.items()}
    assert done_already(swap(plan, a_vm(dests(plan)), kept, all_there(plan)), kept) is done


def test_an_interrupted_restore_goes_on_or_is_over() -> None:
    plan = a_plan()
    kept = rows(*sources(plan).values(), *dests(plan).values())
    for path in dests(plan).values():
        kept[path] = dataclasses.replace(kept[path], since=9.0)  # put aside when the restore began
    before = swap(plan, a_vm(dests(plan)), kept, all_there(plan))
    after = swap(plan, a_vm(sources(plan)), kept, all_there(plan))
    assert not done_already(before, kept), "the configuration is still to be changed"
    assert done_already(after, kept), "it must not go forward again"


@pytest.mark.parametrize(("expires", "now", "expired"), [(None, 9e9, False), (5.0, 4.9, False), (5.0, 5.0, True)])
def test_expiry(expires: float | None, now: float, expired: bool) -> None:
    assert Kept("/x", "m", "v", "", expires, 1, "w").expired(now) is expired


# ------------------------------------------------------------ the commands


def kept_file(path: str, **changes: object) -> KeptFile:
    kept_file = KeptFile(rows(path)[path], True, False, False, None)
    return dataclasses.replace(kept_file, **changes)  # type: ignore[arg-type]


AGREED = Restore(
    Swap("web01", "uuid", "abcd", (DiskSwap("vda", "/new/vda", "qcow2", "/old/vda", "raw"),), {}, (), True),
    1000.0,
    (
        DiskLoss("vda", "/new/vda", "/old/vda", 900.0, None),
        DiskLoss("vdb", "/new/vdb", "/old/vdb", 2000.0, False, 4096),
        DiskLoss("vdc", "/new/vdc", "/old/vdc", 2000.0, True),
        DiskLoss("vdd", "/new/vdd", "/old/vdd", 2000.0, None),
    ),
    ("The checkpoints c1 belong to the present disks: the next backup must be full.",),
)


def call(client: FakeClient, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.root.main(list(words), obj=App(opener=lambda _uri, _journal: client))
    return int(ended.value.code or 0)


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    found = (
        kept_file("/a"),
        kept_file("/b", found=False),
        kept_file("/c", doubt="VM web02 refers to it"),
        kept_file("/d", altered=True),
        kept_file("/e", expired=True),
    )
    assert call(FakeClient(kept=found), "quarantine", "list") == 0
    out = capsys.readouterr().out
    for words in ("nothing needs it", "gone", "stays: VM web02 refers to it", "changed since", "expired"):
        assert words in out
    assert call(FakeClient(kept=found), "quarantine", "list", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["kept"]["path"] for one in document["kept"]] == ["/a", "/b", "/c", "/d", "/e"]
    assert document["kept"][2]["doubt"] == "VM web02 refers to it"


def test_purge_asks_and_proves(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(kept=(kept_file("/a", expired=True), kept_file("/b"), kept_file("/c", doubt="in use")))
    assert call(client, "quarantine", "purge") == 2, "there is nobody to ask"
    assert call(client, "quarantine", "purge", "--now") == 2
    for spelling in ("/b", "/./b", "/x/../b", "/b/"):
        assert call(client, "quarantine", "purge", "--now", spelling) == 2, "however it is spelled"
    assert client.log == []
    assert call(client, "quarantine", "purge", "--yes") == 0
    assert client.log == ["purge  now=False"]
    stays = FakeClient(kept=(kept_file("/c", expired=True, doubt="in use"),))
    assert call(stays, "quarantine", "purge", "--yes") == 7, "a script has to see it"
    capsys.readouterr()
    assert call(client, "quarantine", "purge", "--now", "/c", "--yes", "--json") == 7
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["purged"] == [
        {"path": "/c", "gone": False, "text": "/c stays"}
    ]


def test_restore_says_what_is_lost_and_asks(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(agreed=AGREED)
    assert call(client, "quarantine", "restore", "web01") == 2, "there is nobody to ask"
    assert client.log == ["restorable web01 None"]
    assert call(client, "quarantine", "restore", "web01", "--yes", "--compare") == 0
    assert client.log[1:] == ["restorable web01 True", "restore web01"]
    out = capsys.readouterr().out
    assert "loses everything that it has written since 1970" in out
    for words in (
        "not written to since",
        "from byte 4096 on",
        "nothing is lost",
        "not compared (--compare does)",
        "c1",
    ):
        assert words in out
    client.log.clear()
    assert call(client, "quarantine", "restore", "web01", "--dry-run") == 0
    assert "loses everything that it has written since 1970" in capsys.readouterr().out
    assert call(client, "quarantine", "restore", "web01", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["restorable"]["swap"]["move"] == "abcd"
    assert client.log == ["restorable web01 None"] * 2, "nothing is touched"
    assert call(client, "quarantine", "restore", "web01", "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["restored"]["swap"]["move"] == "abcd"
    assert call(FakeClient(), "quarantine", "restore", "web01", "--yes") == 4


def test_no_other_command_empties_the_quarantine(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(orphaned=orphan_list())
    assert call(client, "orphans", "--remove", f"{OLD}/kept.qcow2", "--yes") == 2
    assert "quarantine purge" in capsys.readouterr().err
    assert call(client, "orphans", "--remove-all", "--yes") == 0
    assert [one for one in client.log if "kept" in one] == []
