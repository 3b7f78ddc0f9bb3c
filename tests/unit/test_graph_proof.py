"""Whether QEMU uses the new images, judged from recorded answers of QEMU 7.2.22."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_support import make_plan
from test_block_graph import graph

from blockferry.hosts.inventory import Disk, DiskSource, PowerState, Vm
from blockferry.storage_move.overlays.plan import OverlaysPlan
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.switch.graph_proof import GraphView, differing, judge
from blockferry.storage_move.templates.plan import ChainPlan

ALIAS = {"vda": "virtio-disk0"}


def plan(source: str, dest: str, **more: object) -> Plan:
    one = make_plan(1)
    disk = replace(
        one.disks[0],
        source=replace(one.disks[0].source, path=f"/srv/s/{source}"),
        dest=replace(one.disks[0].dest, path=dest if ":" in dest else f"/srv/s/{dest}"),
        **more,  # type: ignore[arg-type]
    )
    return replace(one, disks=(disk,))


@pytest.mark.parametrize(
    ("recorded", "moved", "wrong", "doubt"),
    [
        ("mirror-pivoted", plan("a.qcow2", "a2.qcow2"), None, ""),
        ("mirror-pivoted", plan("a.qcow2", "x.qcow2", overlays=OverlaysPlan(dest="/srv/s//a2.qcow2")), None, ""),
        ("commit-pivoted", plan("a.qcow2", "a2.qcow2", overlays=OverlaysPlan("/srv/s/a3.qcow2")), None, ""),
        ("backup-view", plan("a.qcow2", "k.qcow2"), None, ""),
        ("luks", plan("a.qcow2", "l.qcow2"), None, ""),
        ("chain", plan("a.qcow2", "a3.qcow2", chain=ChainPlan(backing=("/srv/s/a2.qcow2", "qcow2"))), None, ""),
        ("copy-on-read-pivoted-once", plan("c.qcow2", "c2.qcow2"), None, "still has /srv/s/c.qcow2 open for writing"),
        ("copy-on-read-pivoted-twice", plan("c2.qcow2", "c3.qcow2"), "/srv/s/c2.qcow2", ""),
        ("mirror-ready", plan("a.qcow2", "a2.qcow2"), "/srv/s/a.qcow2", ""),
        ("plain", plan("x.qcow2", "y.qcow2"), "/srv/s/a.qcow2", ""),
        ("plain", plan("a.qcow2", "nbd://127.0.0.1:10809/vda"), "/srv/s/a.qcow2", ""),
    ],
)
def test_judge(recorded: str, moved: Plan, wrong: str | None, doubt: str) -> None:
    found = judge(moved, graph(recorded), ALIAS)
    assert found.wrong == ({"vda": wrong} if wrong else {})
    assert (doubt in found.doubt) if doubt else not found.doubt
    assert found.proven is (not wrong and not doubt)


def test_a_device_that_is_not_known_by_its_alias_is_known_by_its_image() -> None:
    moved = plan("a.qcow2", "a2.qcow2")
    assert judge(moved, graph("mirror-pivoted"), {}).proven
    assert judge(plan("c2.qcow2", "c3.qcow2"), graph("copy-on-read-pivoted-twice"), {"vda": "?"}).wrong
    missing = judge(plan("m.qcow2", "n.qcow2"), graph("mirror-pivoted"), {"vda": "?"})
    assert missing == GraphView(doubt="QEMU shows no image of vda")


def test_what_differs_from_what_libvirt_says() -> None:
    def vm(path: str, kind: str = "file") -> Vm:
        source = DiskSource(kind, path, "qcow2")
        disk = Disk("vda", "disk", "virtio", source, source, alias="virtio-disk0")
        return Vm("web01", "u", PowerState.RUNNING, True, (disk,))

    twice = graph("copy-on-read-pivoted-twice")
    assert differing(vm("/srv/s/c3.qcow2"), twice) == {"vda": "/srv/s/c2.qcow2"}
    assert differing(vm("/srv/s/c2.qcow2"), twice) == {}
    assert differing(vm("/srv/s/c3.qcow2", "network"), twice) == {}
