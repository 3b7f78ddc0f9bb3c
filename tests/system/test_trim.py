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
    guest = lab_session.guest(lab_host, "trimmed", disks, agent=True, start=True)
    guest.sh("for disk in vda vdb; do mkdir -p /mnt/$disk && mount -t ext4 /dev/$disk /mnt/$disk; done")
    yield guest
    lab_session.remove_guest(guest)
    for store in lab_session.datastores.values():
        store.clear_vm(guest.name)


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
def voyage(guest: Guest, line: Line, stores: tuple[Datastore, ...]) -> Voyage:
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
    return sum(load["length"] for load in json.loads(said.stdout) if load["data"] and not load["zero"])


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


def elsewhere(voyage: Voyage) -> Datastore:
    return next(store for store in voyage.stores if not voyage.where["vda"].is_relative_to(store.path))


@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
def test_what_the_guest_has_deleted_is_not_moved(voyage: Voyage, method: str) -> None:
    fill(voyage.guest)
    delete(voyage.guest)
    full = {target: held(path) for target, path in voyage.where.items()}
    assert min(full.values()) > JUNK
    voyage.write(rate=50)
    to = elsewhere(voyage)
    done = voyage.line.must("move", voyage.name, "--to", to.name, "--method", method, "--trim").move
    voyage.moved_all(to)
    voyage.assert_well()
    assert done["report"]["trimmed_bytes"] > 2 * JUNK * 0.9
    for target, path in voyage.where.items():
        assert held(path) < full[target] - JUNK * 0.9


@contextlib.contextmanager
def in_step(voyage: Voyage, to: Datastore, *words: str) -> Iterator[dict[str, Any]]:
    """A move that stands still once its copies are in step; afterwards it goes on. Its report, filled at the end."""
    process = voyage.line.start("move", voyage.name, "--to", to.name, *words, point="in-step:stop")
    report: dict[str, Any] = {}
    try:
        wait_until(lambda: voyage.guest.xml().count("ready='yes'") == 2, "both copies in step", timeout=120)
        for target, path in voyage.where.items():
            assert written(to.home(voyage.name) / path.name) > JUNK, f"{target}: the junk is across"
        yield report
    finally:
        process.send_signal(signal.SIGCONT)
        said = voyage.line.end(process)
    assert said.status == 0, str(said)
    report.update(said.move["report"])


@pytest.mark.parametrize("option", ["nodiscard", "discard"])
def test_what_is_deleted_during_the_copy_is_given_back_at_the_destination(voyage: Voyage, option: str) -> None:
    """With `discard` the guest believes that it has given it back already: QEMU says so, and drops it."""
    fill(voyage.guest)
    voyage.guest.sh(f"for disk in vda vdb; do mount -o remount,{option} /mnt/$disk; done")
    full = {target: held(path) for target, path in voyage.where.items()}
    voyage.write(rate=50)
    to = elsewhere(voyage)
    with in_step(voyage, to, "--trim") as report:
        delete(voyage.guest)
        voyage.guest.sh("for disk in vda vdb; do mount -o remount,nodiscard /mnt/$disk; done")
    voyage.moved_all(to)
    voyage.assert_well()
    assert report["trimmed_again_bytes"] > 2 * JUNK * 0.9
    for target, path in voyage.where.items():
        assert held(path) < full[target] - JUNK * 0.9


def test_discards_during_the_copy_do_no_harm(voyage: Voyage) -> None:
    """QEMU drops them: docs/measured.md, 13."""
    fill(voyage.guest)
    delete(voyage.guest)
    voyage.write(rate=50)
    to = elsewhere(voyage)
    with in_step(voyage, to) as report:
        voyage.guest.sh("for disk in vda vdb; do fstrim /mnt/$disk; done", timeout=120)
    voyage.moved_all(to)
    voyage.assert_well()
    assert report["trimmed_again_bytes"] is None


def test_an_agent_that_hangs_only_costs_bytes(voyage: Voyage) -> None:
    voyage.write(rate=50)
    voyage.guest.sh("kill -STOP $(pidof qemu-ga)")
    to = elsewhere(voyage)
    try:
        done = voyage.line.must("move", voyage.name, "--to", to.name, "--trim").move
    finally:
        voyage.guest.sh("kill -CONT $(pidof qemu-ga)")
    voyage.moved_all(to)
    voyage.assert_well()
    assert done["report"]["trimmed_bytes"] == done["report"]["trimmed_again_bytes"] == 0
    assert any("was not trimmed" in note for note in done["report"]["notes"])


def test_killed_before_and_after_each_trim(voyage: Voyage) -> None:
    voyage.write(rate=50)
    first = (("trimming", "resume"), ("trimmed", "cancel"), ("trimming", "cancel"), ("trimmed", "resume"))
    for point, word in (
        *first,
        ("trimming-again", "resume"),
        ("trimming-again", "cancel"),
        ("trimmed-again", "resume"),
    ):
        to = elsewhere(voyage)
        said = voyage.line.do("move", voyage.name, "--to", to.name, "--trim", point=f"{point}:kill")
        assert said.status in (-9, 137), str(said)
        [move] = voyage.line.unfinished()
        ended = voyage.line.do(word, move)
        if word == "cancel" and point.endswith("-again"):  # after the switch there is no way back: it is told at once
            assert ended.code == "TOO_LATE", str(ended)
            voyage.line.must("watch", move)
        if word == "resume" or point.endswith("-again"):
            voyage.moved_all(to)
        voyage.assert_well()


def test_without_an_agent_it_is_refused_by_name_and_left_out_if_only_configured(voyage: Voyage) -> None:
    voyage.guest.sh("kill -9 $(pidof qemu-ga)")
    wait_until(lambda: not connected(voyage.guest), "libvirt to notice", timeout=60)
    to = elsewhere(voyage)
    said = voyage.line.do("move", voyage.name, "--to", to.name, "--trim")
    assert said.status == 4, str(said)
    assert said.codes == ["CANNOT_TRIM"]
    assert voyage.line.unfinished() == []
    (voyage.line.directory / "empty.toml").write_text("trim = true\n")
    done = voyage.line.must("move", voyage.name, "--to", to.name).move
    voyage.moved_all(to)
    voyage.assert_well()
    assert done["report"]["trimmed_bytes"] is None
    assert done["report"]["trimmed_again_bytes"] is None
