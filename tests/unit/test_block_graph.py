"""QEMU's block graph, read from answers that QEMU 7.2.22 gave (recorded with libvirt 9.0.0, paths renamed)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockferry.hosts import block_graph
from blockferry.hosts.block_graph import BlockGraph

DATA = Path(__file__).parent / "data" / "block-graph"


def graph(name: str) -> BlockGraph:
    said = json.loads((DATA / f"{name}.json").read_text())
    return block_graph.read(said["query-block"], said["query-named-block-nodes"])


def shape(name: str) -> list[tuple[str, list[tuple[str, str]], tuple[str, ...]]]:
    """(alias, [(path, "rw" or "ro")] from the root down, filters) of each disk."""
    return [
        (
            disk.alias,
            [(node.path.removeprefix("/srv/s/"), "rw" if node.writable else "ro") for node in disk.chain],
            disk.filters,
        )
        for disk in graph(name).disks
    ]


B: tuple[str, list[tuple[str, str]], tuple[str, ...]] = ("virtio-disk1", [("b.raw", "rw")], ())
CD: tuple[str, list[tuple[str, str]], tuple[str, ...]] = ("ide0-0-0", [], ())


@pytest.mark.parametrize(
    ("name", "disks", "loose"),
    [
        ("plain", [("virtio-disk0", [("a.qcow2", "rw")], ()), B, CD], {}),
        ("mirror-running", [("virtio-disk0", [("r.qcow2", "rw")], ("mirror_top",))], {"r2.qcow2": True}),
        ("mirror-ready", [("virtio-disk0", [("a.qcow2", "rw")], ("mirror_top",)), B, CD], {"a2.qcow2": True}),
        ("mirror-pivoted", [("virtio-disk0", [("a2.qcow2", "rw")], ()), B, CD], {}),
        ("chain", [("virtio-disk0", [("a3.qcow2", "rw"), ("a2.qcow2", "ro")], ()), B, CD], {}),
        ("commit-ready", [("virtio-disk0", [("a3.qcow2", "rw"), ("a2.qcow2", "rw")], ("mirror_top",)), B, CD], {}),
        ("commit-pivoted", [("virtio-disk0", [("a2.qcow2", "rw")], ()), B, CD], {}),
        ("copy-on-read", [("virtio-disk0", [("c.qcow2", "rw")], ("copy-on-read",))], {}),
        # The filter stays above the old image, which stays open for writing; the second pivot changes nothing.
        ("copy-on-read-pivoted-once", [("virtio-disk0", [("c2.qcow2", "rw")], ())], {"c.qcow2": True}),
        (
            "copy-on-read-pivoted-twice",
            [("virtio-disk0", [("c2.qcow2", "rw")], ())],
            {"c.qcow2": True, "c3.qcow2": True},
        ),
        ("iotune", [("virtio-disk0", [("t.qcow2", "rw")], ())], {}),  # limits of libvirt are no filter node
        ("luks", [("virtio-disk0", [("l.qcow2", "rw")], ()), ("virtio-disk1", [("l.luks", "rw")], ())], {}),
        ("slice", [("virtio-disk0", [("o.raw", "rw")], ())], {}),
        ("iothread-scsi", [("virtio-disk0", [("i.qcow2", "rw")], ()), ("scsi0-0-0-0", [("i2.raw", "rw")], ())], {}),
        ("backup-view", [("virtio-disk0", [("k.qcow2", "rw")], ("copy-before-write",))], {"scr.qcow2": True}),
    ],
)
def test_graph(name: str, disks: list[object], loose: dict[str, bool]) -> None:
    assert shape(name) == disks
    assert {node.path.removeprefix("/srv/s/"): node.writable for node in graph(name).loose} == loose


def test_drivers_are_told() -> None:
    assert [disk.root.driver for disk in graph("luks").disks if disk.root] == ["qcow2", "luks"]
    assert [node.driver for node in graph("chain").disks[0].chain] == ["qcow2", "qcow2"]


def test_the_disk_that_is_on_a_file() -> None:
    chain = graph("chain")
    assert chain.on(["/srv/s//a3.qcow2"]) is chain.disks[0]
    assert chain.on(["/srv/s/a2.qcow2"]) is None  # below the root
    assert chain.on([""]) is None  # the empty drive is on nothing


def test_writable_images_of_the_whole_graph() -> None:
    assert graph("chain").writable() == {"/srv/s/a3.qcow2", "/srv/s/b.raw"}
    assert graph("mirror-ready").writable() == {"/srv/s/a.qcow2", "/srv/s/a2.qcow2", "/srv/s/b.raw"}


@pytest.mark.parametrize(
    ("filename", "path"),
    [
        ("/srv/a b.raw", "/srv/a b.raw"),
        ("file:/srv/a:b.raw", "/srv/a:b.raw"),
        ("host_device:/dev/vg/lv", "/dev/vg/lv"),
        ('json:{"driver":"raw","file":{"driver":"host_device","filename":"/dev/vg/lv"}}', "/dev/vg/lv"),
        ('json:{"driver":"qcow2","file.driver":"file","file.filename":"/srv/a"}', "/srv/a"),
        ('json:{"driver":"qcow2","file":{"driver":"nbd","server":{"type":"unix","path":"/x"}}}', ""),
        ("nbd://host:10809/export", ""),
        ("json:{", ""),
        ("", ""),
    ],
)
def test_local_path(filename: str, path: str) -> None:
    assert block_graph.local_path(filename) == path


def test_a_raw_file_without_a_format_node_is_seen() -> None:
    """Newer libvirt leaves the format node of a raw image out. One that was left behind must be seen all the same."""
    disk = {"node-name": "libvirt-2-storage", "drv": "file", "file": "/srv/s/new.raw", "ro": False}
    left = {"node-name": "libvirt-1-storage", "drv": "file", "file": "/srv/s/old.raw", "ro": False}
    above = {"node-name": "cor", "drv": "copy-on-read", "file": "/srv/s/old.raw", "ro": False}
    device = {"qdev": "/machine/peripheral/virtio-disk0/virtio-backend", "inserted": disk}
    found = block_graph.read([device], [disk, left, above])
    assert [node.path for graph_disk in found.disks for node in graph_disk.chain] == ["/srv/s/new.raw"]
    assert [node.path for node in found.loose] == ["/srv/s/old.raw"]
    assert found.writable() == {"/srv/s/new.raw", "/srv/s/old.raw"}


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="QEMU"):
        block_graph.read([{"inserted": {"node-name": "x"}}], [])
