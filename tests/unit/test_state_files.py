"""UEFI variables and the state of a TPM are copied to another host, proven there, and kept in any doubt.

Real: files and the helper. Both hosts are this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from blockferry.base.errors import CopyIncomplete, FileExists, MoveNotHeld
from blockferry.host_move import effects, image_owner, state_files
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_plan import HostMovePlan, StateFile
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.observe import observe
from blockferry.hosts.helper import files
from blockferry.hosts.helper.holding import Holding
from blockferry.hosts.helper.program import holder_calls
from blockferry.hosts.host import Host
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt import domain_xml
from blockferry.hosts.migrating import ABSENT, Instance
from blockferry.hosts.runner import LocalRunner, Runner
from blockferry.storage_move.destination.effects import MARKER


@pytest.fixture
def runner() -> Iterator[LocalRunner]:
    local = LocalRunner()
    yield local
    local.helper.close()


class Travel:
    """A file at the source, and the place for it three directories deep at the destination."""

    def __init__(self, runner: LocalRunner, folder: Path, *, cold: bool = True, sent: bool = False) -> None:
        self.old = folder / "source" / "swtpm" / "u1" / "tpm2" / "state"
        self.new = folder / "dest" / "swtpm" / "u1" / "tpm2" / "state"
        self.old.parent.mkdir(parents=True)
        (folder / "dest").mkdir()
        self.old.write_bytes(b"state" * 100)
        self.old.chmod(0o600)
        self.old.parent.chmod(0o700)
        file = StateFile("tpm", str(self.old), str(self.new), 500, sent)
        plan = HostMovePlan(
            "m1", "web01", "u1", "qemu:///system", "h1", "kvm1", "qemu:///system", "h2", "kvm2",
            "qemu:///system", "127.0.0.1", (), cold=cold, was_running=not cold, state_files=(file,),
        )  # fmt: skip
        self.record, self.kept, self.events = HostMoveRecord(), list[Kept](), list[str]()
        host = cast(Host, SimpleNamespace(runner=runner))
        self.context = HostMoveContext(
            plan=plan,
            source=host,
            dest=host,
            save=self.save,
            log_event=lambda _kind, text: self.events.append(text),
            check=lambda: None,
            should_stop=lambda: False,
            bandwidth=lambda: 0,
            claims=lambda: pytest.fail("no claims are asked for"),
            dest_claims=lambda: pytest.fail("no claims are asked for"),
            quarantine=self.kept.append,
            holding=Holding("m1", 1, lambda: None, lambda _: None),
        )

    def save(self, record: HostMoveRecord) -> None:
        self.record = record

    def copy(self) -> None:
        state_files.copy(self.context, self.record, str(self.old))

    def prove(self) -> None:
        state_files.prove(self.context, self.record, str(self.old))

    def release(self) -> None:
        state_files.release(self.context, self.record, str(self.old))


@pytest.fixture
def travel(runner: LocalRunner, tmp_path: Path) -> Travel:
    return Travel(runner, tmp_path)


def test_one_that_wakes_after_another_has_taken_over_changes_no_owner(travel: Travel, runner: LocalRunner) -> None:
    """What it would change is the disk of a VM that runs there by then."""
    move = f"of-test-{os.getpid()}"  # the note of it is this machine's, whoever tests beside us
    travel.context.holding = Holding(move, 1, lambda: None, lambda _: None)
    travel.context.holding.ensure(runner)
    newer = Holding(move, 2, lambda: None, lambda _: None)
    newer.ensure(runner)
    image = travel.old.parents[4] / "dest" / "disk"
    image.write_bytes(b"of a QEMU by now")
    os.chown(image, 12345, 54321)
    image.chmod(0o640)
    try:
        with pytest.raises(MoveNotHeld):
            image_owner.give_file(travel.context, str(travel.old), str(image))
    finally:
        newer.forget(runner)
    stat = image.stat()
    assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (12345, 54321, 0o640)


def test_a_file_is_copied_with_its_directories_and_taken_away_again(travel: Travel) -> None:
    os.chown(travel.old, 12345, 54321)
    os.chown(travel.old.parent, 12345, 54321)
    travel.copy()
    assert travel.new.read_bytes() == travel.old.read_bytes()
    for path, mode in ((travel.new, 0o600), (travel.new.parent, 0o700)):
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o7777) == (12345, 54321, mode)
    assert list(travel.record.state_copied) == [str(travel.old)]
    travel.copy()  # repeated, as after a kill
    effects.remove_images(travel.context, travel.record)
    assert not travel.new.parents[2].exists()
    assert travel.new.parents[3].exists()
    assert travel.record.state_copied == {}
    assert travel.old.exists()


def test_a_file_of_somebody_s_is_not_written_over(travel: Travel) -> None:
    travel.new.parent.mkdir(parents=True)
    travel.new.write_bytes(b"somebody's")
    with pytest.raises(FileExists):
        travel.copy()
    assert travel.new.read_bytes() == b"somebody's"
    effects.remove_images(travel.context, travel.record)
    assert travel.new.read_bytes() == b"somebody's"


def test_a_file_that_took_the_name_of_ours_is_not_written_over(travel: Travel) -> None:
    travel.copy()
    travel.new.with_suffix(".theirs").write_bytes(b"somebody's")
    travel.new.with_suffix(".theirs").rename(travel.new)
    with pytest.raises(FileExists):
        travel.copy()
    assert travel.new.read_bytes() == b"somebody's"


def test_a_file_of_another_size_than_planned_is_not_taken(travel: Travel) -> None:
    travel.old.write_bytes(b"shorter")
    with pytest.raises(CopyIncomplete):
        travel.copy()
    assert travel.record.state_copied == {}


def test_not_written_to_since_the_copy_it_is_proven(travel: Travel) -> None:
    """Whatever the VM has made of it since at the destination."""
    travel.copy()
    travel.new.write_bytes(b"newer" * 100)
    travel.prove()
    assert travel.record.proven == (str(travel.old),)


def test_written_to_since_it_is_proven_by_its_content_only(travel: Travel) -> None:
    travel.copy()
    travel.old.write_bytes(b"newer" * 100)
    os.utime(travel.old, (1, 1))
    travel.prove()
    assert "written to after" in travel.record.doubted[str(travel.old)]
    travel.record = replace(travel.record, doubted={})
    travel.new.write_bytes(b"newer" * 100)  # as QEMU writes it when the guest is let run
    travel.prove()
    assert travel.record.proven == (str(travel.old),)


@pytest.mark.parametrize("harm", ["gone", "cut", "unproven"])
def test_a_new_file_that_is_not_whole_is_a_doubt_and_the_old_one_is_kept(travel: Travel, harm: str) -> None:
    travel.copy()
    if harm == "gone":
        travel.new.unlink()
    elif harm == "cut":
        travel.new.write_bytes(b"cut")
    else:
        travel.record = replace(travel.record, unproven="QEMU has ended")
    travel.prove()
    assert travel.record.proven == ()
    travel.release()
    [kept] = travel.kept
    assert (kept.path, kept.expires) == (str(travel.old), None)
    assert travel.old.exists()
    assert "kept, because" in travel.record.sources[0]


def test_state_that_libvirt_sends_and_removes_at_the_source(runner: LocalRunner, tmp_path: Path) -> None:
    travel = Travel(runner, tmp_path, cold=False, sent=True)
    travel.prove()
    assert travel.record.doubted, "the destination does not have it"
    travel.record = HostMoveRecord()
    travel.new.parent.mkdir(parents=True)
    travel.new.write_bytes(b"state of another size")
    travel.prove()
    assert travel.record.doubted, "the source has it yet, and it differs"
    travel.record = HostMoveRecord()
    travel.old.unlink()
    travel.prove()
    assert travel.record.proven == (str(travel.old),)
    travel.release()
    assert "was gone already" in travel.record.sources[0]
    assert not travel.old.parent.exists()
    assert travel.new.exists()


@pytest.fixture
def stateful(travel: Travel, monkeypatch: pytest.MonkeyPatch) -> Travel:
    """Its TPM's directory is where libvirt would keep it."""
    monkeypatch.setattr(state_files, "VTPM_DIRECTORY", str(travel.old.parents[2]))
    return travel


