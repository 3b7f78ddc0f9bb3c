"""The proof before every removal, orphans, quarantine: VMs of libvirt's test driver; files and processes are real."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from paper_host import HOST, PaperSite

from blockferry.base.errors import HostCommandFailed, NoAnswer, NotInQuarantine, NotRestorable, StillInUse
from blockferry.base.units import GiB, MiB
from blockferry.hosts import host_inventory, qemu_process
from blockferry.hosts.helper import files, references
from blockferry.hosts.helper.program import reference_calls
from blockferry.hosts.images import chains
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.libvirt import domain_list
from blockferry.hosts.path_identity import PathSeen, ReferencesSeen, same_file
from blockferry.jobs.outcome import Outcome
from blockferry.leftovers import orphans, quarantine
from blockferry.safety import file_references, proof
from blockferry.safety.proof import Claims
from blockferry.storage_move import survey
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import DiskPlan, DiskSizes, SourceImage
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, SourcePolicy
from blockferry.storage_move.summary import Orphan, Report
from blockferry.store import Owner

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="who may not see all processes can prove nothing"),
    pytest.mark.slow,
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PaperSite]:
    found = PaperSite(tmp_path)
    yield found
    found.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[MoveJournal]:
    found = MoveJournal.open(f"sqlite:///{tmp_path}/journal.db")
    yield found
    found.close()


def image(path: Path, backing: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    below = ["-b", str(backing), "-F", "qcow2"] if backing else []
    size = [] if backing else ["1M"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, str(path), *size], check=True)
    return path


def needed(site: PaperSite, path: Path, said: Claims | None = None, **options: object) -> str | None:
    return proof.blocker(site, str(path), said or Claims(), patience_s=0, **options)  # type: ignore[arg-type]


def purged(site: PaperSite, journal: MoveJournal, paths: Sequence[str], now: bool) -> tuple[tuple[str, bool, str], ...]:
    """(path, whether it is gone, a sentence) of each file."""
    return tuple((purged.path, purged.gone, purged.text) for purged in quarantine.purge(site, journal, paths, now=now))


# ------------------------------------------------------------ the proof


def test_what_nothing_needs(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "old.qcow2")
    site.define("web01", {"vda": image(tmp_path / "new.qcow2")})
    assert needed(site, path) is None
    assert needed(site, tmp_path / "gone.qcow2") is None


def test_a_vm_that_is_off_refers_to_it(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "old.qcow2")
    site.define("web01", {"vda": path})
    assert needed(site, path) == "VM web01 refers to it"
    site.define("db01", {"vda": tmp_path / "x" / ".." / "old.qcow2"})
    site.undefine("web01")
    assert needed(site, path) == "VM db01 refers to it"


def test_by_another_path(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "pool" / "old.qcow2")
    (tmp_path / "alias").symlink_to(tmp_path / "pool")
    site.define("web01", {"vda": tmp_path / "alias" / "old.qcow2"})
    assert needed(site, path) == f"VM web01 refers to it (as {tmp_path}/alias/old.qcow2)"
    hard = tmp_path / "hard.qcow2"
    os.link(path, hard)
    site.define("web01", {"vda": hard})
    assert needed(site, path) == f"VM web01 refers to it (as {hard})"


def test_a_chain_of_a_vm_that_is_off_stands_on_it(site: PaperSite, tmp_path: Path) -> None:
    base = image(tmp_path / "base.qcow2")
    middle = image(tmp_path / "homes" / "web01" / "middle.qcow2", base)
    top = image(tmp_path / "homes" / "web01" / "top.qcow2", middle)
    site.define("web01", {"vda": image(tmp_path / "other.qcow2"), "vdb": top})
    for path in (base, middle):
        assert needed(site, path) == "the backing chain of vdb of VM web01 stands on it"
    assert needed(site, top) == "VM web01 refers to it"


@pytest.mark.parametrize("by", ["link", "hard link"])
@pytest.mark.parametrize("who", ["vm", "kept", "volume"])
def test_a_base_that_is_named_by_another_path(site: PaperSite, tmp_path: Path, by: str, who: str) -> None:
    """A backing file named through a link, by an image that nobody but a chain, a kept file or a datastore names."""
    base = image(tmp_path / "bases" / "base.qcow2")
    alias = tmp_path / "alias" / "base.qcow2"
    if by == "link":
        alias.parent.symlink_to(base.parent)
    else:
        alias.parent.mkdir()
        os.link(base, alias)
    top = image(tmp_path / "home" / "top.qcow2", alias)
    rows: tuple[Kept, ...] = ()
    if who == "vm":
        site.define("web01", {"vda": image(tmp_path / "home" / "upper.qcow2", top)})
    elif who == "kept":
        rows = (Kept(str(top), "m", "web01", "", None, 1, "asked", HOST, 1.0, "qcow2"),)
    else:
        site.pool("home", tmp_path / "home")
    assert f"stands on it (as {alias})" in str(needed(site, base, Claims({}, rows)))
    assert needed(site, image(tmp_path / "bases" / "other.qcow2"), Claims({}, rows)) is None


def test_a_relative_name_whose_dots_pass_a_link(site: PaperSite, tmp_path: Path) -> None:
    """`..` after a link leads above what the link leads to, not to where the words seem to lead."""
    base = image(tmp_path / "far" / "base.qcow2")
    (tmp_path / "far" / "deep").mkdir()
    site.pool("ssd", tmp_path / "ssd")
    (tmp_path / "ssd" / "link").symlink_to(tmp_path / "far" / "deep")
    above = tmp_path / "ssd" / "above.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "link/../base.qcow2", "-F", "qcow2", str(above)]
    subprocess.run(argv, check=True)
    assert f"the volume {above} stands on it" in str(needed(site, base))


def test_a_chain_that_cannot_be_read_is_a_doubt(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "old.qcow2")
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"no image")
    site.define("db01", {"vda": broken})
    assert "cannot be told what vda of VM db01 stands on" in str(needed(site, path))
    broken.unlink()
    assert needed(site, path) is None, "a missing image stands on nothing"


def test_what_a_guest_writes_into_a_raw_disk_names_nothing(site: PaperSite, tmp_path: Path) -> None:
    """A guest may write a qcow2 header that names any file of the host into its raw disk."""
    path = image(tmp_path / "old.qcow2")
    site.define("evil", {"vda": image(tmp_path / "evil.raw", path)}, format="raw")
    assert needed(site, path) is None


def test_a_process_has_it_open(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "old.qcow2")
    with path.open("rb"):
        assert f"({os.getpid()}) still has it open" in str(needed(site, path))
    assert needed(site, path) is None


def test_somebody_who_only_looks_is_waited_for(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "old.qcow2")
    with subprocess.Popen(["tail", "-f", "-s", "0.1", "/dev/null", path], stdout=subprocess.DEVNULL) as reader:
        while not needed(site, path):
            time.sleep(0.01)
        killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill {reader.pid}"])
        assert proof.blocker(site, str(path), Claims()) is None
        killer.wait()


def test_a_move_under_way_plans_with_it(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "old.qcow2")
    assert "move abcd" in str(needed(site, path, Claims({str(path): "abcd"})))


def test_what_is_no_file(site: PaperSite, tmp_path: Path) -> None:
    assert needed(site, tmp_path) == "it is no plain file"


def test_a_kept_file_stands_on_it(site: PaperSite, tmp_path: Path) -> None:
    base = image(tmp_path / "base.qcow2")
    top = image(tmp_path / "home" / "top.qcow2", base)
    row = Kept(str(top), "m", "web01", "", None, 1, "asked", HOST, 1.0, "qcow2")
    assert needed(site, base, Claims({}, (row,))) == f"the kept file {top} of web01 stands on it"
    assert needed(site, base, Claims({}, (row,)), going=[str(top)]) is None
    assert needed(site, top, Claims({}, (row,))) is None


def test_a_kept_file_whose_datastore_is_not_mounted(site: PaperSite, tmp_path: Path) -> None:
    base = image(tmp_path / "base.qcow2")
    top = tmp_path / "san" / "top.qcow2"
    top.parent.mkdir()
    row = Kept(str(top), "m", "web01", "", None, 1, "asked", HOST, 1.0, "qcow2")
    said = Claims({}, (row,))
    doubt = str(needed(site, base, said))
    assert f"what the kept file {top} stands on" in doubt
    assert "may not be mounted" in doubt
    assert needed(site, base, said, is_base=False) is None
    image(top.parent / "another.qcow2")
    assert needed(site, base, said) is None, "its directory is there and holds other files: it is gone for good"


def test_what_is_claimed_by_a_path_that_is_not_mounted(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be this file, by a mount that is away now; a file that a move is yet to make is not."""
    path, other, away = image(tmp_path / "a" / "old.qcow2"), image(tmp_path / "a" / "b.qcow2"), tmp_path / "away"
    away.mkdir()
    row = Kept(str(away / "old.qcow2"), "m", "web01", "", None, 1, "asked", HOST, 1.0, "raw")
    moving = Claims({str(away / "old.qcow2"): "abcd"})
    assert "quarantine keeps it" in str(needed(site, path, Claims({}, (row,))))
    assert needed(site, other, Claims({}, (row,))) is None
    assert needed(site, path, moving) is None
    real = references.look

    def look(*words: object) -> ReferencesSeen:
        found = real(*words)  # type: ignore[arg-type]
        gone = PathSeen(str(away / "old.qcow2"), absent=f"{away} is not mounted")
        return dataclasses.replace(found, paths={**found.paths, gone.path: gone})

    monkeypatch.setattr(references, "look", look)
    assert "is not mounted) and may be this file: move abcd" in str(needed(site, path, moving))
    assert needed(site, other, moving) is None


