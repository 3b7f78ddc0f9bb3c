"""Configuration: files over files, environment over files, and sentences for what is wrong."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from blockferry.base import config
from blockferry.base.config import Config
from blockferry.base.errors import ConfigInvalid, HostNotConfigured, UsageError
from blockferry.base.units import KiB, MiB
from blockferry.storage_move.request import Method


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no variable of the machine that the tests run on."""
    for name in ("BLOCKFERRY_CONFIG", "BLOCKFERRY_JOURNAL", "BLOCKFERRY_URI", "BLOCKFERRY_HOST", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc" / "blockferry.toml")


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


def test_the_file_of_the_former_name_is_read_before_the_one_of_todays(tmp_path: Path) -> None:
    write(tmp_path / "etc" / "config.toml", 'uri = "qemu+ssh://a/system"\nmethod = "mirror"\n')
    write(tmp_path / "etc" / "blockferry.toml", 'uri = "qemu+ssh://b/system"\n')
    assert (Config.load().uri, Config.load().method) == ("qemu+ssh://b/system", "mirror")
    write(tmp_path / "user" / "blockferry" / "blockferry.toml", 'method = "cold"\n')
    assert (Config.load().uri, Config.load().method) == ("qemu+ssh://b/system", "cold")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hosts = []", []),
        (
            'hosts = ["kvm1", "root@kvm2", "192.0.2.7", "local", "qemu+ssh://admin@kvm4:2222/system"]',
            [
                ("kvm1", "qemu+ssh://kvm1/system"),
                ("kvm2", "qemu+ssh://root@kvm2/system"),
                ("192.0.2.7", "qemu+ssh://192.0.2.7/system"),
                ("local", "qemu:///system"),
                ("kvm4", "qemu+ssh://admin@kvm4:2222/system"),
            ],
        ),
        (
            '[hosts.kvm2]\nuri = "qemu+ssh://kvm2.lan:2222/system"\n[hosts.kvm3]\n[hosts.here]\nuri = "local"\n'
            '[hosts.old]\nuri = "root@kvm9"',
            [
                ("kvm2", "qemu+ssh://kvm2.lan:2222/system"),
                ("kvm3", "qemu+ssh://kvm3/system"),
                ("here", "qemu:///system"),
                ("old", "qemu+ssh://root@kvm9/system"),
            ],
        ),
    ],
)
def test_hosts_are_listed_by_name_or_uri(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    write(tmp_path / "etc" / "blockferry.toml", text)
    assert [(host.name, host.uri) for host in Config.load().hosts] == expected


def test_a_host_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "etc" / "blockferry.toml", 'hosts = ["root@kvm1", "kvm2"]')
    loaded = Config.load()
    assert loaded.host_entry("kvm1").uri == "qemu+ssh://root@kvm1/system"
    with pytest.raises(HostNotConfigured) as unknown:
        loaded.host_entry("kvn2")
    assert unknown.value.nearest[0] == "kvm2"
    assert unknown.value.configured == "kvm1, kvm2"
    assert loaded.address("kvm1").uri == "qemu+ssh://root@kvm1/system"
    assert loaded.address("kvm3").uri == "qemu+ssh://kvm3/system"
    for wrong in ("", "-oProxyCommand=x", "a b", "/etc"):
        with pytest.raises(UsageError):
            loaded.address(wrong)
    monkeypatch.setenv("BLOCKFERRY_URI", "qemu:///session")
    monkeypatch.setenv("BLOCKFERRY_HOST", "kvm1")
    assert Config.load().uri == "qemu+ssh://root@kvm1/system"


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
        ('hosts = "kvm1"', "hosts: 'kvm1' is neither a list"),
        ("hosts = [7]", "hosts: 7 is not a text"),
        ('hosts = ["-v"]', "hosts: '-v' is no name of a host"),
        ('hosts = ["kvm1", "root@kvm1"]', "hosts: 'kvm1' is there twice"),
        ("[hosts.kvm1]\nurl = 'x'", "hosts: kvm1: unknown key 'url'"),
        ('hosts = ["://kvm1/system"]', "hosts: '://kvm1/system' is no URI"),
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
