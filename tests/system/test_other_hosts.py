"""Hosts of other distributions, reached by qemu+ssh from a host of this machine's: a short set of everything.

`make test` plays a part of it on Debian 13; `make compat` all of it on what BLOCKFERRY_HOSTS names ("here" is this
machine's own distribution, by the same way).
"""

from __future__ import annotations

import os
import subprocess

import pytest

from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.domain import Control, CopyOrder
from lab import FLAT_OUT, Datastore, Disk, Host, Lab
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from lab.roots import ROOTS, RootName
from tests.system.voyage import FarLine, Voyage, small_disks, verified

HOSTS = os.environ.get("BLOCKFERRY_HOSTS", "debian13").split()

pytestmark = pytest.mark.lab

sampled = pytest.mark.sampled(0.4 if "BLOCKFERRY_HOSTS" not in os.environ else 1.0)

STARTS = int(os.environ.get("BLOCKFERRY_STARTS", "3"))
"""So many disks per method get a copy that begins under load."""


@pytest.fixture(scope="session", params=HOSTS)
def far(request: pytest.FixtureRequest, lab_session: Lab, desk: Host, old_san: Datastore, ssd: Datastore) -> Host:
    """The host whose VMs move."""
    name = next((known for known in ROOTS if known == request.param), None)
    assert name is not None or request.param == "here", request.param
    return far_host(lab_session, name, (old_san, ssd))


def far_host(lab: Lab, root: RootName | None, stores: tuple[Datastore, ...]) -> Host:
    host = lab.host(f"far-{root or 'here'}", root=root, network=True)
    for store in stores:
        host.attach(store)
    print(f"{host.name}: {host.virsh('version')}")
    return host


ZEROED_SINCE = (12, 2, 0)
"""VIR_DOMAIN_BLOCK_COPY_TARGET_ZEROED came with this libvirt."""


def test_a_fresh_target_is_told_where_libvirt_knows_that(
    make_guest: MakeGuest, far: Host, old_san: Datastore, ssd: Datastore
) -> None:
    """The first copy asks libvirt; what it refuses, before it does anything, is not told again."""
    guest = make_guest(small_disks(old_san, 1), host=far, start=True)
    directory = ssd.home(guest.name)
    directory.mkdir(exist_ok=True)
    dest = directory / "vda.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", dest, str(guest.disk("vda").size_bytes)], check=True)
    owner = far.qemu_owner
    os.chown(dest, owner.uid, owner.gid)
    connection = Connection(far.uri)
    try:
        control = Control(connection, far.virsh("domuuid", guest.name).strip(), guest.name)
        control.start_copy("vda", CopyOrder(str(dest), "qcow2", synchronous=False, zeroed=True))
        mirror = control.look(()).disks[0].mirror
        assert mirror is not None
        assert mirror.dest == str(dest)
        assert connection.knows_zeroed_targets is (connection.versions()[0] >= ZEROED_SINCE)
        control.abort("vda")
        wait_until(lambda: control.look(()).disks[0].mirror is None, "the end of the copy", timeout=120)
    finally:
        connection.close()


@sampled
@pytest.mark.parametrize("method", ["mirror", "changed-blocks", "snapshot"])
def test_a_move_by_each_method(
    method: str, make_guest: MakeGuest, far: Host, far_line: FarLine, stores: tuple[Datastore, ...],
    old_san: Datastore, ssd: Datastore,
) -> None:  # fmt: skip
    """Two disks under a writing guest, verified; then off and on again from what the configuration says."""
    voyage = Voyage(make_guest(small_disks(old_san, 2), host=far, start=True), far_line, stores, database=True)
    voyage.write()
    said = far_line.must("move", voyage.name, "--to", "ssd", "--method", method, "--verify")
    assert verified(said.move) == ["vda", "vdb"], str(said)
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_cycle()
    print(f"{far.name} {method}: {said.move['report']}")


def test_as_if_it_had_the_start_race(
    make_guest: MakeGuest, far: Host, far_line: FarLine, stores: tuple[Datastore, ...], old_san: Datastore,
    ssd: Datastore,
) -> None:  # fmt: skip
    """The overlay's copy begins before its base is there, and the commit begins in a suspension."""
    voyage = Voyage(make_guest(small_disks(old_san, 2), host=far, start=True), far_line, stores)
    voyage.write()
    said = far_line.must("move", voyage.name, "--to", "ssd", "--method", "snapshot", suspended_start=True)
    assert said.move["report"]["start_stall_s"] is not None, str(said)
    voyage.moved_all(ssd)
    voyage.assert_well()


def test_a_vm_that_is_off(
    make_guest: MakeGuest, far: Host, far_line: FarLine, stores: tuple[Datastore, ...], old_san: Datastore,
    ssd: Datastore,
) -> None:  # fmt: skip
    voyage = Voyage(make_guest(small_disks(old_san, 1), host=far, start=True), far_line, stores)
    voyage.write()
    voyage.power_off()
    far_line.must("move", voyage.name, "--to", "ssd", "--format", "raw")
    voyage.moved_all(ssd, "raw")
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    voyage.assert_images()


