"""As whom a host runs QEMU, and who owns the images: the profiles of qemu.conf.

`default` is what Debian ships: QEMU is libvirt-qemu, and libvirt gives it each file of a VM that starts and gives the
file back when the VM is off (dynamic_ownership, remember_owner). `fixed` is the same user, but libvirt changes no
owner: who makes a file has to. `root` is a QEMU that may open everything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.errors import LabError

Profile = Literal["default", "fixed", "root"]
PROFILES: tuple[Profile, ...] = ("default", "fixed", "root")

USER, GROUP = "libvirt-qemu", "libvirt-qemu"
"""Debian's."""

_COMMON = """\
security_driver = "none"
security_default_confined = 0
cgroup_controllers = []
namespaces = []
"""
# security_driver concerns SELinux and AppArmor only; the DAC driver, which is about owners, is always there.

_SETTINGS: dict[Profile, str] = {
    "default": "",
    "fixed": "dynamic_ownership = 0\n",
    "root": 'user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\n',
}


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and a group by their numbers."""

    uid: int
    gid: int

    def own(self, *paths: Path) -> None:
        """Give them these files and directories."""
        for path in paths:
            os.chown(path, self.uid, self.gid)


def qemu_conf(profile: Profile) -> str:
    """The whole of qemu.conf."""
    return _SETTINGS[profile] + _COMMON


def qemu_owner(profile: Profile, tree: Path = Path("/")) -> Owner:
    """Whom QEMU runs as on a host with this root file system. Raises LabError when it has no such user."""
    if profile == "root":
        return Owner(0, 0)
    user, group = _entry(tree / "etc/passwd", USER), _entry(tree / "etc/group", GROUP)
    return Owner(int(user[2]), int(group[2]))


def _entry(file: Path, name: str) -> list[str]:
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split(":")
    raise LabError(f"{file} has no {name}; apt-get install libvirt-daemon-system makes it")
