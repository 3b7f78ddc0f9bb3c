"""Making libvirt lose a VM that runs, as it may happen when libvirtd is killed while it concludes a block job.

libvirtd 9.0.0 writes its status file with `<mirror ... job=''>` then, for 5 to 20 ms, and cannot read that at its
restart. `Window` catches the real thing; `lose` makes the same for certain, from what the file holds in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.hosts import Host

IN_WINDOW = " job=''"

_TALK = """
import json, socket, sys
link = socket.socket(socket.AF_UNIX)
link.settimeout(20)
link.connect(sys.argv[1])
file = link.makefile("rw")
file.readline()
for command in ({"execute": "qmp_capabilities"}, json.loads(sys.argv[2])):
    file.write(json.dumps(command) + "\\n")
    file.flush()
    while True:
        said = json.loads(file.readline())
        if "return" in said or "error" in said:
            break
print(json.dumps(said))
"""


def status_file(host: Host, vm: str) -> Path:
    return host.directory / "run/libvirt/qemu" / f"{vm}.xml"


def config_file(host: Host, vm: str) -> Path:
    return host.directory / "etc-libvirt/qemu" / f"{vm}.xml"


class Window:
    """Freezes libvirtd in the instant in which its status file says that a job of the VM is being concluded.

    Use as a context around what concludes the job; `wait` says whether it was caught. Then kill libvirtd. To make the
    instant longer (libvirtd asks QEMU several things in it) QEMU is slowed, and who looks is first at any processor.
    """

    def __init__(self, host: Host, vm: str) -> None:
        daemon = host.daemon("libvirtd")
        if daemon is None:
            raise LabError("libvirtd does not run")
        self._pid = daemon.pid
        self._qemu = host.qemu_pid(vm)
        self._file = status_file(host, vm)
        self._caught = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Window:
        self._slow(19)
        self._thread.start()
        return self

    def _slow(self, nice: int) -> None:
        for task in Path(f"/proc/{self._qemu}/task").glob("*"):
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, int(task.name), nice)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._slow(0)

    def wait(self, seconds: float) -> bool:
        return self._caught.wait(seconds)

    def _look(self) -> None:
        with contextlib.suppress(PermissionError):  # a machine that gives no real time: the window is met less often
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # of this thread alone
        while not self._over.wait(0.0003):
            with contextlib.suppress(OSError):
                if IN_WINDOW in self._file.read_text():
                    os.kill(self._pid, signal.SIGSTOP)
                    # It may have been over before it stood still.
                    if IN_WINDOW in self._file.read_text():
                        self._caught.set()
                        return
                    os.kill(self._pid, signal.SIGCONT)


def lose(host: Host, vm: str, target: str, config: str | None = None) -> None:
    """kill -9 libvirtd, and start it again on a status file as in the window of a job on `target`.

    `config`: the text of the VM's persistent configuration as it was before the job was concluded.
    """
    host.kill_libvirtd()
    path = status_file(host, vm)
    # Right behind the source's end: libvirtd gives up at the attribute, so no more of the element counts.
    pattern = rf"(<target dev='{re.escape(target)}')"
    changed, times = re.subn(pattern, rf"<mirror type='file'{IN_WINDOW}></mirror>\1", path.read_text(), count=1)
    if not times:
        raise LabError(f"the status file of {vm} has no disk {target}")
    path.write_text(changed)
    if config is not None:
        config_file(host, vm).write_text(config)
    host.start_libvirtd()


def monitor(host: Host, vm: str, command: str, **arguments: Any) -> Any:
    """What the QEMU of a lost VM answers on its own monitor; LabError when it cannot be reached or refuses."""
    paths = sorted((host.directory / "lib/qemu").glob(f"domain-*-{vm}/monitor.sock"))
    if not paths:
        raise LabError(f"the QEMU of {vm} has no monitor any more")
    inside = f"/var/lib/libvirt/qemu/{paths[-1].parent.name}/monitor.sock"
    text = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    said = json.loads(host.run(["python3", "-c", _TALK, inside, text]).stdout)
    if "return" not in said:
        raise LabError(f"{command}: {said}")
    return said["return"]


def qemu_status(host: Host, vm: str) -> str:
    """Return "running", "paused", ... as QEMU itself says it."""
    return str(monitor(host, vm, "query-status")["status"])


def written_images(host: Host, vm: str) -> list[str]:
    """The image that each disk of a lost VM writes to, in QEMU's order of devices."""
    return [str(one["inserted"]["file"]) for one in monitor(host, vm, "query-block") if "inserted" in one]


def write_through(host: Host, vm: str, disk: int, pattern: int) -> None:
    """Have a lost VM's QEMU write to its n-th disk as its guest would: 64 KiB of the byte `pattern` at 1 MiB."""
    device = monitor(host, vm, "query-block")[disk]["qdev"]
    line = f'qemu-io -d {device} "write -P {pattern} 1M 64k"'
    said = monitor(host, vm, "human-monitor-command", **{"command-line": line})
    if said.strip():  # what went well is in QEMU's log
        raise LabError(f"{line}: {said}")
