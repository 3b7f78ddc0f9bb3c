"""Clones: a second file that shares the blocks of the first, made by the file system (ioctl FICLONE, by cp --reflink).

XFS, btrfs, bcachefs, NFS 4.2 and others can; whether a certain pair of directories can is known only by trying: it
takes one file system (of two mounts of it, too, since Linux 5.18) that was made with the feature. What is
cloned is the file at one instant: the kernel writes out what is in the page cache and lets nobody write meanwhile
(ioctl_ficlonerange(2); `generic_remap_file_range_prep` in fs/remap_range.c).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from blockferry.base.errors import CloneFailed, FileExists
from blockferry.hosts.helper import files
from blockferry.hosts.helper.files import absolute
from blockferry.hosts.runner import Runner

# The files have lost their names before anything is done with them, so that nothing can be left behind. cp opens them
# by /proc; 64 KiB, because btrfs keeps the smallest files in its tables, where it clones by other rules.
_TRY = """\
set -e
[ "$(stat -f -c %T -- "$1")" = "$(stat -f -c %T -- "$2")" ] || { echo "Invalid cross-device link" >&2; exit 1; }
one=$(mktemp -- "$1/.blockferry-trial.XXXXXXXXXX"); exec 3<>"$one"; rm -f -- "$one"
two=$(mktemp -- "$2/.blockferry-trial.XXXXXXXXXX"); exec 4<>"$two"; rm -f -- "$two"
head -c 65536 /dev/zero >&3
cp --reflink=always -- /proc/self/fd/3 /proc/self/fd/4
"""

_WORDS = (
    ("Operation not supported", "their file system does not share blocks"),
    ("Invalid cross-device link", "they are on two file systems"),
    ("No space left on device", "the file system is full"),
    ("Disk quota exceeded", "a quota of the file system is used up"),
    ("Input/output error", "the storage reports an I/O error"),
    ("Read-only file system", "the file system is read-only"),
)


def problem(runner: Runner, source_directory: str, dest_directory: str) -> str | None:
    """Why files of one directory cannot be cloned into the other, by trying with a small one; None when they can.

    Both must exist. Nothing is left behind. Raises HostUnreachable.
    """
    absolute(source_directory, dest_directory)
    argv = ["sh", "-c", _TRY, "sh", source_directory, dest_directory]
    result = runner.run(argv, check=False, timeout_s=60)
    if result.status == 0:
        return None
    return f"{source_directory} and {dest_directory}: {_plain(result.stderr)}"


def clone(runner: Runner, source: str, dest: str, made: Callable[[str], None] = lambda _: None) -> None:
    """Clone a file; on disk after, of mode 0600. It appears at `dest` whole or not at all.

    `made` is told where it is before it appears there: the same file, by another name.

    The file as it is at one instant: that nobody has half a write in it is for the caller to know.
    Raises CloneFailed, FileExists, HostCommandFailed.
    """
    absolute(source, dest)
    temporary = files.temporary_path(dest)
    files.flush(runner, source)
    files.remove_file(runner, temporary)
    files.claim(runner, temporary)
    try:
        _like(runner, source, temporary)
        # cp by itself and no script around it: what is to end with us is the one process that we have started
        argv = ["cp", "--reflink=always", "--no-target-directory", "--", source, temporary]
        result = runner.run(argv, check=False)
        if result.status != 0:
            raise CloneFailed(source, dest, _plain(result.stderr))
        files.flush(runner, temporary)
        made(temporary)
        if not files.appear(runner, temporary, dest):
            raise FileExists(dest)
    except BaseException:
        files.remove_file(runner, temporary)
        raise


def _like(runner: Runner, source: str, dest: str) -> None:
    """btrfs: a file without checksums (chattr +C, as libvirt's pools make them) is cloned only to one like it."""
    if files.filesystem_type(runner, posixpath.dirname(dest)) != "btrfs":
        return
    flags = runner.run(["lsattr", "-d", "--", source], check=False).text.split(" ", 1)[0]
    if "C" in flags:
        runner.run(["chattr", "+C", "--", dest])
    else:
        runner.run(["chattr", "-C", "--", dest], check=False)  # it may have it from its directory


def _plain(words: str) -> str:
    return next((plain for word, plain in _WORDS if word in words), words.strip() or "cp said nothing")
