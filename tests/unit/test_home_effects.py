"""Copying a home's files and releasing the old ones, with real files: nothing goes that may be the only copy."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from decide_support import make_plan
from paper_host import PaperSite

from blockferry.base.errors import FileExists, HostCallFailed, HostCommandFailed, LeaseLost, StillInUse
from blockferry.hosts.helper import files
from blockferry.hosts.images import conversion, qemu_img
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.kept import Kept
from blockferry.safety import proof
from blockferry.safety.guard import Guard
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.destination import release
from blockferry.storage_move.destination.effects import MARKER
from blockferry.storage_move.destination.plan import DestinationImage
from blockferry.storage_move.disk_plan import CopyPlan, DiskSizes
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.firmware import effects as firmware_effects
from blockferry.storage_move.firmware.plan import FirmwarePlan, NvramPlan
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.home.plan import HomeFile, HomePlan
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.overlays import effects as overlays_effects
from blockferry.storage_move.overlays.plan import PartialPlan
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, SourcePolicy

NAME = "notes.txt"


@dataclass
class Place:
    """An old and a new home with one file, which is copied already, and the move's record."""

    site: PaperSite
    old: Path
    new: Path
    record: Record = field(default_factory=Record)
    said: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    checks: int = 0
    lease_holds: int = 1000  # so many looks

    @property
    def file(self) -> HomeFile:
        return HomeFile(str(self.old / NAME), str(self.new / NAME), "file", 3)

    def context(self) -> Context:
        plan = Plan(
            move="abcd",
            uri="qemu:///system",
            vm="web01",
            uuid=self.site.uuid("web01"),
            method=Method.COLD,
            method_reason="",
            disks=(),
            home=HomePlan("ssd", str(self.new), str(self.old), (self.file,)),
            source=SourcePolicy(delete=True),
            domain=DomainPlan(persistent=True, was=PowerState.OFF),
        )
        return Context(
            plan,
            self.site,
            cast(Guard, None),
            self.note,
            lambda _kind, text: self.said.append(text),
            lambda path, *_words, **_more: self.kept.append(path),
            lambda row: self.kept.append(row.path),
            lambda: False,
            check=self.check,
        )

    def note(self, record: Record) -> None:
        self.record = record

    def check(self) -> None:
        self.checks += 1
        if self.checks > self.lease_holds:
            raise LeaseLost("abcd", "another")

    def release(self) -> list[str]:
        """The notes of a release."""
        context = self.context()
        home_effects.release_home(context, Observation(PowerState.OFF, True, (), self.record))
        return context.notes

    def refresh(self) -> Record:
        return home_effects.refresh(self.context(), Observation(PowerState.OFF, True, (), self.record))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    site = PaperSite(tmp_path)
    site.define("web01", {})
    old, new = tmp_path / "pool" / "web01", tmp_path / "ssd" / "web01"
    for directory in (old, new):
        directory.mkdir(parents=True)
    (old / NAME).write_text("old")
    (new / NAME).write_text("old")
    made = Place(site, old, new)
    prints = (
        home_effects.fingerprint(site.runner, made.file.source),
        home_effects.fingerprint(site.runner, made.file.dest),
    )
    made.record = Record(
        created=(made.file.dest,),
        home=HomeRecord(
            copied=True, fingerprints={made.file.source: prints[0]}, copy_fingerprints={made.file.source: prints[1]}
        ),
    )
    yield made
    site.connection.close()


def test_the_old_file_goes_when_its_copy_is_there(place: Place) -> None:
    place.release()
    assert not (place.old / NAME).exists()
    assert not place.kept


def test_the_old_file_stays_when_its_copy_is_gone(place: Place) -> None:
    (place.new / NAME).unlink()
    notes = place.release()
    assert (place.old / NAME).read_text() == "old"
    assert any(f"its copy {place.file.dest} is not there" in note for note in notes)
    assert place.kept == [place.file.source]


def test_the_old_file_stays_when_its_copy_is_the_same_file(place: Place) -> None:
    (place.new / NAME).unlink()
    (place.new / NAME).hardlink_to(place.old / NAME)
    notes = place.release()
    assert (place.old / NAME).exists()
    assert any("it is the same file as" in note for note in notes)