def off(*, tpm: bool = True, nvram: Path | str = "") -> Instance:
    return Instance(PowerState.OFF, persistent=True, mark="m1", tpm=tpm, nvram=str(nvram))


def test_state_of_a_tpm_that_the_plan_does_not_name_is_seen(stateful: Travel) -> None:
    context = stateful.context
    (stateful.old.parent / state_files.TPM_LOCK).touch()
    assert state_files.unplanned(context, off(), ABSENT) == ()
    newer = stateful.old.with_name("newer")
    newer.write_bytes(b"since the plan")
    assert state_files.unplanned(context, off(), ABSENT) == (str(newer),)
    context.plan = replace(context.plan, state_files=())
    both = tuple(sorted((str(newer), str(stateful.old))))
    assert state_files.unplanned(context, off(), ABSENT) == both
    assert state_files.unplanned(context, ABSENT, off()) == both, "the definition is at the destination only"
    assert state_files.unplanned(context, off(tpm=False), ABSENT) == ()


def test_uefi_variables_that_the_plan_does_not_name_are_seen(travel: Travel, tmp_path: Path) -> None:
    """Unless both hosts have the file: here both are this machine."""
    nvram, context = tmp_path / "web01_VARS.fd", travel.context
    seen = off(tpm=False, nvram=nvram)
    assert state_files.unplanned(context, seen, ABSENT) == ()
    nvram.write_bytes(b"boot entries")
    assert state_files.unplanned(context, seen, ABSENT) == ()
    context.dest = cast(Host, SimpleNamespace(runner=Elsewhere(travel.context.source.runner, str(tmp_path))))
    assert state_files.unplanned(context, seen, ABSENT) == (str(nvram),)
    there = tmp_path / "elsewhere" / nvram.name
    there.parent.mkdir()
    there.write_bytes(b"other entries")
    assert state_files.unplanned(context, seen, ABSENT) == (str(nvram),)
    there.write_bytes(b"boot entries")
    assert state_files.unplanned(context, seen, ABSENT) == ()
    there.unlink()
    variables = StateFile("nvram", str(nvram), str(nvram), 12)
    context.plan = replace(context.plan, state_files=(*context.plan.state_files, variables))
    assert state_files.unplanned(context, seen, ABSENT) == ()


