"""With --delete-source the overlay above an old disk goes before the disk; a doubt may keep the disk alone.

Real files and libvirt's test driver. An old disk without its overlay lacks what the guest wrote last: it must not look
like a disk that a VM can go back to.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from decide_support import make_plan
from paper_host import HOST, PaperSite

from blockferry.hosts.helper import files
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt import domain_list
from blockferry.leftovers import quarantine, quarantine_rules
from blockferry.safety import proof
from blockferry.safety.guard import Guard
from blockferry.safety.proof import Claims
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import release
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import SourceImage
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.observation import DiskSide, DiskView, Observation
from blockferry.storage_move.overlays.plan import OverlaysPlan
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import SourcePolicy


class Releasing:
    """A move that has switched: an old disk with the move's overlay above it, and the new one."""

    def __init__(self, site: PaperSite, directory: Path, *, delete: bool) -> None:
        self.site = site
        self.base, self.overlay = directory / "vda.qcow2", directory / "vda.overlay"
        self.dest = directory / "new.qcow2"
        for path in (self.base, self.dest):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
        below = ["-b", str(self.base), "-F", "qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, self.overlay, "1M"], check=True)
        subprocess.run(["qemu-io", "-c", "write -P 7 0 4096", self.overlay], check=True, capture_output=True)
        site.define("web01", {"vda": self.dest})
        plan = make_plan()
        disk = replace(
            plan.disks[0],
            source=SourceImage(path=str(self.base), format="qcow2", kind="file", datastore="a"),
            dest=DestinationImage(path=str(self.dest), format="qcow2", datastore="b"),
            release=ReleasePlan(files=(str(self.base),)),
            overlays=OverlaysPlan(source=str(self.overlay)),
        )
        self.plan: Plan = replace(
            plan,
            uuid=site.uuid("web01"),
            uri=site.uri,
            host=HOST,
            disks=(disk,),
            source=SourcePolicy(delete=delete),
            domain=DomainPlan(persistent=True, was=PowerState.OFF),
        )
        record = Record(disks={"vda": DiskRecord(source_overlay=OverlayState.USED)})
        self.record = replace(
            record, switch=replace(record.switch, done=True), graph=replace(record.graph, proven=True)
        )
        self.kept: list[Kept] = []

    def release(self, path: Path) -> None:
        """By a process of its own, as after a death: its inventory is new."""

        def save(record: Record) -> None:
            self.record = record

        def keep(*words: Any, **more: Any) -> None:
            self.kept.append(quarantine.row(self.site, self.plan, *words, **more))

        context = Context(
            self.plan,
            self.site,
            cast(Guard, None),
            save,
            lambda *_words: None,
            keep,
            self.kept.append,
            lambda: False,
            claims=lambda: Claims(kept=tuple(self.kept)),
            check=lambda: None,
        )
        view = DiskView("vda", None, DiskSide.DESTINATION, config_path=str(self.dest))
        seen = Observation(PowerState.OFF, True, (view,), self.record, config_agrees=True)
        release.release_source(context, str(path), seen)

    def problems(self) -> str:
        """Why the VM cannot go back to the old disk."""
        now = {str(path): proof.fingerprint(stat) for path in (self.base, self.dest) if (stat := self._stat(path))}
        vm = domain_list.vm(self.site.connection, "web01")
        kept = {row.path: row for row in self.kept}
        return "; ".join(quarantine_rules.swap(self.plan, vm, kept, now).problems)

    def _stat(self, path: Path) -> Any:
        return files.stat_one(self.site.runner, str(path))


@pytest.fixture
def site(tmp_path: Path) -> PaperSite:
    return PaperSite(tmp_path)


def test_without_a_doubt_both_go(site: PaperSite, tmp_path: Path) -> None:
    move = Releasing(site, tmp_path, delete=True)
    for path in (move.overlay, move.base):
        move.release(path)
        assert not path.exists()
    assert not move.kept


def test_an_overlay_stays_with_a_base_that_is_in_doubt(site: PaperSite, tmp_path: Path) -> None:
    move = Releasing(site, tmp_path, delete=True)
    site.define("other", {"vda": move.base})
    for path in (move.overlay, move.base):
        move.release(path)
        assert path.exists()
    assert f"{move.overlay}, which stands on {move.base}, holds the newer writes" in move.problems()


def test_a_base_whose_overlay_is_gone_says_that_it_is_not_whole(site: PaperSite, tmp_path: Path) -> None:
    """The doubt comes between the two."""
    move = Releasing(site, tmp_path, delete=True)
    move.release(move.overlay)
    assert not move.overlay.exists()
    site.define("other", {"vda": move.base})
    move.release(move.base)
    assert move.base.exists()
    assert f"{move.base} is not the whole disk: it lacks the guest's last writes" in move.problems()
    assert move.kept[0].fingerprint is None


def test_a_base_that_is_kept_on_purpose_is_whole(site: PaperSite, tmp_path: Path) -> None:
    move = Releasing(site, tmp_path, delete=False)
    move.release(move.overlay)
    site.define("other", {"vda": move.base})
    move.release(move.base)
    assert not move.overlay.exists()
    assert move.problems() == ""
    argv = ["qemu-io", "-r", "-c", "read -P 7 0 4096", str(move.base)]
    assert "verification failed" not in subprocess.run(argv, check=True, capture_output=True, text=True).stdout
