"""How the XML of a VM uses a file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileUse:
    """One place of one of the VM's XMLs that names a file.

    `live`: the XML of the running VM. `fixed`: why the place cannot be given another path, a clause; "": it can be.
    """

    what: str  # for people: "the medium of sda", "the kernel"
    live: bool = False
    fixed: str = ""
