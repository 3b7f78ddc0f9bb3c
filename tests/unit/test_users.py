"""Who uses a file: processes by any name, QEMU's locks, and the kernel, which has no descriptor in any process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paper_host import PaperSite

from blockferry.base.errors import HostCommandFailed, ImageUnreadable, StillInUse
from blockferry.base.units import MiB
from blockferry.hosts.helper import image_users
from blockferry.hosts.helper.program import user_calls
from blockferry.hosts.runner import LocalRunner
from blockferry.safety import proof
from blockferry.storage_move.overlays import effects as overlays_effects
from blockferry.storage_move.record import Record

pytestmark = pytest.mark.slow

R = LocalRunner("qemu:///system")
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "disk.raw"
    found.write_bytes(bytes(MiB))
    return found


def sh(*argv: object) -> str:
    return subprocess.run([str(one) for one in argv], check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def loop_device(path: Path) -> Iterator[str]:
    device = sh("losetup", "--find", "--show", path)
    try:
        yield device
    finally:
        sh("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(point: Path, *words: object) -> Iterator[None]:
    done = subprocess.run(["mount", *map(str, words), str(point)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine does not mount it: {done.stderr}")
    try:
        yield
    finally:
        sh("umount", point)


# ------------------------------------------------------------ QEMU by another name


def test_a_qemu_whose_process_has_another_name(path: Path, tmp_path: Path) -> None:
    """libvirt's `set_process_name = 1` gives it the VM's."""
    argv = ["qemu-system-x86_64", "-display", "none", "-machine", "none", "-nodefaults", "-S"]
    argv += ["-blockdev", f"driver=file,node-name=n,filename={path},read-only=off"]
    argv += ["-name", "guest=web01,process=qemu:web01"]
    with subprocess.Popen(argv) as process:
        try:
            until = time.monotonic() + 60
            while not (found := image_users.writing_qemus(R, [str(path)])) and time.monotonic() < until:
                assert process.poll() is None
                time.sleep(0.05)
            assert found == ((process.pid, str(path)),)
            assert "qemu:web01" in Path(f"/proc/{process.pid}/comm").read_text()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "program", "words", "pid_file", "expected"),
    [
        ("qemu-system-x86", "", "", False, True),
        ("qemu:web01", "/usr/bin/qemu-system-x86_64", "", False, True),
        ("web01", "/opt/emulator (deleted)", "emulator -S -uuid 1234", False, True),
        ("web01", "/opt/emulator", "emulator -name guest=web01,debug-threads=on", False, True),
        ("web01", "/opt/emulator", "emulator", True, True),
        ("qemu-img", "/usr/bin/qemu-img", "qemu-img convert guest=web01", False, False),
        ("backup", "/usr/bin/python3", "python3 backup.py", False, False),
    ],
)
def test_by_which_signs_a_vm_s_qemu_is_known(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    program: str,
    words: str,
    pid_file: bool,
    expected: bool,
) -> None:
    (tmp_path / "42").mkdir()
    if program:
        (tmp_path / "42" / "exe").symlink_to(program)
    (tmp_path / "42" / "cmdline").write_text(words.replace(" ", "\0") + "\0")
    pids = tmp_path / "libvirt" / "qemu"
    pids.mkdir(parents=True)
    (pids / "web01.pid").write_text("42" if pid_file else "43")
    (pids / "cut-short.pid").write_text("")
    monkeypatch.setattr(user_calls, "PROC", str(tmp_path))
    monkeypatch.setattr(user_calls, "RUN", str(tmp_path))
    assert user_calls.runs_vm(42, name) is expected


# ------------------------------------------------------------ the kernel's users


@root
@pytest.mark.parametrize("by", ["hard link", "renamed"])
def test_a_loop_device_by_another_name(path: Path, by: str) -> None:
    other = path.with_name("other.raw")
    with loop_device(path):
        path.rename(other) if by == "renamed" else os.link(path, other)
        assert image_users.users_of(R, str(other)).any
        assert image_users.writer(R, str(other)).startswith("loop device /dev/loop")
    assert not image_users.users_of(R, str(other)).any


@root
def test_a_swap_file(path: Path) -> None:
    path.write_bytes(os.urandom(MiB))
    path.chmod(0o600)
    sh("mkswap", path)
    done = subprocess.run(["swapon", str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine cannot swap there: {done.stderr}")
    try:
        assert image_users.users_of(R, str(path)).any
    finally:
        sh("swapoff", path)


def test_a_file_that_is_mapped_and_closed(path: Path) -> None:
    program = "import ctypes, os, sys; c = ctypes.CDLL(None); c.mmap.restype = ctypes.c_void_p; "
    program += "f = os.open(sys.argv[1], os.O_RDWR); assert c.mmap(None, 4096, 3, 1, f, 0); os.close(f); "
    program += "print('mapped', flush=True); input()"
    argv = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        assert process.pid in {pid for pid, _ in image_users.users_of(R, str(path)).openers}
        assert f"({process.pid})" in image_users.writer(R, str(path))
        process.communicate("\n")
    assert not image_users.users_of(R, str(path)).any


@root
def test_a_file_below_an_overlay_file_system(path: Path, tmp_path: Path) -> None:
    lower = tmp_path / "low:er"
    (lower / "deep").mkdir(parents=True)
    inside = lower / "deep" / "disk.raw"
    path.rename(inside)
    for name in ("upper", "work", "point"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={str(lower).replace(':', chr(92) + ':')},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    with mounted(tmp_path / "point", "-t", "overlay", "overlay", "-o", options):
        assert image_users.users_of(R, str(inside)).any
        assert image_users.writer(R, str(inside)) == "", "it only reads it"
    assert not image_users.users_of(R, str(inside)).any


@root
def test_a_file_that_is_mounted_elsewhere(path: Path, tmp_path: Path) -> None:
    """A container's disk, say."""
    point = tmp_path / "point"
    point.touch()
    with mounted(point, "--bind", path):
        assert image_users.users_of(R, str(path)).any
    assert not image_users.users_of(R, str(path)).any


