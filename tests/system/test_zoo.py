"""Generated hosts, each with a move, and everything on them judged; `make zoo` plays more.

A host that fails is repeated alone by the command in the message. Hosts that once showed a fault are kept in zoo/found/
and played each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lab import LabError
from lab.namespaces import HostProcess
from lab.said import Said
from tests.sampling import NO_COMMIT, commit
from zoo import domains, spec
from zoo import files as zoo_files
from zoo import play as playing
from zoo.cli import FOUND
from zoo.ferry import Ferry
from zoo.generate import generate
from zoo.play import play
from zoo.site import NotClean, Site
from zoo.spec import Disk, File, Host, Move, Named, Pool, Vm

pytestmark = [pytest.mark.lab, pytest.mark.always]

HOSTS = int(os.environ.get("ZOO_HOSTS", "50"))


def seed_of_the_commit() -> int:
    """The same for each run of one commit; fixed where there is no git."""
    found = commit()
    return 2026 if found == NO_COMMIT else int(found[:7], 16)


SEED = int(os.environ["ZOO_SEED"]) if "ZOO_SEED" in os.environ else seed_of_the_commit()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site.open() as found:
        yield found


@pytest.mark.parametrize("index", range(HOSTS))
def test_a_generated_host_is_right_after_a_move(site: Site, index: int) -> None:
    played = play(site, generate(SEED, index))
    found = "\n".join(str(finding) for finding in played.findings)
    story = "\n".join([*played.commands, *played.notes])
    assert not played.findings, f"{found}\npython -m zoo --seed {SEED} --index {index}\n{story}"
    if played.end == "not built":
        not_built.append(index)
        pytest.skip(f"libvirt or QEMU does not take this host: python -m zoo --seed {SEED} --index {index}\n{story}")


not_built: list[int] = []


def test_nearly_every_host_can_be_built() -> None:
    """A host that QEMU does not take tries nothing."""
    assert len(not_built) <= HOSTS // 10, f"seed {SEED}: {not_built}"


@pytest.mark.sampled(0.2)
@pytest.mark.parametrize("path", sorted(FOUND.glob("*.json")), ids=lambda path: path.stem)
def test_a_host_that_once_showed_a_fault_is_right(site: Site, path: Path) -> None:
    played = play(site, spec.load(path))
    found = "\n".join(str(finding) for finding in played.findings)
    story = "\n".join([*played.commands, *played.notes])
    assert not played.findings, f"{found}\npython -m zoo --replay {path}\n{story}"


# -- a judge that cannot fail is worth nothing; more in tests/unit/test_zoo_judge.py ----------------------------------

SMALL = Host(
    pools=(Pool("old", "a/pools/old"), Pool("new", "b/pools/new")),
    files=(
        File("a/pools/old/web01/vda.qcow2", "qcow2", 1, 4096),
        File("side/vmlinuz", "kernel", 2, mode=0o644),
    ),
    vms=(
        Vm(
            "web01",
            "running",
            (Disk("vda", "virtio", "a/pools/old/web01/vda.qcow2"),),
            (Named("kernel", "side/vmlinuz"),),
            home="a/pools/old/web01",
        ),
    ),
    move=Move("web01", "new"),
    expect="moved",
)


def test_a_small_host_is_right(site: Site) -> None:
    played = play(site, SMALL)
    assert played.end == "moved"
    assert not played.findings, played.findings


def test_an_end_that_was_not_expected_is_found(site: Site) -> None:
    assert play(site, replace(SMALL, expect="refused")).kinds == {"expected"}


def test_a_vm_that_does_not_start_any_more_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes its kernel after the judge has looked; on the host as it was built, it starts."""
    failing = playing.Play.failing
    broken: list[Path] = []

    def first_broken(self: playing.Play, host: Host) -> dict[str, str]:
        if not broken:
            broken.append(site.real("side/vmlinuz"))
            broken[0].unlink()
        return failing(self, host)

    monkeypatch.setattr(playing.Play, "failing", first_broken)
    assert play(site, SMALL).kinds == {"start"}


def test_a_write_that_was_lost_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest's write goes to the model but not to the disk, as if the move had lost it."""
    monkeypatch.setattr(Site, "guest_write", lambda *_words: None)
    edits = (spec.Edit("copy-started", "guest-write", target="vda"),)
    assert "content" in play(site, replace(SMALL, move=replace(SMALL.move, edits=edits))).kinds


def test_a_mark_that_is_left_is_found_among_the_orphans(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's template bears the mark of a move that no journal knows; blockferry itself must list it."""
    write_after = playing.Play._write_after

    def marked(self: playing.Play) -> None:
        write_after(self)
        uuid, uri = domains.vm_uuid("template"), "urn:blockferry:move:1"
        site.virsh(("metadata", uuid, "--config", "--uri", uri, "--key", "b", "--set", "<move id='gone'/>"))

    monkeypatch.setattr(playing.Play, "_write_after", marked)
    template = Vm("template", "off", (Disk("vda", "virtio", "a/pools/old/tmpl.qcow2"),))
    files = (*SMALL.files, File("a/pools/old/tmpl.qcow2", "qcow2", 3, 1024))
    assert play(site, replace(SMALL, files=files, vms=(*SMALL.vms, template))).kinds == {"orphans"}


def test_orphans_that_cannot_be_listed_are_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Ferry.start

    def unknown(self: Ferry, words: Sequence[str], point: str = "") -> HostProcess:
        return start(self, ["orphan-list"] if list(words) == ["orphans"] else words, point)

    monkeypatch.setattr(Ferry, "start", unknown)
    assert play(site, SMALL).kinds == {"orphans"}


def test_a_lab_that_fails_in_the_middle_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise LabError("virsh: no answer")

    monkeypatch.setattr(Site, "state", fails)
    assert play(site, SMALL).kinds == {"lab"}


WITH_BITMAP = replace(SMALL, files=(replace(SMALL.files[0], bitmap="backup-7"), *SMALL.files[1:]))


def test_bitmaps_go_along(site: Site) -> None:
    assert not play(site, WITH_BITMAP).findings


def test_a_bitmap_that_was_lost_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo_files, "bitmaps", lambda _path: set())
    assert play(site, WITH_BITMAP).kinds == {"bitmaps"}


def test_a_tpm_whose_state_is_lost_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(process: HostProcess, words: Sequence[str], seconds: float) -> Said:
        said = end(process, words, seconds)
        for state in (site.host.directory / "lib/swtpm").rglob("*.permall"):
            state.unlink()
        return said

    end = Ferry.end
    vm = replace(SMALL.vms[0], tpm="emulator")
    with_tpm = replace(SMALL, vms=(vm,))
    assert not play(site, with_tpm).findings
    monkeypatch.setattr(Ferry, "end", staticmethod(lost))
    assert play(site, with_tpm).kinds == {"tpm"}


def test_libvirtd_killed_in_the_middle(site: Site) -> None:
    """The VM is moved all the same, by the command itself or by `resume`."""
    edits = (spec.Edit("copy-started", "guest-write", target="vda"), spec.Edit("copy-started", "kill-libvirtd"))
    played = play(site, replace(SMALL, move=replace(SMALL.move, edits=edits)))
    assert not played.findings, played.findings
    assert "at copy-started: kill-libvirtd" in "".join(played.notes)


def test_what_is_left_of_a_host_is_noticed(site: Site) -> None:
    site.use("default")
    left = site.real("a/left")
    left.touch()
    with pytest.raises(NotClean, match="left"):
        site.prove_clean()
    left.unlink()
    site.prove_clean()
