"""The zoo's generator: the same hosts for the same seed, hosts that make sense, and every feature within reach."""

from __future__ import annotations

import pytest
from hypothesis import given

from zoo import spec
from zoo.generate import features, generate, hosts
from zoo.shrink import candidates, shrink
from zoo.spec import Host

pytestmark = pytest.mark.slow

WITHIN = 500
"""A recorded run has so many hosts: each feature must be in one of them."""

FEATURES = (
    "state running", "state paused", "state off",
    "method auto", "method mirror", "method changed-blocks", "method snapshot", "method clone", "method cold",
    "profile default", "profile fixed", "profile root",
    "file disk", "volume disk", "block disk", "file cdrom", "volume cdrom", "empty cdrom", "file floppy",
    "other's file disk", "other's volume disk", "disk only persistent",
    "bus virtio", "bus scsi", "bus sata", "bus ide", "bus usb", "bus fdc", "format qcow2", "format raw",
    "option cache-none", "option copy-on-read", "option metadata-cache", "option seclabel-none", "option iothread",
    "option native", "option wwn", "option readonly", "option shareable", "option user-alias", "option boot-order",
    "bios", "code", "vars", "kernel", "initrd", "serial-log", "serial-file", "share", "nvdimm", "fwcfg", "rom",
    "snapshot internal", "snapshot external", "backing absolute", "backing relative", "owner and mode",
    "vm template", "vm clone", "vm rescue", "vm neighbour", "vm sleeper", "stranger's file", "text in the home",
    "link to pool", "link to home", "link to image", "pool twin", "pool nested", "pool sleeping",
    "pool named like the VM", "flat in the pool", "home in a sub-directory", "odd name",
    "edit guest-write", "edit append", "edit rewrite", "edit change-cd", "edit suspend", "cancelled", "moved back",
    "one disk only", "word --keep-source", "word --delete-source", "word --format", "word --chain", "word --verify",
    "word --provision", "store a", "store b", "store c", "store f",
    "store d", "store e", "pool of the kind fs", "bitmap of a backup program", "tpm emulator", "tpm external",
    "virtiofs", "vhost-user", "edit kill-libvirtd", "moved back with layers", "into the nested pool",
    "in the way at the destination",
)  # fmt: skip


def test_a_seed_gives_the_same_host_each_time() -> None:
    assert [generate(7, index) for index in range(20)] == [generate(7, index) for index in range(20)]
    assert len({generate(7, index) for index in range(20)}) == 20
    assert generate(7, 0) != generate(8, 0)


@pytest.mark.parametrize("seed", [1, 2026])
def test_every_feature_is_reached(seed: int) -> None:
    seen = {feature for index in range(WITHIN) for feature in features(generate(seed, index))}
    assert not set(FEATURES) - seen


@given(hosts())
def test_a_host_survives_being_saved(host: Host) -> None:
    assert spec.from_json(spec.to_json(host)) == host


def test_what_is_no_host_is_not_read() -> None:
    with pytest.raises(ValueError, match="version"):
        spec.from_json('{"version": 99}')
    with pytest.raises(ValueError, match="is no"):
        spec.from_json('{"version": 1, "colour": "green"}')


def assert_makes_sense(host: Host) -> None:
    places = [one.place for one in host.files]
    assert len(places) == len(set(places))
    for place, file in zip(places, host.files, strict=True):
        for other in (file.backing, file.target):
            assert not other or other in places[: places.index(place)], f"{place} is made before {other}"
    pools = {one.name: one for one in host.pools}
    for vm in host.vms:
        targets = [one.target for one in vm.disks]
        assert len(targets) == len(set(targets)), targets
        for disk in vm.disks:
            assert disk.form == "empty" or disk.place in places
            if disk.form == "volume":
                assert disk.place.rpartition("/")[0] == pools[disk.pool].place
        assert {named.place for named in vm.named} <= set(places)
    assert len({one.name for one in host.vms}) == len(host.vms)
    move = host.move
    assert {pool for pool in (move.to, move.back, *(pool for _, pool in move.disks)) if pool} <= pools.keys()
    targets = [one.target for one in host.mover.disks]
    assert all(edit.place in places or edit.target in targets for edit in move.edits if edit.place or edit.target)
    assert len({edit.point for edit in move.edits} | {move.cancel_at} - {""}) <= 1


@given(hosts())
def test_a_host_makes_sense(host: Host) -> None:
    assert_makes_sense(host)


@given(hosts())
def test_what_is_tried_while_shrinking_makes_sense_and_is_smaller(host: Host) -> None:
    for smaller in candidates(host):
        assert_makes_sense(smaller)
        assert smaller == host or _weight(smaller) < _weight(host)


def _weight(host: Host) -> int:
    """How much there is that could matter."""
    plain = (host.move.method != "auto") + (host.profile != "default") + (host.mover.state == "paused")
    return len(spec.to_json(host).splitlines()) * 10 + plain


def test_shrinking_finds_the_one_thing_that_matters() -> None:
    host = next(
        one
        for one in (generate(3, index) for index in range(WITHIN))
        if "vm template" in features(one) and one.move.words
    )
    small = shrink(host, lambda one: "vm template" in features(one), 30)
    assert len(small.vms) == 2
    assert not small.move.words
    assert not small.move.edits
    assert not small.mover.named
