"""What many images stand on, read in one call: the same as qemu-img says, whatever the image."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
import tenacity

from blockferry.base.errors import BlockferryError, NoAnswer
from blockferry.hosts.helper.program import by_mount, image_calls, mount_table
from blockferry.hosts.helper.program.mount_table import Mount
from blockferry.hosts.images import chains, qemu_img
from blockferry.hosts.inventory import ChainLayer, ImageChain
from blockferry.hosts.runner import LocalRunner

pytestmark = pytest.mark.slow

HERE = LocalRunner()


def create(path: Path, *words: str, size: str = "3M", format: str = "qcow2") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    argv = ["qemu-img", "create", "-q", "-f", format, *words, str(path), *([size] if size else [])]
    # On a busy machine QEMU now and then says that it is "Unable to get accurate CPU usage", and makes no LUKS.
    for attempt in tenacity.Retrying(stop=tenacity.stop_after_attempt(10), reraise=True):
        with attempt:
            subprocess.run(argv, check=True)
    return path


def over(path: Path, backing: str, format: str = "qcow2") -> Path:
    return create(path, "-b", backing, "-F", format, size="")


def judged(path: Path, format: str) -> ImageChain:
    """What qemu-img says, one image at a time: how it was read before."""
    try:
        layers = qemu_img.chain(HERE, str(path), format)
    except BlockferryError as error:
        return ImageChain(problem=error.sentence)
    return ImageChain(tuple(ChainLayer(o.path, o.format, o.virtual_size, o.allocation, o.parts) for o in layers))


def every_kind(place: Path) -> dict[str, tuple[Path, str]]:
    """Name -> image and the format that an XML gives it."""
    base, raw = create(place / "base.qcow2"), create(place / "base.raw", format="raw")
    raw.write_bytes(b"x" * 1000)
    (place / "deep" / "home").mkdir(parents=True)
    (place / "link").symlink_to(place / "deep" / "home")
    over(place / "deep" / "base.qcow2", str(base))
    guessed = over(place / "guessed.qcow2", str(base))  # its extension of the backing format becomes an unknown one
    guessed.write_bytes(guessed.read_bytes().replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78"))
    missing = over(place / "missing.qcow2", str(create(place / "gone.qcow2")))
    (place / "gone.qcow2").unlink()
    cut, corrupt = create(place / "cut.qcow2"), create(place / "corrupt.qcow2")
    os.truncate(cut, 70)
    with corrupt.open("r+b") as file:
        file.seek(79)
        file.write(b"\x02")
    short = create(place / "short.qcow2")
    os.truncate(short, 100_000)
    (place / "words.qcow2").write_bytes(b"no image at all" * 1000)
    json = f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{base}"}}}}'
    old_on_raw = create(place / "old2.qcow2", "-o", "compat=0.10", "-b", str(raw), "-F", "raw", size="")
    secret = ["--object", "secret,id=s,data=abc", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"]
    return {
        "plain": (base, "qcow2"),
        "raw": (raw, "raw"),
        "a qcow2 that an XML calls raw": (base, "raw"),
        "a raw that an XML calls qcow2": (raw, "qcow2"),
        "version 2": (create(place / "old.qcow2", "-o", "compat=0.10"), "qcow2"),
        "version 2 on raw": (old_on_raw, "qcow2"),
        "small clusters": (create(place / "small.qcow2", "-o", "cluster_size=512"), "qcow2"),
        "extended": (create(place / "ext.qcow2", "-o", "extended_l2=on,cluster_size=128k"), "qcow2"),
        "three layers": (over(place / "top.qcow2", str(over(place / "middle.qcow2", "base.qcow2"))), "qcow2"),
        "dots through a link": (over(place / "link" / "dots.qcow2", "../base.qcow2"), "qcow2"),
        "a data file": (create(place / "data.qcow2", "-o", f"data_file={place}/data.raw"), "qcow2"),
        "a format that is not said": (guessed, "qcow2"),
        "json": (over(place / "json.qcow2", json), "qcow2"),
        "a lower layer that is missing": (missing, "qcow2"),
        "cut": (cut, "qcow2"),
        "cut in its tables": (short, "qcow2"),
        "marked corrupt": (corrupt, "qcow2"),
        "no image": (place / "words.qcow2", "qcow2"),
        "nothing there": (place / "nothing.qcow2", "qcow2"),
        "encrypted": (create(place / "luks.qcow2", *secret), "qcow2"),
        "vmdk": (create(place / "flat.vmdk", "-o", "subformat=monolithicFlat", format="vmdk"), "vmdk"),
        "a directory": (place / "deep", "qcow2"),
    }  # fmt: skip


def test_it_is_what_qemu_img_says(tmp_path: Path) -> None:
    kinds = every_kind(tmp_path)
    found = chains.read(HERE, [(str(path), format) for path, format in kinds.values()])
    for name, (path, format) in kinds.items():
        assert found[str(path), format] == judged(path, format), name


def test_what_is_plain_is_not_asked_of_qemu_img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = every_kind(tmp_path)
    asked: list[str] = []

    def ask(path: str, _format: str) -> dict[str, int]:
        asked.append(path)
        return {"errno": 5}

    monkeypatch.setattr(image_calls, "ask", ask)
    plain = ("plain", "raw", "version 2", "version 2 on raw", "small clusters", "extended", "three layers")
    image_calls.chains([[str(path), format] for name, (path, format) in kinds.items() if name in plain])
    assert asked == []
    image_calls.chains([[str(path), format] for name, (path, format) in kinds.items() if name not in plain])
    assert str(tmp_path / "corrupt.qcow2") in asked


def test_a_mount_that_does_not_answer_costs_only_its_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, dead = create(tmp_path / "good.qcow2"), create(tmp_path / "dead" / "x.qcow2")
    table = [Mount(1, "8:1", "/", "ext4", "", ""), Mount(2, "0:9", str(tmp_path / "dead"), "nfs4", "nas:/x", "")]
    monkeypatch.setattr(mount_table, "mounts", lambda: table)
    monkeypatch.setattr(image_calls, "SECONDS", 0.3)
    real, released = image_calls.layer, threading.Event()

    def layer(path: str, format: str) -> image_calls.Layer:
        if path == str(dead):
            released.wait()
        return real(path, format)

    monkeypatch.setattr(image_calls, "layer", layer)
    wanted = [[str(dead), "qcow2"], [str(good), "qcow2"]]
    found = image_calls.chains(wanted)
    assert "layers" in found[1]
    assert found[0] == {"errno": 110}
    monkeypatch.setattr(by_mount, "MOST_WAITING", 1)
    before = threading.active_count()
    assert image_calls.chains(wanted)[0] == {"errno": 110}
    assert threading.active_count() == before, "no thread more waits there"
    released.set()
    while by_mount.waiting[str(tmp_path / "dead")]:
        time.sleep(0.01)
    assert "layers" in image_calls.chains(wanted)[0], "it answers again"


def test_a_helper_that_does_not_answer_is_a_problem_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_words: object, **_more: object) -> None:
        raise NoAnswer("images.chains", 124, "no answer within 60 s.")

    runner = LocalRunner()
    monkeypatch.setattr(runner, "call", call)
    found = chains.read(runner, [("/a", "raw"), ("/b", "qcow2")])
    assert all("no answer within 60 s" in image_chain.problem for image_chain in found.values())
