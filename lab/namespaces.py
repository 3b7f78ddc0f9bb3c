"""The namespaces of one host: making them, running commands inside them, ending them.

A host's pid 1 (native/reaper.c) carries the lab's directory in its command line, so that the sweep finds it even
when the process that made it died before it could write anything down.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

from lab.errors import LabError
from lab.process import LAB_VARIABLE, ProcessId, failed, kill_and_wait, tail

_ENTER = ("--net", "--mount", "--uts", "--pid")


_OWN = {
    "run": "/run",
    "etc-libvirt": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
"""Directories of a host's own, and where they stand on it."""

_STARTUP_FILES = ("/root/.bashrc", "/root/.bash_profile", "/root/.bash_login", "/root/.profile", "/etc/bash.bashrc")
"""What bash reads in a session of sshd. This machine's may do much: pyenv's takes a lock in /root, which a host that
loses its power leaves behind, and for which every later session waits a minute."""


def setup_script(
    name: str, directory: Path, reaper: Path, lab: Path, *, tree: Path | None = None, ssh: Path | None = None
) -> str:
    """The shell script that turns fresh namespaces into the host: own state directories, own name, own loopback.

    tree: another root file system (lab/roots.py) in place of this machine's. ssh: what stands at /root/.ssh.
    """
    root = "" if tree is None else "/mnt/root"
    lines = ["set -e"]
    if tree is not None:
        lines += _lay_root(root, tree, (lab, reaper.parent))
    for source, target in _OWN.items():
        lines.append(f"mkdir -p {root}{target}; mount --bind {shlex.quote(str(directory / source))} {root}{target}")
    if ssh is not None:
        lines.append(f"mkdir -p -m 700 {root}/root/.ssh; mount --bind {shlex.quote(str(ssh))} {root}/root/.ssh")
    if tree is None:
        empty = shlex.quote(str(directory / "empty"))
        lines.append(f": > {empty}")
        lines += [f"[ ! -e {file} ] || mount --bind {empty} {file}" for file in _STARTUP_FILES]
    # A sysfs of the new network namespace; it also hides the machine's cgroups, which a lab must not touch.
    lines += [
        f"mount -t sysfs sysfs {root}/sys",
        # As systemd does it: the way to end a FUSE file system that does not answer.
        f"mount -t fusectl fusectl {root}/sys/fs/fuse/connections",
        f"mount --bind {shlex.quote(str(directory / 'etc-hosts'))} {root}/etc/hosts",
        *_hide_kvm(directory, root),
        *([] if tree is None else _enter_root(root)),
        f"hostname {shlex.quote(name)}",
        "ip link set lo up",
        "cd /",
        f"touch {shlex.quote(str(directory / 'up'))}",
        f"exec {shlex.quote(str(reaper))} {shlex.quote(str(lab))} {shlex.quote(name)}",
    ]
    return "\n".join(lines) + "\n"


def _lay_root(root: str, tree: Path, shown: Sequence[Path]) -> list[str]:
    """Lay an overlay over another root's tree, with a /proc of its own, and show it some of our directories.

    What is written to it is in memory and gone with the host's power; its state directories are not of it.
    """
    lines = [
        "mount -t tmpfs tmpfs /mnt",
        "mkdir /mnt/upper /mnt/work /mnt/root",
        f"mount -t overlay overlay -o lowerdir={shlex.quote(str(tree))},upperdir=/mnt/upper,workdir=/mnt/work {root}",
        f"mkdir -p {root}/proc {root}/sys {root}/dev {root}/tmp",
        f"touch {root}/etc/hosts",
        f"mount -t proc proc {root}/proc",
    ]
    for directory in map(str, shown):
        target = shlex.quote(f"{root}{directory}")
        # Slaves of the outside, so that a datastore that is mounted later appears here, too.
        lines += [f"mkdir -p {target}", f"mount --rbind {shlex.quote(directory)} {target}"]
    return lines


def _enter_root(root: str) -> list[str]:
    """Make that tree the root of the mount namespace (not a chroot: whoever enters the namespace is in it)."""
    return [f"cd {root}", "mkdir -p .outside", "pivot_root . .outside", "cd /", "umount -l /.outside"]


