"""A VM goes from one lab host to another, under the judge: running and off, nothing shared and all shared, killed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Disk, Guest, Host, Lab
from lab.namespaces import HostProcess
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest

ROOT = Path(__file__).parents[2]
LIMIT_S = 240

pytestmark = pytest.mark.lab


@pytest.fixture(scope="session")
def kvm2_disks(lab_session: Lab) -> Datastore:
    """A datastore that only the second host has."""
    return lab_session.datastore("kvm2-disks", fs="ext4", size="4GiB")


@pytest.fixture(scope="session")
def kvm2(lab_session: Lab, desk: Host, old_san: Datastore, ssd: Datastore, kvm2_disks: Datastore) -> Host:
    """Where the VMs go: it has `old-san`, too, so that a disk there is shared, and nothing of `ssd`."""
    host = lab_session.host("kvm2", network=True)
    host.run(["mount", "-t", "tmpfs", "none", ssd.path])  # every host of a lab sees every file system otherwise
    host.attach(old_san)
    host.attach(kvm2_disks)
    return host


class Crossing:
    """One guest on its way from `far` to `kvm2`, moved by processes on the desk."""

    def __init__(self, guest: Guest, desk: Host, source: Host, dest: Host, directory: Path) -> None:
        self.guest, self.desk, self.source, self.dest = guest, desk, source, dest
        self.url = f"sqlite:///{directory}/journal.db"
        self.file = directory / "journal.db"
        self.move = ""

    def start(self, *words: str, point: str = "") -> HostProcess:
        return self.desk.popen(
            [sys.executable, "-m", "tests.system.host_move_child", self.url, *words],
            env={**os.environ, "BLOCKFERRY_POINT": point, "PYTHONPATH": str(ROOT)},
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self, process: HostProcess) -> dict[str, Any]:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end\n{self.story()}\n{self.states()}") from None
        if process.returncode in (-9, 137):
            return {"killed": True}
        assert out.strip(), f"status {process.returncode}\n{err}\n{self.story()}"
        found = json.loads(out.strip().splitlines()[-1])
        assert isinstance(found, dict)
        return {**found, "err": err}

    def plan(self, **request: Any) -> dict[str, Any]:
        wish = json.dumps({"vm": self.guest.name, **request})
        found = self.end(self.start("plan", self.source.ssh_uri, self.dest.ssh_uri, wish))
        self.move = found.get("id", "")
        return found

    def run(self, point: str = "") -> dict[str, Any]:
        return self.end(self.start("run", self.move, point=point))

    def story(self) -> str:
        if not self.file.exists():
            return ""
        with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as link:
            return "\n".join(f"{kind}: {text}" for kind, text in link.execute("SELECT kind, text FROM events"))

    def states(self) -> tuple[str, str]:
        return self.source.vm_state(self.guest.name), self.dest.vm_state(self.guest.name)

    def assert_moved(self, said: dict[str, Any], state: str = "running") -> None:
        assert said.get("state") == "moved", f"{said}\n{self.story()}"
        assert self.states() == ("absent", state), self.story()
        self.guest.host = self.dest
        assert "urn:blockferry" not in self.dest.virsh("dumpxml", self.guest.name, "--inactive")

    def assert_back(self, *images: Path) -> None:
        """It is at the source as before, and nothing of it is at the destination."""
        assert self.states()[1] == "absent", self.story()
        assert "urn:blockferry" not in self.source.virsh("dumpxml", self.guest.name)
        for image in images:
            assert not list(image.parent.glob("*")) if image.parent.exists() else True, self.story()


@pytest.fixture
def crossing(
    make_guest: MakeGuest, desk: Host, far: Host, kvm2: Host, tmp_path: Path
) -> Iterator[Callable[..., Crossing]]:
    made: list[Crossing] = []

    def make(*disks: Disk, start: bool = True, **options: Any) -> Crossing:
        made.append(Crossing(make_guest(disks, host=far, start=start, **options), desk, far, kvm2, tmp_path))
        return made[-1]

    yield make
    for crossing in made:
        for host in (far, kvm2):
            host.run(["virsh", "-q", "destroy", crossing.guest.name], check=False)
            host.run(["virsh", "-q", "undefine", crossing.guest.name], check=False)


def test_running_with_nothing_shared(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore) -> None:
    disks = Disk("vda", ssd, size="96MiB", fill="32MiB"), Disk("vdb", ssd, size="48MiB", format="raw")
    one = crossing(*disks)
    one.guest.judge.start(rate=50, most_kib=16)
    one.guest.judge.wait_writes(30)
    assert len(one.plan(to="kvm2-disks")["disks"]) == 2
    said = one.run()
    one.assert_moved(said)
    assert 0 < said["report"]["downtime_ms"] < 30_000
    one.guest.judge.wait_writes(30)
    assert one.guest.judge.verify_live().ok
    for disk in one.guest.spec.disks:
        assert not Path(disk.path).exists(), said["report"]["sources"]
        assert Path(one.guest.sources()[disk.target]).parent.parent == kvm2_disks.path


def test_all_shared(crossing: Callable[..., Crossing], old_san: Datastore) -> None:
    one = crossing(Disk("vda", old_san, size="48MiB"))
    one.guest.judge.start(rate=50, most_kib=16)
    one.guest.judge.wait_writes(20)
    assert one.plan()["staying"] == ["vda"]
    one.assert_moved(one.run())
    one.guest.judge.wait_writes(20)
    assert one.guest.judge.verify_live().ok
    assert Path(one.guest.spec.disk("vda").path).exists()
    assert not list(old_san.path.rglob(".blockferry-probe-*"))


def test_off(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore) -> None:
    """Killed in the middle of its copy, and while its definition is at both hosts, where it cannot be started."""
    one = crossing(Disk("vda", ssd, size="96MiB", fill="32MiB"))
    one.guest.judge.start(rate=50, most_kib=16)
    one.guest.judge.wait_writes(30)
    one.guest.poweroff()
    one.plan(to="kvm2-disks")
    for point in ("cold-copying:kill", "defined:kill"):
        assert one.run(point) == {"killed": True}
    assert one.states() == ("shut off", "shut off")
    started = one.dest.run(["virsh", "-q", "start", one.guest.name], check=False)
    assert started.returncode != 0
    assert one.run("source-undefined:kill") == {"killed": True}
    one.assert_moved(one.run(), "shut off")
    assert not Path(one.guest.spec.disk("vda").path).exists()
    [path] = one.guest.sources(inactive=True).values()
    assert Path(path) == kvm2_disks.home(one.guest.name) / "vda.qcow2"
    verdict = one.guest.judge.check_image("vda", Path(path), "qcow2")
    assert verdict.ok, verdict
    assert {file.name for file in Path(path).parent.iterdir()} == {"vda.qcow2"}


@pytest.mark.parametrize("point", ["migration-called", "handed-noted", "resumed"])
def test_killed(crossing: Callable[..., Crossing], ssd: Datastore, point: str) -> None:
    one = crossing(Disk("vda", ssd, size="48MiB"))
    one.guest.judge.start(rate=50, most_kib=16)
    one.guest.judge.wait_writes(20)
    one.plan(to="kvm2-disks")
    assert one.run(f"{point}:kill") == {"killed": True}
    assert one.states().count("running") <= 1
    one.assert_moved(one.run())
    one.guest.judge.wait_writes(20)
    assert one.guest.judge.verify_live().ok


def test_cancelled_on_its_way(crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore) -> None:
    one = crossing(Disk("vda", ssd, size="512MiB", fill="256MiB"))
    one.guest.judge.start(rate=50, most_kib=16)
    one.guest.judge.wait_writes(20)
    one.plan(to="kvm2-disks", bandwidth=8 << 20)
    process = one.start("run", one.move)
    wait_until(lambda: one.states()[1] == "paused", "the beginning", timeout=LIMIT_S, step=0.1, report=one.story)
    one.end(one.start("cancel", one.move))
    assert one.end(process)["state"] == "cancelled", one.story()
    one.assert_back(kvm2_disks.home(one.guest.name) / "vda.qcow2")
    one.guest.judge.wait_writes(20)
    assert one.guest.judge.verify_live().ok


def test_the_destinations_libvirtd_is_killed(
    crossing: Callable[..., Crossing], ssd: Datastore, kvm2_disks: Datastore
) -> None:
    """In the middle of the copy: the guest runs on at the source, and nothing is left at the destination."""
    one = crossing(Disk("vda", ssd, size="512MiB", fill="256MiB"))
    one.guest.judge.start(rate=50, most_kib=16)
    one.guest.judge.wait_writes(20)
    one.plan(to="kvm2-disks", bandwidth=8 << 20)
    process = one.start("run", one.move)
    wait_until(lambda: one.states()[1] == "paused", "the beginning", timeout=LIMIT_S, step=0.1, report=one.story)
    one.dest.restart_libvirtd()
    assert one.end(process)["state"] == "failed", one.story()
    one.assert_back(kvm2_disks.home(one.guest.name) / "vda.qcow2")
    one.guest.judge.wait_writes(20)
    assert one.guest.judge.verify_live().ok