def tree(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def kernel_users(path: Path, monkeypatch: pytest.MonkeyPatch, sys_: Path, proc: Path | None = None) -> list[str]:
    """Who of a made-up kernel uses the file; and the doubts, each after a "?"."""
    here = user_calls.mounts_here()
    used_file = user_calls.target(str(path), here)
    monkeypatch.setattr(user_calls, "SYS", str(sys_))
    if proc is not None:
        monkeypatch.setattr(user_calls, "PROC", str(proc))
    known = user_calls.kernel([used_file], user_calls.mounts_here())
    return [who for who, _ in user_calls.kernel_users(used_file, known)] + [f"? {doubt}" for doubt in known.doubts]


def test_files_that_the_kernel_serves_as_disks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names in configfs may be others that lead to the same file."""
    alias = tmp_path / "alias.raw"
    alias.symlink_to(path)
    lio = "Status: ACTIVATED\n        TCM FILEIO ID: 0        File: {}  Size: 1048576  Mode: Buffered\n"
    config = "sys/kernel/config"
    tree(
        tmp_path,
        {
            f"{config}/target/core/fileio_0/web01/info": lio.format(alias),
            f"{config}/target/core/fileio_0/hba_info": "x",
            f"{config}/target/core/iblock_1/db01/info": "iBlock device: dm-1\n",
            f"{config}/target/core/alua/lu_gps": "",
            f"{config}/nvmet/subsystems/one/namespaces/1/device_path": f"{path}\n",
            f"{config}/nvmet/subsystems/one/namespaces/2/device_path": "(null)\n",
        },
    )
    found = kernel_users(path, monkeypatch, tmp_path / "sys")
    assert sorted(found) == ["an NVMe target", "the SCSI target web01"]


@pytest.mark.parametrize("module", ["target_core_file", "nvmet"])
def test_targets_that_cannot_be_looked_at_are_a_doubt(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    (tmp_path / "sys" / "module" / module).mkdir(parents=True)
    (doubt,) = kernel_users(path, monkeypatch, tmp_path / "sys")
    assert doubt.startswith("? the kernel may serve it")


def test_a_target_whose_file_is_away_is_a_doubt(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = f"        TCM FILEIO ID: 0        File: {tmp_path}/away.raw  Size: 1  Mode: O_DSYNC\n"
    tree(tmp_path, {"sys/kernel/config/target/core/fileio_0/web01/info": info})
    (doubt,) = kernel_users(path, monkeypatch, tmp_path / "sys")
    assert "the SCSI target web01 uses" in doubt
    assert "cannot be looked at (No such file or directory)" in doubt


def test_a_loop_device_that_cannot_be_looked_at_is_a_doubt(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """losetup failing was taken for "no loop device uses it"."""
    tree(tmp_path, {"sys/block/loop0/loop/backing_file": f"{tmp_path}/away.raw (deleted)\n"})
    monkeypatch.setattr(user_calls, "DEV", str(tmp_path))
    (doubt,) = kernel_users(path, monkeypatch, tmp_path / "sys")
    assert "loop device /dev/loop0 uses" in doubt


def test_a_list_that_cannot_be_read_is_a_doubt(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_calls, "listed", lambda place: (_ for _ in ()).throw(PermissionError(13, "x", place)))
    found = kernel_users(path, monkeypatch, tmp_path / "sys")
    assert "? the host's loop devices cannot be looked at (Permission denied)" in found


def test_what_a_client_of_our_nfs_server_has_open(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat_result = path.stat()
    place = f"{os.major(stat_result.st_dev):02x}:{os.minor(stat_result.st_dev):02x}:{stat_result.st_ino}"
    states = f'- 0x00: {{ type: open, access: rw, deny: --, superblock: "{place}", filename: "disk.raw" }}\n'
    tree(
        tmp_path,
        {
            "proc/fs/nfsd/clients/3/states": states,
            "proc/fs/nfsd/clients/4/states": "",
            "proc/swaps": "Filename\n",
            "proc/self/mountinfo": "",
        },
    )
    found = kernel_users(path, monkeypatch, tmp_path / "sys", tmp_path / "proc")
    assert found == ["a client of this host's NFS server"]


# ------------------------------------------------------------ what could not be looked at


class Answering(LocalRunner):
    """A host whose helper answers what we say, but for the file's own locks and processes."""

    def __init__(self, change: dict[str, Any]) -> None:
        super().__init__("qemu:///system")
        self.change = change

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        answer = super().call(do, timeout_s=timeout_s, repeat=repeat, **words)
        if do != "users.look":
            return answer
        for one in answer["files"].values():
            one.update(self.change.get("file", {}))
        answer.update({key: value for key, value in self.change.items() if key != "file"})
        return answer


def test_a_doubt_counts_as_a_user(path: Path) -> None:
    host = Answering({"doubts": ["the host's loop devices cannot be looked at (Permission denied)"]})
    found = image_users.users_of(host, str(path))
    assert not found.any
    assert "loop devices cannot be looked at" in found.why
    assert image_users.writer(host, str(path)).startswith("somebody, as far as can be told (the host's loop devices")


def test_a_file_system_that_does_not_tell_of_locks(path: Path) -> None:
    host = Answering({"file": {"locks": {"errno": 37, "opened": True}}})
    assert image_users.in_use(host, str(path))
    assert "whether a QEMU has it open cannot be looked at" in image_users.users_of(host, str(path)).why
    assert image_users.writer(host, str(path)) == "a QEMU, here or on another host,"
    with pytest.raises(ImageUnreadable):
        image_users.in_use(Answering({"file": {"locks": {"errno": 13, "opened": False}}}), str(path))


# ------------------------------------------------------------ what only a part can be seen of


class Here(LocalRunner):
    """The helper's program in this process, so that a test can make the system refuse things to it."""

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        assert do == "users.look"
        return user_calls.look(**words)


HERE = Here("qemu:///system")


@pytest.fixture
def refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that libvirt has given to QEMU's user, mode 0600: another ordinary user may not open it."""
    really = os.open

    def open_(name: Any, *words: Any, **more: Any) -> int:
        if str(name) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(name, *words, **more)

    monkeypatch.setattr(os, "open", open_)
    return path


@contextlib.contextmanager
def lock(path: Path, *bytes_: int) -> Iterator[None]:
    """Shared locks of single bytes, as QEMU takes them: of the open file, not of the process."""
    with path.open("rb") as file:
        for one in bytes_:
            fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, one, 1, 0))  # F_OFD_SETLK
        yield