class Elsewhere(LocalRunner):
    """Another host: what it has of `folder` lies in a directory there."""

    def __init__(self, runner: Runner, folder: str) -> None:
        self._runner, self._folder = runner, folder

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        def there(path: str) -> str:
            return path.replace(self._folder, f"{self._folder}/elsewhere")

        if "path" in words:
            words["path"] = there(words["path"])
        return self._runner.call(do, timeout_s=timeout_s, repeat=repeat, **words)


@pytest.mark.parametrize(
    ("cold", "planned", "tpm", "version", "words"),
    [
        (True, True, True, (9, 0, 0), ("--keep-tpm",)),
        (True, False, True, (8, 9, 0), ("--keep-tpm",)),  # planned before its first start
        (True, False, True, (8, 8, 0), ()),  # virsh would not know the word
        (True, False, False, (9, 0, 0), ()),
        (False, True, True, (9, 0, 0), ()),  # libvirt has sent it
    ],
)
def test_the_state_of_a_tpm_stays_when_the_definition_of_a_vm_that_is_off_goes(
    travel: Travel, cold: bool, planned: bool, tpm: bool, version: tuple[int, int, int], words: tuple[str, ...]
) -> None:
    plan = replace(travel.context.plan, cold=cold)
    travel.context.plan = plan if planned else replace(plan, state_files=())
    assert state_files.words_of_undefine(travel.context, libvirt_of(tpm=tpm, version=version)) == words


def libvirt_of(
    *, tpm: bool, version: tuple[int, int, int], runner: LocalRunner | None = None, mark: str = "m1"
) -> Host:
    """A host with the VM's definition."""
    backend = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>" if tpm else ""
    marked = f"<metadata><b:move xmlns:b='{domain_xml.MARK_URI}' id='{mark}'/></metadata>"
    xml = f"<domain type='kvm'><name>web01</name>{marked}<devices>{backend}</devices></domain>"
    domain = SimpleNamespace(state=lambda _=0: [5, 1], XMLDesc=lambda _: xml, isPersistent=lambda: 1)
    raw = SimpleNamespace(lookupByUUIDString=lambda _uuid: domain)
    connection = SimpleNamespace(doing=lambda _: contextlib.nullcontext(), raw=raw, versions=lambda: (version, version))
    return cast(Host, SimpleNamespace(connection=connection, runner=runner, uri="qemu:///system"))


def test_a_look_at_both_hosts_shows_state_that_the_plan_does_not_name(stateful: Travel, runner: LocalRunner) -> None:
    context = stateful.context
    context.plan = replace(context.plan, state_files=())
    context.source = libvirt_of(tpm=True, version=(9, 0, 0), runner=runner)
    context.dest = libvirt_of(tpm=True, version=(9, 0, 0), runner=runner)
    assert observe(context, HostMoveRecord()).unplanned == (str(stateful.old),)
    assert observe(context, HostMoveRecord(handed=True)).unplanned == ()
    context.plan = replace(context.plan, cold=False)
    assert observe(context, HostMoveRecord()).unplanned == ()


@pytest.mark.parametrize("undefine", [effects.undefine_at_source, effects.end_at_destination])
def test_virsh_is_told_to_leave_the_state_of_a_tpm(
    travel: Travel,
    runner: LocalRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undefine: Callable[[HostMoveContext, HostMoveRecord], None],
) -> None:
    """virsh is one of paper, which knows the VM."""
    done, program = tmp_path / "done", tmp_path / "bin" / "virsh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{done}\ncase "$*" in *" list "*) echo u1;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    move, context = f"tpm-test-{os.getpid()}", travel.context
    context.plan = replace(context.plan, move=move, state_files=())
    context.holding = Holding(move, 1, lambda: None, lambda _: None)
    context.source = context.dest = libvirt_of(tpm=True, version=(9, 0, 0), runner=runner, mark=move)
    try:
        undefine(context, HostMoveRecord())
    finally:
        context.holding.forget(runner)
        Path(holder_calls.kept_path(move, "u1")).unlink(missing_ok=True)
    [line] = [one for one in done.read_text().splitlines() if " undefine " in one]
    assert line.endswith("undefine --keep-nvram --keep-tpm u1")


