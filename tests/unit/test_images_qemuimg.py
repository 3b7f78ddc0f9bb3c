"""qemu-img on real images: what they are, creating, copying, comparing, and who uses them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockferry.base.errors import FileExists, HostCommandFailed, ImageUnreadable, UsageError
from blockferry.base.units import GiB, KiB, MiB
from blockferry.hosts.helper import image_users
from blockferry.hosts.images import conversion, qemu_img
from blockferry.hosts.images.qemu_img import Ownership
from blockferry.hosts.process import Completed, Process
from blockferry.hosts.runner import LocalRunner

pytestmark = pytest.mark.slow

R = LocalRunner()


def io(path: Path, format: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", format, *words, str(path)], check=True, capture_output=True)


def test_version() -> None:
    assert qemu_img.version(R) >= (7, 0, 0)


@pytest.fixture
def stack(tmp_path: Path) -> tuple[Path, Path]:
    base, top = tmp_path / "base, image.raw", tmp_path / "top 'x'.qcow2"
    qemu_img.create(R, str(base), "raw", 8 * MiB)
    io(base, "raw", "write -P 3 1M 1M")
    qemu_img.create(R, str(top), "qcow2", 8 * MiB, backing=(str(base), "raw"))
    io(top, "qcow2", "write -P 4 2M 1M")
    return top, base


def test_a_backing_file_named_relative_has_no_dots_in_its_path(tmp_path: Path) -> None:
    """It was `/pool/web01/../base.raw`, which leads nowhere once the directory web01 is gone. Links are followed."""
    home, link = tmp_path / "real" / "web01", tmp_path / "link"
    home.mkdir(parents=True)
    link.symlink_to(home)
    base, middle, top = tmp_path / "real/base.raw", tmp_path / "real/middle.qcow2", link / "top.qcow2"
    qemu_img.create(R, str(base), "raw", 1 * MiB)
    for image, below, format in ((middle, "../real/base.raw", "raw"), (top, "../middle.qcow2", "qcow2")):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", format, "-b", below, str(image)], check=True)
    found = qemu_img.chain(R, str(top))
    assert [layer.path for layer in found] == [str(top), str(middle), str(base)]
    assert [layer.backing_path for layer in found] == [str(middle), str(base), None]


def test_chain(stack: tuple[Path, Path]) -> None:
    top, base = stack
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", str(top), "b0"], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "before", str(top)], check=True)
    upper, lower = qemu_img.chain(R, str(top), "qcow2")
    assert (upper.path, upper.format, upper.virtual_size) == (str(top), "qcow2", 8 * MiB)
    assert (upper.backing_path, upper.backing_format, upper.compat) == (str(base), "raw", "1.1")
    assert (upper.bitmaps, upper.internal_snapshots) == (("b0",), ("before",))
    assert not upper.dirty
    assert not upper.corrupt
    assert not upper.encrypted
    assert (lower.path, lower.format, lower.backing_path) == (str(base), "raw", None)
    assert lower.allocation == MiB


def test_raw_is_never_probed(tmp_path: Path) -> None:
    """A guest that writes a qcow2 header with a backing file into its raw disk gets nothing from it."""
    path = tmp_path / "evil.raw"
    subprocess.run(
        ["qemu-img", "create", "-qu", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", path, "1M"], check=True
    )
    (layer,) = qemu_img.chain(R, str(path), "raw")
    assert (layer.format, layer.virtual_size) == ("raw", path.stat().st_size)


def test_backing_of_unknown_format_is_refused_unless_raw(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    qemu_img.create(R, str(base), "qcow2", MiB)
    qemu_img.create(R, str(top), "qcow2", MiB, backing=(str(base), "qcow2"))
    header = top.read_bytes()  # no qemu-img of today leaves the format out: make its header extension an unknown one
    assert header.count(b"\xe2\x79\x2a\xca") == 1
    top.write_bytes(header.replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78"))
    with pytest.raises(ImageUnreadable, match="does not say of which format"):
        qemu_img.chain(R, str(top), "qcow2")
    base.write_bytes(bytes(MiB))
    assert qemu_img.chain(R, str(top), "qcow2")[1].format == "raw"
    base.unlink()
    with pytest.raises(ImageUnreadable, match="No such file"):
        qemu_img.chain(R, str(top), "qcow2")


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="No such file"):
        qemu_img.chain(R, str(tmp_path / "absent"), "qcow2")
    (tmp_path / "text").write_bytes(b"hello" * 1000)
    with pytest.raises(ImageUnreadable, match="not in qcow2 format"):
        qemu_img.chain(R, str(tmp_path / "text"), "qcow2")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(format=st.sampled_from(["raw", "qcow2", "vmdk", "vdi", "vhdx"]), size=st.integers(1, 40 * MiB))
def test_created_images_have_the_promised_size(tmp_path: Path, format: str, size: int) -> None:
    path = tmp_path / "new"
    path.unlink(missing_ok=True)
    qemu_img.create(R, str(path), format, size)
    assert qemu_img.chain(R, str(path), format)[0].virtual_size == qemu_img.holdable_size(format, size)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("preallocation", ["off", "metadata", "falloc", "full"])
def test_preallocation(tmp_path: Path, format: str, preallocation: qemu_img.Preallocation) -> None:
    path = tmp_path / "disk"
    qemu_img.create(R, str(path), format, 3 * MiB + 7, preallocation=preallocation)
    (layer,) = qemu_img.chain(R, str(path), format)
    assert layer.virtual_size == qemu_img.holdable_size(format, 3 * MiB + 7)
    assert (layer.allocation >= 3 * MiB) == (preallocation in ("falloc", "full"))


def test_create_never_overwrites_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"precious")
    with pytest.raises(FileExists):
        qemu_img.create(R, str(path), "qcow2", MiB)
    assert path.read_bytes() == b"precious"
    with pytest.raises(HostCommandFailed):
        qemu_img.create(R, str(tmp_path / "new"), "qcow2", MiB, cluster_size=3)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError):
        qemu_img.create(R, str(tmp_path / "new"), "raw", MiB, backing=(str(path), "raw"))
    with pytest.raises(UsageError):
        qemu_img.create(R, str(tmp_path / "new"), "vpc", MiB)


def test_check_and_measure(stack: tuple[Path, Path]) -> None:
    top, base = stack
    assert qemu_img.check(R, str(top), "qcow2") == qemu_img.ImageCheck(0, 0, supported=True)
    assert not qemu_img.check(R, str(base), "raw").supported
    with open(top, "r+b") as image:  # the reference count table's entry
        image.seek(48)
        image.write((1 << 40).to_bytes(8, "big"))
    assert not qemu_img.check(R, str(top), "qcow2").sound
    with pytest.raises(ImageUnreadable, match="not in qcow2 format"):
        qemu_img.check(R, str(base), "qcow2")


def test_measure(stack: tuple[Path, Path]) -> None:
    needed = qemu_img.measure(R, str(stack[0]), "qcow2")
    assert 2 * MiB < needed.required < 4 * MiB < 8 * MiB < needed.fully_allocated
    assert needed.data(8 * MiB) == 2 * MiB
    assert qemu_img.measure(R, str(stack[0]), "qcow2", alone=True).data(8 * MiB) == MiB
    small = qemu_img.measure(R, str(stack[0]), "qcow2", ["cluster_size=4096"])
    assert small.data(8 * MiB, 4096) == 2 * MiB


def test_convert_flattens_and_reports(stack: tuple[Path, Path], tmp_path: Path) -> None:
    flat = tmp_path / "flat.raw"
    seen: list[float] = []
    conversion.convert(R, str(stack[0]), "qcow2", str(flat), "raw", progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert flat.stat().st_blocks * 512 < 2 * MiB + 64 * KiB
    assert flat.stat().st_mode & 0o777 == 0o600
    assert conversion.compare(R, str(stack[0]), "qcow2", str(flat), "raw").identical
    io(flat, "raw", "write -P 9 5M 64k")
    found = conversion.compare(R, str(stack[0]), "qcow2", str(flat), "raw")
    assert (found.identical, found.first_difference_offset) == (False, 5 * MiB)
    with pytest.raises(FileExists):
        conversion.convert(R, str(stack[0]), "qcow2", str(flat), "raw")


SPEAKING = """#!/bin/sh
{real} "$@" || exit $?
if [ "$1" = convert ]; then
    {harm}
    echo "qemu-img: Failed to flush the L2 block cache: No space left on device" >&2
