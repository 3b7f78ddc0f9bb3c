"""Where QEMU listens for a backup job: a directory that its user may write to."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move.verify import effects as verify_effects


@pytest.mark.parametrize("left", [(), ("domain-3-other",), ("domain-3-other", "domain-3-web0", "domain-4-web01")])
def test_the_directory_of_this_run_is_found_beside_those_of_lost_vms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: tuple[str, ...]
) -> None:
    """A libvirtd that has lost VMs leaves their directories and counts anew: before, QEMU had no place to listen."""
    monkeypatch.setattr(verify_effects, "PRIVATE_DIRECTORIES", str(tmp_path))
    for name in (*left, "domain-3-web01"):
        (tmp_path / name).mkdir()
    assert verify_effects.listening_place(LocalRunner(), 3, "web01", "/srv/a/vda.qcow2") == str(
        tmp_path / "domain-3-web01"
    )


def test_of_a_long_name_libvirt_takes_twenty_characters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verify_effects, "PRIVATE_DIRECTORIES", str(tmp_path))
    name = "müller-" + 40 * "x"
    (tmp_path / f"domain-1-{name[:20]}").mkdir()
    assert verify_effects.listening_place(LocalRunner(), 1, name, "/srv/a/vda.raw") == str(
        tmp_path / f"domain-1-{name[:20]}"
    )
    assert verify_effects.listening_place(LocalRunner(), 2, name, "/srv/a/vda.raw") == "/srv/a"