@pytest.mark.parametrize(("content", "goes"), [("old", True), ("other", False)])
def test_without_fingerprints_the_contents_are_compared(place: Place, content: str, goes: bool) -> None:
    place.record = replace(place.record, home=replace(place.record.home, fingerprints={}, copy_fingerprints={}))
    (place.new / NAME).write_text(content)
    notes = place.release()
    assert (place.old / NAME).exists() is not goes
    assert (place.new / NAME).read_text() == content
    assert any("holds something else than" in note for note in notes) is not goes


def test_without_fingerprints_a_copy_that_nothing_uses_is_made_anew(place: Place) -> None:
    place.record = replace(place.record, home=replace(place.record.home, fingerprints={}, copy_fingerprints={}))
    (place.old / NAME).write_text("newer")
    place.refresh()
    assert (place.new / NAME).read_text() == "newer"
    assert place.file.source in place.record.home.fingerprints


def test_nothing_goes_from_the_directory_of_a_pool(place: Place) -> None:
    place.site.pool("old", place.old)
    notes = place.release()
    assert (place.old / NAME).exists()
    assert any(f"{place.old} is the directory of a datastore" in note for note in notes)


def test_a_rename_that_fails_is_a_note(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_runner: Any, path: str, _new: str) -> None:
        raise HostCommandFailed("mv", 1, f"{path}: read-only file system")

    monkeypatch.setattr(files, "rename", refused)
    notes = place.release()
    assert (place.old / NAME).exists()
    assert any("read-only" in note for note in notes)
    assert not any("made anew by somebody" in note for note in notes)


def test_a_long_name_in_another_script_can_be_put_aside(place: Place) -> None:
    aside = home_effects._aside(place.context(), "/pool/web01/" + "ж" * 120)
    assert len(Path(aside).name.encode()) <= 255


def test_a_file_put_aside_stays_when_the_lease_is_lost(place: Place) -> None:
    place.lease_holds = 1
    with pytest.raises(LeaseLost):
        place.release()
    assert [path.read_text() for path in place.old.iterdir()] == ["old"]


# ---------------------------------------------------------------- names that somebody else has taken


def test_a_name_that_is_taken_is_not_written_down(place: Place) -> None:
    stranger = place.new / "vda.qcow2"
    stranger.write_text("precious")
    with pytest.raises(FileExists):
        destination_effects.name_paths(place.context(), place.record, str(place.new / "vdb.qcow2"), str(stranger))
    assert place.record.created == (place.file.dest,)
    assert stranger.read_text() == "precious"


def test_a_link_to_nowhere_takes_a_name(place: Place) -> None:
    (place.new / "vda.qcow2").symlink_to("/nowhere")
    with pytest.raises(FileExists):
        destination_effects.name_paths(place.context(), place.record, str(place.new / "vda.qcow2"))


def test_what_bears_the_mark_of_this_move_is_no_stranger_s(place: Place) -> None:
    path = place.new / "vda.qcow2"
    path.write_text("ours")
    destination_effects.mark_file(place.context(), str(path))
    record = destination_effects.name_paths(place.context(), place.record, str(path))
    assert str(path) in record.created


@pytest.mark.parametrize("noted", [True, False])
def test_another_file_beside_the_mark_of_this_move_is_a_stranger_s(place: Place, noted: bool) -> None:
    """The marker says which file the move has made; somebody has put another one there since."""
    path, stranger = place.new / "vda.qcow2", place.new / "stranger"
    path.write_text("ours")
    destination_effects.mark_file(place.context(), str(path), made=True)
    stranger.write_text("precious")
    stranger.rename(path)
    record = replace(place.record, created=(str(path),)) if noted else place.record
    with pytest.raises(FileExists):
        destination_effects.name_paths(place.context(), record, str(path))
    assert path.read_text() == "precious"


MARKERS = {
    "the administrator has removed the copy and its marker": None,
    "another move has made it": {"move": "ef01", "inode": "its own"},
    "a marker of no move": {"inode": "its own"},
    "the move was killed, and it is not known which file it has made": {"move": "abcd", "inode": ""},
}


