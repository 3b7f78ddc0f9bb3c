"""What a move to another host refuses by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockferry.host_move import support_rules
from blockferry.hosts.inventory import Disk, DiskSource, PowerState, Vm

DISK = Disk("vda", "disk", "virtio", DiskSource("file", "/old/vda.qcow2", "qcow2"), None, cache="none")
VM = Vm("web01", "u1", PowerState.RUNNING, persistent=True, disks=(DISK,))


def codes(vm: Vm, **layers: int) -> list[str]:
    return [code for code, _ in support_rules.unsupported(vm, layers)]


def test_a_plain_vm_goes() -> None:
    assert codes(VM, vda=1) == []
    assert list(support_rules.cached(VM, DISK)) == []


@pytest.mark.parametrize(
    ("vm", "code"),
    [
        (replace(VM, nvram="/nvram/web01.fd"), "HOST_UEFI"),
        (replace(VM, config_nvram="/nvram/web01.fd"), "HOST_UEFI"),
        (replace(VM, persistent=False), "HOST_TRANSIENT"),
        (replace(VM, tpm=True), "HOST_TPM"),
        (replace(VM, snapshots=("one",)), "HOST_SNAPSHOTS"),
        (replace(VM, checkpoints=("one",)), "HOST_CHECKPOINTS"),
        (replace(VM, has_managed_save=True), "HOST_SAVED"),
        (replace(VM, mark="m0"), "HOST_BUSY"),
        (replace(VM, job="a backup"), "HOST_BUSY"),
        (replace(VM, state=PowerState.CRASHED), "HOST_STATE"),
        (replace(VM, state=PowerState.LOST), "HOST_STATE"),
        (replace(VM, disks=(replace(DISK, shareable=True),)), "HOST_DISK"),
        (replace(VM, disks=(replace(DISK, other_job="commit"),)), "HOST_BUSY"),
        (replace(VM, disks=(replace(DISK, config=DiskSource("file", "/x.qcow2", "qcow2")),)), "HOST_CONFIG"),
    ],
)
def test_what_cannot_go_yet(vm: Vm, code: str) -> None:
    assert codes(vm, vda=1) == [code]


def test_a_chain_cannot_go_yet() -> None:
    assert codes(VM, vda=2) == ["HOST_CHAIN"]


@pytest.mark.parametrize(("cache", "safe"), [("none", True), ("directsync", True), ("writeback", False), (None, False)])
def test_what_is_cached_on_a_host(cache: str | None, safe: bool) -> None:
    disk = replace(DISK, cache=cache)
    assert (list(support_rules.cached(VM, disk)) == []) == safe
    assert list(support_rules.cached(VM, replace(disk, read_only=True))) == []
    assert list(support_rules.cached(replace(VM, state=PowerState.OFF), disk)) == []
