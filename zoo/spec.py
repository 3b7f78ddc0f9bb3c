"""A host of the zoo as frozen data: what there is, and what is done. Saved as JSON, replayed and shrunk as it is.

A place is `store/relative path`, like `a/pool/web01/vda.qcow2`; the stores are directories of the lab (zoo/site.py).
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1


@dataclass(frozen=True, slots=True)
class File:
    """A file, a directory or a link. `kind` is a key of zoo.files.MAKERS. `number` decides the content."""

    place: str
    kind: str
    number: int = 0
    size_kib: int = 64
    backing: str = ""  # place of the image below
    backing_as: str = "absolute"  # or relative
    bitmap: str = ""  # a persistent bitmap in the qcow2, as a backup program makes it
    target: str = ""  # where a link points: a place
    owner: str = ""  # "1000:100"; "qemu": QEMU's user; "": as it is made
    mode: int = 0  # 0: as it is made


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    place: str
    kind: str = "dir"  # fs: libvirt mounts the device of the store
    active: bool = True


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, CD drive or floppy drive. `form`: file, volume (of `pool`), block (a loop device over it), empty."""

    target: str
    bus: str
    place: str = ""
    device: str = "disk"
    form: str = "file"
    format: str = "qcow2"
    pool: str = ""
    options: tuple[str, ...] = ()  # keys of zoo.domains.OPTIONS
    only: str = ""  # "persistent": not in the running VM


@dataclass(frozen=True, slots=True)
class Snapshot:
    name: str
    kind: str  # internal, external


@dataclass(frozen=True, slots=True)
class Named:
    """A file or directory that the XML names elsewhere than in a disk. `role` is a key of zoo.domains.ROLES."""

    role: str
    place: str


@dataclass(frozen=True, slots=True)
class Vm:
    name: str
    state: str = "off"  # off, running, paused
    disks: tuple[Disk, ...] = ()
    named: tuple[Named, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    home: str = ""  # the place of its directory, if it has one
    tpm: str = ""  # emulator, external


@dataclass(frozen=True, slots=True)
class Edit:
    """What somebody does while our process stands still at the named point.

    `what`: append (to the file `place`), rewrite (the file), guest-write (disk `target`), suspend, change-cd (drive
    `target`, to the file `place`), kill-libvirtd (and start it again).
    """

    point: str
    what: str
    place: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    vm: str
    to: str = ""  # pool
    disks: tuple[tuple[str, str], ...] = ()  # (target, pool)
    method: str = "auto"
    words: tuple[str, ...] = ()  # further words of the command
    edits: tuple[Edit, ...] = ()
    cancel_at: str = ""  # the point at which it is cancelled
    back: str = ""  # the pool that the VM is moved to afterwards


@dataclass(frozen=True, slots=True)
class Host:
    pools: tuple[Pool, ...]
    files: tuple[File, ...]
    vms: tuple[Vm, ...]
    move: Move
    profile: str = "default"  # as whom QEMU runs: lab/qemuuser.py
    expect: str = ""  # of a host kept as a test: how the move must end ("moved", "refused"); "": as it likes
    why: str = ""  # of a host kept as a test: what it once showed

    def vm(self, name: str) -> Vm:
        return next(vm for vm in self.vms if vm.name == name)

    @property
    def mover(self) -> Vm:
        return self.vm(self.move.vm)

    def file(self, place: str) -> File:
        return next(file for file in self.files if file.place == place)


def to_json(host: Host) -> str:
    """The host as JSON. Fields that have their default are left out."""
    return json.dumps({"version": VERSION, **_plain(host)}, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> Host:
    """Raises ValueError when it is no host of the zoo."""
    data = json.loads(text)
    if data.pop("version", None) != VERSION:
        raise ValueError("this is no host of the zoo, or one of another version")
    loaded = _load(Host, data)
    assert isinstance(loaded, Host)
    return loaded


def load(path: Path) -> Host:
    return from_json(path.read_text())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.default is dataclasses.MISSING or getattr(value, field.name) != field.default
        }
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _load(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or not value.keys() <= hints.keys():
            raise ValueError(f"{value!r} is no {getattr(kind, '__name__', kind)}")
        return typing.cast(type, kind)(**{name: _load(hints[name], one) for name, one in value.items()})
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if inner[-1] is Ellipsis or isinstance(inner[-1], types.EllipsisType):
            return tuple(_load(inner[0], one) for one in value)
        return tuple(_load(one, item) for one, item in zip(inner, value, strict=True))
    return value
