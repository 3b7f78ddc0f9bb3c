"""Trimming first, with the distribution's guest agent: what was deleted is not moved; an agent that fails or hangs, and
deaths of blockferry, cost nothing but bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockferry.base.units import MiB
from lab import Datastore, Disk, Guest, Host, Lab
from lab.process import wait_until
from tests.system.voyage import Line, Voyage

pytestmark = pytest.mark.lab

JUNK = 40 * MiB
AREA = 96 * MiB
"""Where the judge's writes begin, behind the file system. What lies there is no matter of trimming."""


@pytest.fixture(scope="module")
def guest(lab_session: Lab, lab_host: Host, old_san: Datastore) -> Iterator[Guest]:
    """A VM whose disks (qcow2, raw) have a file system each, with the judge's area behind it."""
    disks = [
        Disk(target, old_san, kind, size="160MiB", fs=f"{AREA // MiB}MiB", fill="8MiB")
        for target, kind in (("vda", "qcow2"), ("vdb", "raw"))
    ]
    one = lab_session.guest(lab_host, "trimmed", disks, agent=True, start=True)
    one.sh("for disk in vda vdb; do mkdir -p /mnt/$disk && mount -t ext4 /dev/$disk /mnt/$disk; done")
    yield one
    lab_session.remove_guest(one)
    for store in lab_session.datastores.values():
        store.clear_vm(one.name)


def fill(guest: Guest) -> None:
    """Write to each file system what takes space."""
    size = JUNK // MiB
    guest.sh(
        f"for disk in vda vdb; do dd if=/dev/urandom of=/mnt/$disk/junk bs=1M count={size}; done; sync", timeout=120
    )


def delete(guest: Guest) -> None:
    guest.sh("rm /mnt/*/junk; sync")


def connected(guest: Guest) -> bool:
    return "name='org.qemu.guest_agent.0' state='connected'" in guest.xml()


@pytest.fixture
def one(guest: Guest, line: Line, stores: tuple[Datastore, ...]) -> Voyage:
    wait_until(lambda: connected(guest), "the guest agent", timeout=60)
    live = guest.sources()
    at = next(store for store in stores if live["vda"].startswith(str(store.path)))
    voyage = Voyage(guest, line, stores)
    voyage.moved_all(at)
    return voyage