@pytest.mark.parametrize(("bytes_", "written"), [((100, 101, 203), True), ((100, 201), False), ((299,), False)])
def test_locks_of_an_image_that_we_may_not_open(refused: Path, bytes_: tuple[int, ...], written: bool) -> None:
    """An ordinary user's move took a VM that runs for nobody, and its image for one that can go."""
    with lock(refused, *bytes_):
        found = image_users.users_of(HERE, str(refused))
        assert found.locked
        assert not found.locks_unseen
        assert image_users.in_use(HERE, str(refused))
        assert bool(image_users.writer(HERE, str(refused))) is written
        assert proof._holders(HERE, str(refused), 0, sure=False)
    assert user_calls.LOCAL, "of a file system of this host alone, the kernel's table is all there is"
    found = image_users.users_of(HERE, str(refused))
    assert (found.locked, found.locks_unseen) == (False, False)
    assert proof._holders(HERE, str(refused), 0, sure=False) is None


def test_locks_that_are_not_qemu_s(refused: Path) -> None:
    with lock(refused, 0, 99, 300):
        assert not image_users.users_of(HERE, str(refused)).locked


def test_locks_on_other_hosts_are_not_in_the_kernel_s_table(refused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_calls, "LOCAL", frozenset())
    found = image_users.users_of(HERE, str(refused))
    assert found.locks_unseen
    assert "whether a QEMU has it open cannot be looked at" in str(proof._holders(HERE, str(refused), 0, sure=False))
    with pytest.raises(ImageUnreadable):
        image_users.in_use(HERE, str(refused))
    with lock(refused, 101):
        assert image_users.in_use(HERE, str(refused)), "but one that is in it is one"


