"""One inventory for all files of a decision, and the inventories of other hosts that reach the datastore."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest
from decide_support import make_plan
from paper_host import HOST, PaperSite

from blockferry.base.errors import HostUnreachable, StillInUse
from blockferry.base.host_entries import HostEntry
from blockferry.hosts import configured_hosts, host_inventory
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.datastore_id import FileId, Mounted, SpaceId, SpaceKind
from blockferry.hosts.helper import image_users, references
from blockferry.hosts.helper import paths as helper_paths
from blockferry.hosts.helper.program import reference_calls
from blockferry.hosts.helper.program.mount_table import Mount
from blockferry.hosts.host import Host
from blockferry.hosts.host_facts import HostInventory, HostSight, may_reach
from blockferry.hosts.host_inventory import Also
from blockferry.hosts.identity import HostId
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, ImageChain, PowerState, Vm
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt import domain_list
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.path_identity import PathSeen, ReferencesSeen, same_file, same_file_of_hosts
from blockferry.safety import file_references, proof
from blockferry.safety.proof import Claims, Proof
from blockferry.storage_move.context import Context
from blockferry.storage_move.overlays import effects as overlays_effects
from blockferry.storage_move.overlays.plan import OverlaysPlan
from blockferry.storage_move.record import Record

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="who may not see all processes can prove nothing")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PaperSite]:
    found = PaperSite(tmp_path)
    yield found
    found.close()


def image(path: Path, backing: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    below = ["-b", str(backing), "-F", "qcow2"] if backing else []
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *below, str(path), *([] if backing else ["1M"])], check=True
    )
    return path


class Counted:
    """How often inventories were taken, and who has files open was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = self.asked = 0
        take_all, users_of_all = host_inventory.take_all, image_users.users_of_all

        def take(site: PaperSite, also: Also) -> tuple[HostSight, ...]:
            self.taken += 1
            return take_all(site, also)

        def ask(*words: object) -> object:
            self.asked += 1
            return users_of_all(*words)  # type: ignore[arg-type]

        monkeypatch.setattr(host_inventory, "take_all", take)
        monkeypatch.setattr(image_users, "users_of_all", ask)
        monkeypatch.setattr(proof, "VALID_S", 600.0)
        monkeypatch.setattr(proof, "USERS_VALID_S", 600.0)
        monkeypatch.setattr(proof, "_users_of", lambda runner, paths: image_users.users_of_all(runner, paths))


# ------------------------------------------------------------ one inventory