class Killed(Exception):
    """The process was killed here."""


def killed_after(travel: Travel, call: str, path: Path | str, times: int = 1) -> None:
    """Copy, and be killed right after this call for this path (by its new name) was carried out."""
    real, seen = travel.context.dest.runner, []

    class Dying(LocalRunner):
        def __init__(self) -> None:
            pass

        def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
            said = real.call(do, timeout_s=timeout_s, repeat=repeat, **words)
            inner = words.get("words", words)
            if (words.get("what", do), str(inner.get("path", inner.get("dest")))) == (call, str(path)):
                seen.append(said)
                if len(seen) == times:
                    raise Killed
            return said

    context = travel.context
    context.dest = cast(Host, SimpleNamespace(runner=Dying()))
    try:
        with pytest.raises(Killed):
            travel.copy()
    finally:
        context.dest = cast(Host, SimpleNamespace(runner=real))


def kill_places(travel: Travel) -> dict[str, tuple[str, str, int]]:
    marker, aside = f"{travel.new}{MARKER}", files.temporary_path(str(travel.new))
    return {
        "first marker": ("files.write", marker, 1),
        "written aside": ("files.write", aside, 1),
        "marker before it has its name": ("files.write", marker, 2),
        "it has its name": ("files.appear", str(travel.new), 1),
        "marker after that": ("files.write", marker, 3),
    }


PLACES = ["first marker", "written aside", "marker before it has its name", "it has its name", "marker after that"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("then", ["back", "on"])
def test_what_a_killed_copy_leaves_is_the_move_s_own(travel: Travel, place: str, then: str) -> None:
    """Also when the old file was written to since, so that the contents prove nothing."""
    killed_after(travel, *kill_places(travel)[place])
    travel.old.write_bytes(b"newer" * 100)
    if then == "back":
        effects.remove_images(travel.context, travel.record)
        assert not travel.new.parents[2].exists()
        assert not any("not this move's file" in text for text in travel.events)
    else:
        travel.copy()
        assert travel.new.read_bytes() == travel.old.read_bytes()
        assert sorted(path.name for path in travel.new.parent.iterdir()) == ["state", f"state{MARKER}"]


@pytest.mark.parametrize("call", ["files.write", "files.put"])
@pytest.mark.parametrize("then", ["back", "on"])
def test_a_copy_that_is_made_again_stays_proven_until_another_has_its_name(
    travel: Travel, call: str, then: str
) -> None:
    travel.copy()
    travel.old.write_bytes(b"newer" * 100)
    place = files.temporary_path(str(travel.new)) if call == "files.write" else travel.new
    killed_after(travel, call, place)
    assert travel.new.read_bytes() == (b"state" if call == "files.write" else b"newer") * 100
    assert travel.record.state_copied == {}
    travel.old.write_bytes(b"third" * 100)
    if then == "back":
        effects.remove_images(travel.context, travel.record)
        assert not travel.new.parents[2].exists()
    else:
        travel.copy()
        assert travel.new.read_bytes() == travel.old.read_bytes()


@pytest.mark.parametrize("content", ["same", "other"])
def test_a_copy_whose_marker_was_never_finished(travel: Travel, content: str) -> None:
    """As a blockferry left it that wrote the marker only after the file: its content proves whose it is."""
    travel.copy()
    marker = Path(f"{travel.new}{MARKER}")
    words = json.loads(marker.read_text())
    marker.write_text(json.dumps({**words, "inode": ""}))
    if content == "other":
        travel.new.write_bytes(b"somebody's")
        with pytest.raises(FileExists):
            travel.copy()
    effects.remove_images(travel.context, travel.record)
    assert travel.new.exists() is (content == "other")


def test_a_file_that_took_the_name_while_ours_was_written_is_not_written_over(travel: Travel) -> None:
    def taken(name: str) -> None:
        if name == "state-file-written":
            travel.new.write_bytes(b"somebody's")

    with mock.patch.object(state_files, "point", taken), pytest.raises(FileExists):
        travel.copy()
    assert travel.new.read_bytes() == b"somebody's"
    effects.remove_images(travel.context, travel.record)
    assert travel.new.read_bytes() == b"somebody's"
