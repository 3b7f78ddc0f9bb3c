"""Comparing and copying, with real images and qemu-nbd; judged by `qemu-img compare`."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.helper import comparison, files, image_users
from blockferry.hosts.images import qemu_img
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.runner import LocalRunner

MIB = 1024**2
SIZE = 48 * MIB
RUNNER = LocalRunner()

pytestmark = [
    pytest.mark.skipif(comparison.problem(RUNNER) is not None, reason="python3-libnbd is not installed"),
    pytest.mark.slow,
]


def make(path: Path, format: str, commands: list[str], size: int = SIZE) -> str:
    qemu_img.create(RUNNER, str(path), format, size)
    if commands:
        words = [word for command in commands for word in ("-c", command)]
        subprocess.run(["qemu-io", "-f", format, *words, str(path)], check=True, stdout=subprocess.DEVNULL)
    return str(path)


def scribbles(chance: random.Random, count: int) -> list[str]:
    found = []
    for _ in range(count):
        offset, length = chance.randrange(SIZE // 512 - 8000) * 512, chance.randrange(1, 8000) * 512
        kind = chance.choice([f"write -P {chance.randrange(1, 255)}", "write -z", "write -z -u", "discard"])
        found.append(f"{kind} {offset} {length}")
    return found


def alike(a: str, a_format: str, b: str, b_format: str) -> bool:
    return subprocess.run(["qemu-img", "compare", "-q", "-f", a_format, "-F", b_format, a, b]).returncode == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("source_format", "dest_format"), [("qcow2", "qcow2"), ("raw", "qcow2"), ("qcow2", "raw")])
def test_whatever_is_there_reads_like_the_source_afterwards(
    tmp_path: Path, source_format: str, dest_format: str, seed: int
) -> None:
    chance = random.Random(seed)
    source = make(tmp_path / "a", source_format, scribbles(chance, 12))
    dest = make(tmp_path / "b", dest_format, scribbles(chance, 12))
    before = Path(source).read_bytes()
    first = comparison.sync(RUNNER, source, source_format, dest, dest_format)
    assert alike(source, source_format, dest, dest_format)
    assert first.at == first.size == SIZE
    again = comparison.sync(RUNNER, source, source_format, dest, dest_format)
    assert (again.written, again.zeroed, again.differing) == (0, 0, 0)
    assert Path(source).read_bytes() == before


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    source = make(tmp_path / "a", "qcow2", ["write -P 7 0 40M"])
    dest = make(tmp_path / "b", "qcow2", ["write -P 7 0 30M"])
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 9 5M 4k", dest], check=True, stdout=subprocess.DEVNULL)
    done = comparison.sync(RUNNER, source, "qcow2", dest, "qcow2")
    assert done.written == 10 * MIB + comparison.BLOCK
    assert done.source_read == 40 * MIB
    assert done.dest_read == 30 * MIB  # what is not allocated is not read


def test_a_thin_image_stays_thin(tmp_path: Path) -> None:
    source = make(tmp_path / "a", "raw", ["write -P 7 8M 1M"])
    for format in ("raw", "qcow2"):
        dest = make(tmp_path / format, format, [])
        comparison.sync(RUNNER, source, "raw", dest, format)
        found = files.stat_one(RUNNER, dest)
        assert found is not None
        assert found.allocated < 2 * MIB


def test_only_comparing_tells_where(tmp_path: Path) -> None:
    source = make(tmp_path / "a", "qcow2", ["write -P 7 0 40M"])
    dest = make(tmp_path / "b", "raw", ["write -P 7 0 40M", "write -P 8 11M 512", "write -P 8 33M 512"])
    before = Path(dest).read_bytes()
    found = comparison.sync(RUNNER, source, "qcow2", dest, "raw", write=False)
    assert found.first == (11 * MIB, 33 * MIB)
    assert Path(dest).read_bytes() == before


def test_a_backing_chain_is_read_through(tmp_path: Path) -> None:
    base = make(tmp_path / "base", "raw", ["write -P 1 0 20M"])
    overlay = str(tmp_path / "over")
    qemu_img.create(RUNNER, overlay, "qcow2", SIZE, backing=(base, "raw"))
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 2 1M 1M", overlay], check=True, stdout=subprocess.DEVNULL)
    dest = make(tmp_path / "b", "qcow2", [])
    comparison.sync(RUNNER, overlay, "qcow2", dest, "qcow2")
    assert alike(overlay, "qcow2", dest, "qcow2")


def test_it_stops_when_asked_and_goes_on(tmp_path: Path) -> None:
    source = make(tmp_path / "a", "raw", ["write -P 7 0 40M"])
    dest = make(tmp_path / "b", "qcow2", [])
    seen: list[int] = []
    with pytest.raises(ConversionStopped):
        comparison.sync(
            RUNNER,
            source,
            "raw",
            dest,
            "qcow2",
            speed=comparison.ComparisonSpeed(lambda _: 20 * MIB),
            progress=lambda comparison_progress: seen.append(comparison_progress.at),
            should_stop=lambda: len(seen) > 1,
        )
    assert 0 < seen[-1] < SIZE
    done = comparison.sync(RUNNER, source, "raw", dest, "qcow2")
    assert done.written < 40 * MIB
    assert alike(source, "raw", dest, "qcow2")


@pytest.mark.parametrize("gently", [False, True])
def test_its_speed_changes_while_it_runs(tmp_path: Path, gently: bool) -> None:
    """A speed at which it would take an hour, until it has been seen to be slow."""
    source = make(tmp_path / "a", "raw", ["write -P 7 0 40M"])
    dest = make(tmp_path / "b", "qcow2", [])
    states: list[comparison.ComparisonProgress] = []
    wanted = [16 * 1024]

    def show(state: comparison.ComparisonProgress) -> None:
        states.append(state)
        if len(states) > 5:
            wanted[0] = 0

    done = comparison.sync(
        RUNNER,
        source,
        "raw",
        dest,
        "qcow2",
        speed=comparison.ComparisonSpeed(lambda _: wanted[0], gently),
        progress=show,
    )
    assert states[5].source_read <= (4 if gently else 8) * MIB, "slow, and told of all the same"
    assert done.written == 40 * MIB
    assert alike(source, "raw", dest, "qcow2")


def test_it_does_not_outlive_who_wanted_it(tmp_path: Path) -> None:
    source = make(tmp_path / "a", "raw", ["write -P 7 0 40M"])
    dest = make(tmp_path / "b", "raw", [])
    script = (
        "import sys\nfrom blockferry.hosts.helper import comparison\nfrom blockferry.hosts.runner import LocalRunner\n"
        "comparison.compare(LocalRunner(), sys.argv[1], 'raw', sys.argv[2], 'raw',\n"
        "    speed=comparison.ComparisonSpeed(lambda _: 1024),\n"
        "    progress=lambda _: print('going', flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", script, source, dest], stdout=subprocess.PIPE) as ours:
        assert ours.stdout is not None
        assert ours.stdout.readline() == b"going\n"
        assert image_users.in_use(RUNNER, source)
        ours.kill()
    deadline = time.monotonic() + 60
    while image_users.in_use(RUNNER, source):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_image_in_use_is_refused_in_words(tmp_path: Path) -> None:
    source = make(tmp_path / "a", "qcow2", ["write -P 7 0 1M"])
    dest = make(tmp_path / "b", "qcow2", [])
    with RUNNER.start(["qemu-io", "-f", "qcow2", "-c", "sleep 20000", source]) as user:
        while not image_users.in_use(RUNNER, source):
            assert user.poll() is None
        with pytest.raises(HostCommandFailed) as error:
            comparison.sync(RUNNER, source, "qcow2", dest, "qcow2")
    assert "lock" in str(error.value)


def test_a_damaged_or_foreign_image_is_not_gone_on_with(tmp_path: Path) -> None:
    good = make(tmp_path / "good", "qcow2", ["write -P 7 0 1M"])
    assert comparison.usable(RUNNER, good, "qcow2", SIZE) is None
    assert "bytes instead of" in str(comparison.usable(RUNNER, good, "qcow2", SIZE * 2))
    with Path(good).open("r+b") as image:
        image.seek(0x30000)  # the first L1 table of a new image
        image.write(b"\x80\0\0\0\0\x7f\0\0" * 8)
    assert comparison.usable(RUNNER, good, "qcow2", SIZE) is not None
    (tmp_path / "no").write_bytes(b"nothing of the kind")
    assert comparison.usable(RUNNER, str(tmp_path / "no"), "qcow2", SIZE) is not None
