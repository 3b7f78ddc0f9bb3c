"""What is there at one moment: every file of the stores, every VM's XML and state, every pool. Pure data to compare."""

from __future__ import annotations

import os
import stat
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from zoo.files import digest


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. `content`: a file's digest, a link's target. `attributes`: ACL and others, without libvirt's notes."""

    kind: str  # file, dir, link, other
    mode: int
    uid: int
    gid: int
    size: int
    content: str
    mtime_ns: int
    attributes: tuple[tuple[str, str], ...] = ()

    def as_seen(self) -> tuple[object, ...]:
        """All but the time."""
        size = 0 if self.kind == "dir" else self.size
        return self.kind, self.mode, self.uid, self.gid, size, self.content, self.attributes

    @property
    def right(self) -> tuple[object, ...]:
        return oct(self.mode), self.uid, self.gid, self.attributes


@dataclass(frozen=True, slots=True)
class PoolFacts:
    name: str
    path: str
    active: bool
    autostart: bool


@dataclass(slots=True)
class VmFacts:
    """`live` is None when the VM is off. `snapshots`: metadata by name."""

    name: str
    state: str
    inactive: str
    live: str | None
    snapshots: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Facts:
    tree: dict[str, Entry]
    vms: dict[str, VmFacts]
    pools: dict[str, PoolFacts]


def tree(roots: list[Path]) -> dict[str, Entry]:
    """Every file below the roots, by its path."""
    found: dict[str, Entry] = {}
    for root in roots:
        for path in _walk(root):
            found[str(path)] = entry(path)
    return found


def _walk(directory: Path) -> Iterator[Path]:
    for dir_entry in sorted(os.scandir(directory), key=lambda item: item.name):
        if dir_entry.name == "lost+found":
            continue
        yield Path(dir_entry.path)
        if dir_entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(dir_entry.path))


def entry(path: Path) -> Entry:
    status = path.lstat()
    mode = status.st_mode
    kind, content = "other", ""
    if stat.S_ISLNK(mode):
        kind, content = "link", os.readlink(path)
    elif stat.S_ISDIR(mode):
        kind = "dir"
    elif stat.S_ISREG(mode):
        kind, content = "file", digest(path)
    return Entry(
        kind, stat.S_IMODE(mode), status.st_uid, status.st_gid, status.st_size, content, status.st_mtime_ns,
        () if kind == "link" else _attributes(path),
    )  # fmt: skip


def _attributes(path: Path) -> tuple[tuple[str, str], ...]:
    names = [name for name in os.listxattr(path) if not name.startswith("trusted.libvirt.")]
    return tuple((name, os.getxattr(path, name).hex()) for name in sorted(names))


def resolve(tree: dict[str, Entry], path: str) -> tuple[str, set[str]]:
    """Where a path leads by the links of the tree, and the links on its way."""
    links: set[str] = set()
    again = True
    while again and len(links) < 20:
        again = False
        parts = path.split("/")
        for number in range(2, len(parts) + 1):
            prefix = "/".join(parts[:number])
            entry = tree.get(prefix)
            if entry is not None and entry.kind == "link" and prefix not in links:
                links.add(prefix)
                path = os.path.normpath(os.path.join(os.path.dirname(prefix), entry.content, *parts[number:]))
                again = True
                break
    return path, links


# -- what an XML names ------------------------------------------------------------------------------------------------

_NOT_OURS = ("emulator",)


def named_paths(xml: str, pools: dict[str, PoolFacts]) -> set[str]:
    """Every absolute path anywhere in the XML, and every volume as a path."""
    found: set[str] = set()
    for element in ElementTree.fromstring(xml).iter():
        if element.tag in _NOT_OURS:
            continue
        for text in (*element.attrib.values(), element.text or ""):
            if text.startswith("/"):
                found.add(text.strip())
        volume = volume_path(element, pools)
        if volume:
            found.add(volume)
    return found


def volume_path(source: ElementTree.Element, pools: dict[str, PoolFacts]) -> str | None:
    """The path of <source pool='' volume=''>."""
    pool, volume = source.get("pool"), source.get("volume")
    if pool is None or volume is None or pool not in pools:
        return None
    return f"{pools[pool].path}/{volume}"


def disk_paths(xml: str, pools: dict[str, PoolFacts]) -> dict[str, tuple[str, str]]:
    """(path, format) of each disk that has a source, by its target."""
    found = {}
    for disk in ElementTree.fromstring(xml).iterfind("devices/disk"):
        target, source, driver = disk.find("target"), disk.find("source"), disk.find("driver")
        if target is None or source is None:
            continue
        path = source.get("file") or source.get("dev") or volume_path(source, pools)
        if path:
            found[target.attrib["dev"]] = (path, "" if driver is None else driver.get("type", "raw"))
    return found
