"""What a lab writes down so that another process can find it, talk to it and remove it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.datastores import DatastoreSpec
from lab.guestspec import DiskSpec, GuestSpec
from lab.process import ProcessId

ROOT = Path(os.environ.get("BLOCKFERRY_LAB_ROOT", "/var/tmp/blockferry-lab"))
"""Every lab is one directory below this one."""

CACHE = Path(os.environ.get("BLOCKFERRY_LAB_CACHE", "/var/cache/blockferry-lab"))
"""Kernel, initramfs and helper programs; the only thing that outlives a lab."""

FILE = "state.json"


@dataclass(slots=True)
class State:
    """The contents of state.json."""

    name: str
    owner: ProcessId | None
    """Whose lab it is: when that process is gone, `gc` removes the lab. None: started by hand, kept until `down`."""
    datastores: list[DatastoreSpec] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    guests: dict[str, GuestSpec] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        fresh = directory / (FILE + ".new")
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.replace(directory / FILE)

    @classmethod
    def load(cls, directory: Path) -> State:
        raw: dict[str, Any] = json.loads((directory / FILE).read_text())
        owner = raw["owner"]
        guests = {}
        for name, spec in raw["guests"].items():
            disks = tuple(DiskSpec(**disk) for disk in spec.pop("disks"))
            guests[name] = GuestSpec(**spec, disks=disks)
        return cls(
            name=raw["name"],
            owner=ProcessId(**owner) if owner else None,
            datastores=[DatastoreSpec(**spec) for spec in raw["datastores"]],
            hosts=raw["hosts"],
            guests=guests,
        )
