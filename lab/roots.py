"""Root file systems of other distributions for lab hosts: built once by mmdebstrap, kept in the cache.

A host that is given one runs that distribution's libvirtd, QEMU, python3 and sshd; nothing of this machine's own
programs is visible to it. The packages come from where this machine's apt gets its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.errors import LabError
from lab.process import run, tail
from lab.state import CACHE

RootName = Literal["debian13", "debian13-backports"]
ROOTS: tuple[RootName, ...] = ("debian13", "debian13-backports")

PLACE = CACHE / "roots"

_PACKAGES = (
    "iproute2",
    "libvirt-clients",
    "libvirt-daemon-system",
    "openssh-server",
    "python3",
    "python3-libnbd",
    "qemu-system-x86",
    "qemu-utils",
)

_LEFT_OUT = ("doc", "man", "info", "locale", "lintian")
"""Directories of /usr/share that no program needs."""

_UNUSED_DAYS = 14
"""A root of an older recipe that nobody has used for so long is removed when another is built."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a root is made of."""

    suite: str
    newer: tuple[str, ...] = ()
    """Source packages taken from the suite's backports."""

    @property
    def key(self) -> str:
        """Changes with everything that goes into the root."""
        return hashlib.sha256(repr((self, _PACKAGES, _LEFT_OUT)).encode()).hexdigest()[:12]


RECIPES: dict[RootName, Recipe] = {
    "debian13": Recipe("trixie"),
    "debian13-backports": Recipe("trixie", newer=("libvirt", "qemu", "seabios")),
}

Build = Callable[[Recipe, Path, int], None]
"""Makes the tree at a path that does not exist; the number is a descriptor that the programs it runs must inherit."""


def root(name: RootName, *, place: Path = PLACE, build: Build | None = None) -> Path:
    """The directory of the root file system; made now if it is not there, which takes one to four minutes.

    Nobody writes to it: hosts put an overlay above. Raises LabError with the end of mmdebstrap's output.
    """
    recipe = RECIPES[name]
    tree = place / f"{name}-{recipe.key}"
    if not tree.exists():
        with _lock(place / f".{name}.lock") as descriptor:
            if not tree.exists():
                half = tree.with_suffix(".new")
                _remove(half)  # of a builder that was killed
                try:
                    (build or _mmdebstrap)(recipe, half, descriptor)
                except BaseException:
                    _remove(half)
                    raise
                half.rename(tree)
                _remove_unused(place, name, tree)
    _used(tree).touch()
    return tree


def versions(tree: Path) -> dict[str, str]:
    """Versions of libvirt and QEMU in a root, as its package list has them."""
    found = {}
    for paragraph in (tree / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Package") in ("libvirt-daemon", "qemu-system-x86"):
            found[fields["Package"]] = fields["Version"]
    return found


def _mmdebstrap(recipe: Recipe, tree: Path, lock: int) -> None:
    """Build with Debian's own tool, in namespaces of its own: when we are killed it ends and nothing stays mounted.

    It inherits the lock, so that the next builder begins when the last process of the one before has ended.
    """
    if shutil.which("mmdebstrap") is None:
        raise LabError("mmdebstrap is not installed: apt-get install mmdebstrap")
    archive = _archive()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "apt.conf").write_text(_transport())
        words = ["--mode=root", "--variant=essential", "--format=directory"]
        words += [f"--aptopt={work / 'apt.conf'}", '--aptopt=APT::Install-Recommends "false"']
        words.append("--dpkgopt=force-unsafe-io")  # a tree that a power loss leaves half made has another name
        words += [f"--dpkgopt=path-exclude=/usr/share/{one}/*" for one in _LEFT_OUT]
        words.append(f"--include={','.join(_PACKAGES)}")
        lines = [f"deb {archive} {recipe.suite} main"]
        if recipe.newer:
            lines.append(f"deb {archive} {recipe.suite}-backports main")
            sources = " ".join(f"src:{source}" for source in recipe.newer)
            pin = f"Package: {sources}\nPin: release n={recipe.suite}-backports\nPin-Priority: 990\n"
            (work / "pin").write_text(pin)
            copy = f'mkdir -p "$1"/etc/apt/preferences.d && cp {work / "pin"} "$1"/etc/apt/preferences.d/lab'
            words.append(f"--setup-hook={copy}")
        log = work / "log"
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with log.open("w") as output:
            done = subprocess.run(
                [*apart, "mmdebstrap", *words, recipe.suite, tree, *lines],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=1800, check=False, pass_fds=(lock,),
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        if done.returncode != 0:
            raise LabError(f"mmdebstrap {recipe.suite}: exit status {done.returncode}\n{tail(log, 20)}")


def _archive() -> str:
    """Where this machine's apt gets Debian's packages."""
    listed = run(["apt-get", "indextargets", "--format", "$(CREATED_BY)\t$(REPO_URI)\t$(ORIGIN)\t$(LABEL)"]).stdout
    for line in listed.splitlines():
        made, uri, origin, label = line.split("\t")
        if (made, origin, label) == ("Packages", "Debian", "Debian"):
            return uri
    raise LabError("apt of this machine knows no archive of Debian (or has no lists yet: apt-get update)")


def _transport() -> str:
    """How this machine's apt reaches archives (proxies, checks of dates), as configuration of the new root's apt."""
    taken = ("http", "https", "Check-", "Retries", "ForceIPv")
    dumped = run(["apt-config", "dump", "Acquire"]).stdout.splitlines()
    lines = [line for line in dumped if line.startswith(tuple(f"Acquire::{one}" for one in taken))]
    return "\n".join([*lines, ""])


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[int]:
    """One builder of a root at a time, also across processes; yields the descriptor that holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _used(tree: Path) -> Path:
    return tree.with_suffix(".used")


def _remove_unused(place: Path, name: RootName, tree: Path) -> None:
    for marker in place.glob(f"{name}-????????????.used"):
        old = marker.with_suffix("")
        if old != tree and time.time() - marker.stat().st_mtime > _UNUSED_DAYS * 86400:
            _remove(old)
            marker.unlink()


def _remove(tree: Path) -> None:
    """Remove a tree. Raises LabError when something is mounted below it: that would be removed, too."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point.is_relative_to(tree):
            raise LabError(f"{tree} is not removed: {point} is mounted")
    if tree.exists():
        shutil.rmtree(tree)