def test_a_table_of_locks_that_changes_while_it_is_read(refused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives it page by page, and forgets a lock when one before it goes away between two pages."""
    count, really = iter(range(1000)), user_calls.read

    def read(name: str) -> bytes:
        return b"1: POSIX  ADVISORY  WRITE %d fe:00:1 0 0\n" % next(count) if name == "/proc/locks" else really(name)

    monkeypatch.setattr(user_calls, "read", read)
    assert image_users.users_of(HERE, str(refused)).locks_unseen


@pytest.mark.parametrize("opened", [False, True])
def test_locks_that_could_not_be_looked_at_keep_what_we_have_made(path: Path, tmp_path: Path, opened: bool) -> None:
    host = Answering({"file": {"locks": {"errno": 13, "opened": opened}}})
    assert "whether a QEMU has it open cannot be looked at" in str(proof._holders(host, str(path), 0, sure=False))
    site = PaperSite(tmp_path)
    site.runner = host
    context: Any = SimpleNamespace(runner=host, site=site, claims=proof.Claims)
    nothing: Any = None
    with (
        contextlib.closing(site),
        pytest.raises(StillInUse, match="whether a QEMU has it open cannot be looked at"),
    ):
        overlays_effects._no_longer_needed(context, Record(), nothing, str(path))


def a_process(proc: Path, path: Path) -> None:
    """One that has the file open for writing, and mapped, and descriptors that tell nothing, before and after it."""
    stat_result = path.stat()
    device = f"{os.major(stat_result.st_dev):02x}:{os.minor(stat_result.st_dev):02x}"
    tree(
        proc,
        {
            "42/fdinfo/5": "flags:\t0100002\nmnt_id:\t30\n",
            "42/maps": f"7f00-7f01 rw-s 00000000 {device} {stat_result.st_ino} {path}\n",
            "42/mountinfo": "31 1 0:999 / /run/user/1000/doc rw - fuse.portal portal rw\n",
        },
    )
    (proc / "42" / "fd").mkdir()
    (proc / "42" / "fd" / "5").symlink_to(path)
    for name in ("1", "2", "3", "7", "8", "9"):
        (proc / "42" / "fd" / name).symlink_to(name)  # ELOOP


@pytest.mark.parametrize("by", ["descriptor", "map"])
def test_one_descriptor_that_tells_nothing_hides_no_other(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Whatever stood behind it in the list was not seen, and the process counted as one that root may not look into."""
    proc = tmp_path / "proc"
    a_process(proc, path)
    if by == "descriptor":
        (proc / "42" / "maps").write_text("")
    else:
        (proc / "42" / "fd" / "5").unlink()
    used_file = user_calls.target(str(path), user_calls.mounts_here())
    monkeypatch.setattr(user_calls, "PROC", str(proc))
    assert user_calls.processes([used_file]) == ({str(path): {42: True}}, 1, 1)


def test_a_descriptor_of_another_file_system_is_no_doubt(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a user's FUSE, which refuses root: no desktop's host would ever prove anything."""
    proc = tmp_path / "proc"
    a_process(proc, path)
    for name in ("1", "2", "3", "7", "8", "9"):
        tree(proc, {f"42/fdinfo/{name}": "flags:\t0100000\nmnt_id:\t31\n"})
    used_file = user_calls.target(str(path), user_calls.mounts_here())
    monkeypatch.setattr(user_calls, "PROC", str(proc))
    assert user_calls.processes([used_file]) == ({str(path): {42: True}}, 0, 0)


@pytest.mark.parametrize("at", ["directory", "every descriptor"])
@pytest.mark.parametrize(("number", "partly"), [(errno.EACCES, 0), (errno.EIO, 1)])
def test_a_process_that_is_closed_to_us(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, number: int, partly: int
) -> None:
    proc = tmp_path / "proc"
    a_process(proc, path)
    used_file = user_calls.target(str(path), user_calls.mounts_here())
    really = {"listdir": os.listdir, "stat": os.stat, "read": user_calls.read}

    def refusing(name: str, *what: str) -> Any:
        def do(place: str) -> Any:
            if any(word in str(place) for word in what):
                raise OSError(number, os.strerror(number), place)
            return really[name](place)  # type: ignore[operator]

        return do

    monkeypatch.setattr(user_calls, "PROC", str(proc))
    monkeypatch.setattr(user_calls, "read", refusing("read", "/42/"))
    if at == "directory":
        monkeypatch.setattr(os, "listdir", refusing("listdir", "/42/fd"))
    else:
        monkeypatch.setattr(os, "stat", refusing("stat", "/42/fd/"))
    found = user_calls.processes([used_file])
    monkeypatch.undo()
    assert found == ({str(path): {}}, 1, partly)


def test_a_process_that_is_ending_is_looked_at_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows a part of itself for a moment, and stopped a release, or a template, for nothing."""
    proc = tmp_path / "proc"
    a_process(proc, path)
    for name in ("1", "2", "3", "7", "8", "9"):
        (proc / "42" / "fd" / name).unlink()
    used_file = user_calls.target(str(path), user_calls.mounts_here())
    really, looks = os.listdir, iter(range(100))

    def listing(place: str) -> Any:
        if str(place).endswith("/42/fd") and next(looks) < 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO), place)
        return really(place)

    monkeypatch.setattr(user_calls, "PROC", str(proc))
    monkeypatch.setattr(os, "listdir", listing)
    found = user_calls.processes([used_file])
    monkeypatch.undo()
    assert (found.unseen, found.partly) == (0, 0)