@pytest.mark.parametrize("story", MARKERS)
def test_a_name_in_the_record_proves_nothing_about_the_file_that_has_it(place: Place, story: str) -> None:
    """It is neither replaced when the move goes on nor removed when it goes back, and its marker stays."""
    path, marker = place.new / "vda.qcow2", place.new / f"vda.qcow2{MARKER}"
    path.write_text("precious")
    words = MARKERS[story]
    if words is not None:
        marker.write_text(json.dumps(words).replace("its own", str(path.stat().st_ino)))
    record = replace(place.record, created=(str(path),))
    with pytest.raises(FileExists):
        destination_effects.name_paths(place.context(), record, str(path))
    assert path.read_text() == "precious"
    context = place.context()
    release.remove_destination(context, Observation(PowerState.OFF, True, (), record))
    assert path.read_text() == "precious"
    assert marker.exists() == (words is not None)
    assert [f"{path} stays, because " in note for note in context.notes] == [True]


def test_what_a_move_that_was_killed_has_left_is_replaced(place: Place) -> None:
    """Its marker does not say yet which file it is: an empty one, and a copy that is like what it was made from."""
    path, copy = place.new / "vda.qcow2", Path(place.file.dest)
    path.touch()
    for one in (path, copy):
        destination_effects.mark_file(place.context(), str(one))
    record = replace(place.record, created=(str(path), str(copy)))
    destination_effects.name_paths(place.context(), record, str(path), str(copy))
    assert not path.exists()
    assert not copy.exists()
    copy.write_text("new")
    with pytest.raises(FileExists):
        destination_effects.name_paths(place.context(), record, str(path), str(copy))
    assert copy.read_text() == "new"


@pytest.mark.parametrize("what", ["a file of the home", "a file of the home, copied again", "NVRAM"])
def test_a_copy_of_a_small_file_that_a_killed_move_has_left_is_its_own(place: Place, what: str) -> None:
    """Killed right after the copy had its name. The old file is another by then, so that the contents prove nothing."""
    old, copy, context = place.old / NAME, place.new / NAME, place.context()
    if what == "a file of the home, copied again":
        destination_effects.mark_file(context, str(copy), made=True)
    else:
        copy.unlink()
        destination_effects.mark_file(context, str(copy))
    old.write_text("new")

    def killed() -> None:
        if copy.exists() and copy.read_text() == "new":
            raise LeaseLost("abcd", "another")

    context.check = killed
    if what == "NVRAM":
        nvram = NvramPlan(place.file.source, place.file.dest, 3)
        context.plan = replace(context.plan, home=None, firmware=FirmwarePlan(nvram))
        with pytest.raises(LeaseLost):
            firmware_effects.copy_nvram(context, Observation(PowerState.OFF, True, (), place.record))
    else:
        with pytest.raises(LeaseLost):
            home_effects._copy(context, place.record, place.file)
    assert copy.read_text() == "new"
    old.write_text("newer")
    destination_effects.name_paths(place.context(), place.record, str(copy))
    assert not copy.exists()


def test_a_copy_stays_proven_until_another_has_its_name(place: Place) -> None:
    """Killed while the next one is made beside it."""
    copy, context = place.new / NAME, place.context()
    destination_effects.mark_file(context, str(copy), made=True)
    (place.old / NAME).write_text("newer")

    def killed() -> None:
        if Path(files.temporary_path(str(copy))).exists():
            raise LeaseLost("abcd", "another")

    context.check = killed
    with pytest.raises(LeaseLost):
        home_effects._copy(context, place.record, place.file)
    assert copy.read_text() == "old"
    assert destination_effects.why_not_ours(place.context(), str(copy)) is None
    destination_effects.mark_file(place.context(), str(copy), made=str(place.old / NAME), replaces=True)
    assert destination_effects.why_not_ours(place.context(), str(copy)) is None
    stranger = place.new / "stranger"
    stranger.write_text("precious")
    stranger.rename(copy)
    assert destination_effects.why_not_ours(place.context(), str(copy)) is not None