@as_root
def test_many_files_are_proven_by_one_inventory(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = image(tmp_path / "base.qcow2")
    old = [image(tmp_path / f"old{number}.qcow2") for number in range(4)]
    site.define("web01", {"vda": image(tmp_path / "web01.qcow2", base), "vdb": old[3]})
    counted = Counted(monkeypatch)
    asked = Proof(site, [str(path) for path in (*old, base)])
    found = [asked.blocker(str(path), Claims(), patience_s=0, sure=False) for path in (*old, base)]
    assert found[:3] == [None] * 3
    assert found[3] == "VM web01 refers to it"
    assert found[4] == "the backing chain of vda of VM web01 stands on it"
    assert (counted.taken, counted.asked) == (1, 1)


@as_root
def test_an_inventory_that_does_not_answer_is_taken_anew(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, other = image(tmp_path / "old.qcow2"), image(tmp_path / "other.qcow2")
    counted = Counted(monkeypatch)
    asked = Proof(site, [str(old)])
    assert asked.blocker(str(old), Claims(), patience_s=0, sure=False) is None
    top = image(tmp_path / "home" / "top.qcow2", old)
    row = Kept(str(top), "m", "web01", "", None, 1, "asked", HOST, 1.0, "qcow2")
    kept = asked.blocker(str(old), Claims({}, (row,)), patience_s=0, sure=False)
    assert kept == f"the kept file {top} of web01 stands on it", "it was kept since"
    assert counted.taken == 2
    assert asked.blocker(str(other), Claims(), patience_s=0, sure=False) is None, "it was not named before"
    assert counted.taken == 3
    image(tmp_path / "new.qcow2").rename(old)
    site.define("web01", {"vda": old})
    assert asked.blocker(str(old), Claims(), patience_s=0, sure=False) == "VM web01 refers to it"
    assert counted.taken == 4, "another file has its name"
    asked._until = 0.0
    site.undefine("web01")
    assert asked.blocker(str(old), Claims(), patience_s=0, sure=False) is None, "it is too old"


@as_root
def test_what_has_gone_since_the_inventory_needs_nothing(site: PaperSite, tmp_path: Path) -> None:
    base = image(tmp_path / "san" / "base.qcow2")
    top = image(tmp_path / "san" / "top.qcow2", base)
    site.pool("san", tmp_path / "san")
    asked = Proof(site, [str(base), str(top)])
    assert asked.blocker(str(top), Claims(), patience_s=0, sure=False) is None
    assert "stands on it" in str(asked.blocker(str(base), Claims(), patience_s=0, sure=False))
    top.unlink()
    assert asked.blocker(str(base), Claims(), patience_s=0, sure=False, going=[str(top)]) is None


@as_root
def test_what_a_kept_old_file_stands_on_stays_with_it(site: PaperSite, tmp_path: Path) -> None:
    """Both belong to one move, which removes its old files; the upper one was kept for a doubt."""
    base = image(tmp_path / "base.qcow2")
    top = image(tmp_path / "top.qcow2", base)
    plan = make_plan(1)
    disk = replace(
        plan.disks[0],
        source=replace(plan.disks[0].source, path=str(top)),
        release=replace(plan.disks[0].release, files=(str(top), str(base))),
        overlays=replace(plan.disks[0].overlays, source="", dest=""),
    )
    plan = replace(plan, disks=(disk,))
    row = Kept(str(top), plan.move, plan.vm, "", None, 1, "a doubt", HOST, 1.0, "qcow2")
    for rows, doubt in (((), None), ((row,), f"the kept file {top} of {plan.vm} stands on it")):
        context = cast(
            Context, SimpleNamespace(plan=plan, site=site, proof=None, claims=lambda rows=rows: Claims({}, rows))
        )
        assert Context.blocker(context, str(base), patience_s=0, is_base=True) == doubt


@as_root
def test_an_overlay_goes_by_the_same_proof(site: PaperSite, tmp_path: Path) -> None:
    """It was asked of disks alone: not of snapshots, nor of what stands on it."""
    base = image(tmp_path / "base.qcow2")
    overlay = image(tmp_path / "over.qcow2", base)
    disk = make_plan(1).disks[0]
    disk = replace(disk, source=replace(disk.source, path=str(base)), overlays=OverlaysPlan(str(overlay)))
    context = cast(
        Context,
        SimpleNamespace(site=site, runner=site.runner, plan=make_plan(1), claims=Claims),
    )
    overlays_effects._no_longer_needed(context, Record(), disk, str(overlay))
    site.define("web01", {"vda": overlay})
    site.start("web01")
    site.connection.raw.lookupByName("web01").snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>")
    site.connection.raw.lookupByName("web01").destroy()
    site.define("web01", {"vda": base})
    with pytest.raises(StillInUse, match="snapshot s1 of VM web01 refers to it"):
        overlays_effects._no_longer_needed(context, Record(), disk, str(overlay))


def test_all_vms_are_read_as_each_by_itself(site: PaperSite, tmp_path: Path) -> None:
    for name in ("web01", "web02", "web03"):
        site.define(name, {"vda": tmp_path / f"{name}.qcow2"})
    site.start("web02")
    raw = site.connection.raw
    raw.lookupByName("web02").snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>")
    raw.lookupByName("web03").setAutostart(1)
    every = domain_list.all_vms(site.connection)
    assert every == tuple(domain_list.vm(site.connection, vm.name) for vm in every)
    assert [vm.snapshots for vm in every if vm.name == "web02"] == [("s1",)]
    assert [vm.autostart for vm in every] == [vm.name == "web03" for vm in every]
    assert all(vm.memory == raw.lookupByName(vm.name).maxMemory() * 1024 for vm in every)


# ------------------------------------------------------------ claims of other hosts


@as_root
def test_a_directory_that_cannot_be_looked_at_may_be_another_host_s(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path / "pool" / "old.qcow2")
    claimed = Claims(files={FileId("network nas - -", "/vol/x"): "abcd"})
    assert proof.blocker(site, str(path), claimed, patience_s=0, sure=False) is None

    def look(_runner: object, paths: list[str], **_more: object) -> dict[str, PathFacts]:
        return {path: PathFacts(path, path, "unknown", errno=5) for path in paths}

    monkeypatch.setattr(helper_paths, "look", look)
    doubt = proof.blocker(site, str(path), claimed, patience_s=0, sure=False)
    assert "cannot be looked at, so it cannot be told whether a move of another host" in str(doubt)


# ------------------------------------------------------------ other hosts

NAS = Mounted("nfs4", "nas:/vol", "/")
NAS_SPACE = SpaceId(SpaceKind.NETWORK, "nas", "/vol")
OLD = "/srv/vms/old.qcow2"
HERE_ID, THERE_ID = HostId("qemu:///system", "u1", "kvm1"), HostId("qemu+ssh://kvm2/system", "u2", "kvm2")


def seen(path: str, inode: int = 7, kind: str = "nfs4", device: int = 1, *, exported: bool = False) -> PathSeen:
    return PathSeen(path, (device, inode), "file", 1000, 1, kind, ("0:40", path), exported=exported)


def own(kind: str = "nfs4", mounted: Mounted = NAS, *, exported: bool = False) -> HostInventory:
    paths = {
        OLD: seen(OLD, kind=kind, exported=exported),
        "/srv/vms": replace(seen("/srv/vms", 2, kind), kind="directory"),
    }
    return HostInventory(HERE_ID, (), (), looked=ReferencesSeen(paths, {}, frozenset(["/"]), {"0:40": mounted}))


def vm_of(path: str) -> Vm:
    source = DiskSource("file", path, "qcow2")
    return Vm("db01", "u", PowerState.OFF, True, (Disk("vda", "disk", "virtio", None, source),))


def there(
    *found: PathSeen, vm: Vm | None = None, mounted: Mounted = NAS, chains: str = "", **more: object
) -> HostInventory:
    paths = {path_seen.path: path_seen for path_seen in found}
    known = {(found[0].path, "qcow2"): ImageChain(problem=chains)} if chains else {}
    return HostInventory(
        THERE_ID, () if vm is None else (vm,), more.get("stores", ()),  # type: ignore[arg-type]
        looked=ReferencesSeen(paths, {}, frozenset(["/"]), {"0:40": mounted, "8:1": Mounted("ext4", "/dev/sda1", "/")}),
        chains=known,
    )  # fmt: skip


def elsewhere(mine: HostInventory, other: HostInventory | HostSight, is_base: bool = True) -> str | None:
    sight = other if isinstance(other, HostSight) else HostSight(THERE_ID, other)
    names = None if sight.inventory is None else file_references.find(sight.inventory, ())
    return proof._needed_elsewhere(OLD, mine, [proof._Known(sight, names)], is_base=is_base)


def test_a_vm_of_another_host_uses_it_by_another_mount() -> None:
    used = there(seen("/mnt/nas/old.qcow2", device=99), vm=vm_of("/mnt/nas/old.qcow2"))
    assert elsewhere(own(), used) == "on the host kvm2 VM db01 refers to it (as /mnt/nas/old.qcow2)"
    other_file = there(seen("/mnt/nas/b.qcow2", inode=8, device=99), vm=vm_of("/mnt/nas/b.qcow2"))
    assert elsewhere(own(), other_file) is None
    local = there(seen("/mnt/nas/old.qcow2", kind="ext4"), vm=vm_of("/mnt/nas/old.qcow2"))
    assert elsewhere(own(), local) is None, "the same inode of a local disk"
    assert elsewhere(own("ext4"), used) is None, "a local file is no other host's"
    exported = own("ext4", Mounted("ext4", "/dev/sdb1", "/"), exported=True)
    assert "VM db01 refers to it" in str(elsewhere(exported, used)), "by this host's own NFS server"


@pytest.mark.parametrize(
    ("mine", "reached", "kept"),
    [
        (own(), None, True),  # what it reaches is not known
        (own(), frozenset([NAS_SPACE]), True),
        (own(), frozenset([SpaceId(SpaceKind.NETWORK, "10.0.0.9", "/vol")]), True),  # the same server by its address
        (own(), frozenset(), False),
        (own("ext4"), None, False),
        (own("gfs2", Mounted("gfs2", "/dev/sdc", "/")), None, True),
        (own("fuse.sshfs", Mounted("fuse.sshfs", "x", "/")), None, True),
        (own("ext4", exported=True), None, True),
    ],
)
def test_a_host_that_cannot_be_asked(mine: HostInventory, reached: frozenset[SpaceId] | None, kept: bool) -> None:
    found = elsewhere(mine, HostSight(THERE_ID, problem="no route to host", spaces=reached))
    assert ("on the host kvm2 a VM may use it" in str(found)) is kept
    assert (found is None) is not kept


def test_what_cannot_be_seen_on_another_host_is_a_doubt_there() -> None:
    unread = there(seen("/mnt/nas/x.qcow2", inode=9), vm=vm_of("/mnt/nas/x.qcow2"), chains="Broken.")
    assert "on the host kvm2 it cannot be told what vda of VM db01 stands on (Broken)" in str(elsewhere(own(), unread))
    assert elsewhere(own("ext4"), unread) is None
    away = Datastore("nas2", "u", "netfs", False, "/mnt/nas2")
    assert there(stores=(away,)).spaces is None, "started, it mounts what we do not know"
    assert there().spaces == frozenset([NAS_SPACE])
    assert there(mounted=Mounted("gfs2", "/dev/sdc", "/")).spaces is None


def test_which_file_systems_may_be_one() -> None:
    ceph, other = SpaceId(SpaceKind.CEPH, "fsid1", "cephfs"), SpaceId(SpaceKind.CEPH, "fsid2", "cephfs")
    assert may_reach(ceph, frozenset([ceph]))
    assert not may_reach(ceph, frozenset([other])), "the fsid is proof"
    assert may_reach(None, None)
    assert not may_reach(None, frozenset())


class Away(PaperSite):
    """A host that cannot be reached; with `hangs` the attempt to connect does not end before it is set."""

    def __init__(self, uri: str, hangs: threading.Event | None = None) -> None:
        self.uri = uri
        self.tries = 0
        self._hangs = hangs

    @property
    def connection(self) -> NoReturn:
        self.tries += 1
        if self._hangs is not None:
            self._hangs.wait(60)
        raise HostUnreachable(self.uri, "no route to host")


def configured(name: str, host: Host) -> ConfiguredHost:
    return ConfiguredHost(HostEntry(name, f"qemu+ssh://{name}/system"), lambda _uri: host)


@as_root
def test_all_configured_hosts_are_asked(site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot be reached is a doubt for what it may reach, and only for that."""
    path = image(tmp_path / "old.qcow2")
    away = Away("qemu+ssh://kvm2/system")
    site.others = (configured("kvm2", away),)
    assert proof.blocker(site, str(path), Claims(), patience_s=0, sure=False) is None, "on a local file system"
    monkeypatch.setattr(PathSeen, "may_be_reached_by_others", property(lambda _self: True))
    doubt = str(proof.blocker(site, str(path), Claims(), patience_s=0, sure=False))
    assert "on the host kvm2 a VM may use it, and that host could not be asked" in doubt
    assert "no route to host" in doubt
    assert "`blockferry hosts` shows it" in doubt
    assert away.tries == 1, "what failed a moment ago is not waited for again"


@as_root
def test_a_host_that_hangs_is_given_up_after_the_limit(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh to a host that is off waits for minutes. The attempt goes on by itself and is not begun a second time."""
    path = image(tmp_path / "old.qcow2")
    go_on = threading.Event()
    away = Away("qemu+ssh://kvm2/system", go_on)
    configured_host = configured("kvm2", away)
    monkeypatch.setattr(PathSeen, "may_be_reached_by_others", property(lambda _self: True))
    monkeypatch.setattr(ConfiguredHost.connected, "__defaults__", (0.2,))
    monkeypatch.setattr(configured_hosts, "AGAIN_S", 0.0)
    site.others = (configured_host,)
    for _ in range(3):
        doubt = str(proof.blocker(site, str(path), Claims(), patience_s=0, sure=False))
        assert "on the host kvm2" in doubt
        assert "did not answer within 0.2 s" in doubt
    assert away.tries == 1
    go_on.set()


def test_a_host_that_is_configured_twice_is_one(site: PaperSite, tmp_path: Path) -> None:
    """By two URIs, and this host by a second one: libvirt's UUID tells."""

    hosts = [_site(tmp_path / name, uuid) for name, uuid in (("b", "b" * 8), ("again", "b" * 8), ("own", HOST))]
    site.others = tuple(configured(f"kvm{at}", host) for at, host in enumerate(hosts))
    sights = host_inventory.take_all(site, Also())
    assert [sight.host.uuid for sight in sights] == [HOST, "b" * 8]
    assert sights[1].host.name == "kvm0"
    for host in hosts:
        host.close()


def test_two_machines_of_one_uuid_are_told(site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap boards and clones have one. The second was taken for the first, and nobody looked at its VMs."""
    twin = _site(tmp_path / "twin")
    monkeypatch.setattr(twin.connection, "hostname", lambda: "kvm2.lan")
    site.others = (configured("kvm2", twin),)
    sights = host_inventory.take_all(site, Also())
    assert [sight.inventory is None for sight in sights] == [False, True]
    assert "libvirt's UUID of kvm2.lan is that of" in sights[1].problem
    assert "`host_uuid`" in sights[1].problem
    monkeypatch.setattr(twin.connection, "hostname", lambda: site.connection.hostname().partition(".")[0] + ".lan")
    assert len(host_inventory.take_all(site, Also())) == 1, "the same machine, by another URI"
    twin.close()


def test_a_host_that_answers_late_makes_no_old_inventory(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VM that is defined while another host is waited for counts."""
    other = _site(tmp_path / "other", "b" * 8)
    define, late = threading.Event(), threading.Event()

    def connected(_self: object) -> PaperSite:
        define.set()
        late.wait(60)
        return other

    monkeypatch.setattr(ConfiguredHost, "connected", connected)
    monkeypatch.setattr(host_inventory, "FRESH_S", 0.0)
    site.others = (configured("kvm2", other),)
    taken = threading.Event()
    take = host_inventory.take

    def taking(host: Host, *words: object, **more: object) -> HostInventory:
        found = take(host, *words, **more)  # type: ignore[arg-type]
        if host is site and not taken.is_set():
            taken.set()
            site.define("web09", {"vda": tmp_path / "a"})
            late.set()
        return found

    monkeypatch.setattr(host_inventory, "take", taking)
    sights = host_inventory.take_all(site, Also())
    assert sights[0].inventory is not None
    assert [vm.name for vm in sights[0].inventory.vms] == ["web09"]
    other.close()


def test_a_quick_host_is_looked_at_again_once_a_slow_one_has_answered(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VM that is defined on the quick one meanwhile counts; what could not be brought up to now is no answer."""
    quick, slow = _site(tmp_path / "quick", "b" * 8), _site(tmp_path / "slow", "c" * 8)
    looked = threading.Event()
    take = host_inventory.take

    def taking(host: Host, *words: object, **more: object) -> HostInventory:
        if host is slow:
            looked.wait(60)
        found = take(host, *words, **more)  # type: ignore[arg-type]
        if host is quick and not looked.is_set():
            quick.define("web09", {"vda": tmp_path / "a"})
            looked.set()
        return found

    monkeypatch.setattr(host_inventory, "take", taking)
    monkeypatch.setattr(host_inventory, "FRESH_S", 0.0)
    site.others = (configured("kvm2", quick), configured("kvm3", slow))
    sights = host_inventory.take_all(site, Also())
    assert sights[1].inventory is not None
    assert [vm.name for vm in sights[1].inventory.vms] == ["web09"]
    monkeypatch.setattr(host_inventory, "STALE_S", -1.0)
    stale = host_inventory.take_all(site, Also())
    assert [sight.inventory is None for sight in stale] == [False, True, True]
    assert "s old" in stale[1].problem
    quick.close()
    slow.close()


def _site(directory: Path, uuid: str = HOST) -> PaperSite:
    directory.mkdir()
    found = PaperSite(directory)
    found.connection._host_id = uuid
    return found


def test_a_server_that_runs_vms_from_what_it_exports_reaches_it() -> None:
    """Its own view is a local file system; a client's proof passed it by."""
    server = there(seen("/srv/export/old.qcow2", kind="ext4", exported=True), mounted=Mounted("ext4", "/dev/sdb", "/"))
    assert server.spaces is None
    mine = own()
    assert elsewhere(mine, HostSight(THERE_ID, server)) is None
    named = there(
        seen("/srv/export/old.qcow2", kind="ext4", exported=True),
        vm=vm_of("/srv/export/old.qcow2"),
        mounted=Mounted("ext4", "/dev/sdb", "/"),
    )
    assert "db01" in str(elsewhere(mine, HostSight(THERE_ID, named)))


def test_what_is_exported_by_a_bind_mount_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual layout of NFSv4: VMs name /srv/images, /export/images is a bind mount of it."""
    table = tmp_path / "etab"
    table.write_text("/export/images\t10.0.0.0/8(rw,sync)\n")
    monkeypatch.setattr(reference_calls, "EXPORTS", (str(table),))
    mounts = {
        "/": Mount(1, "8:1", "/", "ext4", "/dev/sda1", "rw"),
        "/export/images": Mount(2, "8:1", "/export/images", "ext4", "/dev/sda1", "rw", "/srv/images"),
    }
    exports = reference_calls.Exports(mounts)

    def held(path: str) -> bool:
        return exports.hold(path, reference_calls.place_in(reference_calls.mount_of(path, mounts), path))

    assert held("/export/images/a.qcow2")
    assert held("/srv/images/deep/a.qcow2")
    assert not held("/srv/images2/a.qcow2")
    assert not held("/srv/other/a.qcow2")


@pytest.mark.parametrize(
    "other",
    [
        {"not_mounted": {"/net": ""}},  # autofs
        {"not_mounted": {"/srv/nas": "nfs4"}},  # in fstab, and not mounted now
        {"store": Datastore("nas2", "u", "netfs", True, "/mnt/nas2")},  # unmounted behind libvirt's back
        {"store": Datastore("nas2", "u", "dir", False, "/mnt/nas2")},
        {"absent": PathSeen("/mnt/x/a.raw", absent="/mnt/x is empty: its datastore may not be mounted")},
        {"absent": PathSeen("/mnt/x/a.raw", error="Stale file handle")},
    ],
    ids=str,
)
def test_what_is_not_mounted_now_may_be_mounted_later(other: dict[str, object]) -> None:
    """A host of which that cannot be told reaches what is "not known", which is a doubt; never "not that one"."""
    known = there(stores=(Datastore("local", "u", "logical", False, "/dev/vg"),))
    assert known.spaces == frozenset([NAS_SPACE])
    found = there(stores=(other["store"],) if "store" in other else ())
    looked = replace(found.looked, not_mounted=cast(dict[str, str], other.get("not_mounted", {})))
    if isinstance(absent := other.get("absent"), PathSeen):
        looked = replace(looked, paths={absent.path: absent})
    assert replace(found, looked=looked).spaces is None


def test_what_is_not_mounted_and_could_be_no_others_says_nothing() -> None:
    found = there()
    local = {"/media/cdrom0": "udf,iso9660", "/backup": "ext4", "/proc/x": "proc"}
    assert replace(found, looked=replace(found.looked, not_mounted=local)).spaces == frozenset([NAS_SPACE])


def test_the_size_of_a_file_system_tells_no_files_apart() -> None:
    """An export may have a quota of its own, and a file system grows between two looks."""
    small, large = (replace(seen(OLD, device=at), capacity=at << 40) for at in (1, 9))
    assert same_file(small, large)
    assert same_file_of_hosts(small, large)


def test_an_image_in_a_block_device_that_no_vm_names(site: PaperSite, tmp_path: Path) -> None:
    """A qcow2 in a logical volume, an overlay of a template that waits to be used, stands on the file."""
    base = image(tmp_path / "base.qcow2")
    volume = image(tmp_path / "volume", base)
    broken = tmp_path / "broken"
    broken.write_bytes(b"QFI\xfb")
    looked = references.look(site.runner, [str(base)], (), [str(volume), str(broken), str(tmp_path / "away")])
    active = Datastore("vg", "u", "logical", True, "/dev/vg")
    found = HostInventory(HERE_ID, (), (active,), looked=looked)
    names = file_references.find(found, ())
    assert names.file_user(str(base), looked.paths[str(base)], frozenset(), same_file) == (
        f"the volume {volume} stands on it"
    )
    assert [doubt.sentence.split(" stands on ")[0] for doubt in names.doubts] == [
        f"it cannot be told what the volume {broken}",
        f"it cannot be told what the volume {tmp_path / 'away'}",
    ]
    stopped = file_references.find(replace(found, datastores=(replace(active, active=False),)), ())
    assert any("the datastore vg is not active" in doubt.sentence and doubt.only_bases for doubt in stopped.doubts)


def test_a_vm_that_is_started_while_all_are_read_is_read_as_it_runs(
    site: PaperSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off when libvirt was asked which VMs run, so that only its persistent configuration was read."""
    site.define("web01", {"vda": tmp_path / "a.qcow2"})
    real = domain_list._read_unless_gone
    started: list[bool] = []

    def read(connection: object, domain: object, traits: object = None) -> object:
        found = real(connection, domain, traits)  # type: ignore[arg-type]
        if not started:
            started.append(True)
            site.start("web01")
        return found

    monkeypatch.setattr(domain_list, "_read_unless_gone", read)
    (vm,) = domain_list.all_vms(site.connection)
    assert vm.state is PowerState.RUNNING
    assert vm.disks[0].live is not None