def test_a_process_of_which_a_part_was_seen_is_a_doubt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root too; a process that is closed to us as a whole is none (`unseen`)."""
    really = user_calls.processes

    def processes(targets: list[user_calls.UsedFile]) -> Any:
        return really(targets)._replace(unseen=1, partly=1)

    monkeypatch.setattr(user_calls, "processes", processes)
    assert "only in part" in image_users.users_of(HERE, str(path)).why
    assert "only in part" in image_users.writer(HERE, str(path))
    assert "only in part" in str(proof._holders(HERE, str(path), 0, sure=True))
    with pytest.raises(HostCommandFailed):
        image_users.writing_qemus(HERE, [str(path)])


# ------------------------------------------------------------ our reading of QEMU's locks agrees with QEMU's own


def qemu_may_have_it_alone(path: Path, *denied: str) -> bool:
    """QEMU opens it for reading, and denies these permissions to others (qemu-io's exit status says whether it may)."""
    options = f"driver=blkdebug,image.driver=file,image.filename={str(path).replace(',', ',,')},"
    options += ",".join(f"unshare-child-perms.{number}={one}" for number, one in enumerate(denied))
    argv = ["qemu-io", "-r", "--image-opts", "-c", "length", options]
    done = subprocess.run(argv, capture_output=True, text=True)
    return "lock" not in done.stderr


@pytest.mark.parametrize("writes", [True, False])
def test_qemu_and_we_read_the_locks_alike(path: Path, writes: bool) -> None:
    argv = ["qemu-io", *([] if writes else ["-r"]), "-f", "raw", str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")
        process.stdin.flush()
        assert "MiB" in process.stdout.readline()
        locks = user_calls.locks_on(str(path))
        assert locks == {"used": True, "written": writes}
        assert qemu_may_have_it_alone(path, "write", "resize") is not writes
        assert not qemu_may_have_it_alone(path, "consistent-read", "write")
        process.communicate("q\n")
    assert user_calls.locks_on(str(path)) == {"used": False, "written": False}
    assert qemu_may_have_it_alone(path, "consistent-read", "write")
