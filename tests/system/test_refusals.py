"""Moves that are refused with nothing touched, and moves that cannot go on and are taken back cleanly."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import tenacity

from lab import Datastore, Disk, Guest, Host, Lab
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage, allocated, listing, small_disks

pytestmark = pytest.mark.lab


@dataclass
class Case:
    """A VM that is off, with one disk on old-san, and what a refusal may need around it."""

    guest: Guest
    host: Host
    lab: Lab
    old_san: Datastore
    ssd: Datastore
    make_guest: MakeGuest
    after: ExitStack  # what is to be undone

    @property
    def disk(self) -> Path:
        return Path(self.guest.disk("vda").path)

    def edit(self, old: str, new: str) -> None:
        """Change the persistent configuration."""
        xml = self.guest.xml(inactive=True)
        assert old in xml, xml
        self.host.virsh("define", "/dev/stdin", stdin=xml.replace(old, new))

    def pool(self, name: str, path: Path) -> None:
        xml = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        self.host.virsh("pool-define", "/dev/stdin", stdin=xml)
        self.after.callback(self.host.virsh, "pool-undefine", name)
        self.after.callback(self.host.virsh, "pool-destroy", name, check=False)
        self.host.virsh("pool-start", name)

    def start(self) -> None:
        self.guest.start(wait=False)
        self.after.callback(self.guest.destroy)


def shared(case: Case) -> None:
    case.edit("type='qcow2'", "type='raw'")  # libvirt knows no sharing of a qcow2
    case.edit("<target dev='vda' bus='virtio'/>", "<target dev='vda' bus='virtio'/><shareable/>")


def transient(case: Case) -> None:
    case.edit("<target dev='vda' bus='virtio'/>", "<target dev='vda' bus='virtio'/><transient/>")


def lun(case: Case) -> None:
    """libvirt looks at the device only when the VM starts."""
    case.edit("type='qcow2'", "type='raw'")
    case.edit(
        f"<disk type='file' device='disk'>\n      <driver name='qemu' type='raw' cache='none' discard='unmap'/>\n"
        f"      <source file='{case.disk}'",
        "<disk type='block' device='lun'>\n      <driver name='qemu' type='raw' cache='none' discard='unmap'/>\n"
        "      <source dev='/dev/loop0'",
    )


def used_as_disk(case: Case) -> None:
    other = case.make_guest([Disk("vda", case.old_san, size="32MiB")])
    xml = other.xml(inactive=True).replace(other.disk("vda").path, str(case.disk))
    case.host.virsh("define", "/dev/stdin", stdin=xml)


def used_as_backing_file(case: Case) -> None:
    case.make_guest([Disk("vda", case.old_san, size="32MiB", backing=(case.disk, "qcow2"))])


def full(case: Case) -> None:
    case.ssd.fill("20MiB")
    case.after.callback(case.ssd.unfill)


def home_is_a_file(case: Case) -> None:
    case.ssd.home(case.guest.name).write_text("somebody's")
    case.after.callback(case.ssd.home(case.guest.name).unlink)


def inactive(case: Case) -> None:
    case.host.virsh("pool-destroy", "ssd")
    case.after.callback(case.host.virsh, "pool-start", "ssd")


def read_only_store(case: Case) -> None:
    case.ssd.remount(read_only=True)
    case.after.callback(case.ssd.remount, read_only=False)


def alias(case: Case) -> None:
    """The same directory by another name: the destination would be the source."""
    path = case.lab.directory / "ds" / "alias"
    path.symlink_to(case.old_san.path)
    case.after.callback(path.unlink)
    case.pool("alias", path)


def mounted_twice(case: Case) -> None:
    """The same directory by another name, which no link tells of."""
    path = case.lab.directory / "ds" / "twice"
    path.mkdir()
    case.after.callback(path.rmdir)
    subprocess.run(["mount", "--bind", case.old_san.path, path], check=True)
    case.after.callback(lambda: subprocess.run(["umount", path], check=True))
    case.pool("twice", path)


def external_snapshot(case: Case) -> None:
    overlay = f"vda,snapshot=external,file={case.disk.with_suffix('.before')}"
    case.host.virsh("snapshot-create-as", case.guest.name, "before", "--disk-only", "--diskspec", overlay)
    case.after.callback(case.host.virsh, "snapshot-delete", case.guest.name, "before", "--metadata")


def snapshot_in_the_image(case: Case) -> None:
    subprocess.run(["qemu-img", "snapshot", "-c", "before", case.disk], check=True)


def odd_format(case: Case) -> None:
    path = case.disk.with_suffix(".vdi")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "vdi", case.disk, path], check=True)
    case.edit(str(case.disk), str(path))
    case.edit("type='qcow2'", "type='vdi'")


def too_large(case: Case) -> None:
    subprocess.run(["qemu-img", "resize", "-q", case.disk, "3T"], check=True)


def other_job(case: Case) -> None:
    case.start()
    target = case.ssd.path / f"{case.guest.name}-by-hand.qcow2"
    case.host.virsh("blockcopy", case.guest.name, "vda", str(target), "--transient-job", "--bandwidth", "1")


def encrypted(case: Case) -> None:
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=geheim", "-o", options]
    # On a busy machine QEMU now and then says that it is "Unable to get accurate CPU usage", and makes none.
    for attempt in tenacity.Retrying(stop=tenacity.stop_after_attempt(10), reraise=True):
        with attempt:
            subprocess.run([*words, case.disk, "32M"], check=True)


def missing_image(case: Case) -> None:
    case.disk.unlink()


def differs(case: Case) -> None:
    case.start()
    copy = case.disk.with_name("other.qcow2")
    subprocess.run(["cp", case.disk, copy], check=True)
    case.edit(str(case.disk), str(copy))


REFUSALS: list[tuple[Callable[[Case], None] | None, str, list[str]]] = [
    (shared, "SHARED_DISK", []),
    (transient, "TRANSIENT_DISK", []),
    (lun, "PASSTHROUGH_LUN", []),
    (used_as_disk, "IMAGE_USED_ELSEWHERE", []),
    (used_as_backing_file, "IMAGE_USED_ELSEWHERE", []),
    (full, "DESTINATION_FULL", ["--provision", "thick"]),
    (mounted_twice, "SAME_FILE", ["--to", "twice"]),
    (home_is_a_file, "HOME_UNUSABLE", []),
    (inactive, "DATASTORE_INACTIVE", []),
    (read_only_store, "DATASTORE_MISSING", []),
    (external_snapshot, "SNAPSHOTS", []),
    (snapshot_in_the_image, "INTERNAL_SNAPSHOTS", ["--format", "raw"]),
    (odd_format, "UNSUPPORTED_FORMAT", []),
    (too_large, "FORMAT_CANNOT_HOLD", ["--format", "vmdk"]),
    (other_job, "JOB_ON_DISK", []),
    (encrypted, "ENCRYPTED_IMAGE", ["--format", "raw"]),
    (missing_image, "IMAGE_UNREADABLE", []),
    (differs, "CONFIG_DIFFERS", []),
    (None, "METHOD_NEEDS_POWER", ["--method", "mirror"]),
]


@pytest.fixture
def case(make_guest: MakeGuest, lab_host: Host, lab_session: Lab, old_san: Datastore, ssd: Datastore) -> Iterator[Case]:
    with ExitStack() as after:
        guest = make_guest([Disk("vda", old_san, size="32MiB", fill="4MiB")])
        yield Case(guest, lab_host, lab_session, old_san, ssd, make_guest, after)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize(
    ("prepare", "code", "words"),
    REFUSALS,
    ids=[f"{code}-{prepare.__name__}" if prepare else code for prepare, code, _ in REFUSALS],
)
def test_refused_with_nothing_touched(
    prepare: Callable[[Case], None] | None, code: str, words: list[str],
    case: Case, line: Line, stores: tuple[Datastore, ...],
) -> None:  # fmt: skip
    if prepare is not None:
        prepare(case)
    name = case.guest.name
    where = [] if "--to" in words else ["--to", "ssd"]
    running = {path for path in map(str, [case.disk]) if case.guest.state() == "running"}

    def seen() -> dict[str, object]:
        found = {path: one for path, one in listing(stores).items() if path not in running and "by-hand" not in path}
        return {"files": found, "xml": case.guest.xml(inactive=True), "live": case.guest.sources()}

    before = seen()
    said = line.do("move", name, *where, *words)
    assert said.status == 4, str(said)
    assert said.code == "REFUSED"
    assert code in said.codes, str(said)
    assert not {"DATASTORE_INACTIVE", "DESTINATION_FULL"} <= set(said.codes), "one thing is said twice"
    checked = line.do("check", name, *where, *words)
    assert checked.status == 4, str(checked)
    assert checked.document["refused"]
    assert code in [one["code"] for one in checked.document["check"]["findings"]]
    assert seen() == before
    assert line.rows("SELECT id FROM moves") == []
    assert line.do("explain", code).status == 0


def test_what_is_there_already_changes_nothing(case: Case, line: Line, stores: tuple[Datastore, ...]) -> None:
    """Also by another name of the datastore."""
    alias(case)
    before = listing(stores)
    for command in ("move", "check"):
        for name in ("old-san", "alias"):
            said = line.must(command, case.guest.name, "--to", name)
            assert said.document["changed"] is False
    assert listing(stores) == before
    assert line.rows("SELECT id FROM moves") == []


@pytest.mark.parametrize(
    ("words", "code", "nearest"),
    [
        (["move", "{vm}x", "--to", "ssd"], "VM_NOT_FOUND", "{vm}"),
        (["move", "{vm}", "--to", "sssd"], "DATASTORE_NOT_FOUND", "ssd"),
        (["move", "{vm}", "--disk", "vdaa=ssd"], "DISK_NOT_FOUND", "vda"),
        (["check", "{vm}", "--to", "ssd", "--home", "old_san"], "DATASTORE_NOT_FOUND", "old-san"),
        (["show", "ffff"], "MOVE_NOT_FOUND", ""),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(
    words: list[str], code: str, nearest: str, case: Case, line: Line
) -> None:
    said = line.do(*(word.format(vm=case.guest.name) for word in words))
    assert said.status == 3, str(said)
    assert said.code == code
    assert nearest.format(vm=case.guest.name) in said.document["hint"]
    assert line.unfinished() == []


# -- in the middle ---------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(lab_session: Lab, lab_host: Host) -> Iterator[Datastore]:
    """A datastore that can run full without harm to others."""
    name = f"tiny-{time.monotonic_ns() % 10**6}"
    store = lab_session.datastore(name, fs="ext4", size="256MiB")
    lab_host.attach(store)
    yield store
    lab_host.detach(store)
    store.unfill()


@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
def test_the_destination_runs_full_during_the_copy(
    method: str, make_guest: MakeGuest, line: Line, old_san: Datastore, tiny: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 2, fill="24MiB"), start=True)
    voyage = Voyage(guest, line, (old_san, tiny))
    voyage.write()
    process = line.start("move", guest.name, "--to", tiny.name, "--method", method, "--bandwidth", "3MiB/s")
    wait_until(lambda: guest.xml().count("<mirror") == 2, "the copies", timeout=120, report=line.stories)
    tiny.fill(0)
    guest.judge.wait_writes(50)
    assert guest.state() == "running"
    said = line.end(process)
    assert said.status == 5, f"{said}\n{line.stories()}"
    assert "full" in said.document["message"], str(said)
    voyage.assert_well()
    assert voyage.files(tiny) == set()
    voyage.power_off()


@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
def test_libvirtd_is_killed_and_comes_back_during_the_copy(
    method: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 2), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    process = line.start("move", guest.name, "--to", "ssd", "--method", method, "--bandwidth", "4MiB/s")
    move = line.wait_unfinished()
    wait_until(lambda: guest.xml().count("<mirror") == 2, "the copies", timeout=120, report=line.stories)
    guest.host.kill_libvirtd()
    try:
        line.wait_story(move, "goes on without us")
        guest.judge.wait_writes(50)
        assert process.poll() is None
    finally:
        guest.host.start_libvirtd()
    line.must("speed", move, "0")
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_cycle()


def test_orphans_of_a_lost_journal_are_found_and_removed(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 2), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    assert line.do("move", guest.name, "--to", "ssd", point="image-made@2:kill").status not in (0, 4, 5)
    [move] = line.unfinished()
    for path in line.directory.glob("journal.db*"):
        path.unlink()
    found = {item["path"]: item for item in line.must("orphans").document["orphans"]}
    images = {str(stores[1].home(guest.name) / f"{target}.qcow2") for target in ("vda", "vdb")}
    assert images <= set(found), str(found)
    assert f"vm:{guest.name}" in found
    for item in found.values():
        assert item["move"] == move
        assert item["vm"] == guest.name
        assert item["foreign"], "another journal might know of it: the user has to say that there is none"
    line.must("orphans", "--remove-all", "--yes")
    assert line.do("orphans", "--remove-all", "--abandoned").status == 2, "it asks, and there is nobody to answer"
    assert set(found) == {item["path"] for item in line.must("orphans").document["orphans"]}
    line.must("orphans", "--remove-all", "--abandoned", "--yes")
    assert line.must("orphans").document["orphans"] == []
    voyage.assert_well()
    assert voyage.files(stores[1]) == set()


def test_what_is_in_use_is_no_orphan_to_be_removed(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore
) -> None:
    """A copy that QEMU still writes to, of a move whose journal is lost."""
    guest = make_guest(small_disks(old_san, 1), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    assert line.do("move", guest.name, "--to", "ssd", point="copy-started:kill").status not in (0, 4, 5)
    for path in line.directory.glob("journal.db*"):
        path.unlink()
    image = ssd.home(guest.name) / "vda.qcow2"
    [item] = [item for item in line.must("orphans").document["orphans"] if item["path"] == str(image)]
    assert not item["removable"]
    assert line.do("orphans", "--remove", image, "--yes").status == 2
    line.must("orphans", "--remove-all", "--abandoned", "--yes")
    assert image.exists()
    guest.host.virsh("blockjob", guest.name, "vda", "--abort")
    line.must("orphans", "--remove-all", "--abandoned", "--yes")
    assert not image.exists()
    voyage.assert_content()
    voyage.power_off()
    assert allocated(voyage.where["vda"]) > 0