fi
"""


def speaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    """A qemu-img that says something as it ends, with 0, and does that harm before."""
    real = shutil.which("qemu-img")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "qemu-img"
    program.write_text(SPEAKING.format(real=real, harm=harm))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_copy_of_which_qemu_img_says_something_counts_if_it_reads_as_its_source(
    stack: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    speaking(tmp_path, monkeypatch, "true")
    conversion.convert(LocalRunner(), str(stack[0]), "qcow2", str(tmp_path / "new"), format)
    assert conversion.compare(R, str(stack[0]), "qcow2", str(tmp_path / "new"), format).identical


@pytest.mark.parametrize(
    ("format", "harm"),
    [
        ("raw", "qemu-io -f raw -c 'write -q -P 9 5M 64k' {dest}"),
        ("qcow2", "qemu-io -f qcow2 -c 'write -q -P 9 5M 64k' {dest}"),
        # the content is right, the table that says what is in use is not: what is written later harms it
        ("qcow2", "dd if=/dev/zero of={dest} bs=64k seek=2 count=1 conv=notrunc status=none"),
    ],
)
def test_a_copy_is_not_believed_when_it_is_not_whole_whatever_the_exit_status(
    stack: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, harm: str
) -> None:
    new = tmp_path / "new"
    speaking(tmp_path, monkeypatch, harm.format(dest=new))
    with pytest.raises(HostCommandFailed, match="No space left on device"):
        conversion.convert(LocalRunner(), str(stack[0]), "qcow2", str(new), format)
    assert not new.exists()


def test_convert_one_layer(stack: tuple[Path, Path], tmp_path: Path) -> None:
    top, base = stack
    for existing in (False, True):
        dest = tmp_path / f"moved{existing}.qcow2"
        if existing:
            qemu_img.create(R, str(dest), "qcow2", 8 * MiB, backing=(str(base), "raw"))
        conversion.convert(
            R,
            str(top),
            "qcow2",
            str(dest),
            "qcow2",
            backing=(str(base), "raw"),
            target=conversion.Target.ZEROED if existing else conversion.Target.NEW,
        )
        upper, _ = qemu_img.chain(R, str(dest), "qcow2")
        assert upper.allocation < 2 * MiB
        assert conversion.compare(R, str(top), "qcow2", str(dest), "qcow2").identical


def test_convert_keeps_bitmaps(tmp_path: Path) -> None:
    source, dest = tmp_path / "s", tmp_path / "d"
    qemu_img.create(R, str(source), "qcow2", MiB)
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", str(source), "b0"], check=True)
    conversion.convert(R, str(source), "qcow2", str(dest), "qcow2", bitmaps=True)
    assert qemu_img.chain(R, str(dest), "qcow2")[0].bitmaps == ("b0",)


def test_convert_keeps_bitmaps_of_one_layer(tmp_path: Path) -> None:
    base, source, dest = tmp_path / "b", tmp_path / "s", tmp_path / "d"
    qemu_img.create(R, str(base), "qcow2", MiB)
    qemu_img.create(R, str(source), "qcow2", MiB, backing=(str(base), "qcow2"))
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", str(source), "b0"], check=True)
    conversion.convert(R, str(source), "qcow2", str(dest), "qcow2", backing=(str(base), "qcow2"), bitmaps=True)
    assert [chain_image.bitmaps for chain_image in qemu_img.chain(R, str(dest), "qcow2")] == [("b0",), ()]


@pytest.mark.parametrize("mode", ["thin", "thick", "falloc"])
def test_convert_into_existing(tmp_path: Path, mode: str) -> None:
    source, dest = tmp_path / "s", tmp_path / "d"
    source.write_bytes(os.urandom(MiB) + bytes(3 * MiB) + b"end")
    qemu_img.create(R, str(dest), "raw", 4 * MiB + 3, preallocation="falloc" if mode == "falloc" else "off")
    for _ in range(2):  # repeated, as after a crash
        conversion.convert(
            R,
            str(source),
            "raw",
            str(dest),
            "raw",
            target=conversion.Target.EXISTING if mode == "thick" else conversion.Target.ZEROED,
            thick=mode == "thick",
        )
        assert dest.read_bytes() == source.read_bytes()
        thin = dest.stat().st_blocks * 512 < 2 * MiB
        assert thin == (mode == "thin")


def test_convert_stops_and_obeys_the_rate(tmp_path: Path) -> None:
    source, dest = tmp_path / "s", tmp_path / "d"
    source.write_bytes(os.urandom(8 * MiB))
    qemu_img.create(R, str(dest), "raw", 8 * MiB)
    began = time.monotonic()
    with pytest.raises(conversion.ConversionStopped):
        conversion.convert(
            R,
            str(source),
            "raw",
            str(dest),
            "raw",
            target=conversion.Target.EXISTING,
            rate_limit=64 * KiB,
            should_stop=lambda: time.monotonic() - began > 0.5,
        )
    assert 0.5 <= time.monotonic() - began < 5
    assert image_users.openers(R, str(dest)) == ()
    assert dest.stat().st_blocks * 512 < 8 * MiB
    with pytest.raises(conversion.ConversionStopped):
        conversion.convert(R, str(source), "raw", str(tmp_path / "e"), "raw", rate_limit=KiB, should_stop=lambda: True)
    assert not (tmp_path / "e").exists()


class TakenOver(Exception):
    pass


def taken_over() -> None:
    raise TakenOver


def test_what_another_process_has_taken_over_is_not_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We stood still in the middle, another process has made the copy anew: the file is its finished image by now."""
    source, dest = tmp_path / "s", tmp_path / "d"
    source.write_bytes(os.urandom(MiB))
    frozen: list[bool] = []

    def stand_still() -> bool:
        dest.write_bytes(b"finished by the other")
        frozen.append(True)
        return True

    def look() -> None:
        if frozen:
            raise TakenOver

    with pytest.raises(TakenOver):
        conversion.convert(
            R,
            str(source),
            "raw",
            str(dest),
            "raw",
            rate_limit=64 * KiB,
            should_stop=stand_still,
            ownership=Ownership(still_ours=look),
        )
    assert dest.read_bytes() == b"finished by the other"
    with pytest.raises(TakenOver):  # nor is a second try begun over it
        conversion.convert(
            R, str(tmp_path / "s"), "raw", str(tmp_path / "e"), "raw", ownership=Ownership(still_ours=taken_over)
        )
    monkeypatch.setenv("PATH", str(tmp_path))  # no qemu-img: it fails
    with pytest.raises(TakenOver):
        qemu_img.create(LocalRunner(), str(tmp_path / "new"), "qcow2", MiB, ownership=Ownership(still_ours=taken_over))
    assert (tmp_path / "new").exists()