@sampled
@pytest.mark.parametrize(
    ("point", "method", "cancel"),
    [
        ("copy-started", "mirror", False),
        ("suspended-to-switch", "changed-blocks", False),
        ("in-step", "changed-blocks", True),
        ("pivoted-one", "mirror", False),
        ("commit-started", "snapshot", False),
    ],
)
def test_killed_and_gone_on_with(
    point: str, method: str, cancel: bool, make_guest: MakeGuest, far: Host, far_line: FarLine,
    stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore,
) -> None:  # fmt: skip
    voyage = Voyage(make_guest(small_disks(old_san, 2), host=far, start=True), far_line, stores)
    voyage.write()
    said = far_line.do("move", voyage.name, "--to", "ssd", "--method", method, point=f"{point}:kill")
    assert said.killed, f"no move passed {point}: {said}"
    voyage.wait_running()
    move = far_line.move_of(voyage.name)
    assert move is not None
    far_line.do("cancel" if cancel else "resume", move)
    done = far_line.wait_finished_of(voyage.name)
    assert done["record"]["outcome"] == ("cancelled" if cancel else "moved"), far_line.stories()
    if not cancel:
        voyage.moved_all(ssd)
    voyage.assert_well()


def test_qemu_dies_and_the_copy_is_resumed(
    make_guest: MakeGuest, far: Host, far_line: FarLine, stores: tuple[Datastore, ...], old_san: Datastore,
    ssd: Datastore,
) -> None:  # fmt: skip
    voyage = Voyage(
        make_guest([Disk("vda", old_san, size="96MiB", fill="64MiB")], host=far, start=True), far_line, stores
    )
    voyage.write(rate=20, most_kib=4, span_blocks=1024)
    words = ("--method", "changed-blocks", "--on-break", "keep", "--bandwidth", "8MiB/s")
    process = far_line.start("move", voyage.name, "--to", "ssd", *words)
    wait_until(lambda: "<mirror" in voyage.guest.xml(), "the copy", timeout=240, step=0.1, report=far_line.stories)
    far.kill_qemu(voyage.name)
    said = far_line.end(process)
    assert said.status == 0, f"{said}\n{far_line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    voyage.assert_images(flushed_only=True)


def test_back_from_quarantine(
    make_guest: MakeGuest, far: Host, far_line: FarLine, stores: tuple[Datastore, ...], old_san: Datastore,
    ssd: Datastore,
) -> None:  # fmt: skip
    voyage = Voyage(make_guest(small_disks(old_san, 1), host=far, start=True), far_line, stores)
    voyage.write()
    old = dict(voyage.where)
    far_line.must("move", voyage.name, "--to", "ssd", "--keep-source", "7d")
    voyage.moved_all(ssd)
    voyage.power_off()
    far_line.must("quarantine", "restore", voyage.name, "--yes")
    voyage.where = old
    voyage.assert_configured("shut off")
    voyage.guest.start()
    voyage.assert_configured()


@sampled
@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
def test_the_guest_does_not_stop_at_the_start(
    method: str, make_guest: MakeGuest, far: Host, far_line: FarLine, stores: tuple[Datastore, ...],
    old_san: Datastore, ssd: Datastore,
) -> None:  # fmt: skip
    """Fresh thin disks, writers flat out when the copy begins: no suspension is taken, and no write is lost."""
    disks = [Disk(f"vd{letter}", old_san, size="256MiB") for letter in "abcdefghijklmnop"[:STARTS]]
    voyage = Voyage(make_guest(disks, host=far, start=True), far_line, stores)
    for disk in disks:
        words = ("--disk", f"{disk.target}=ssd", "--method", method)
        process = far_line.start("move", voyage.name, *words, point="image-made:sleep=1")
        image = ssd.home(voyage.name) / f"{disk.target}.qcow2"
        wait_until(image.exists, "the image at the destination", timeout=240, step=0.01, report=far_line.stories)
        voyage.guest.judge.start(disk.target, writers=4, rate=FLAT_OUT, most_kib=4, random_percent=100, flush_every=64)
        voyage.guest.judge.wait_writes(200)
        said = far_line.end(process)
        assert said.status == 0, f"{said}\n{far_line.stories()}"
        assert said.move["report"]["start_stall_s"] is None, "the guest was stopped at the start"
        voyage.guest.judge.stop()
        voyage.moved(disk.target, ssd)
        verdict = voyage.guest.judge.verify_live()
        assert verdict.ok, f"{verdict.text}\n{far_line.stories()}"
    voyage.assert_configured()
    voyage.guest.poweroff()
    voyage.assert_images()