def held(path: Path) -> int:
    """Bytes of data in the file system's part of an image that no job writes to, by qemu-img map.

    The blocks that the file takes tell less: XFS sets some aside.
    """
    words = ["qemu-img", "map", "-U", "--output=json", f"--max-length={AREA}"]
    said = subprocess.run(
        [*words, "-f", path.suffix.removeprefix("."), str(path)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    return sum(one["length"] for one in json.loads(said.stdout) if one["data"] and not one["zero"])


def written(path: Path) -> int:
    """Bytes of the file that are no holes: qemu-img cannot open what a block job writes to."""
    found = at = 0
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        while at < end:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nothing but a hole is left
                    raise
                break
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found += at - begin
    return found


def elsewhere(one: Voyage) -> Datastore:
    return next(store for store in one.stores if not one.where["vda"].is_relative_to(store.path))


@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
def test_what_the_guest_has_deleted_is_not_moved(one: Voyage, method: str) -> None:
    fill(one.guest)
    delete(one.guest)
    full = {target: held(path) for target, path in one.where.items()}
    assert min(full.values()) > JUNK
    one.write(rate=50)
    to = elsewhere(one)
    done = one.line.must("move", one.name, "--to", to.name, "--method", method, "--trim").move
    one.moved_all(to)
    one.assert_well()
    assert done["report"]["trimmed_bytes"] > 2 * JUNK * 0.9
    for target, path in one.where.items():
        assert held(path) < full[target] - JUNK * 0.9


@contextlib.contextmanager
def in_step(one: Voyage, to: Datastore, *words: str) -> Iterator[dict[str, Any]]:
    """A move that stands still once its copies are in step; afterwards it goes on. Its report, filled at the end."""
    process = one.line.start("move", one.name, "--to", to.name, *words, point="in-step:stop")
    report: dict[str, Any] = {}
    try:
        wait_until(lambda: one.guest.xml().count("ready='yes'") == 2, "both copies in step", timeout=120)
        for target, path in one.where.items():
            assert written(to.home(one.name) / path.name) > JUNK, f"{target}: the junk is across"
        yield report
    finally:
        process.send_signal(signal.SIGCONT)
        said = one.line.end(process)
    assert said.status == 0, str(said)
    report.update(said.move["report"])


@pytest.mark.parametrize("option", ["nodiscard", "discard"])
def test_what_is_deleted_during_the_copy_is_given_back_at_the_destination(one: Voyage, option: str) -> None:
    """With `discard` the guest believes that it has given it back already: QEMU says so, and drops it."""
    fill(one.guest)
    one.guest.sh(f"for disk in vda vdb; do mount -o remount,{option} /mnt/$disk; done")
    full = {target: held(path) for target, path in one.where.items()}
    one.write(rate=50)
    to = elsewhere(one)
    with in_step(one, to, "--trim") as report:
        delete(one.guest)
        one.guest.sh("for disk in vda vdb; do mount -o remount,nodiscard /mnt/$disk; done")
    one.moved_all(to)
    one.assert_well()
    assert report["trimmed_again_bytes"] > 2 * JUNK * 0.9
    for target, path in one.where.items():
        assert held(path) < full[target] - JUNK * 0.9


def test_discards_during_the_copy_do_no_harm(one: Voyage) -> None:
    """QEMU drops them: docs/measured.md, 13."""
    fill(one.guest)
    delete(one.guest)
    one.write(rate=50)
    to = elsewhere(one)
    with in_step(one, to) as report:
        one.guest.sh("for disk in vda vdb; do fstrim /mnt/$disk; done", timeout=120)
    one.moved_all(to)
    one.assert_well()
    assert report["trimmed_again_bytes"] is None


def test_an_agent_that_hangs_only_costs_bytes(one: Voyage) -> None:
    one.write(rate=50)
    one.guest.sh("kill -STOP $(pidof qemu-ga)")
    to = elsewhere(one)
    try:
        done = one.line.must("move", one.name, "--to", to.name, "--trim").move
    finally:
        one.guest.sh("kill -CONT $(pidof qemu-ga)")
    one.moved_all(to)
    one.assert_well()
    assert done["report"]["trimmed_bytes"] == done["report"]["trimmed_again_bytes"] == 0
    assert any("was not trimmed" in note for note in done["report"]["notes"])


def test_killed_before_and_after_each_trim(one: Voyage) -> None:
    one.write(rate=50)
    first = (("trimming", "resume"), ("trimmed", "cancel"), ("trimming", "cancel"), ("trimmed", "resume"))
    for point, word in (
        *first,
        ("trimming-again", "resume"),
        ("trimming-again", "cancel"),
        ("trimmed-again", "resume"),
    ):
        to = elsewhere(one)
        said = one.line.do("move", one.name, "--to", to.name, "--trim", point=f"{point}:kill")
        assert said.status in (-9, 137), str(said)
        [move] = one.line.unfinished()
        ended = one.line.do(word, move)
        if word == "cancel" and point.endswith("-again"):  # after the switch there is no way back: it is told at once
            assert ended.code == "TOO_LATE", str(ended)
            one.line.must("watch", move)
        if word == "resume" or point.endswith("-again"):
            one.moved_all(to)
        one.assert_well()


def test_without_an_agent_it_is_refused_by_name_and_left_out_if_only_configured(one: Voyage) -> None:
    one.guest.sh("kill -9 $(pidof qemu-ga)")
    wait_until(lambda: not connected(one.guest), "libvirt to notice", timeout=60)
    to = elsewhere(one)
    said = one.line.do("move", one.name, "--to", to.name, "--trim")
    assert said.status == 4, str(said)
    assert said.codes == ["CANNOT_TRIM"]
    assert one.line.unfinished() == []
    (one.line.directory / "empty.toml").write_text("trim = true\n")
    done = one.line.must("move", one.name, "--to", to.name).move
    one.moved_all(to)
    one.assert_well()
    assert done["report"]["trimmed_bytes"] is None
    assert done["report"]["trimmed_again_bytes"] is None