def test_convert_says_what_failed(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable):
        conversion.convert(R, str(tmp_path / "absent"), "raw", str(tmp_path / "d"), "raw")
    (tmp_path / "s").write_bytes(b"x" * 70000)
    with pytest.raises(HostCommandFailed, match="not in qcow2 format"):
        conversion.convert(R, str(tmp_path / "s"), "qcow2", str(tmp_path / "d"), "raw")
    assert not (tmp_path / "d").exists()
    with pytest.raises(HostCommandFailed, match="No such file"):
        conversion.compare(R, str(tmp_path / "s"), "raw", str(tmp_path / "absent"), "raw")


def test_words() -> None:
    assert conversion.percentages(b"    (0.00/100%)\r    (12.34/100%)\r") == (0.0, 0.1234)


class Program(Process):
    """A qemu-img that says something and ends."""

    def __init__(self, argv: Sequence[str], said: bytes, status: int) -> None:  # it is no process
        self.argv, self.status, self.left = tuple(argv), status, [said]

    def __exit__(self, *_: object) -> None: ...

    def read(self, timeout_s: float | None = None) -> bytes:
        return self.left.pop() if self.left else b""

    def wait(self, timeout_s: float | None = None, *, check: bool = True) -> Completed:
        return Completed(self.argv, self.status, b"", "qemu-img: es geht nicht")


