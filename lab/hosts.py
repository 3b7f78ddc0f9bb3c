"""A host: libvirtd and virtlogd in namespaces of their own, with state of their own.

What survives a power loss is what survives on a real host: /etc/libvirt, /var/lib/libvirt, /var/log/libvirt and
the datastores. /run does not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from lab.datastores import Datastore
from lab.errors import LabError
from lab.namespaces import HostProcess, Namespaces
from lab.network import Network
from lab.process import ProcessId, kill_and_wait, tail, wait_until
from lab.qemuuser import PROFILES, Owner, Profile, qemu_conf, qemu_owner
from lab.roots import RootName, root

_DAEMONS = {"libvirtd": "/usr/sbin/libvirtd", "virtlogd": "/usr/sbin/virtlogd"}

_LIBVIRTD_CONF = """\
host_uuid = "{host_uuid}"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
log_level = {log_level}
log_outputs = "{log_level}:file:/var/log/libvirt/libvirtd.log"
{log_filters}
"""

SOCKETS = Path("/run/sockets")
"""On a host, a directory in which QEMU can listen."""

_VIRTLOGD_CONF = """\
log_level = 3
log_outputs = "3:file:/var/log/libvirt/virtlogd.log"
max_size = 67108864
"""


class Host:
    """One libvirt host of a lab."""

    def __init__(self, name: str, directory: Path, lab: Path, reaper: Path, network: Network | None = None) -> None:
        """`network`: the one that it is plugged to, None for a host that nothing reaches over a network."""
        self.name = name
        self.directory = directory
        self.network = network
        self._lab = lab
        self._reaper = reaper
        self._namespaces: Namespaces | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        name: str,
        lab: Path,
        reaper: Path,
        *,
        debug: bool = False,
        profile: Profile = "default",
        root_name: RootName | None = None,
        network: Network | None = None,
    ) -> Host:
        host = cls(name, lab / "hosts" / name, lab, reaper, network)
        host._write_state(debug=debug, profile=profile, tree=None if root_name is None else root(root_name))
        if network is not None:
            network.enlist(name, host.directory)
        host.boot()
        return host

    def _write_state(self, *, debug: bool, profile: Profile, tree: Path | None) -> None:
        for part in ("run", "etc-libvirt/qemu", "lib", "log", "cache/qemu"):
            (self.directory / part).mkdir(parents=True)
        etc = self.directory / "etc-libvirt"
        filters = 'log_filters = "1:qemu 1:storage 4:event 4:util 4:object"' if debug else ""
        conf = _LIBVIRTD_CONF.format(host_uuid=uuid.uuid4(), log_level=1 if debug else 3, log_filters=filters)
        (etc / "libvirtd.conf").write_text(conf)
        (etc / "qemu.conf").write_text(qemu_conf(profile))
        (self.directory / "profile").write_text(profile)
        if tree is not None:
            (self.directory / "root").write_text(str(tree))
        (etc / "virtlogd.conf").write_text(_VIRTLOGD_CONF)
        (self.directory / "etc-hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")

    def boot(self) -> None:
        """Bring the host up on the state it has. Afterwards libvirtd answers."""
        if self.up():
            raise LabError(f"host {self.name} is up already")
        run_directory = self.directory / "run"
        shutil.rmtree(run_directory)
        (run_directory / "lock").mkdir(parents=True)
        (run_directory / "sockets").mkdir()
        self.qemu_owner.own(run_directory / "sockets")
        self._namespaces = Namespaces.create(
            self.name, self.directory, self._reaper, self._lab,
            tree=self.tree, ssh=self.network.ssh_directory if self.network else None,
        )  # fmt: skip
        if self.network is not None:
            self.network.plug(self.name, self._namespaces.init)
            self._start_sshd()
        self.start_virtlogd()
        self.start_libvirtd()

    def power_loss(self) -> None:
        """Everything on the host dies in the same instant: libvirtd, virtlogd, every QEMU, every command."""
        if self._namespaces is not None:
            self._namespaces.end()
            self._namespaces = None

    def up(self) -> bool:
        return self._namespaces is not None and self._namespaces.alive()

    @property
    def namespaces(self) -> Namespaces:
        if self._namespaces is None:
            raise LabError(f"host {self.name} is down")
        return self._namespaces

    def adopt(self, namespaces: Namespaces) -> None:
        """Take over namespaces that another process made (a lab opened again)."""
        self._namespaces = namespaces

    @property
    def profile(self) -> Profile:
        """As whom QEMU runs here, see lab/qemuuser.py."""
        words = (self.directory / "profile").read_text()
        return next(known for known in PROFILES if known == words)

    @property
    def qemu_owner(self) -> Owner:
        """User and group of every QEMU of this host."""
        return qemu_owner(self.profile, self.tree or Path("/"))

    @property
    def tree(self) -> Path | None:
        """Its root file system where that is not this machine's, see lab/roots.py."""
        file = self.directory / "root"
        return Path(file.read_text()) if file.exists() else None

    # -- reaching it --------------------------------------------------------------------------------------------

    @property
    def socket(self) -> Path:
        """libvirtd's socket, seen from outside."""
        return self.directory / "run/libvirt/libvirt-sock"

    @property
    def uri(self) -> str:
        """libvirt URI of this host from outside its namespaces."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def ssh_uri(self) -> str:
        """libvirt URI of this host from the others on its network."""
        self._plugged()
        return f"qemu+ssh://root@{self.name}/system"

    def cut_network(self) -> None:
        """From now on nothing reaches the host or leaves it, and nobody is told."""
        self._plugged().cut(self.name)

    def mend_network(self) -> None:
        """The end of `cut_network`."""
        self._plugged().mend(self.name)

    def lengthen_network(self, delay_ms: float, loss: float = 0.0) -> None:
        """Each frame to or from the host takes so long from now on, each way, and this share of them is lost."""
        self._plugged().lengthen(self.name, delay_ms, loss)

    def shorten_network(self) -> None:
        """The end of `lengthen_network`."""
        self._plugged().shorten(self.name)

    def _plugged(self) -> Network:
        if self.network is None:
            raise LabError(f"host {self.name} is on no network")
        return self.network

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
        """Run a command on the host; there, `qemu:///system` is this host. `env` adds to the environment."""
        return self.namespaces.run(argv, check=check, timeout=timeout, env=env, stdin=stdin, cwd=cwd)

    def popen(self, argv: Sequence[str | os.PathLike[str]], **options: Any) -> HostProcess:
        """Start a command on the host. Signals sent to the result reach the command itself."""
        return self.namespaces.popen(argv, **options)

    def virsh(self, *words: str, check: bool = True, timeout: float = 120, stdin: str | None = None) -> str:
        """Output of a virsh command on this host. On failure the tail of libvirtd's log is part of the error."""
        try:
            return self.run(["virsh", "-q", *words], check=check, timeout=timeout, stdin=stdin).stdout
        except LabError as why:
            raise LabError(f"{why}\n{self.evidence()}") from why

    def evidence(self) -> str:
        """The tails of the daemons' logs, for failure messages."""
        parts = [f"--- {self.name} {name}.log\n{tail(self.directory / 'log' / f'{name}.log', 25)}" for name in _DAEMONS]
        if self.network is not None:
            parts.append(f"--- {self.name} sshd.log\n{tail(self.directory / 'log/sshd.log', 15)}")
        return "\n".join(parts)

    # -- daemons ------------------------------------------------------------------------------------------------

    def daemon(self, name: str) -> ProcessId | None:
        """The running libvirtd or virtlogd, None when it does not run."""
        return self.find_process(lambda argv: argv[0] == _DAEMONS[name])

    def find_process(self, matches: Callable[[list[str]], bool]) -> ProcessId | None:
        """The first process of this host whose argument list matches."""
        if not self.up():
            return None
        own = _namespace(self.namespaces.init.pid)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if argv[0] and matches(argv) and _namespace(int(entry.name)) == own:
                return ProcessId.of(int(entry.name))
        return None

    def _start(self, name: str) -> None:
        if self.daemon(name) is not None:
            return
        self.run([_DAEMONS[name], "-d", "-p", f"/run/{name}.pid"], timeout=60)

    def _start_sshd(self) -> None:
        (self.directory / "run/sshd").mkdir(mode=0o755)
        self.run(["/usr/sbin/sshd", "-f", self.directory / "sshd_config", "-E", self.directory / "log/sshd.log"])

    def _kill(self, name: str, number: signal.Signals) -> None:
        process = self.daemon(name)
        if process is None:
            raise LabError(f"host {self.name}: {name} does not run")
        if number in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(process.pid, number)
            return
        kill_and_wait(process, number, timeout=60)
        # A child that it has forked and that has not yet become another program looks like the daemon: a start right
        # afterwards would find it "running" and start nothing.
        while (forked := self.daemon(name)) is not None:
            kill_and_wait(forked, number, timeout=60)

    def kill_libvirtd(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal libvirtd; unless it was SIGSTOP or SIGCONT, return when it is gone."""
        self._kill("libvirtd", number)

    def start_libvirtd(self, *, wait: bool = True) -> None:
        self._start("libvirtd")
        if wait:
            self.wait_for_libvirtd()

    def restart_libvirtd(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.kill_libvirtd(number)
        self.start_libvirtd()

    def kill_virtlogd(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._kill("virtlogd", number)

    def start_virtlogd(self) -> None:
        self._start("virtlogd")

    def restart_virtlogd(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.kill_virtlogd(number)
        self.start_virtlogd()

    def wait_for_libvirtd(self, timeout: float = 60) -> None:
        """Until libvirtd answers a question that needs its QEMU driver."""

        def answers() -> bool:
            with contextlib.suppress(LabError):
                return self.run(["virsh", "-q", "list", "--name"], check=False, timeout=timeout).returncode == 0
            return False

        wait_until(answers, f"libvirtd of {self.name}", timeout=timeout, step=0.03, report=self.evidence)

    # -- VMs ----------------------------------------------------------------------------------------------------

    def qemu(self, vm: str) -> ProcessId | None:
        """The QEMU process of a VM, None when it does not run here."""

        def is_it(argv: list[str]) -> bool:
            return "qemu-system" in argv[0] and any(word.startswith(f"guest={vm},") for word in argv)

        return self.find_process(is_it)

    def qemu_pid(self, vm: str) -> int:
        process = self.qemu(vm)
        if process is None:
            raise LabError(f"host {self.name}: no QEMU of {vm}")
        return process.pid

    def kill_qemu(self, vm: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a VM's QEMU; unless it was SIGSTOP or SIGCONT, return when it is gone."""
        process = self.qemu(vm)
        if process is None:
            raise LabError(f"host {self.name}: no QEMU of {vm}")
        if number in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(process.pid, number)
        else:
            kill_and_wait(process, number, timeout=60)

    def vm_state(self, vm: str) -> str:
        """`running`, `paused`, `shut off` ... as virsh says it; `absent` when the host does not know the VM."""
        done = self.run(["virsh", "-q", "domstate", vm], check=False)
        return done.stdout.strip() if done.returncode == 0 else "absent"

    # -- datastores ---------------------------------------------------------------------------------------------

    def attach(self, store: Datastore) -> None:
        """Make the datastore known to this host: a directory pool of its name, started and starting at boot."""
        target = f"<target><path>{escape(str(store.path))}</path></target>"
        xml = f"<pool type='dir'><name>{escape(store.name)}</name>{target}</pool>"
        self.virsh("pool-define", "/dev/stdin", stdin=xml)
        self.virsh("pool-start", store.name)
        self.virsh("pool-autostart", store.name)

    def detach(self, store: Datastore) -> None:
        self.virsh("pool-destroy", store.name, check=False)
        self.virsh("pool-undefine", store.name)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
