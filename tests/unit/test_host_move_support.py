"""What a move to another host refuses by itself, whatever the hosts are like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_host_check import GOING, PLAIN, STAYING, codes, disk, vm

from blockferry.host_move.precheck.host_move_facts import Asked, HostFacts, Sharing
from blockferry.hosts.images.qemu_img import ChainImage
from blockferry.hosts.inventory import Disk, DiskSource, PowerState


def image(path: str = "/srv/vda.qcow2", **more: Any) -> ChainImage:
    plain = ChainImage(path, "qcow2", 1 << 30, 1 << 20, None, None, (), (), False, "1.1", None, False, False, 65536)
    return replace(plain, **more)


def one(**more: Any) -> HostFacts:
    return vm(disks=(replace(disk(), **more),))


def of_image(*layers: ChainImage) -> HostFacts:
    return replace(PLAIN, images={"vda": layers})


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (vm(nvram="/nvram/web01.fd", config_nvram="/other/web01.fd"), "CONFIG_DIFFERS"),
        (replace(PLAIN, needs=replace(PLAIN.needs, odd_variables="no file")), "UEFI_VARIABLES"),
        (vm(persistent=False), "VM_TRANSIENT"),
        (vm(mark="m0"), "MOVE_UNDER_WAY"),
        (replace(PLAIN, under_way="m1"), "MOVE_UNDER_WAY"),
        (replace(vm(mark="m1"), under_way="m1"), "MOVE_UNDER_WAY"),
        (vm(state=PowerState.CRASHED), "VM_STATE"),
        (vm(state=PowerState.LOST), "VM_STATE"),
        (one(shareable=True), "SHARED_DISK"),
        (one(encrypted=True), "ENCRYPTED_IMAGE"),
        (one(transient=True), "TRANSIENT_DISK"),
        (one(sliced=True), "UNSUPPORTED_SOURCE"),
        (one(config=DiskSource("file", "/x.qcow2", "qcow2"), live=disk().config), "CONFIG_DIFFERS"),
        (one(live=DiskSource("block", "/dev/vg/web01", "raw"), config=None), "UNSUPPORTED_SOURCE"),
        (of_image(image(format="vmdk")), "UNSUPPORTED_FORMAT"),
        (of_image(image(encrypted=True)), "ENCRYPTED_IMAGE"),
        (of_image(image(data_file="/srv/vda.raw")), "UNSUPPORTED_SOURCE"),
        (of_image(image(), image("/srv/base.qcow2")), "CHAIN_STAYS"),
    ],
)
def test_what_cannot_go_yet(facts: HostFacts, code: str) -> None:
    assert codes(facts) == [code]
    assert codes(PLAIN) == []


def test_a_chain_on_storage_that_both_hosts_have_stays_there() -> None:
    facts = replace(of_image(image(), image("/srv/base.qcow2")), sharing={"vda": Sharing.SAME})
    assert codes(facts, STAYING) == []


@pytest.mark.parametrize(
    ("cache", "qemu", "refused"),
    [
        ("none", (3, 1, 0), False),
        ("directsync", (3, 1, 0), False),
        ("writeback", (3, 1, 0), True),
        (None, (3, 1, 0), True),
        (None, (4, 0, 0), False),
        ("writethrough", (7, 2, 22), False),
    ],
)
def test_what_a_host_has_cached_of_a_shared_disk(
    cache: str | None, qemu: tuple[int, int, int], *, refused: bool
) -> None:
    def facts(of: Disk, state: PowerState = PowerState.RUNNING) -> HostFacts:
        there = replace(PLAIN.destination, qemu=qemu)
        shared = replace(PLAIN, destination=there, running_qemu=qemu, sharing={"vda": Sharing.SAME})
        return replace(shared, vm=replace(PLAIN.vm, disks=(of,), state=state))

    cached = replace(disk(), cache=cache)
    assert (codes(facts(cached), STAYING) == ["CACHE_STALE"]) is refused
    assert codes(facts(replace(cached, read_only=True)), STAYING) == []
    assert codes(facts(cached, PowerState.OFF), STAYING) == []
    assert codes(facts(cached), GOING) == []  # it goes along


def test_what_other_moves_have_yet_to_write_counts() -> None:
    room = PLAIN.stores[0].available
    fits = replace(PLAIN, reserved={"ssd": room - (2 << 30)})
    assert codes(fits) == []
    assert codes(replace(fits, reserved={"ssd": room - (1 << 30)})) == ["DESTINATION_FULL"]
    assert codes(PLAIN, Asked(disks={"vda": "iscsi"}, takes={})) == ["DATASTORE_MISSING"]
    blocks = replace(PLAIN.stores[0], name="iscsi", kind="iscsi")
    assert codes(replace(PLAIN, stores=(blocks,)), Asked(disks={"vda": "iscsi"})) == ["DATASTORE_KIND"]