def _hide_kvm(directory: Path, root: str) -> list[str]:
    """Give the host this machine's /dev without /dev/kvm; with it where that cannot be done.

    Where QEMU's user cannot open /dev/kvm, or KVM is broken, libvirt 9.0 asks QEMU for its capabilities anew at every
    define, which takes seconds. Guests of the lab run under TCG.
    """
    upper, work = shlex.quote(str(directory / "dev")), shlex.quote(str(directory / "dev-work"))
    return [
        f"mkdir -p {upper} {work} {root}/run/dev",
        f"[ -e {upper}/kvm ] || mknod {upper}/kvm c 0 0 || true",  # a whiteout
        f"mount --rbind /dev {root}/run/dev",
        f"mount -t overlay overlay -o lowerdir={root}/run/dev,upperdir={upper},workdir={work} {root}/dev || "
        f"[ -z '{root}' ] || mount --rbind /dev {root}/dev",
        f"for one in pts shm mqueue; do [ ! -d {root}/run/dev/$one ] || "
        f"mount --rbind {root}/run/dev/$one {root}/dev/$one || true; done",
    ]


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces held by one pid 1, seen from outside."""

    init: ProcessId

    @classmethod
    def create(
        cls,
        name: str,
        directory: Path,
        reaper: Path,
        lab: Path,
        *,
        tree: Path | None = None,
        ssh: Path | None = None,
    ) -> Namespaces:
        """Make the namespaces and wait for their pid 1; nothing is left behind when that fails. See setup_script."""
        script = directory / "setup.sh"
        script.write_text(setup_script(name, directory, reaper, lab, tree=tree, ssh=ssh))
        up = directory / "up"
        up.unlink(missing_ok=True)
        log = directory / "setup.log"
        with log.open("w") as output:
            outer = subprocess.Popen(
                ["unshare", *_ENTER, "--fork", "--mount-proc", "--propagation", "slave", "sh", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, LAB_VARIABLE: str(lab)},
            )
        deadline = time.monotonic() + 30
        while not (up.exists() and (init := reaper_below(outer.pid, reaper))):
            if outer.poll() is not None or time.monotonic() > deadline:
                outer.kill()
                raise LabError(f"the namespaces of host {name} did not come up\n{tail(log)}")
            time.sleep(0.005)
        _WAITING[init.pid] = outer
        return cls(init)

    def alive(self) -> bool:
        return self.init.alive()

    def end(self) -> None:
        """Kill pid 1; returns when the kernel has ended every process in the namespaces."""
        for entered in _ENTERED.pop(self.init.pid, ()):
            if entered.poll() is None:  # an nsenter that stands still reaps nobody, and pid 1 waits for its child
                os.kill(entered.pid, signal.SIGCONT)
        kill_and_wait(self.init)
        outer = _WAITING.pop(self.init.pid, None)
        if outer is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                outer.wait(timeout=10)

    def command(self, argv: Sequence[str | os.PathLike[str]], cwd: Path | None) -> list[str]:
        """`argv` as to be run from outside so that it runs inside."""
        where = f"--wdns={cwd}" if cwd else "--wdns=/"
        return ["nsenter", f"--target={self.init.pid}", *_ENTER, where, "--", *(os.fspath(word) for word in argv)]

    def popen(self, argv: Sequence[str | os.PathLike[str]], *, cwd: Path | None = None, **options: Any) -> HostProcess:
        options.setdefault("text", True)
        process = HostProcess(self.command(argv, cwd), **options)
        _ENTERED.setdefault(self.init.pid, WeakSet()).add(process)
        return process

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        words = [os.fspath(word) for word in argv]
        process = self.popen(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except BaseException as why:
            process.kill()
            process.wait(timeout=20)
            if isinstance(why, subprocess.TimeoutExpired):
                said = "".join(part.decode(errors="replace") for part in (why.stdout, why.stderr) if part)
                raise LabError(f"{' '.join(words)}: no end after {timeout:g} s\n{said[-4000:]}".rstrip()) from why
            raise
        done = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
        if check and done.returncode != 0:
            raise failed(words, done.returncode, stdout, stderr)
        return done


class HostProcess(subprocess.Popen[str]):
    """A process inside a host. Signals reach the process itself, not the `nsenter` that stands in front of it."""

    def inner_pid(self) -> int | None:
        """Pid (seen from outside) of the process inside; None when it has ended or not yet begun."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def _wait_for_nsenter(self, inner: int) -> None:
        """Until nsenter has stopped itself, as it does a little after its child has stopped.

        On a busy machine it may do so after our SIGCONT, and would stand still for ever.
        """
        deadline = time.monotonic() + 20
        while _stands_still(inner) and not _stands_still(self.pid) and time.monotonic() < deadline:
            time.sleep(0.002)

    def send_signal(self, sig: int) -> None:
        deadline = time.monotonic() + 2
        while self.poll() is None:
            inner = self.inner_pid()
            if inner is not None:
                if sig == signal.SIGCONT:
                    self._wait_for_nsenter(inner)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(inner, sig)
                if sig in (signal.SIGCONT, signal.SIGKILL):  # an nsenter that stands still would never reap its child
                    os.kill(self.pid, signal.SIGCONT)
                return
            if time.monotonic() > deadline:
                super().send_signal(sig)
                return
            time.sleep(0.002)


def _stands_still(pid: int) -> bool:
    try:
        return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


_ENTERED: dict[int, WeakSet[HostProcess]] = {}
"""The processes that this process has put below each pid 1."""

_WAITING: dict[int, subprocess.Popen[bytes]] = {}
"""The `unshare` in front of each pid 1 that this process made; to be waited for, so that no zombie stays."""


def reaper_below(outer: int, reaper: Path) -> ProcessId | None:
    """The pid 1 that an `unshare` has made, None as long as it has not."""
    try:
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0] == os.fsencode(reaper):
                return ProcessId.of(int(child))
    except OSError:
        return None
    return None
