"""Configuration: files over files, environment over files, and sentences for what is wrong."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from blockferry.base import config
from blockferry.base.config import Config
from blockferry.base.errors import ConfigInvalid
from blockferry.base.units import KiB, MiB
from blockferry.storage_move.request import Method


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no variable of the machine that the tests run on."""
    for name in ("BLOCKFERRY_CONFIG", "BLOCKFERRY_JOURNAL", "BLOCKFERRY_URI", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc" / "config.toml")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Config.load()
    assert (loaded.uri, loaded.method, loaded.bandwidth, loaded.keep_source_s) == ("qemu:///system", "auto", 0, None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert Config.load().journal == "sqlite:////var/lib/blockferry/journal.db"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/.state")
    assert Config.load().journal == "sqlite:////home/me/.state/blockferry/journal.db"


def test_the_user_comes_after_the_system_and_the_environment_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "etc" / "config.toml", 'uri = "qemu+ssh://a/system"\nmethod = "mirror"\nbandwidth = "200MiB/s"\n')
    write(tmp_path / "user" / "blockferry" / "config.toml", 'uri = "qemu+ssh://b/system"\nkeep_source = "7d"\n')
    loaded = Config.load()
    assert (loaded.uri, loaded.method, loaded.bandwidth) == ("qemu+ssh://b/system", "mirror", 200 * MiB)
    assert loaded.keep_source_s == 7 * 86400
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu:///session")
    assert Config.load().uri == "qemu:///session"
    monkeypatch.setenv("BLOCKFERRY_URI", "qemu+tls://c/system")
    monkeypatch.setenv("BLOCKFERRY_JOURNAL", "postgresql+psycopg://db/x")
    assert (Config.load().uri, Config.load().journal) == ("qemu+tls://c/system", "postgresql+psycopg://db/x")


def test_one_file_instead_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "etc" / "config.toml", 'method = "cold"')
    monkeypatch.setenv("BLOCKFERRY_CONFIG", str(write(tmp_path / "mine.toml", "bandwidth = '7KiB/s'")))
    assert (Config.load().method, Config.load().bandwidth) == ("auto", 7 * KiB)
    monkeypatch.setenv("BLOCKFERRY_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigInvalid, match="no such file"):
        Config.load()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("true", math.inf), ("false", None), ('"forever"', math.inf), ('"12h"', 43200.0)],
)
def test_keep_source(tmp_path: Path, text: str, seconds: float | None) -> None:
    write(tmp_path / "etc" / "config.toml", f"keep_source = {text}")
    assert Config.load().keep_source_s == seconds


def test_the_copy_buffer(tmp_path: Path) -> None:
    assert Config.load().copy_buffer is None
    write(tmp_path / "etc" / "config.toml", 'copy_buffer = "16MiB"')
    assert Config.load().copy_buffer == 16 * MiB


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bandwith = 1", "unknown key 'bandwith' .did you mean 'bandwidth'"),
        ("zzz = 1", "unknown key 'zzz'$"),
        ("uri = 7", "uri: 7 is not a text"),
        ('uri = ""', "uri: '' is not a text"),
        ('method = "miror"', "method: 'miror' is no method .did you mean 'mirror'"),
        ("method = []", "method: .* is no method"),
        ('bandwidth = "fast"', "bandwidth: 'fast' is not a rate"),
        ("bandwidth = -1", "bandwidth: -1 has no unit"),
        ("bandwidth = 200", "bandwidth: 200 has no unit"),
        ('bandwidth = "200"', "bandwidth: '200' has no unit; did you mean 200MiB/s"),
        ('keep_source = "7"', "keep_source: '7' has no unit"),
        ("bandwidth = true", "bandwidth: True is not"),
        ('keep_source = "a while"', "keep_source: 'a while' is not a duration"),
        ("keep_source = 7", "keep_source: 7 is none of"),
        ('copy_buffer = "64KiB"', "copy_buffer: '64KiB' is no size from 1MiB to 1GiB"),
        ("copy_buffer = 16", "copy_buffer: 16 is not a text"),
        ('suspended_start = "yes"', "suspended_start: 'yes' is neither"),
        ("uri = ", "Invalid value"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path / "etc" / "config.toml", text)
    with pytest.raises(ConfigInvalid) as wrong:
        Config.load()
    assert wrong.value.path == str(path)
    assert re.search(words, wrong.value.problem)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "etc" / "config.toml").mkdir(parents=True)
    with pytest.raises(ConfigInvalid, match="Is a directory"):
        Config.load()
    (tmp_path / "etc" / "config.toml").rmdir()
    (tmp_path / "etc" / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalid):
        Config.load()


def test_a_journal_means_the_same_from_every_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    absolute = f"sqlite:///{tmp_path}/j.db"
    for written in ("j.db", f"{tmp_path}/j.db", "sqlite:///j.db", absolute):
        assert Config(journal=written).journal == absolute
    assert Config(journal="~/j.db").journal == "sqlite:////home/me/j.db"
    for left in ("sqlite://", "sqlite:///:memory:", "postgresql+psycopg://db/x", "postgresql:///x", "mysql://x/y"):
        assert Config(journal=left).journal == left


def test_the_methods_are_those_of_the_model() -> None:
    assert set(config.METHODS) == {method.value for method in Method}
