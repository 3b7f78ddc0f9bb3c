"""Files through a runner: atomic, repeatable, never overwriting; every odd name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockferry.base.errors import FileExists, HostCallFailed, HostCommandFailed, LeaseLost, UsageError
from blockferry.hosts.helper import files
from blockferry.hosts.helper.program import file_calls
from blockferry.hosts.runner import LocalRunner

R = LocalRunner()
ODD = ["-rf", "a b", "it's", 'say "x"', "two\nlines", "$(id)", "*", "ümläut", "back\\slash"]
NAMES = st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)


def test_stat_many(tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / name).write_bytes(b"x" * 5000)
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    asked = [str(tmp_path / name) for name in [*ODD, "link", "dangling", "absent", "a b/below"]]
    found = files.stat_many(R, [*asked, str(tmp_path), "/dev/null"])
    for name in ODD:
        file_stat, real = found[str(tmp_path / name)], os.stat(tmp_path / name)
        assert file_stat is not None
        assert (file_stat.device, file_stat.inode, file_stat.size) == (real.st_dev, real.st_ino, 5000)
        assert (file_stat.mtime_ns, file_stat.ctime_ns) == (real.st_mtime_ns, real.st_ctime_ns)
        assert (file_stat.allocated, file_stat.uid, file_stat.gid) == (real.st_blocks * 512, real.st_uid, real.st_gid)
        assert (file_stat.kind, file_stat.mode) == ("file", real.st_mode & 0o7777)
    linked, direct = found[str(tmp_path / "link")], found[str(tmp_path / "a b")]
    assert linked is not None
    assert direct is not None
    assert linked.inode == direct.inode
    assert [found[path] for path in asked[-3:]] == [None, None, None]
    directory, null = found[str(tmp_path)], found["/dev/null"]
    assert directory is not None
    assert directory.kind == "directory"
    assert null is not None
    assert null.kind == "other"
    assert null.device_number == (1, 3)
    assert files.stat_many(R, []) == {}


def test_stat_tells_absent_from_forbidden(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(HostCommandFailed, match="Too many levels"):
        files.stat_many(R, [str(tmp_path / "absent"), str(tmp_path / "loop")])


def test_what_is_removed_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a process before us has removed it, and died before it had."""
    path, directory = tmp_path / "vda.qcow2.blockferry", tmp_path / "home"
    path.touch()
    directory.mkdir()
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    assert file_calls.remove(str(path))
    assert not file_calls.remove(str(path))
    assert file_calls.remove_directory(f"{directory}/")
    assert flushed == [str(tmp_path)] * 3
    assert not file_calls.remove(str(directory / "gone" / "with its directory"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES.filter(lambda name: len(name.encode()) < 200), data=st.binary(max_size=2000))
def test_any_name_any_content(tmp_path: Path, name: str, data: bytes) -> None:
    path = str(tmp_path / name)
    files.write_file(R, path, data, 0o640)
    assert files.read_file(R, path) == data
    assert os.stat(path).st_mode & 0o777 == 0o640
    assert files.list_directory(R, str(tmp_path)) == (name,)
    assert files.realpath(R, path) == os.path.realpath(path)
    assert files.remove_file(R, path) is True
    assert files.remove_file(R, path) is False


def test_entries_are_those_that_find_lists(tmp_path: Path) -> None:
    """Names, kinds and sizes to a depth, links not followed but for the directory itself."""
    home = tmp_path / "home"
    (home / "one" / "two" / "three").mkdir(parents=True)
    (home / "one" / "file with\nnewline").write_bytes(b"12345")
    (home / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"1")
    (home / "link").symlink_to("one")
    (home / "dangling").symlink_to("nowhere")
    os.mkfifo(home / "fifo")
    (tmp_path / "to-home").symlink_to("home")
    letters = {"f": "file", "d": "directory", "l": "link"}
    for start, depth in ((home, 1), (home, 2), (home, 5), (tmp_path / "to-home", 5), (home / "absent", 5)):
        argv = ["find", "-H", str(start), "-xdev", "-mindepth", "1", "-maxdepth", str(depth), "-printf", "%y %s %p\\0"]
        listed = R.run(argv, check=False).text.split("\0")[:-1]
        expected = [
            (path, letters.get(kind, "other"), int(size)) for kind, size, path in (x.split(" ", 2) for x in listed)
        ]
        assert sorted(files.entries(R, [str(start)], depth, 30)) == sorted(expected), start
    some = [str(home / "link"), str(home / "absent"), str(home)]
    assert [entry[:2] for entry in files.entries(R, some, 0, 30)] == [(some[0], "link"), (some[2], "directory")]


def test_identities_and_real_paths_of_many(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    (tmp_path / "ring").symlink_to("ring")
    one, link, ring, absent = (str(tmp_path / name) for name in ("one", "link", "ring", "absent"))
    found = files.identities(R, [one, link, ring, absent], 30)
    stat = os.stat(one)
    assert found == {one: (stat.st_dev, stat.st_ino), link: (stat.st_dev, stat.st_ino), ring: None, absent: None}
    assert files.realpaths(R, [link, absent, ring, f"{link}/x"], 30) == (one, absent, ring, f"{one}/x")


def test_paths_must_be_absolute() -> None:
    for path in ["-rf", "nbd:localhost:1", "json:{}", "relative", ""]:
        with pytest.raises(UsageError):
            files.remove_file(R, path)


def test_write_replaces_in_one_step_and_takes_over_a_leftover(tmp_path: Path) -> None:
    target = tmp_path / "vm.xml"
    target.write_bytes(b"old")
    (tmp_path / ".vm.xml.blockferry-partial").write_bytes(b"half of a crashed one, and longer")
    files.write_file(R, str(target), b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["vm.xml"]
    with pytest.raises(HostCommandFailed):
        files.write_file(R, str(tmp_path / "absent" / "x"), b"")


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, temporary = tmp_path / "f", tmp_path / "t"
    target.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        file_calls.write(str(target), str(temporary), "bmV3", 0o600)
    assert target.read_bytes() == b"old"
    monkeypatch.undo()
    file_calls.write(str(target), str(temporary), "bmV3", 0o600)
    assert (target.read_bytes(), os.listdir(tmp_path)) == (b"new", ["f"])


def test_a_name_is_never_taken_from_somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file system has no hard links."""
    new, dest = tmp_path / "new", tmp_path / "dest"

    def no_links(*_paths: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    new.write_bytes(b"new")
    assert files.temporary_path(str(dest)) != str(dest)
    assert file_calls.appear(str(new), str(dest)) is True
    assert (dest.read_bytes(), new.exists()) == (b"new", False)
    new.write_bytes(b"newer")
    assert file_calls.appear(str(new), str(dest)) is False
    assert (dest.read_bytes(), new.read_bytes()) == (b"new", b"newer")
    with pytest.raises(HostCallFailed) as failed:
        files.rename(R, str(new), str(dest))
    assert failed.value.errno == errno.EEXIST
    assert dest.read_bytes() == b"new"


def test_holes_stay_holes_in_a_copy(tmp_path: Path) -> None:
    source, dest = tmp_path / "source", tmp_path / "dest"
    with source.open("wb") as file:
        file.write(b"begin")
        file.seek(64 << 20)
        file.write(b"end")
        file.truncate(128 << 20)
    files.copy_over(R, str(source), str(dest))
    assert files.same_content(R, str(source), str(dest))
    assert dest.stat().st_size == 128 << 20
    assert dest.stat().st_blocks * 512 < 4 << 20
    files.copy_over(R, "/proc/version", str(dest))  # a file that tells no size
    assert dest.read_bytes() == Path("/proc/version").read_bytes()
    assert files.first_bytes(R, str(source), 3) == b"beg"


def test_directories(tmp_path: Path) -> None:
    path = str(tmp_path / "home of -x")
    assert files.make_directory(R, path) is True
    assert files.make_directory(R, path) is False
    assert os.stat(path).st_mode & 0o777 == 0o711
    Path(path, "f").touch()
    assert files.remove_directory_if_empty(R, path) is False
    Path(path, "f").unlink()
    assert files.remove_directory_if_empty(R, path) is True
    assert files.remove_directory_if_empty(R, path) is False
    Path(path).touch()
    with pytest.raises(FileExists):
        files.make_directory(R, path)
    with pytest.raises(HostCommandFailed):
        files.make_directory(R, path + "/x/y")


def test_a_call_that_was_given_up_takes_nothing_from_the_one_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for storage; the same call, made again, has begun to write under the same temporary name."""
    path, temporary = tmp_path / "marker", tmp_path / ".partial"
    path.write_text("old")

    def begun_again(_descriptor: int) -> None:
        temporary.unlink()
        temporary.write_text("half")

    monkeypatch.setattr(os, "fsync", begun_again)
    with pytest.raises(OSError, match="Stale"):
        file_calls.write(str(path), str(temporary), data="bmV3", mode=0o600)
    assert path.read_text() == "old"
    assert temporary.read_text() == "half"


def test_a_copy_takes_a_name_only_with_the_file_that_was_finished(tmp_path: Path) -> None:
    """The same call, made again, has begun to write under the same temporary name."""
    path, temporary, source = (tmp_path / name for name in ("dest", ".dest.blockferry-partial", "source"))
    path.write_text("old")
    source.write_text("new")

    def begun_again(_path: str) -> None:
        (tmp_path / "again").write_text("half")
        (tmp_path / "again").rename(temporary)

    with pytest.raises(HostCallFailed) as failed:
        files.copy_over(R, str(source), str(path), begun_again)
    assert failed.value.errno == errno.ESTALE
    assert path.read_text() == "old"
    assert temporary.read_text() == "half"


def test_a_copy_is_known_before_it_has_its_name(tmp_path: Path) -> None:
    """One that cannot be written down leaves nothing."""
    path, source = tmp_path / "dest", tmp_path / "source"
    source.write_text("new")
    told: list[int] = []
    assert files.copy_file(R, str(source), str(path), lambda made: told.append(os.stat(made).st_ino))
    assert told == [path.stat().st_ino]
    source.write_text("newer")
    files.copy_over(R, str(source), str(path), lambda made: told.append(os.stat(made).st_ino))
    assert told[1:] == [path.stat().st_ino]

    def refuse(_made: str) -> None:
        raise LeaseLost("abcd", "another")

    with pytest.raises(LeaseLost):
        files.copy_over(R, str(source), str(path), refuse)
    assert sorted(os.listdir(tmp_path)) == ["dest", "source"]


def test_a_directory_keeps_the_group_bit_that_it_inherits(tmp_path: Path) -> None:
    """In a datastore of a group (mode 2775) all that is made is the group's."""
    tmp_path.chmod(0o2775)
    assert files.make_directory(R, str(tmp_path / "web01"), 0o711)
    assert (tmp_path / "web01").stat().st_mode & 0o7777 == 0o2711


def test_copy_keeps_everything_and_never_overwrites(tmp_path: Path) -> None:
    source, dest = tmp_path / "nvram fd", tmp_path / "dest"
    source.write_bytes(os.urandom(300_000))
    source.chmod(0o604)
    os.utime(source, ns=(1_000_000_000_123_456_789, 1_000_000_000_123_456_789))
    (tmp_path / ".dest.blockferry-partial").write_bytes(b"leftover")
    assert files.copy_file(R, str(source), str(dest)) is True
    assert dest.read_bytes() == source.read_bytes()
    assert (dest.stat().st_mode & 0o777, dest.stat().st_mtime_ns) == (0o604, 1_000_000_000_123_456_789)
    assert dest.stat().st_nlink == 1
    assert files.copy_file(R, str(source), str(dest)) is False
    # a crash between the two steps of giving it its name
    os.link(dest, tmp_path / ".dest.blockferry-partial")
    assert files.copy_file(R, str(source), str(dest)) is False
    assert sorted(os.listdir(tmp_path)) == ["dest", "nvram fd"]
    dest.write_bytes(b"someone else's")
    with pytest.raises(FileExists):
        files.copy_file(R, str(source), str(dest))
    assert dest.read_bytes() == b"someone else's"


def test_claim_succeeds_once(tmp_path: Path) -> None:
    path = str(tmp_path / "-disk of=x")
    files.claim(R, path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    with pytest.raises(FileExists):
        files.claim(R, path)
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(FileExists):
        files.claim(R, str(tmp_path / "link"))


def test_fingerprint_sees_every_change(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"1234")
    first = files.fingerprint(R, str(path))
    assert files.fingerprint(R, str(path)) == first
    before = path.stat()
    path.write_bytes(b"5678")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # mtime can be forged, ctime cannot
    assert files.fingerprint(R, str(path)) != first
    path.unlink()
    assert files.fingerprint(R, str(path)) is None


def test_allocation_and_space(tmp_path: Path) -> None:
    path = tmp_path / "thick"
    path.write_bytes(b"abc")
    os.truncate(path, 1 << 20)
    files.fill_allocation(R, str(path), 1 << 20)
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert path.read_bytes() == b"abc" + bytes((1 << 20) - 3)
    files.flush(R, str(path))
    space = os.statvfs(tmp_path)
    assert abs(files.free_bytes(R, str(tmp_path)) - space.f_bavail * space.f_frsize) < 1 << 30
    assert files.same_filesystem(R, str(tmp_path), str(path))
    assert not files.same_filesystem(R, str(tmp_path), "/proc")
    assert files.filesystem_type(R, "/proc") == "proc"
    with pytest.raises(HostCommandFailed):
        files.same_filesystem(R, str(tmp_path), "/absent")


def test_the_trial_of_a_directory_touches_no_file_that_is_there(tmp_path: Path) -> None:
    """It opened a name of its own whatever lay there, emptied that, and removed it."""
    there = tmp_path / ".blockferry-trial"
    there.write_text("somebody's")
    assert files.write_rate(R, str(tmp_path), 1 << 20) > 0
    assert there.read_text() == "somebody's"
    assert list(tmp_path.iterdir()) == [there]