class Programs(LocalRunner):
    """One qemu-img after the other."""

    def __init__(self, *ends: tuple[bytes, int]) -> None:
        super().__init__("qemu:///system")
        self.ends, self.started = list(ends), [""]

    def start(self, argv: Sequence[str]) -> Program:
        self.started.append(argv[list(argv).index("-T") + 1])
        return Program(argv, *self.ends.pop(0))


@pytest.mark.parametrize(
    ("ends", "caches", "identical"),
    [
        ([(b"", 0)], ["none"], True),
        ([(b"", 2), (b"", 1)], ["none", "writeback"], False),
        ([(b"(0.00/100%)\r", 2), (b"", 2)], ["none", "writeback"], None),
        ([(b"(0.00/100%)\r(3.00/100%)\r", 2)], ["none"], None),
    ],
)
def test_the_page_cache_is_used_whatever_the_words_of_a_refusal_are(
    ends: list[tuple[bytes, int]], caches: list[str], identical: bool | None
) -> None:
    """qemu-img has one exit status for all errors: what had not begun is tried once more."""
    runner = Programs(*ends)
    if identical is None:
        with pytest.raises(HostCommandFailed, match="es geht nicht"):
            conversion.compare(runner, "/a", "raw", "/b", "raw")
    else:
        assert conversion.compare(runner, "/a", "raw", "/b", "raw").identical is identical
    assert runner.started[1:] == caches


