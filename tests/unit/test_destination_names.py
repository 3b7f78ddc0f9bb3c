"""Names at the destination: a table over where the images lie, what is there already, and what names may be."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blockferry.base import names
from blockferry.base.units import GiB, MiB
from blockferry.hosts.helper import files
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Vm, datastore_of
from blockferry.hosts.path_facts import PathFacts
from blockferry.storage_move.destination import image_names
from blockferry.storage_move.facts import Facts, SmallFile
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.rules import precheck
from blockferry.storage_move.request import ChainPolicy, MoveRequest

POOL = Datastore("pool", "u1", "dir", True, "/pool", 100 * GiB, 100 * GiB)
INNER = Datastore("inner", "u2", "dir", True, "/pool/fast", 100 * GiB, 100 * GiB)
SSD = Datastore("ssd", "u3", "dir", True, "/ssd", 100 * GiB, 100 * GiB)
STORES = (POOL, INNER, SSD)


def facts(*paths: str, vm: str = "web01", stores: tuple[Datastore, ...] = STORES, **more: object) -> Facts:
    disks, chains = [], {}
    for letter, path in zip("abcdef", paths, strict=False):
        source = DiskSource("file", path, "qcow2")
        disks.append(Disk(f"vd{letter}", "disk", "virtio", None, source))
        chains[f"vd{letter}"] = (Image(path, "qcow2", GiB, 10 * MiB, compat="1.1"),)
    known = Facts(
        "qemu:///system", Vm(vm, "u", PowerState.OFF, True, tuple(disks)), stores, (9, 0, 0), (7, 2, 22), chains,
        available={store.name: 100 * GiB for store in stores},
    )  # fmt: skip
    return replace(known, **more)  # type: ignore[arg-type]


def planned(known: Facts, to: str = "ssd", **more: object) -> tuple[list[str], Plan | None]:
    """The codes of what is found, and the plan."""
    request = replace(MoveRequest(known.vm.name, to), **more)  # type: ignore[arg-type]
    found, plan = precheck(request, known, "0123abcd")
    return [finding.code for finding in found], plan


def dests(known: Facts, to: str = "ssd", **more: object) -> list[str]:
    codes, plan = planned(known, to, **more)
    assert plan is not None, codes
    return [disk.dest.path for disk in plan.disks]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/pool/web01/vda.qcow2"], ["/ssd/web01/vda.qcow2"]),
        (["/pool/web01-vda.qcow2"], ["/ssd/web01-vda.qcow2"]),  # flat stays flat
        (["/pool/7f3a-uuid/disk"], ["/ssd/web01/disk.qcow2"]),  # OpenStack
        (["/pool/7f3a-uuid/disk", "/pool/9c-uuid/disk"], ["/ssd/web01/disk.qcow2", "/ssd/web01/web01-vdb.qcow2"]),
        (["/pool/old-name/vda.qcow2"], ["/ssd/web01/vda.qcow2"]),  # renamed VM
        (["/pool/fast/disk.qcow2"], ["/ssd/disk.qcow2"]),  # flat in the inner pool
        (["/elsewhere/x.qcow2"], ["/ssd/web01/x.qcow2"]),  # in no pool
    ],
)
def test_a_disk_in_a_directory_of_its_own_goes_to_the_home(paths: list[str], names: list[str]) -> None:
    assert dests(facts(*paths)) == names


@pytest.mark.parametrize("how", ["existing", "promised"])
def test_a_name_that_is_taken_is_not_used(how: str) -> None:
    def with_taken(*paths: str) -> Facts:
        more: dict[str, Any] = {how: frozenset(paths)}
        return facts("/pool/disk.qcow2", **more)

    known = with_taken("/ssd/disk.qcow2")
    codes, plan = planned(known)
    assert plan is not None
    assert "NAME_TAKEN" in codes
    assert plan.disks[0].dest.path == "/ssd/web01-vda.qcow2"
    both = ("/ssd/disk.qcow2", "/ssd/web01-vda.qcow2")
    assert dests(with_taken(*both)) == ["/ssd/web01-vda-2.qcow2"]
    codes, plan = planned(with_taken(*both, *(f"/ssd/web01-vda-{number}.qcow2" for number in range(2, 20))))
    assert plan is None
    assert "NAME_COLLISION" in codes


def test_a_pool_that_bears_the_name_of_the_vm_is_no_home() -> None:
    pool = Datastore("prod", "u4", "dir", True, "/srv/prod", 100 * GiB, 100 * GiB)
    known = facts("/srv/prod/vda.qcow2", vm="prod", stores=(pool, SSD))
    assert dests(known) == ["/ssd/vda.qcow2"]
    outer = Datastore("outer", "u5", "dir", True, "/srv", 100 * GiB, 100 * GiB)
    look = PathFacts("/srv/prod", "/srv/prod", "directory", near="/srv/prod")
    known = facts("/ssd/prod/vda.qcow2", vm="prod", stores=(pool, outer, SSD), places={"/srv/prod": look})
    codes, plan = planned(known, "outer")
    assert plan is None
    assert "HOME_UNUSABLE" in codes


@pytest.mark.parametrize(
    ("path", "resolved", "store"),
    [
        ("/pool/a", "", "pool"),
        ("/pool/fast/a", "", "inner"),
        ("/pool/fast/x/a", "", "inner"),
        ("/link/a", "/pool/fast/a", "inner"),
        ("/pool/link", "/ssd/a", "ssd"),
        ("/pool/link", "/nowhere/a", "pool"),
        ("/poolx/a", "", None),
        ("/pool", "", None),
    ],
)
def test_the_innermost_pool_holds_a_file(path: str, resolved: str, store: str | None) -> None:
    found = datastore_of(path, STORES, resolved)
    assert (found.name if found else None) == store


def test_two_pools_on_one_directory_are_one_place() -> None:
    alias = Datastore("alias", "u6", "dir", True, "/alias", 100 * GiB, 100 * GiB, resolved="/pool")
    known = facts("/pool/web01/vda.qcow2", stores=(POOL, alias))
    codes, plan = planned(known, "alias")
    assert plan is None
    assert {"DISK_ALREADY_THERE", "NOTHING_TO_MOVE"} <= set(codes)
    assert datastore_of("/alias/x", (POOL, alias), "/pool/x") == alias
    assert datastore_of("/pool/x", (POOL, alias), "/pool/x") == POOL


LONG = "x" * 249 + ".qcow2"


def test_a_name_that_is_too_long_with_what_is_put_behind_it() -> None:
    assert len(LONG) == 255
    codes, plan = planned(facts(f"/pool/{LONG}"))
    assert plan is not None
    assert "NAME_SHORTENED" in codes
    assert plan.disks[0].dest.path == "/ssd/web01-vda.qcow2"
    short = PathFacts("/ssd", "/ssd", "directory", near="/ssd", name_max=16)
    codes, plan = planned(facts("/pool/vda.qcow2", places={"/ssd": short}))
    assert plan is None
    assert "NAME_TOO_LONG" in codes
    codes, plan = planned(facts("/pool/vda.qcow2", vm="w" * 245))
    assert plan is None, "its XML has no marker that could be so long"
    assert "NAME_TOO_LONG" in codes
    codes, plan = planned(facts("/pool/vda.qcow2", home_files=(SmallFile(f"/pool/web01/{LONG}", 1),)))
    assert plan is None
    assert "NAME_TOO_LONG" in codes


@pytest.mark.parametrize(
    ("look", "refused"),
    [
        (PathFacts("/ssd/web01", "/ssd/web01", "absent", near="/ssd"), False),
        (PathFacts("/ssd/web01", "/ssd/web01", "directory", near="/ssd/web01"), False),
        (PathFacts("/ssd/web01", "/ssd/web01", "directory", near="/ssd/web01", writable=False), True),
        (PathFacts("/ssd/web01", "/ssd/web01", "file", near="/ssd"), True),
        (PathFacts("/ssd/web01", "/gone", "dangling", link=True, near="/ssd"), True),
        (PathFacts("/ssd/web01", "/else", "directory", link=True, near="/ssd/web01"), True),
        (PathFacts("/ssd/web01", "/ssd/w", "directory", link=True, near="/ssd/web01"), False),
        (PathFacts("/ssd/web01", "/ssd/web01", "unknown", errno=5, near="/ssd"), True),
    ],
)
def test_what_is_no_home_is_refused(look: PathFacts, refused: bool) -> None:
    codes, plan = planned(facts("/pool/web01/vda.qcow2", places={look.path: look}))
    assert ("HOME_UNUSABLE" in codes) is refused
    assert (plan is None) is refused


@settings(deadline=None)
@given(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=250))
@example("字" * 81)
@example("x" * 255)
def test_every_name_fits(name: str) -> None:
    """Whatever the image is called: what the plan makes can be made on a file system of 255 bytes a name."""
    if name in (".", "..") or len(name.encode()) > 255:
        return
    codes, plan = planned(facts(f"/pool/u/{name}"), chain=ChainPolicy.FLATTEN)
    assert plan is not None, codes
    for path in plan.made:
        for made in (path, path + image_names.MARKER, files.temporary_path(path + image_names.MARKER)):
            assert len(posixpath.basename(made).encode()) <= 255


@settings(deadline=None)
@given(st.text(max_size=100), st.integers(0, 60))
def test_a_cut_name_is_its_beginning(name: str, most: int) -> None:
    name = name.encode("utf-8", "ignore").decode()
    short = names.cut(name, most)
    assert name.startswith(short)
    assert len(short.encode()) <= most
    assert short == name or len(short.encode()) > most - 4