def test_a_file_system_that_fails_is_told_of_its_own_path(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, real = image(tmp_path / "good.qcow2"), os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        if path == str(tmp_path):
            raise OSError(errno.EIO, "as a dead NFS does")
        return real(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    found = reference_calls.look_all([str(tmp_path), str(good)], [])["paths"]
    assert found[str(tmp_path)] == {"errno": errno.EIO}
    assert found[str(good)]["inode"] == good.stat().st_ino


def test_the_survey_goes_on_when_storage_of_another_vm_hangs(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path / "old.qcow2")
    site.define("web01", {"vda": path})
    site.define("db01", {"vda": path})
    everyone = domain_list.all_vms(site.connection)
    (mine,) = [vm for vm in everyone if vm.name == "web01"]

    def hang(*_words: object) -> None:
        raise NoAnswer("references.look", 124, "no answer within 60 s.")

    monkeypatch.setattr(references, "look", hang)
    found = host_inventory.take(site, listings=False)
    assert survey._users(mine, found, {str(path)}) == {str(path): ("db01",)}


def test_a_saved_state_names_it(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "old.qcow2")
    site.define("web01", {"vda": path})
    site.start("web01")
    site.connection.raw.lookupByName("web01").snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>")
    site.connection.raw.lookupByName("web01").destroy()
    site.define("web01", {"vda": image(tmp_path / "new.qcow2")})
    assert needed(site, path) == "snapshot s1 of VM web01 refers to it"


def not_answering(monkeypatch: pytest.MonkeyPatch, *silent: Path) -> None:
    """They cannot be looked at: their mount does not answer. stat(2) of the file did, a moment before."""
    really = references.look

    def look(*words: Any) -> ReferencesSeen:
        found = really(*words)
        paths = {
            path: dataclasses.replace(one, identity=None, absent="", error="ETIMEDOUT") if Path(path) in silent else one
            for path, one in found.paths.items()
        }
        return dataclasses.replace(found, paths=paths)

    monkeypatch.setattr(references, "look", look)


@pytest.mark.parametrize("silent", ["the file", "a directory above it"])
def test_a_file_that_cannot_be_looked_at_may_be_named_by_another_path(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    """Whoever names it by a second mount or a link was not found then, and it was taken for unneeded."""
    path = image(tmp_path / "pool" / "old.qcow2")
    (tmp_path / "alias").symlink_to(tmp_path / "pool")
    site.define("web01", {"vda": image(tmp_path / "new.qcow2")})
    not_answering(monkeypatch, path if silent == "the file" else path.parent)
    why = needed(site, path)
    assert why is not None
    assert "ETIMEDOUT" in why


def test_what_a_snapshot_names_and_cannot_be_looked_at_is_a_doubt(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = image(tmp_path / "old.qcow2"), image(tmp_path / "named.qcow2")
    site.define("web01", {"vda": other})
    site.start("web01")
    site.connection.raw.lookupByName("web01").snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>")
    site.connection.raw.lookupByName("web01").destroy()
    site.define("web01", {"vda": image(tmp_path / "new.qcow2")})
    assert needed(site, path) is None
    not_answering(monkeypatch, other)
    why = needed(site, path)
    assert why is not None
    assert "snapshot s1 of VM web01" in why


def test_a_vm_that_is_defined_while_the_vms_are_listed_is_not_missed(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path / "old.qcow2")
    site.define("web01", {"vda": image(tmp_path / "new.qcow2")})
    really = domain_list._read_unless_gone
    done: list[bool] = []

    def read(*words: Any) -> Any:
        if not done:
            done.append(True)
            site.define("db01", {"vda": path})
        return really(*words)

    monkeypatch.setattr(domain_list, "_read_unless_gone", read)
    assert needed(site, path) == "VM db01 refers to it"


# ------------------------------------------------------------ what is named in other ways, and what cannot be seen


def volume(pool: str, name: str, target: str = "vda", format: str = "qcow2") -> str:
    return (
        f"<disk type='volume' device='disk'><driver name='qemu' type='{format}'/>"
        f"<source pool='{pool}' volume='{name}'/><target dev='{target}' bus='virtio'/></disk>"
    )


@pytest.mark.parametrize("active", [True, False])
def test_a_volume_that_a_snapshot_names(site: PaperSite, tmp_path: Path, active: bool) -> None:
    path = image(tmp_path / "a" / "old.qcow2")
    snapshot_of_volume(site, "old.qcow2")
    assert "vda of snapshot s1 of VM web01 (volume old.qcow2 of pool a, which is not defined)" in str(
        needed(site, image(tmp_path / "other.qcow2"))
    )
    assert "which snapshot s1 of VM web01 names" in file_references.directory_user(site, str(tmp_path / "b"))
    site.pool("a", tmp_path / "a", active=active)
    assert needed(site, path) == "snapshot s1 of VM web01 refers to it"
    assert needed(site, tmp_path / "other.qcow2") is None
    assert file_references.directory_user(site, str(tmp_path / "b")) == ""


def test_a_raw_volume_that_a_snapshot_names(site: PaperSite, tmp_path: Path) -> None:
    snapshot_of_volume(site, "old.raw", "raw")
    assert needed(site, image(tmp_path / "other.qcow2")) is None
    assert "delete snapshot s1 of VM web01" in str(needed(site, image(tmp_path / "old.raw")))


def snapshot_of_volume(site: PaperSite, name: str, format: str = "qcow2") -> None:
    """A VM whose snapshot names a volume of pool a; its own XML does not any more."""
    site.define("web01", {}, devices=volume("a", name, format=format))
    site.start("web01")
    site.connection.raw.lookupByName("web01").snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>")
    site.connection.raw.lookupByName("web01").destroy()
    site.define("web01", {})


@pytest.mark.parametrize("active", [True, False])
def test_a_template_that_is_named_as_a_volume(site: PaperSite, tmp_path: Path, active: bool) -> None:
    """Also of a pool that is not started, whose directory can be read all the same."""
    template = image(tmp_path / "a" / "tmpl.qcow2")
    site.pool("a", tmp_path / "a", active=active)
    site.define("template", {}, devices=volume("a", "tmpl.qcow2"))
    assert needed(site, template) == "VM template refers to it (volume tmpl.qcow2 of pool a)"
    clone = image(tmp_path / "a" / "clone.qcow2", template)
    site.define("template", {}, devices=volume("a", "clone.qcow2"))
    assert needed(site, template) == "the backing chain of vda of VM template stands on it"
    assert needed(site, image(tmp_path / "other" / "old.qcow2")) is None
    clone.unlink()
    assert needed(site, template) is None, "its directory is there and holds other images: it is gone for good"


def test_a_volume_of_a_pool_that_nobody_knows(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "tmpl.qcow2")
    site.define("db01", {}, devices=volume("gone", "x.qcow2"))
    doubt = str(needed(site, path))
    assert "vda of VM db01 (volume x.qcow2 of pool gone, which is not defined) cannot be looked at" in doubt
    assert "define the pool gone" in doubt
    site.define("db01", {}, devices=volume("gone", "x.raw", format="raw"))
    assert needed(site, path) is None, "a raw image stands on nothing, and this file has another name"
    site.define("db01", {}, devices=volume("gone", "tmpl.qcow2", format="raw"))
    assert "may be this file" in str(needed(site, path))


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_what_a_snapshot_names_on_a_datastore_that_is_not_mounted(site: PaperSite, tmp_path: Path, how: str) -> None:
    """It may stand on the file, or be the file by another mount."""
    path, away = image(tmp_path / "here" / "tmpl.qcow2"), tmp_path / "san"
    site.define("web01", {"vda": image(away / "old.qcow2")})
    site.start("web01")
    site.connection.raw.lookupByName("web01").snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>")
    site.connection.raw.lookupByName("web01").destroy()
    site.define("web01", {"vda": image(tmp_path / "new.qcow2")})
    assert needed(site, path) is None
    shutil.rmtree(away)
    if how == "empty":
        away.mkdir()
    assert "which snapshot s1 of VM web01 names, cannot be looked at" in str(needed(site, path))


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_a_datastore_that_is_not_mounted(site: PaperSite, tmp_path: Path, how: str) -> None:
    """What a linked clone stands on cannot be told while its datastore is not mounted."""
    path = image(tmp_path / "here" / "tmpl.qcow2")
    away = tmp_path / "san"
    if how == "empty":
        away.mkdir()
    site.define("clone", {"vda": away / "clone.qcow2"})
    doubt = str(needed(site, path))
    assert f"vda of VM clone ({away}/clone.qcow2) cannot be looked at" in doubt
    assert "may not be mounted" in doubt
    assert "undefine VM clone" in doubt
    assert needed(site, path, is_base=False) is not None
    image(away / "clone.qcow2")
    assert needed(site, path) is None


def test_a_raw_image_that_is_not_mounted_stands_on_nothing(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "here" / "old.qcow2")
    (tmp_path / "san").mkdir()
    site.define("db01", {"vda": tmp_path / "san" / "data.raw"}, format="raw")
    assert needed(site, path) is None
    site.define("db01", {"vda": tmp_path / "san" / "old.qcow2"}, format="raw")
    assert "may be this file" in str(needed(site, path)), "the same file system may be mounted there, too"


@pytest.mark.parametrize("by", ["path", "link", "volume"])
def test_a_device_that_is_away(site: PaperSite, tmp_path: Path, by: str) -> None:
    """An inactive volume group, a LUN that is not logged in: the image in it is there, only its node is not."""
    path = image(tmp_path / "tmpl.qcow2")
    if by == "volume":
        xml = "<pool type='logical'><name>vg</name><source><name>nowhere</name></source>"
        xml += "<target><path>/dev/nowhere</path></target></pool>"
        site.connection.raw.storagePoolDefineXML(xml)
        site.define("clone", {}, devices=volume("vg", "clone"))
        assert "start the pool (`virsh pool-start vg`)" in str(needed(site, path))
        site.define("clone", {}, devices=volume("vg", "clone", format="raw"))
        assert needed(site, path, is_base=False) is None, "nobody stands on what a running VM wrote to"
        assert "the datastore vg is not active, and an image in it" in str(needed(site, path)), "one that no VM names"
        site.connection.raw.storagePoolLookupByName("vg").undefine()
    else:
        away = Path("/dev/nowhere-vg/clone")
        if by == "link":
            (tmp_path / "link").symlink_to(away)
        named = tmp_path / "link" if by == "link" else away
        site.define("clone", {"vda": named})
        assert "the device /dev/nowhere-vg/clone is not there" in str(needed(site, path))
        site.define("clone", {"vda": named}, format="raw")
    assert needed(site, path) is None, "a raw image stands on nothing"


def test_a_chain_whose_end_the_xml_names(site: PaperSite, tmp_path: Path) -> None:
    """Then QEMU opens nothing that is not named, whether or not the image can be read."""
    base, path = image(tmp_path / "here" / "base.qcow2"), image(tmp_path / "here" / "old.qcow2")
    (tmp_path / "san").mkdir()
    disk = (
        f"<disk type='file'><driver type='qcow2'/><source file='{tmp_path}/san/top.qcow2'/><target dev='vda'/>"
        f"<backingStore type='file'><format type='qcow2'/><source file='{base}'/><backingStore/></backingStore></disk>"
    )
    site.define("db01", {}, devices=disk)
    assert needed(site, path) is None
    assert needed(site, base) == "VM db01 refers to it"


def test_an_image_that_cannot_be_looked_at(site: PaperSite, tmp_path: Path) -> None:
    """Any error but that it is absent: here a loop of links, as ESTALE of a network file system."""
    path = image(tmp_path / "old.qcow2")
    loop = tmp_path / "loop.qcow2"
    loop.symlink_to(loop)
    for format in ("qcow2", "raw"):
        site.define("db01", {"vda": loop}, format=format)
        doubt = str(needed(site, path))
        assert f"vda of VM db01 ({loop}) cannot be looked at (Too many levels of symbolic links)" in doubt
    site.define("db01", {}, os=f"<kernel>{loop}</kernel>")
    assert f"{loop}, which VM db01 names (kernel), cannot be looked at" in str(needed(site, path))


def test_an_image_that_gets_another_name_while_it_is_looked_at(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM has changed its disk between the list of VMs and the look at the image: all is looked at again."""
    base = image(tmp_path / "base.qcow2")
    first, second = image(tmp_path / "first.qcow2", base), tmp_path / "second.qcow2"
    site.define("db01", {"vda": first})
    read = chains.read

    def renamed(*words: object) -> object:
        if first.exists():
            first.rename(second)
            site.define("db01", {"vda": second})
        return read(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(chains, "read", renamed)
    assert needed(site, base) == "the backing chain of vda of VM db01 stands on it"


def test_an_image_that_vanishes_at_every_look_is_a_doubt(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, restless = image(tmp_path / "old.qcow2"), tmp_path / "restless.qcow2"
    site.define("db01", {"vda": restless})
    read, everyone, looks = chains.read, domain_list.all_vms, []

    def there(*words: object) -> object:
        looks.append(image(restless))
        return everyone(*words)  # type: ignore[arg-type]

    def gone(*words: object) -> object:
        restless.unlink(missing_ok=True)
        return read(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(domain_list, "all_vms", there)
    monkeypatch.setattr(chains, "read", gone)
    doubt = "it cannot be told what vda of VM db01 stands on (it vanished while it was looked at)"
    for is_base in (True, False):  # what is gone may be this file by another name
        looks.clear()
        assert needed(site, path, is_base=is_base) == doubt
        assert len(looks) == 3


def test_a_home_that_is_gone_from_a_datastore_that_is_there(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "san" / "old.qcow2")
    site.define("db01", {"vda": tmp_path / "san" / "db01" / "vda.qcow2"})
    assert "may not be mounted" in str(needed(site, path)), "nothing tells that its directory was ever there"
    site.pool("san", tmp_path / "san")
    assert needed(site, path) is None


def test_images_that_no_vm_names(site: PaperSite, tmp_path: Path) -> None:
    """Overlays of a template that wait to be used, at the top of a datastore or in a directory of it."""
    base = image(tmp_path / "base.qcow2")
    site.pool("ssd", tmp_path / "ssd")
    for above in (tmp_path / "ssd" / "top.qcow2", tmp_path / "ssd" / "clones" / "top.qcow2"):
        image(above, base)
        assert needed(site, base) == f"the volume {above} stands on it"
        assert needed(site, base, going=[str(above)]) is None
        above.unlink()
    cut = tmp_path / "ssd" / "cut.qcow2"
    cut.write_bytes(b"QFI\xfb")
    assert f"what {cut} in the datastore ssd stands on" in str(needed(site, base))
    assert needed(site, base, is_base=False) is None


def test_images_deep_in_a_datastore(site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies too deep, or is too much to be read, is a doubt about bases."""
    base = image(tmp_path / "base.qcow2")
    store = tmp_path / "ssd"
    site.pool("ssd", store)
    above = image(store / "1" / "2" / "3" / "4" / "top.qcow2", base)
    assert needed(site, base) == f"the volume {above} stands on it"
    deep = store / "1" / "2" / "3" / "4" / "5"
    above.unlink()
    deep.mkdir()
    assert needed(site, base) is None, "there is nothing in it"
    image(deep / "top.qcow2", base)
    assert f"what {deep} in the datastore ssd stands on (it lies too deep" in str(needed(site, base))
    assert needed(site, base, is_base=False) is None
    monkeypatch.setattr(reference_calls, "ENTRIES", 2)
    late = reference_calls.listed(str(store), set(), set(), time.monotonic() + 60)
    assert late["unread"] == [[str(store / "1" / "2"), reference_calls.TOO_MUCH]]
    monkeypatch.setattr(reference_calls, "ENTRIES", 100)
    late = reference_calls.listed(str(store), set(), set(), time.monotonic() - 1)
    assert late["unread"] == [[str(store), reference_calls.TOO_MUCH]]
    assert reference_calls.listed(str(store), set(), {str(store / "1")}, time.monotonic() + 60)["unread"] == []


@pytest.mark.parametrize("format", ["qcow2", "qcow", "qed", "vmdk"])
def test_every_format_that_can_stand_on_another(site: PaperSite, tmp_path: Path, format: str) -> None:
    site.pool("ssd", tmp_path / "ssd")
    base, above = tmp_path / "base.img", tmp_path / "ssd" / "above.img"
    inner = format if format == "vmdk" else "raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", inner, base, "1M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", format, "-b", base, "-F", inner, above], check=True)
    assert needed(site, base) == f"the volume {above} stands on it"
    relative = tmp_path / "ssd" / "relative.img"
    above.unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", format, "-b", "../base.img", "-F", inner, relative], check=True)
    assert needed(site, base) == f"the volume {relative} stands on it"


def test_a_data_file_of_an_image_that_no_vm_names(site: PaperSite, tmp_path: Path) -> None:
    site.pool("ssd", tmp_path / "ssd")
    above, data = tmp_path / "ssd" / "above.qcow2", tmp_path / "data.raw"
    options = f"data_file={data},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, above, "1M"], check=True)
    assert needed(site, data) == f"the volume {above} stands on it"


def test_a_pool_that_is_not_active_matters_to_bases_only(site: PaperSite, tmp_path: Path) -> None:
    """A pool that nobody mounts any more must not keep every file for ever."""
    path = image(tmp_path / "old.qcow2")
    site.pool("nfs", tmp_path / "nfs", active=False)
    doubt = str(needed(site, path))
    assert f"the datastore nfs ({tmp_path}/nfs) cannot be looked at" in doubt
    assert "virsh pool-start nfs" in doubt
    assert needed(site, path, is_base=False) is None
    above = image(tmp_path / "nfs" / "above.qcow2", path)
    assert needed(site, path) == f"the volume {above} stands on it", "its directory can be read all the same"
    above.unlink()
    image(above)
    assert needed(site, path) is None


@pytest.mark.parametrize("kind", ["fs", "netfs"])
def test_an_active_pool_that_was_unmounted_behind_libvirt(site: PaperSite, tmp_path: Path, kind: str) -> None:
    """libvirt calls it active, and what lies in its directory is not what lies in its file system."""
    path = image(tmp_path / "old.qcow2")
    image(tmp_path / "san" / "left.qcow2")
    device = "<device path='/dev/nowhere'/>" if kind == "fs" else "<host name='nowhere'/><dir path='/export'/>"
    xml = f"<pool type='{kind}'><name>san</name><source>{device}</source>"
    xml += f"<target><path>{tmp_path}/san</path></target></pool>"
    site.connection.raw.storagePoolDefineXML(xml).create()
    assert f"the datastore san ({tmp_path}/san) cannot be looked at (it is not mounted)" in str(needed(site, path))
    assert needed(site, path, is_base=False) is None
    site.define("clone", {"vda": tmp_path / "san" / "clone" / "vda.qcow2"})
    assert "vda of VM clone" in str(needed(site, path, is_base=False)), "its home may be in what is not mounted"


@pytest.mark.parametrize(
    ("devices", "os", "what"),
    [
        ("", "<kernel>{}</kernel>", "kernel"),
        ("", "<initrd>{}</initrd>", "initrd"),
        ("<serial type='pty'><log file='{}'/><target port='0'/></serial>", "", "log file"),
        ("<serial type='file'><source path='{}'/><target port='0'/></serial>", "", "character device"),
        ("<disk type='file' device='cdrom'><source file='{}'/><target dev='sda'/></disk>", "", ""),
    ],
)
def test_what_a_vm_names_elsewhere_than_in_a_disk(
    site: PaperSite, tmp_path: Path, devices: str, os: str, what: str
) -> None:
    path = tmp_path / "home" / "x"
    path.parent.mkdir()
    path.write_bytes(b"x")
    site.define("web01", {}, devices=devices.format(path), os=os.format(path))
    assert needed(site, path) == f"VM web01 refers to it{what and f' ({what})'}"


@pytest.mark.parametrize("by", ["path", "link"])
def test_a_directory_that_is_shared_with_a_guest(site: PaperSite, tmp_path: Path, by: str) -> None:
    path = image(tmp_path / "home" / "web01" / "old.qcow2")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    shared = tmp_path / "home" if by == "path" else tmp_path / "link"
    site.define("web01", {}, devices=f"<filesystem type='mount'><source dir='{shared}'/><target dir='t'/></filesystem>")
    assert needed(site, path) == f"VM web01 uses the directory {shared}, which holds it"
    assert needed(site, image(tmp_path / "homes" / "old.qcow2")) is None


def test_a_host_where_files_cannot_be_looked_at(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A datastore does not answer: a doubt, not an error."""
    path = image(tmp_path / "old.qcow2")
    site.define("web01", {"vda": image(tmp_path / "new.qcow2")})

    def no_answer(*_words: object) -> None:
        raise NoAnswer("references.look", 124, "no answer within 60 s.")

    monkeypatch.setattr(references, "look", no_answer)
    assert "what VMs name could not be looked at" in str(needed(site, path, is_base=False))
    site.define("web01", {"vda": path})
    assert needed(site, path) == "VM web01 refers to it"


def test_who_names_a_directory(site: PaperSite, tmp_path: Path) -> None:
    """An empty directory that is shared with a guest, or that a log will be written to, is needed for a start."""
    home = tmp_path / "web01"
    home.mkdir()
    assert file_references.directory_user(site, str(home)) == ""
    share = f"<filesystem type='mount'><source dir='{home}'/><target dir='t'/></filesystem>"
    site.define("db01", {}, devices=share)
    assert file_references.directory_user(site, str(home)) == f"VM db01 names {home}"
    site.define("db01", {}, devices=f"<serial type='pty'><log file='{home}/log'/><target port='0'/></serial>")
    assert file_references.directory_user(site, str(home)) == f"VM db01 names {home}/log"
    site.define("db01", {"vda": tmp_path / "web012" / "vda.qcow2"})
    assert file_references.directory_user(site, str(home)) == ""


# ------------------------------------------------------------ orphans


def marker(path: Path, **words: str) -> None:
    said = {"what": "x", "move": "abcd", "vm": "web01", "by": "root@kvm1", "journal": "", "inode": "", **words}
    path.with_name(f"{path.name}.blockferry").write_text(json.dumps(said))


def found(site: PaperSite, journal: MoveJournal, path: Path | str) -> Orphan:
    (orphan,) = [item for item in orphans.find(site, journal).left if item.path == str(path)]
    return orphan


def test_a_half_made_copy_of_ours(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "web01" / "vda.qcow2")
    marker(path, journal=journal.identity(), inode=str(path.stat().st_ino))
    orphan = found(site, journal, path)
    assert (orphan.kind, orphan.removable, orphan.foreign, orphan.datastore) == ("copy", True, False, "ssd")
    assert "removed" in orphans.remove(site, journal, orphan)
    assert not path.parent.exists(), "with its marker and the home that it made"


def test_a_directory_that_a_vm_names_stays_when_an_orphan_goes(
    site: PaperSite, journal: MoveJournal, tmp_path: Path
) -> None:
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "web01" / "vda.qcow2")
    marker(path, journal=journal.identity(), inode=str(path.stat().st_ino))
    socket = path.parent / "agent.sock"
    site.define(
        "web02",
        {},
        devices=f"<channel type='unix'><source mode='bind' path='{socket}'/><target type='virtio' name='x'/></channel>",
    )
    assert "removed" in orphans.remove(site, journal, found(site, journal, path))
    assert not path.exists()
    assert path.parent.exists()


def test_a_directory_that_cannot_be_removed_is_no_error_once_the_orphan_is_gone(
    site: PaperSite, journal: MoveJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_runner: object, path: str) -> bool:
        raise HostCommandFailed("rmdir", 1, f"{path}: read-only file system")

    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "web01" / "vda.qcow2")
    marker(path, journal=journal.identity(), inode=str(path.stat().st_ino))
    orphan = found(site, journal, path)
    monkeypatch.setattr(files, "remove_directory_if_empty", refused)
    assert "removed" in orphans.remove(site, journal, orphan)
    assert not path.exists()


def test_without_a_marker_nothing_is_an_orphan(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    site.pool("ssd", tmp_path / "ssd")
    image(tmp_path / "ssd" / "web01" / "vda.qcow2")
    (tmp_path / "ssd" / "notes.blockferry").write_text("somebody's own words")
    assert orphans.find(site, journal).left == ()


@pytest.mark.parametrize("theirs", ["", "11111111-0000-0000-0000-000000000000"])
def test_another_journal_s_half_made_copy(site: PaperSite, journal: MoveJournal, tmp_path: Path, theirs: str) -> None:
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "vda.qcow2")
    marker(path, journal=theirs, inode=str(path.stat().st_ino))
    orphan = found(site, journal, path)
    assert not orphan.removable
    assert orphan.foreign
    assert "another journal" in orphan.why
    with pytest.raises(StillInUse):
        orphans.remove(site, journal, orphan)
    assert path.exists()
    orphans.remove(site, journal, orphan, abandoned=True)
    assert not path.exists()


def test_a_file_of_a_move_under_way(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "vda.qcow2")
    marker(path, journal=journal.identity(), inode=str(path.stat().st_ino))
    journal.add(a_plan(tmp_path, "uuid"), Record(), "{}", "root")
    assert orphans.find(site, journal).left == ()
    marker(
        path, journal=journal.identity(), move="another", inode=str(path.stat().st_ino)
    )  # a stale marker; the file is a destination again
    orphan = dataclasses.replace(found(site, journal, path), path=str(path))
    assert "move abcd, which is not over" in orphan.why
    assert not orphan.removable


@pytest.mark.parametrize("how", ["names", "stands", "opens"])
def test_a_half_made_copy_that_somebody_uses(site: PaperSite, journal: MoveJournal, tmp_path: Path, how: str) -> None:
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "vda.qcow2")
    marker(path, journal=journal.identity(), inode=str(path.stat().st_ino))
    before = found(site, journal, path)
    assert before.removable
    reader = None
    if how == "names":
        site.define("web01", {"vda": path})
    elif how == "stands":
        site.define("web02", {"vda": image(tmp_path / "over.qcow2", path)})
    else:
        reader = path.open("rb")
    orphan = found(site, journal, path)
    assert not orphan.removable
    assert not orphan.foreign
    if how != "opens":  # that would be waited for
        with pytest.raises(StillInUse):  # also when it was an orphan a moment ago
            orphans.remove(site, journal, before, abandoned=True)
    assert path.exists()
    if reader is not None:
        reader.close()


def test_another_file_beside_an_old_marker(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "vda.qcow2")
    marker(path, journal=journal.identity(), inode=str(path.stat().st_ino))
    before = found(site, journal, path)
    other = image(tmp_path / "ssd" / "other.qcow2")
    other.rename(path)
    beside = path.with_name(f"{path.name}.blockferry")
    orphan = found(site, journal, beside)
    assert (orphan.kind, orphan.removable) == ("marker", True)
    assert [orphan] == list(orphans.find(site, journal).left), "the file itself is somebody else's"
    with pytest.raises(StillInUse):
        orphans.remove(site, journal, before)
    assert path.exists()
    orphans.remove(site, journal, orphan)
    assert path.exists()
    assert not beside.exists()


@pytest.mark.parametrize("theirs", ["ours", "another journal"])
def test_a_file_beside_a_marker_that_was_written_before_it(
    site: PaperSite, journal: MoveJournal, tmp_path: Path, theirs: str
) -> None:
    """The move was killed before it made its file; somebody else may have made this one since."""
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "vda.qcow2")
    marker(path, journal=journal.identity() if theirs == "ours" else "other")
    orphan = found(site, journal, path)
    assert (orphan.removable, orphan.foreign) == (False, False)
    assert "not proven that the move has made this file" in orphan.why
    for abandoned in (False, True):
        with pytest.raises(StillInUse):
            orphans.remove(site, journal, orphan, abandoned=abandoned)
    assert path.exists()
    path.unlink()
    orphan = found(site, journal, path)
    assert orphan.removable is (theirs == "ours"), "the marker alone is ours"
    orphans.remove(site, journal, orphan, abandoned=True)
    assert orphans.find(site, journal).left == ()


def test_a_marker_whose_file_came_back(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "vda.qcow2")
    mine = path.rename(tmp_path / "ssd" / "mine.qcow2")
    marker(path, journal=journal.identity(), inode=str(mine.stat().st_ino))
    image(path)
    orphan = found(site, journal, path.with_name(f"{path.name}.blockferry"))
    mine.rename(path)
    with pytest.raises(StillInUse):
        orphans.remove(site, journal, orphan)
    assert found(site, journal, path).kind == "copy"


def test_a_directory_that_cannot_be_read(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    """What was found elsewhere is told all the same, and that there may be more."""
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "vda.qcow2")
    marker(path, journal=journal.identity(), inode=str(path.stat().st_ino))
    assert orphans.find(site, journal).unsearched == ()
    site.pool("gone", tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    searched = orphans.find(site, journal)
    assert [orphan.path for orphan in searched.left] == [str(path)]
    [sentence] = searched.unsearched
    assert "gone could not be searched" in sentence
    assert "No such file or directory" in sentence


def test_marks(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    site.define("mine", {}, mark=f"id='1111' journal='{journal.identity()}'")
    site.define("theirs", {}, mark="id='2222' journal='other'")
    assert found(site, journal, "vm:mine").removable
    orphan = found(site, journal, "vm:theirs")
    assert (orphan.removable, orphan.foreign) == (False, True)
    with pytest.raises(StillInUse):
        orphans.remove(site, journal, orphan)


# ------------------------------------------------------------ quarantine


def a_plan(directory: Path, uuid: str, disks: tuple[str, ...] = ("vda",), keep_s: float | None = 7 * 86400.0) -> Plan:
    return Plan(
        move="abcd",
        uri="qemu:///system",
        vm="web01",
        uuid=uuid,
        method=Method.COLD,
        method_reason="",
        disks=tuple(
            DiskPlan(
                target=target,
                source=SourceImage(
                    path=str(directory / "old" / "web01" / f"{target}.qcow2"),
                    format="qcow2",
                    kind="file",
                    datastore="old",
                ),
                dest=DestinationImage(path=str(directory / "ssd" / f"{target}.qcow2"), format="qcow2", datastore="ssd"),
                sizes=DiskSizes(virtual=MiB, allocation=MiB),
                release=ReleasePlan(files=(str(directory / "old" / "web01" / f"{target}.qcow2"),)),
            )
            for target in disks
        ),
        home=None,
        source=SourcePolicy(delete=False, keep_s=keep_s),
        domain=DomainPlan(persistent=True, was=PowerState.OFF),
    )


@dataclasses.dataclass
class Moved:
    """A VM that was moved, with its old files in quarantine."""

    site: PaperSite
    journal: MoveJournal
    plan: Plan

    def paths(self) -> dict[str, str]:
        domain = self.site.connection.raw.lookupByName("web01").XMLDesc(2)
        return {
            disk.target: next(p for p in (disk.source.path, disk.dest.path) if f"'{p}'" in domain)
            for disk in self.plan.disks
        }

    @property
    def rows(self) -> set[str]:
        return {kept_source.path for kept_source in self.journal.kept_sources()}

    @property
    def old(self) -> dict[str, str]:
        return {disk.target: disk.source.path for disk in self.plan.disks}

    @property
    def new(self) -> dict[str, str]:
        return {disk.target: disk.dest.path for disk in self.plan.disks}

    def restore(self, what: str = "web01") -> tuple[str, ...]:
        return quarantine.restore(self.site, self.journal, quarantine.restorable(self.site, self.journal, what), "root")


@pytest.fixture
def moved(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> Moved:
    return make_moved(site, journal, tmp_path)


def make_moved(site: PaperSite, journal: MoveJournal, tmp_path: Path, keep_s: float | None = 7 * 86400.0) -> Moved:
    targets = ("vda", "vdb")
    for target in targets:
        image(tmp_path / "old" / "web01" / f"{target}.qcow2")
        image(tmp_path / "ssd" / f"{target}.qcow2")
    site.define("web01", {target: tmp_path / "ssd" / f"{target}.qcow2" for target in targets})
    plan = a_plan(tmp_path, site.uuid("web01"), targets, keep_s)
    journal.add(plan, Record(), "{}", "root")
    journal.event("abcd", "phase", quarantine.SWITCHED)
    for disk in plan.disks:
        journal.add_kept(quarantine.row(site, plan, disk.source.path, "old", 1, "kept as asked", "qcow2"))
    lease = journal.claim("abcd", Owner.here())
    journal.finish(lease, Record(outcome=Outcome.MOVED), Report(Outcome.MOVED, 1.0))
    return Moved(site, journal, plan)


def test_the_list(moved: Moved) -> None:
    for kept_file in quarantine.listing(moved.site, moved.journal):
        assert (kept_file.found, kept_file.expired, kept_file.altered, kept_file.doubt) == (True, False, False, None)
        assert kept_file.kept.host == HOST
        assert kept_file.kept.expires is not None


def test_back_and_forward(moved: Moved) -> None:
    before = moved.journal.kept_sources()
    agreed = quarantine.restorable(moved.site, moved.journal, "web01")
    assert agreed.since is not None
    assert agreed.since <= min(kept.since or 0 for kept in before)
    assert all(loss.identical for loss in agreed.losses), "both are empty"
    assert moved.paths() == moved.new, "to ask changes nothing"
    moved.restore()
    assert moved.paths() == moved.old
    assert moved.rows == set(moved.new.values())
    assert all(kept_source.expires is None for kept_source in moved.journal.kept_sources())
    assert "restored web01" in moved.journal.events("abcd")[-1].text
    moved.restore(moved.new["vdb"])
    assert moved.paths() == moved.new
    assert moved.rows == set(moved.old.values())
    for path in (*moved.old.values(), *moved.new.values()):
        assert Path(path).exists()


@pytest.mark.parametrize(("died", "side"), [("before", "new"), ("after", "old")])
def test_a_restore_that_died_is_finished(moved: Moved, died: str, side: str) -> None:
    agreed = quarantine.restorable(moved.site, moved.journal, "web01")
    quarantine._put_aside(moved.site, moved.journal, moved.plan, dict.fromkeys(moved.new.values(), "qcow2"))
    if died == "after":
        quarantine._point(moved.site, agreed.swap)
    assert moved.paths() == getattr(moved, side)
    assert all(not gone for _, gone, _ in purged(moved.site, moved.journal, list(moved.paths().values()), True))
    assert moved.rows == {*moved.old.values(), *moved.new.values()}
    moved.restore()
    assert moved.paths() == moved.old
    assert moved.rows == set(moved.new.values())


def test_not_while_it_runs_or_was_changed(moved: Moved, tmp_path: Path) -> None:
    agreed = quarantine.restorable(moved.site, moved.journal, "web01")
    moved.site.start("web01")
    with pytest.raises(NotRestorable, match="running"):
        quarantine.restorable(moved.site, moved.journal, "web01")
    with pytest.raises(NotRestorable):
        quarantine.restore(moved.site, moved.journal, agreed, "root")
    assert moved.paths() == moved.new
    moved.site.connection.raw.lookupByName("web01").destroy()
    old = Path(moved.old["vda"])
    keep = old.with_name("copy")
    shutil.copy2(old, keep)
    with old.open("ab") as file:
        file.write(b"x")
    with pytest.raises(NotRestorable, match="has been changed since it was kept"):
        quarantine.restore(moved.site, moved.journal, agreed, "root")
    keep.rename(old)
    with pytest.raises(NotRestorable, match="has been changed since it was kept"):
        moved.restore()
    old.unlink()
    with pytest.raises(NotRestorable, match="is gone"):
        moved.restore()
    assert moved.paths() == moved.new
    with pytest.raises(NotInQuarantine):
        quarantine.restorable(moved.site, moved.journal, "/nowhere")


def test_not_what_another_vm_has_taken(moved: Moved, tmp_path: Path) -> None:
    moved.site.define("web02", {"vda": Path(moved.old["vda"])})
    with pytest.raises(NotRestorable, match="VM web02 refers to it"):
        moved.restore()
    assert moved.paths() == moved.new


def test_not_while_a_qemu_runs_that_libvirt_has_lost(moved: Moved) -> None:
    agreed = quarantine.restorable(moved.site, moved.journal, "web01")
    argv = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", "-uuid", moved.plan.uuid]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as lost:
        try:
            assert lost.stdout is not None
            lost.stdout.readline()
            with pytest.raises(NotRestorable, match=f"its QEMU .process {lost.pid}. still runs"):
                moved.restore()
            with pytest.raises(NotRestorable, match="still runs"):
                quarantine._point(moved.site, agreed.swap)
        finally:
            lost.kill()
    assert moved.paths() == moved.new


def test_not_while_it_cannot_be_told_whether_it_runs(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    doubt = qemu_process.QemuPresence(doubt="the host hides other users' processes (hidepid)")
    monkeypatch.setattr(qemu_process, "remains", lambda *_: doubt)
    with pytest.raises(NotRestorable, match="cannot be told whether web01 is off: the host hides"):
        moved.restore()
    assert moved.paths() == moved.new


def test_a_kept_image_that_cannot_be_opened(moved: Moved, tmp_path: Path) -> None:
    old = Path(moved.old["vda"])
    old.write_bytes(b"no image")
    kept = next(kept_source for kept_source in moved.journal.kept_sources() if kept_source.path == str(old))
    moved.journal.add_kept(dataclasses.replace(kept, fingerprint=_print(old)))
    with pytest.raises(NotRestorable, match="cannot be read"):
        moved.restore()


def _print(path: Path) -> KeptFingerprint:
    stat = path.stat()
    return KeptFingerprint(stat.st_ino, stat.st_size, stat.st_mtime_ns)


def test_purge_takes_what_has_expired(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    moved = make_moved(site, journal, tmp_path, keep_s=0.0)
    site.pool("old", tmp_path / "old")
    done = purged(site, journal, [], now=False)
    assert [gone for _, gone, _ in done] == [True, True]
    assert moved.rows == set()
    assert not (tmp_path / "old" / "web01").exists(), "the empty home goes too"
    assert moved.paths() == moved.new
    assert all(Path(path).exists() for path in moved.new.values())
    assert "was removed from quarantine" in journal.events("abcd")[-1].text


def test_purge_leaves_what_has_not(moved: Moved) -> None:
    path = moved.old["vda"]
    assert purged(moved.site, moved.journal, [], now=False) == ()
    ((_, gone, text),) = purged(moved.site, moved.journal, [path], now=False)
    assert not gone
    assert "not over" in text
    ((_, gone, _),) = purged(moved.site, moved.journal, [path], now=True)
    assert gone
    assert moved.rows == {moved.old["vdb"]}
    with pytest.raises(NotInQuarantine):
        purged(moved.site, moved.journal, [moved.new["vda"]], now=True)


def test_purge_forgets_nothing_of_a_datastore_that_is_not_mounted(
    site: PaperSite, journal: MoveJournal, tmp_path: Path
) -> None:
    moved = make_moved(site, journal, tmp_path, keep_s=0.0)
    site.pool("old", tmp_path / "old", active=False)
    (tmp_path / "old").rename(tmp_path / "away")
    for there in (False, True):  # without a mount point, and with an empty one
        if there:
            (tmp_path / "old").mkdir()
        done = purged(site, journal, [], now=False)
        assert [gone for _, gone, _ in done] == [False, False]
        assert all("its datastore may not be mounted" in text for _, _, text in done)
        assert moved.rows == set(moved.old.values())


def test_purge_forgets_nothing_of_a_pool_that_was_unmounted_behind_libvirt(
    site: PaperSite, journal: MoveJournal, tmp_path: Path
) -> None:
    moved = make_moved(site, journal, tmp_path, keep_s=0.0)
    xml = "<pool type='netfs'><name>old</name><source><host name='nowhere'/><dir path='/export'/></source>"
    xml += f"<target><path>{tmp_path}/old</path></target></pool>"
    site.connection.raw.storagePoolDefineXML(xml).create()
    for path in moved.old.values():
        Path(path).unlink()
    (tmp_path / "old" / "web01" / "left").touch()
    done = purged(site, journal, [], now=False)
    assert all("the datastore old is not mounted" in text for _, _, text in done)
    assert moved.rows == set(moved.old.values())


@pytest.mark.parametrize("what", ["its home, too", "all that was in its home"])
def test_purge_forgets_what_somebody_has_removed(
    site: PaperSite, journal: MoveJournal, tmp_path: Path, what: str
) -> None:
    moved = make_moved(site, journal, tmp_path, keep_s=0.0)
    site.pool("old", tmp_path / "old")
    (tmp_path / "old" / "other").touch()
    shutil.rmtree(tmp_path / "old" / "web01")
    if what != "its home, too":
        (tmp_path / "old" / "web01").mkdir()
    done = purged(site, journal, [], now=False)
    assert [text.endswith("was gone already") for _, _, text in done] == [True, True]
    assert moved.rows == set()


@pytest.mark.parametrize("spoiled", ["altered", "referred", "unknown"])
def test_purge_proves_first(site: PaperSite, journal: MoveJournal, tmp_path: Path, spoiled: str) -> None:
    moved = make_moved(site, journal, tmp_path, keep_s=0.0)
    path = Path(moved.old["vda"])
    if spoiled == "altered":
        path.write_bytes(b"somebody else's")
    elif spoiled == "referred":
        site.define("web02", {"vda": image(tmp_path / "over.qcow2", path)})
    else:
        kept = next(kept_source for kept_source in journal.kept_sources() if kept_source.path == str(path))
        journal.add_kept(dataclasses.replace(kept, fingerprint=None))
    done = {path: gone for path, gone, _ in purged(site, journal, [], now=False)}
    assert done == {moved.old["vda"]: False, moved.old["vdb"]: True}
    assert path.exists()
    assert moved.rows == {str(path)}


def test_a_chain_goes_from_the_top(site: PaperSite, journal: MoveJournal, tmp_path: Path) -> None:
    base = image(tmp_path / "a-base.qcow2")
    top = image(tmp_path / "top.qcow2", base)
    plan = a_plan(tmp_path, "uuid", keep_s=0.0)
    for path in (base, top):
        journal.add_kept(quarantine.row(site, plan, str(path), "", 1, "kept as asked", "qcow2"))
    ((_, gone, text),) = purged(site, journal, [str(base)], now=True)
    assert not gone
    assert f"the kept file {top} of web01 stands on it" in text
    assert all(gone for _, gone, _ in purged(site, journal, [], now=False))
    assert not base.exists()
    assert not top.exists()


def test_rows_of_another_host_do_not_count(moved: Moved) -> None:
    rows = moved.journal.kept_sources()
    for row in rows:
        moved.journal.remove_kept(row.path, HOST)
        moved.journal.add_kept(dataclasses.replace(row, host="another"))
    assert quarantine.listing(moved.site, moved.journal) == ()
    assert purged(moved.site, moved.journal, [], now=False) == ()
    with pytest.raises(NotInQuarantine):
        moved.restore()


def test_rows_of_the_first_version_belong_to_their_move_s_host(moved: Moved) -> None:
    for kept_source in moved.journal.kept_sources():
        moved.journal.remove_kept(kept_source.path, HOST)
        moved.journal.add_kept(dataclasses.replace(kept_source, host="", fingerprint=None, format=None, since=None))
    listed = quarantine.listing(moved.site, moved.journal)
    assert [(kept_file.altered, kept_file.kept.format, kept_file.doubt) for kept_file in listed] == [
        (True, "qcow2", None)
    ] * 2
    with pytest.raises(NotRestorable, match="not recorded"):
        moved.restore()
    path = moved.old["vda"]
    ((_, gone, _),) = purged(moved.site, moved.journal, [path], now=True)
    assert gone, "named, and nothing needs it"


# ------------------------------------------------------------ one file by several paths


@contextlib.contextmanager
def bound(directory: Path, point: Path) -> Iterator[None]:
    """The same directory at another place, by a mount."""
    point.mkdir(parents=True)
    done = subprocess.run(["mount", "--bind", directory, point], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine does not mount it: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


@contextlib.contextmanager
def another_path(path: Path, how: str) -> Iterator[Path]:
    """The file by another path."""
    away = path.parent.parent / "away"
    if how == "hard link":
        away.mkdir()
        os.link(path, away / path.name)
        yield away / path.name
    elif how == "directory link":
        away.symlink_to(path.parent)
        yield away / path.name
    else:
        with bound(path.parent, away):
            yield away / path.name


def as_kept(path: Path) -> KeptFingerprint:
    found = path.stat()
    return KeptFingerprint(found.st_ino, found.st_size, found.st_mtime_ns)


WAYS = pytest.mark.parametrize("how", ["hard link", "directory link", "bind mount"])


@WAYS
def test_a_move_plans_with_it_by_another_path(site: PaperSite, tmp_path: Path, how: str) -> None:
    path = image(tmp_path / "pool" / "old.qcow2")
    with another_path(path, how) as other:
        assert needed(site, path, Claims({str(other): "abcd"})) == (
            f"move abcd, which is not over, has to do with it as {other}"
        )


@WAYS
def test_what_is_kept_by_another_path_is_not_purged(
    site: PaperSite, journal: MoveJournal, tmp_path: Path, how: str
) -> None:
    """Its own time is over, that of the other row is not."""
    path = image(tmp_path / "pool" / "old.qcow2")
    (path.parent / "another").touch()  # a directory that is empty then may be one that is not mounted
    with another_path(path, how) as other:
        for one, expires in ((path, 1.0), (other, None)):
            journal.add_kept(
                Kept(str(one), f"m{expires}", "web01", "", expires, 1, "asked", HOST, 1.0, "qcow2", as_kept(one))
            )
        ((_, gone, sentence),) = purged(site, journal, [], now=False)
        assert not gone
        assert f"quarantine keeps it, an old file of web01, as {other}" in sentence
        assert path.exists()
        assert other.exists()
        ends = purged(site, journal, [str(path), str(other)], now=True)
        assert [gone for _, gone, _ in ends] == [True, True], "both are asked to go"
        assert not path.exists()


@WAYS
def test_a_directory_that_a_vm_uses_holds_it_by_another_path(site: PaperSite, tmp_path: Path, how: str) -> None:
    """A guest sees what lies below /srv/a by 9p; the file is reached through a link to, or a mount of, /srv/a/b."""
    path = image(tmp_path / "a" / "b" / "c" / "old.qcow2")
    xml = f"<filesystem type='mount'><source dir='{tmp_path}/a'/><target dir='x'/></filesystem>"
    site.define("web01", {}, devices=xml)
    away = tmp_path / "away"
    if how == "hard link":
        assert "uses the directory" in str(needed(site, path))
    elif how == "directory link":
        away.symlink_to(path.parent)
        assert "uses the directory" in str(needed(site, away / path.name))
    else:
        with bound(path.parent, away):
            assert "uses the directory" in str(needed(site, away / path.name))


@WAYS
def test_the_survey_sees_another_vm_s_disk_by_another_path(site: PaperSite, tmp_path: Path, how: str) -> None:
    path = image(tmp_path / "pool" / "old.qcow2")
    with another_path(path, how) as other:
        site.define("web01", {"vda": path})
        site.define("db01", {"vda": image(tmp_path / "over.qcow2", other)})
        everyone = domain_list.all_vms(site.connection)
        (mine,) = [vm for vm in everyone if vm.name == "web01"]
        found = host_inventory.take(site, listings=False)
        assert survey._users(mine, found, {str(path)}) == {str(path): ("db01",)}


def test_the_survey_sees_another_vm_s_disk_that_is_a_volume(site: PaperSite, tmp_path: Path) -> None:
    path = image(tmp_path / "pool" / "old.qcow2")
    site.pool("san", tmp_path / "pool")
    site.define("web01", {"vda": path})
    site.define("rescue", {}, devices=volume("san", "old.qcow2"))
    everyone = domain_list.all_vms(site.connection)
    (mine,) = [vm for vm in everyone if vm.name == "web01"]
    found = host_inventory.take(site, listings=False)
    assert survey._users(mine, found, {str(path)}) == {str(path): ("rescue",)}


def test_one_file_on_two_mounts_of_a_server() -> None:
    """Each NFS mount has a device number of its own; inodes of two servers may be equal by chance."""
    path_seen = PathSeen("/a/x.raw", (1, 131), "file", 7, 1, "nfs4")
    assert same_file(path_seen, PathSeen("/b/y.raw", (2, 131), "file", 7, 1, "nfs4"))
    assert same_file(path_seen, PathSeen("/srv/x.raw", (3, 131), "file", 8, 1, "xfs")), "the server is this host itself"
    assert not same_file(path_seen, PathSeen("/b/y.raw", (2, 131), "file", 8, 1, "nfs4"))
    assert same_file(path_seen, PathSeen("/b/x.raw", (2, 131), "file", 7, 1, "nfs4", capacity=GiB)), (
        "an export with a quota"
    )
    assert not same_file(path_seen, PathSeen("/b/x.raw", (2, 132), "file", 7, 1, "nfs4"))
    assert not same_file(PathSeen("/a/x", (1, 5), "file", 7, 1, "xfs"), PathSeen("/b/x", (2, 5), "file", 7, 1, "ext4"))


def test_what_this_host_exports_by_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever path; /var/lib/nfs/etab as exportfs(8) writes it, a space of a name as three octal digits."""
    path = image(tmp_path / "a pool" / "home" / "vda.qcow2")
    (tmp_path / "alias").symlink_to(path.parent)
    table = tmp_path / "etab"
    table.write_text(f"{tmp_path}/a\\040pool\t10.0.0.0/8(rw,sync)\n# no export\n")
    monkeypatch.setattr(reference_calls, "EXPORTS", (str(table), str(tmp_path / "absent")))
    other = image(tmp_path / "a pool 2" / "vda.qcow2")
    seen = reference_calls.look_all([str(path), str(tmp_path / "alias" / "vda.qcow2"), str(other)], [])["paths"]
    assert [one["exported"] for one in seen.values()] == [True, True, False]
