"""A VM on this host that blockferry may have suspended: whether it is suspended, and resuming it.

By virsh, with LC_ALL=C: exit statuses, and virsh's own fixed words for a domain's state. Where libvirt has lost the VM,
by QEMU's own monitor.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from blockferry.hosts.helper.program import monitor_calls

ASK_S = 5.0
"""A libvirtd that does not answer a query within this time is asked again."""

RESUME_S = 30.0
"""A resume is not repeated so soon: libvirtd may still carry out the one it has."""

SUSPENDED = "paused (user)"
OFF = ("shut off", "crashed")


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

    def let_run(self) -> bool | None:
        """Resume the VM if a user of libvirt has suspended it. Whether that was done; None when it cannot be told."""
        state = self.virsh("domstate", self.uuid, "--reason")
        if state == SUSPENDED:
            return None if self.virsh("resume", self.uuid, seconds=RESUME_S) is None else True
        if state is None:
            known = self.virsh("list", "--all", "--uuid")
            if known is None or self.uuid in known.split():
                return None
        elif not state.startswith(OFF):
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