def test_compare_of_different_sizes(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"x" * 512)
    b.write_bytes(b"x" * 512 + bytes(512))
    assert conversion.compare(R, str(a), "raw", str(b), "raw") == conversion.Comparison(True, None)
    b.write_bytes(b"x" * 512 + b"y" * 512)
    assert conversion.compare(R, str(a), "raw", str(b), "raw") == conversion.Comparison(False, 512)


@contextmanager
def daemon(*blockdevs: str, export: str, writable: bool, socket: Path) -> Iterator[int]:
    """A QEMU that has images open, as a VM would."""
    words = [word for blockdev in blockdevs for word in ("--blockdev", blockdev)]
    words += ["--nbd-server", f"addr.type=unix,addr.path={socket}"]
    words += ["--export", f"type=nbd,id=e,node-name={export},writable={'on' if writable else 'off'}"]
    with subprocess.Popen(["qemu-storage-daemon", *words]) as process:
        deadline = time.monotonic() + 5
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield process.pid
        finally:
            process.terminate()


def seen_of(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize("writable", [True, False])
def test_users_of_an_open_image(stack: tuple[Path, Path], tmp_path: Path, writable: bool) -> None:
    top, base = (path.rename(tmp_path / name) for path, name in zip(stack, ["t.qcow2", "b.raw"], strict=True))
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "raw", top], check=True)
    before = seen_of(top), seen_of(base)
    chain = f"driver=qcow2,node-name=n,read-only={'off' if writable else 'on'},file.filename={top}"
    chain += ",file.driver=file"
    with daemon(chain, export="n", writable=writable, socket=tmp_path / "s") as pid:
        for path in (top, base):
            assert image_users.in_use(R, str(path))
            assert image_users.openers(R, str(path)) == ((pid, "qemu-storage-da"),)
        assert image_users.users_of(R, str(top)).any
        assert len(qemu_img.chain(R, str(top), "qcow2")) == 2
        assert (seen_of(top)[1:], seen_of(base)) == (before[0][1:], before[1])
    for path in (top, base):
        assert not image_users.in_use(R, str(path))
        assert not image_users.users_of(R, str(path)).any
    assert (seen_of(top)[1:], seen_of(base)) == (before[0][1:], before[1]) or writable


def test_a_raw_image_whose_user_shares_writing_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "shared, disk"
    qemu_img.create(R, str(path), "raw", MiB)
    before = seen_of(path)
    node = f"driver=file,node-name=n,filename={str(path).replace(',', ',,')}"
    with daemon(node, export="n", writable=True, socket=tmp_path / "s"):
        assert image_users.in_use(R, str(path))
        assert seen_of(path) == before
    assert not image_users.in_use(R, str(path))


def test_users_without_locks_and_of_absent_files(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MiB))
    with open(path, "rb"):
        found = image_users.users_of(R, str(path))
        assert not found.locked
        assert os.getpid() in {pid for pid, _ in found.openers}
        assert found.any
    assert not image_users.users_of(R, str(path)).any
    with pytest.raises(ImageUnreadable):
        image_users.in_use(R, str(tmp_path / "absent"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 20_000), source_format=st.sampled_from(["raw", "qcow2"]), existing=st.booleans())
def test_copies_are_as_long_as_the_original(tmp_path: Path, size: int, source_format: str, existing: bool) -> None:
    source, dest = tmp_path / "s", tmp_path / "d"
    for leftover in (source, dest):
        leftover.unlink(missing_ok=True)
    qemu_img.create(R, str(source), source_format, size)
    expected = qemu_img.holdable_size(source_format, size)
    io(source, source_format, f"write -P 5 {expected // 512 * 512 - 512 if expected >= 512 else 0} 512")
    if source_format == "raw":
        os.truncate(source, size)
    if existing:
        qemu_img.create(R, str(dest), "raw", expected)
    target = conversion.Target.EXISTING if existing else conversion.Target.NEW
    conversion.convert(R, str(source), source_format, str(dest), "raw", target=target)
    assert dest.stat().st_size == expected
    assert conversion.compare(R, str(source), source_format, str(dest), "raw").identical


def test_huge_images_cost_nothing(tmp_path: Path) -> None:
    source, dest = tmp_path / "s", tmp_path / "d"
    qemu_img.create(R, str(source), "raw", 64 * GiB + 1)
    conversion.convert(R, str(source), "raw", str(dest), "raw")
    assert (dest.stat().st_size, dest.stat().st_blocks) == (64 * GiB + 1, 8)
