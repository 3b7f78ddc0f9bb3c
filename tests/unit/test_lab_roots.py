"""Other root file systems of the lab: made once, never used half made, by one builder at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab import LabError, roots
from lab.roots import RECIPES, Recipe, root

KILLED = """
import os, signal, sys
from pathlib import Path
from lab.roots import root

def build(recipe, tree, lock):
    tree.mkdir()
    (tree / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)

root("debian13", place=Path(sys.argv[1]), build=build)
"""

OUTLIVED = """
import os, signal, subprocess, sys
from pathlib import Path
from lab.roots import root

def build(recipe, tree, lock):
    tree.mkdir()
    program = "import sys; sys.stdin.read()"  # works on until its input ends
    subprocess.Popen([sys.executable, "-c", program], pass_fds=(lock,))
    os.kill(os.getpid(), signal.SIGKILL)

root("debian13", place=Path(sys.argv[1]), build=build)
"""


def make(recipe: Recipe, tree: Path, lock: int) -> None:
    tree.mkdir()
    (tree / "whole").write_text(recipe.suite)


def test_a_root_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def build(recipe: Recipe, tree: Path, lock: int) -> None:
        made.append(tree)
        make(recipe, tree, lock)

    first = root("debian13", place=tmp_path, build=build)
    assert (first / "whole").read_text() == RECIPES["debian13"].suite
    assert root("debian13", place=tmp_path, build=build) == first
    assert len(made) == 1
    assert made[0] != first, "it is made beside its place"
    assert root("debian13-backports", place=tmp_path, build=build) != first


def test_what_a_killed_builder_left_is_not_used(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=Path(roots.__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*/half")), "it was half made"
    tree = root("debian13", place=tmp_path, build=make)
    assert sorted(path.name for path in tree.iterdir()) == ["whole"]
    assert not list(tmp_path.glob("*.new"))


def test_what_failed_is_not_used_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(recipe: Recipe, tree: Path, lock: int) -> None:
        tree.mkdir()
        raise LabError("no network")

    with pytest.raises(LabError, match="no network"):
        root("debian13", place=tmp_path, build=fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (root("debian13", place=tmp_path, build=make) / "whole").exists()


def test_a_builder_waits_for_what_a_killed_one_has_left_running(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        killed = subprocess.Popen(
            [sys.executable, "-c", OUTLIVED, tmp_path], cwd=Path(roots.__file__).parents[1], stdin=read
        )
        assert killed.wait(60) == -signal.SIGKILL
        os.close(read)
        done = threading.Event()

        def again() -> None:
            root("debian13", place=tmp_path, build=make)
            done.set()

        thread = threading.Thread(target=again)
        thread.start()
        assert not done.wait(0.5), "it built while another's program was at work"
    finally:
        os.close(write)
    assert done.wait(60)
    thread.join()


def test_roots_that_nobody_uses_any_more_go(tmp_path: Path) -> None:
    for days, key in ((0, "a" * 12), (30, "b" * 12)):
        (tmp_path / f"debian13-{key}").mkdir()
        marker = tmp_path / f"debian13-{key}.used"
        marker.touch()
        os.utime(marker, (time.time() - days * 86400,) * 2)
    tree = root("debian13", place=tmp_path, build=make)
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {tree, tmp_path / f"debian13-{'a' * 12}"}