@pytest.mark.parametrize("end", ["it is closed", "the user wants something else", "never"])
def test_a_file_of_ours_that_somebody_has_open(place: Place, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """What is left of a copy whose link was cut, or a reader, is waited for; and the file is not taken from him."""
    path, looks = place.new / "vda.qcow2", []
    path.write_text("ours")
    context = place.context()
    record = replace(place.record, created=(str(path),))
    destination_effects.mark_file(context, str(path), made=True)
    monkeypatch.setattr(destination_effects, "USED_LOOK_S", 0.0)
    with subprocess.Popen(["tail", "-f", str(path)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.read(4) == b"ours"

        def looked() -> None:
            looks.append(path.read_text())
            if end == "it is closed":
                reader.kill()
                reader.wait()

        context.show = looked
        if end == "it is closed":
            destination_effects.name_paths(context, record, str(path))
        elif end == "never":
            monkeypatch.setattr(destination_effects, "USED_FOR_S", 0.0)
            with pytest.raises(StillInUse, match="tail"):
                destination_effects.name_paths(context, record, str(path))
        else:
            context.should_stop = lambda: bool(looks)
            with pytest.raises(conversion.ConversionStopped):
                destination_effects.name_paths(context, record, str(path))
        reader.kill()
    assert path.exists() == (end != "it is closed")
    assert looks == ([] if end == "never" else ["ours"])
    assert [text for text in place.said if "tail" in text] == place.said
    assert len(place.said) == len(looks)


def test_metadata_of_somebody_else_is_not_written_over(place: Place) -> None:
    """The move has named it before it was made; what is there now is not signed by us."""
    path = place.new / "web01.xml"
    path.write_text("precious")
    context = place.context()
    context.noted = replace(place.record, created=(str(path),))
    home_effects.write_metadata(context, str(place.new))
    assert path.read_text() == "precious"


def test_a_file_of_somebody_else_is_no_broken_copy_to_go_on_from(place: Place) -> None:
    """It would be written over by what the old disk holds."""
    path = place.new / "vda.img"
    path.write_bytes(bytes(1 << 20))
    disk = replace(
        make_plan().disks[0],
        dest=DestinationImage(path=str(path), format="raw", datastore="ssd"),
        sizes=DiskSizes(virtual=1 << 20, allocation=1 << 20),
        copy=CopyPlan(resumable=True),
    )
    context = place.context()
    record = Record(created=(str(path),))
    assert not overlays_effects.worth_going_on(context, disk, record)
    destination_effects.mark_file(context, str(path), made=True)
    assert overlays_effects.worth_going_on(context, disk, record)


@pytest.mark.parametrize("story", ["as planned", "another file lies there", "a plan of an older blockferry"])
def test_an_old_disk_without_a_marker_is_the_move_s_when_its_plan_says_which_file_it_is(
    place: Place, story: str
) -> None:
    """It was taken over; the move was killed before its marker was there. Then the move goes back."""
    path, context = place.new / "vda.img", place.context()
    path.write_text("old disk")
    kept = Kept(str(path), "ef01", "web01", "ssd", None, 8, "kept", fingerprint=proof.fingerprint(_stat(place, path)))
    path.write_text("written to")
    if story == "another file lies there":
        (place.new / "stranger").write_text("precious")
        (place.new / "stranger").rename(path)
    old = None if story == "a plan of an older blockferry" else kept
    disk = replace(
        make_plan().disks[0],
        dest=DestinationImage(path=str(path), format="raw", datastore="ssd"),
        partial=PartialPlan(move="ef01", allocated=8, old=old),
    )
    context.plan = replace(context.plan, disks=(disk,))
    record = Record(created=(str(path),), disks={disk.target: DiskRecord(partial=True, taken_over=old is not None)})
    release.remove_destination(context, Observation(PowerState.OFF, True, (), record))
    assert path.exists() == (story != "as planned")
    assert any(f"{path} stays, because no marker" in note for note in context.notes) == path.exists()


def _stat(place: Place, path: Path) -> files.FileStat:
    found = files.stat_one(place.site.runner, str(path))
    assert found is not None
    return found


def test_a_new_image_says_which_file_it_is_before_anything_is_in_it(place: Place) -> None:
    """A move that is killed while qemu-img makes it leaves a file that is proven to be its own."""
    path, context = place.new / "vda.qcow2", place.context()
    marker = place.new / f"vda.qcow2{MARKER}"
    seen = []
    destination_effects.mark_file(context, str(path))
    context.check = lambda: seen.append((path.exists() and path.stat().st_size, json.loads(marker.read_text())))
    with pytest.raises(HostCommandFailed):
        destination_effects.new_image(context, str(path), make_plan().disks[0], "qcow2", 1 << 20, cluster_size=1000)
    assert not path.exists()
    assert json.loads(marker.read_text())["inode"] != ""
    assert seen[0][0] == 0


def test_a_marker_that_cannot_be_read_is_not_taken_for_none(place: Place) -> None:
    """It may say that somebody's file has taken the name."""
    path = place.new / "vda.qcow2"
    path.write_text("precious")
    (place.new / f"vda.qcow2{MARKER}").mkdir()  # EISDIR, for root as well
    with pytest.raises(HostCallFailed):
        destination_effects.name_paths(place.context(), replace(place.record, created=(str(path),)), str(path))
    with pytest.raises(HostCallFailed):
        destination_effects.is_somebody_s(place.site.runner, str(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None])
def test_a_marker_that_says_nothing(place: Place, content: bytes | None) -> None:
    path = place.new / "vda.qcow2"
    if content is not None:
        (place.new / f"vda.qcow2{MARKER}").write_bytes(content)
    assert destination_effects.marked_by(place.site.runner, str(path)) is None


def test_a_copy_says_which_file_it_is_before_anything_is_in_it(place: Place) -> None:
    """A move that is killed while it copies leaves a file that is proven to be its own."""
    source, dest = place.old / "a.raw", place.new / "a.raw"
    source.write_bytes(bytes(65536))
    seen = []

    def claimed() -> None:
        seen.append(dest.stat())
        destination_effects.mark_file(place.context(), str(dest), made=True)

    destination_effects.mark_file(place.context(), str(dest))
    conversion.convert(place.site.runner, str(source), "raw", str(dest), "raw", ownership=qemu_img.Ownership(claimed))
    assert [(stat_result.st_size, stat_result.st_ino) for stat_result in seen] == [(0, dest.stat().st_ino)]
    assert json.loads((place.new / f"a.raw{MARKER}").read_text())["inode"] == str(dest.stat().st_ino)
    assert not destination_effects.is_somebody_s(place.site.runner, str(dest))


def test_a_file_of_ours_and_a_directory_are_written_down(place: Place) -> None:
    path = place.new / "web01.xml"
    path.write_text("ours")
    names = (str(path), f"{place.new}/")
    record = destination_effects.name_paths(place.context(), place.record, *names, ours=[str(path)])
    assert record.created[1:] == names
    assert path.exists()


def test_a_file_that_appears_before_the_copy_is_not_replaced_nor_called_ours(place: Place) -> None:
    """Its name and marker are there already."""
    place.record = Record(created=(place.file.dest,))
    (place.new / NAME).write_text("precious")
    (place.new / (NAME + MARKER)).write_text("{}")
    with pytest.raises(FileExists):
        home_effects._copy(place.context(), place.record, place.file)
    assert (place.new / NAME).read_text() == "precious"
    assert place.record.created == ()
    assert not (place.new / (NAME + MARKER)).exists()


def test_a_stranger_s_file_stays_when_the_old_one_is_left(place: Place) -> None:
    (place.new / NAME).unlink()
    (place.new / "other").write_text("precious")
    (place.new / "other").rename(place.new / NAME)
    record = replace(place.record, home=replace(place.record.home, copy_fingerprints={place.file.source: "1:3:0:0:"}))
    home_effects._leave(place.context(), record, place.file, "it is written to")
    assert (place.new / NAME).read_text() == "precious"


def test_a_copy_of_ours_is_replaced(place: Place) -> None:
    (place.old / NAME).write_text("newer")
    record = home_effects._copy(place.context(), place.record, place.file)
    assert (place.new / NAME).read_text() == "newer"
    assert home_effects.same(
        record.home.copy_fingerprints[place.file.source], home_effects.fingerprint(place.site.runner, place.file.dest)
    )
