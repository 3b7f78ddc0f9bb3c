"""A VM on this host that blockferry may have suspended: whether it is suspended, and resuming it.

By virsh: exit statuses, and the numbers in which it tells a domain's state. Where libvirt has lost the VM, by QEMU's
own monitor.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable

from blockferry.hosts.helper.program import monitor_calls

ASK_S = 5.0
"""A libvirtd that does not answer a query within this time is asked again."""

RESUME_S = 30.0
"""A resume is not repeated so soon: libvirtd may still carry out the one it has."""

SUSPENDED = (3, 1)
"""State and reason: VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_USER (libvirt-domain.h)."""

OFF = (5, 6)
"""VIR_DOMAIN_SHUTOFF, VIR_DOMAIN_CRASHED."""


class SuspendedVm:
    """One VM, by its UUID, of the libvirt behind a URI of this host."""

    def __init__(self, uri: str, uuid: str) -> None:
        self.uri = uri
        self.uuid = uuid

    def virsh(self, *words: str, seconds: float = ASK_S) -> str | None:
        """Return what virsh prints; None when it fails or does not end in time."""
        environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": ""}
        try:
            done = subprocess.run(
                ["virsh", "-q", "-c", self.uri, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                timeout=seconds,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None

    def problem(self) -> str:
        """Return why libvirt cannot be asked here, a clause; "" when it can."""
        if shutil.which("virsh") is None:
            return "virsh is not installed on the host"
        if self.virsh("uri", seconds=RESUME_S) is None:
            return f"virsh cannot connect to {self.uri} on the host"
        return ""

    def state(self) -> tuple[int, int] | None:
        """Return state and reason as libvirt numbers them; None when they cannot be told."""
        said = self.virsh("domstats", "--state", self.uuid) or ""
        found = {name: int(number) for name, number in re.findall(r"state\.(state|reason)=([0-9]+)", said)}
        return (found["state"], found["reason"]) if len(found) == 2 else None

    def let_run(self, before: Callable[[], None]) -> bool | None:
        """Resume the VM if a user of libvirt has suspended it. Whether that was done; None when it cannot be told.

        `before`: called when it is about to be resumed.
        """
        state = self.state()
        if state == SUSPENDED:
            before()
            return None if self.virsh("resume", self.uuid, seconds=RESUME_S) is None else True
        if state is None:
            known = self.virsh("list", "--all", "--uuid")
            if known is None or self.uuid in known.split():
                return None
        elif state[0] not in OFF:
            return False
        return self.let_run_lost()

    def let_run_lost(self) -> bool | None:
        """The same of a VM that libvirt does not know, or takes for off: its QEMU may live."""
        for name in os.listdir("/proc"):
            if name.isdigit() and self.is_its_qemu(name):
                said = monitor_calls.ask(int(name), self.uuid, "cont")
                return None if "problem" in said else bool(said["did"])
        return False

    def is_its_qemu(self, pid: str) -> bool:
        try:
            return self.uuid in monitor_calls.values(monitor_calls.arguments(pid), "-uuid")
        except monitor_calls.NotReached:
            return False
