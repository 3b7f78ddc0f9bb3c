"""Two directories on two hosts are one only when a file that is written on one side is seen on the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from paper_host import PaperSite

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.helper import files
from blockferry.safety.shared_directory import SharedDirectories


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[PaperSite, PaperSite]]:
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        found.append(PaperSite(tmp_path / name))
        found[-1].connection._host_id = name
    yield found[0], found[1]
    for site in found:
        site.close()


@pytest.fixture
def vms(tmp_path: Path) -> Path:
    (tmp_path / "vms").mkdir()
    return tmp_path / "vms"


def test_a_file_is_seen_from_both_sides(hosts: tuple[PaperSite, PaperSite], vms: Path, tmp_path: Path) -> None:
    one, other = hosts
    (tmp_path / "mnt").symlink_to(vms)
    assert SharedDirectories().same(one, str(vms), other, str(tmp_path / "mnt"), wait_s=0)
    assert list(vms.iterdir()) == []


def test_one_path_on_two_hosts_is_no_proof(hosts: tuple[PaperSite, PaperSite], vms: Path, tmp_path: Path) -> None:
    """Two servers that are mounted under one name: told here by two directories, whose files the other does not see."""
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "vda.qcow2").write_bytes(b"x")
    one, other = hosts
    assert not SharedDirectories().same(one, str(vms), other, str(tmp_path / "others"), wait_s=0)
    assert list(vms.iterdir()) == []
    assert [found.name for found in (tmp_path / "others").iterdir()] == ["vda.qcow2"]


def test_what_was_proven_is_kept_and_what_could_not_be_is_not(
    hosts: tuple[PaperSite, PaperSite], vms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = files.write_file

    def write(runner: object, path: str, data: bytes, mode: int = 0o600) -> None:
        written.append(path)
        real(runner, path, data, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "write_file", write)
    one, other = hosts
    known = SharedDirectories()
    with pytest.raises(HostCommandFailed):
        known.same(one, str(vms), other, str(tmp_path / "away"), wait_s=0)
    (tmp_path / "away").symlink_to(vms)
    for _ in range(2):
        assert known.same(one, str(vms), other, str(tmp_path / "away"), wait_s=0)
        assert known.same(other, str(tmp_path / "away"), one, str(vms), wait_s=0), "the same question"
    assert len(written) == 1
    with pytest.raises(HostCommandFailed):
        known.same(one, str(tmp_path / "nowhere"), other, str(vms), wait_s=0)
    assert list(vms.iterdir()) == []


def test_on_one_host_the_path_without_links_tells(
    hosts: tuple[PaperSite, PaperSite], vms: Path, tmp_path: Path
) -> None:
    one, again = hosts
    again.connection._host_id = "one"
    (tmp_path / "mnt").symlink_to(vms)
    assert SharedDirectories().same(one, str(vms), again, str(tmp_path / "mnt"))
    assert not SharedDirectories().same(one, str(vms), again, str(tmp_path))
