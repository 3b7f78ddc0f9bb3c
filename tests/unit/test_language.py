"""The host's programs may speak any language: what is decided is decided by error numbers and exit statuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from blockferry.base.errors import FileExists, HostCommandFailed
from blockferry.hosts.helper import files
from blockferry.hosts.runner import LocalRunner

pytestmark = pytest.mark.slow

PROGRAMS = ("stat", "mkdir", "rmdir", "unlink", "ln", "dd", "rm", "cat", "mv", "cp", "find", "realpath", "sync")


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a German system, with a locale of its own; skipped where coreutils' messages are not."""
    if not shutil.which("localedef") or not Path("/usr/share/locale/de/LC_MESSAGES/coreutils.mo").exists():
        pytest.skip("coreutils has no German messages here")
    place = tmp_path_factory.mktemp("locales")
    argv = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(place / "de_DE.UTF-8")]
    if subprocess.run(argv, capture_output=True, check=False).returncode > 1:
        pytest.skip("no German locale can be made here")
    return {"LOCPATH": str(place), "LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de", "LANG": "de_DE.UTF-8"}


@pytest.fixture(params=["environment", "programs"])
def runner(
    request: pytest.FixtureRequest, german: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LocalRunner:
    """`environment`: ours is German, as an administrator's is. `programs`: they answer in German whatever we ask for,
    as on the far side of ssh, where a shell's start-up file may set a language."""
    if request.param == "environment":
        for name, value in german.items():
            monkeypatch.setenv(name, value)
        return LocalRunner()
    wrappers = tmp_path / "german-programs"
    wrappers.mkdir()
    words = " ".join(f"{name}={value}" for name, value in german.items())
    for program in PROGRAMS:
        real = shutil.which(program)
        script = wrappers / program
        script.write_text(f'#!/bin/sh\nexec env {words} {real} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrappers}:{os.environ['PATH']}")
    found = LocalRunner()
    said = found.run(["stat", "--", "/does/not/exist"], check=False).stderr
    assert "Datei oder Verzeichnis nicht gefunden" in said
    return found


def test_our_environment_has_programs_speak_english(
    german: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in german.items():
        monkeypatch.setenv(name, value)
    said = LocalRunner().run(["stat", "--", str(tmp_path / "absent")], check=False).stderr
    assert said.rstrip().endswith("No such file or directory")


def test_what_is_absent_is_absent_in_every_language(runner: LocalRunner, tmp_path: Path) -> None:
    there, absent = tmp_path / "there", tmp_path / "absent"
    there.write_bytes(b"x")
    found = files.stat_many(runner, [str(there), str(absent), str(there / "below")])
    assert [file_stat is None for file_stat in found.values()] == [False, True, True]
    assert files.remove_file(runner, str(absent)) is False
    assert files.remove_file(runner, str(tmp_path / "no-directory" / "absent")) is False
    assert files.remove_directory_if_empty(runner, str(absent)) is False


def test_what_cannot_be_looked_at_is_not_absent(runner: LocalRunner, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(HostCommandFailed):
        files.stat_many(runner, [str(tmp_path / "loop")])


def test_what_exists_is_not_overwritten_in_any_language(runner: LocalRunner, tmp_path: Path) -> None:
    file, directory = tmp_path / "file", tmp_path / "directory"
    file.write_bytes(b"somebody's")
    assert files.make_directory(runner, str(directory)) is True
    assert files.make_directory(runner, str(directory)) is False
    refusals: list[Callable[[], object]] = [
        lambda: files.make_directory(runner, str(file)),
        lambda: files.claim(runner, str(file)),
    ]
    for refused in refusals:
        with pytest.raises(FileExists):
            refused()
    (tmp_path / "new").write_bytes(b"ours")
    assert files.appear(runner, str(tmp_path / "new"), str(file)) is False
    assert file.read_bytes() == b"somebody's"
    (directory / "child").write_bytes(b"")
    assert files.remove_directory_if_empty(runner, str(directory)) is False
    (directory / "child").unlink()
    assert files.remove_directory_if_empty(runner, str(directory)) is True


def test_a_link_to_nowhere_is_there(runner: LocalRunner, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExists):
        files.claim(runner, str(tmp_path / "link"))
    assert files.is_there(runner, str(tmp_path / "link"))
    assert files.remove_file(runner, str(tmp_path / "link")) is True


def test_the_rate_of_writing_does_not_come_out_of_words(runner: LocalRunner, tmp_path: Path) -> None:
    assert files.write_rate(runner, str(tmp_path), 2 << 20) > 0
    assert list(tmp_path.glob(".blockferry*")) == []
