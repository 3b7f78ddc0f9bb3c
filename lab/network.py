"""The network of a lab: one switch, to which hosts are plugged; its links can be cut. ssh gets from host to host.

The switch is a bridge in a network namespace of its own. The machine's own network has no part in it: what talks to a
host over the network runs on another host of the lab.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from lab.errors import LabError
from lab.namespaces import reaper_below
from lab.process import LAB_VARIABLE, ProcessId, run, tail

SWITCH = "switch"
"""Name of the process that keeps the switch's namespace; no host is called so."""

_SUBNET = "10.213.0"

_SSHD_CONFIG = """\
HostKey {directory}/ssh_host_ed25519_key
PidFile /run/sshd.pid
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
LogLevel VERBOSE
"""

_SSH_CONFIG = """\
Host *
User root
IdentityFile /root/.ssh/id_ed25519
IdentitiesOnly yes
UserKnownHostsFile /root/.ssh/known_hosts
StrictHostKeyChecking yes
"""


class Network:
    """Switch, addresses, names and keys of one lab. Plugged hosts have each other in /etc/hosts and known_hosts."""

    def __init__(self, lab: Path, init: ProcessId) -> None:
        self._lab = lab
        self._init = init
        self._lines: dict[str, subprocess.Popen[str]] = {}

    @classmethod
    def create(cls, lab: Path, reaper: Path) -> Network:
        """A switch, up, with nobody plugged in."""
        (lab / "network").mkdir()
        log = lab / "network/switch.log"
        up = "ip link set lo up && ip link add lab type bridge && ip link set lab up"
        with log.open("w") as output:
            outer = subprocess.Popen(
                ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", f'{up} && exec "$0" "$@"',
                 str(reaper), str(lab), SWITCH],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env={**os.environ, LAB_VARIABLE: str(lab)},
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while (init := reaper_below(outer.pid, reaper)) is None:
            if outer.poll() is not None or time.monotonic() > deadline:
                outer.kill()
                raise LabError(f"the switch of the lab did not come up\n{tail(log)}")
            time.sleep(0.005)
        _WAITING.append(outer)
        network = cls(lab, init)
        network._make_keys()
        return network

    @property
    def ssh_directory(self) -> Path:
        """What stands at /root/.ssh on each plugged host."""
        return self._lab / "network/ssh"

    def _make_keys(self) -> None:
        place = self.ssh_directory
        place.mkdir(mode=0o700)
        _keygen(place / "id_ed25519")
        (place / "authorized_keys").write_text((place / "id_ed25519.pub").read_text())
        (place / "authorized_keys").chmod(0o600)
        (place / "config").write_text(_SSH_CONFIG)
        (place / "config").chmod(0o600)
        (place / "known_hosts").write_text("")

    # -- hosts --------------------------------------------------------------------------------------------------

    def enlist(self, name: str, directory: Path) -> None:
        """Give a new host an address, a host key and a name that all others know."""
        number = len(self._addresses()) + 1
        (directory / "address").write_text(f"{_SUBNET}.{number}")
        _keygen(directory / "ssh_host_ed25519_key")
        (directory / "sshd_config").write_text(_SSHD_CONFIG.format(directory=directory))
        key = (directory / "ssh_host_ed25519_key.pub").read_text()
        with (self.ssh_directory / "known_hosts").open("a") as known:
            known.write(f"{name} {key}")
        lines = [f"{address} {host}" for host, address in self._addresses().items()]
        for host in self._addresses():
            # Written in place: the file is mounted over /etc/hosts of hosts that are up.
            (self._lab / "hosts" / host / "etc-hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def _addresses(self) -> dict[str, str]:
        found = {file.parent.name: file.read_text() for file in (self._lab / "hosts").glob("*/address")}
        return dict(sorted(found.items(), key=lambda one: int(one[1].rsplit(".", 1)[1])))

    def plug(self, name: str, init: ProcessId) -> None:
        """Connect a host's network namespace (that of its pid 1) to the switch."""
        port, address = self._port(name), self._addresses()[name]
        self._ip("link", "del", port, check=False)  # of a host that lost its power a moment ago
        self._ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(init.pid))
        self._ip("link", "set", port, "master", "lab", "up")
        inside = ["nsenter", f"--target={init.pid}", "--net", "ip"]
        run([*inside, "address", "add", f"{address}/24", "dev", "eth0"])
        run([*inside, "link", "set", "eth0", "up"])

    def cut(self, name: str) -> None:
        """From now on nothing reaches the host or leaves it; connections stay open and are silent."""
        self._ip("link", "set", self._port(name), "nomaster")

    def mend(self, name: str) -> None:
        """What was cut is whole again."""
        master = self._middle(name) if name in self._lines else "lab"
        self._ip("link", "set", self._port(name), "master", master)

    def lengthen(self, name: str, delay_ms: float, loss: float = 0.0) -> None:
        """From now on each frame to or from a host takes so long, and this share of them is lost."""
        self.shorten(name)
        middle, ends = self._middle(name), [self._middle(name).replace("mid", end) for end in ("near", "far")]
        enter = ["nsenter", f"--target={self._init.pid}", "--net"]
        line = subprocess.Popen(
            [*enter, sys.executable, Path(__file__).with_name("delay_line.py"), *ends, str(delay_ms), str(loss)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, text=True,
            env={**os.environ, LAB_VARIABLE: str(self._lab)},
        )  # fmt: skip
        self._lines[name] = line
        if line.stdout is None or line.stdout.readline() != "ready\n":
            raise LabError(f"the line of {name} did not come up")
        self._ip("link", "add", middle, "type", "bridge")
        for device in (middle, *ends):
            self._ip("link", "set", device, "up")
        self._ip("link", "set", ends[0], "master", middle)
        self._ip("link", "set", ends[1], "master", "lab")
        self.mend(name)

    def shorten(self, name: str) -> None:
        """The end of `lengthen`."""
        line = self._lines.pop(name, None)
        if line is None:
            return
        line.kill()
        line.communicate()
        self._ip("link", "del", self._middle(name), check=False)
        self.mend(name)

    def _middle(self, name: str) -> str:
        return f"mid{self._port(name).removeprefix('port')}"

    @property
    def pid(self) -> int:
        """The process in whose network namespace the switch is."""
        return self._init.pid

    def ports(self) -> dict[str, str]:
        """Port of the switch -> host."""
        return {self._port(name): name for name in self._addresses()}

    def _port(self, name: str) -> str:
        return f"port{self._addresses()[name].rsplit('.', 1)[1]}"

    def _ip(self, *words: str, check: bool = True) -> None:
        run(["nsenter", f"--target={self._init.pid}", "--net", "ip", *words], check=check)


_WAITING: list[subprocess.Popen[bytes]] = []
"""The `unshare` in front of each switch that this process made: kept, so that Python does not warn of it."""


def _keygen(path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path])
