"""Where it happens: two hosts and a desk on one switch, each host's own datastore, one that both have, a witness."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.ferry import Ferry
from faults.host_moves import host_places
from lab import Datastore, Disk, Guest, Host, Lab, LabError
from lab.certificates import QEMU_DIRECTORY
from lab.witness import Witness

DISK, FILL, MEMORY = "48MiB", "12MiB", "128MiB"
SPAN_BLOCKS, RATE, MOST_KIB = 2048, 60, 16

COMMON, FLAKY = "common", "flaky"
BRIDGE = "lan"
ECHO_PORT = 7000

NIC = """<interface type='bridge'>
  <mac address='52:54:00:aa:00:{number:02x}'/><source bridge='lan'/><model type='virtio'/><rom enabled='no'/>
</interface>"""


@dataclass(slots=True)
class HostGround:
    """A lab with what the cases need. A guest is on either host; each case moves it to the other."""

    lab: Lab
    desk: Host
    hosts: tuple[Host, Host]
    stores: dict[str, Datastore]  # own datastores by the host's name, COMMON, FLAKY (the second host's)
    ferry: Ferry
    witness: Witness
    _guests: dict[str, Guest] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    addresses: dict[str, int] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, lab: Lab | None = None) -> Iterator[HostGround]:
        """On a lab of its own, or on one that has no hosts of these names."""
        with contextlib.ExitStack() as stack:
            lab = lab or stack.enter_context(Lab.create(f"hosts-{os.getpid()}"))
            stores = {
                "kvm1": lab.datastore("kvm1-disks", fs="ext4", size="1GiB"),
                "kvm2": lab.datastore("kvm2-disks", fs="xfs", size="1GiB"),
                COMMON: lab.datastore(COMMON, fs="xfs", size="1GiB"),
                FLAKY: lab.datastore(FLAKY, fs="xfs", size="512MiB", failing=True),
            }
            desk = lab.host("desk", network=True)
            hosts = lab.host("kvm1", network=True), lab.host("kvm2", network=True)
            tables = "".join(f'[hosts.{host.name}]\nuri = "{host.ssh_uri}"\n' for host in hosts)
            directory = lab.directory / "tmp/desk"
            directory.mkdir()
            ferry = Ferry(desk, directory / "journal.db", directory, tables)
            # What was lost while a link was cut is sent again within a second, not after as long as the cut.
            desk.run(["sh", "-c", "echo 1000 > /proc/sys/net/ipv4/tcp_rto_max_ms"], check=False)
            desk.run(["sh", "-c", "echo 255 > /proc/sys/net/ipv4/tcp_retries2"])
            witness = lab.witness()
            stack.callback(witness.stop)
            ground = cls(lab, desk, hosts, stores, ferry, witness)
            for host in hosts:
                ground.furnish(host)
                for store in ground.stores_of(host):
                    host.attach(store)
            yield ground

    # -- hosts --------------------------------------------------------------------------------------------------

    def stores_of(self, host: Host) -> list[Datastore]:
        """The datastores that a host has."""
        own = [self.stores[host.name], self.stores[COMMON]]
        return [*own, self.stores[FLAKY]] if host is self.hosts[1] else own

    def furnish(self, host: Host) -> None:
        """After each boot: the bridge for guests, and nothing of the other host's own datastores."""
        if host.run(["ip", "link", "show", BRIDGE], check=False).returncode != 0:
            address = f"{(host.directory / 'address').read_text()}/24"
            steps = f"ip link add {BRIDGE} type bridge && ip link set {BRIDGE} up && ip address del {address} dev eth0"
            steps += f" && ip link set eth0 master {BRIDGE} && ip address add {address} dev {BRIDGE}"
            host.run(["sh", "-c", steps])
        for store in self.stores.values():
            if store in self.stores_of(host):
                continue
            shown = host.run(["stat", "-f", "-c", "%T", store.path]).stdout.strip()
            if shown != "tmpfs":  # every host of a lab sees every file system otherwise
                host.run(["mount", "-t", "tmpfs", "none", store.path])

    def other(self, host: Host) -> Host:
        return self.hosts[1] if host is self.hosts[0] else self.hosts[0]

    def mend(self) -> None:
        """Hosts, links and datastores as they should be, whatever a case left. Raises LabError."""
        if not self.witness.alive():
            raise LabError("the witness is gone")
        for store in self.stores.values():
            self._mend_store(store)
        for host in self.hosts:
            if not host.up():
                host.boot()
            host.start_virtlogd()
            host.start_libvirtd()
            self.furnish(host)
            self.mend_link(host)
            self.remove_certificates(host)
            for note in (host.directory / "run/blockferry").glob("host-move-*"):
                note.unlink()
            active = host.virsh("pool-list", "--name").split()
            for store in self.stores_of(host):
                if store.name not in active:  # libvirt stops a pool that it could not look at
                    host.virsh("pool-start", store.name)

    @staticmethod
    def _mend_store(store: Datastore) -> None:
        if store.spec.failing:
            if not store.device.serves():
                store.power_on()
            store.device.go_on()
        if not store.mounted():
            store.mount()
        if (store.path / ".lab-ballast").exists():
            store.unfill()

    @staticmethod
    def mend_link(host: Host) -> None:
        """Whole, short, and losing nothing."""
        host.shorten_network()
        host.mend_network()

    @staticmethod
    def remove_certificates(host: Host) -> None:
        """As it was before a case with TLS."""
        etc = host.directory / "etc-libvirt"
        place, conf = etc / Path(QEMU_DIRECTORY).name, etc / "qemu.conf"
        if place.exists():
            shutil.rmtree(place)
            lines = [line for line in conf.read_text().splitlines(True) if QEMU_DIRECTORY not in line]
            conf.write_text("".join(lines))
            host.restart_libvirtd()

    # -- guests -------------------------------------------------------------------------------------------------

    def guest(self, kind: str) -> Guest:
        """The guest of this kind: running and writing, or off. The others that run stand still meanwhile."""
        key = host_places.OWN if kind == host_places.PAUSED else kind
        for name, known in self._guests.items():
            if name != key and known.state() == "running":
                known.suspend()
        guest = self._guests.get(key)
        if guest is None:
            guest = self._guests[key] = self._make(key)
            guest.start()
            self.awake(guest)
            guest.judge.wait_writes(60)
            if kind in host_places.OFF:
                guest.judge.stop()
                guest.poweroff()
        elif kind not in host_places.OFF:
            self._revive(guest)
        return guest

    def known(self, kind: str) -> Guest | None:
        """The guest of this kind, if there is one now."""
        return self._guests.get(host_places.OWN if kind == host_places.PAUSED else kind)

    def _make(self, key: str) -> Guest:
        host, number = self.hosts[0], next(self._numbers)
        store = self.stores[host.name if host_places.has_own_disk(key) else COMMON]
        name = f"{key}-{number}"
        devices = "" if key in host_places.OFF else NIC.format(number=number)
        self.addresses[name] = 99 + number % 100
        disk = Disk("vda", store, size=DISK, fill=FILL)
        return self.lab.guest(host, name, [disk], memory=MEMORY, extra_devices=devices)

    def awake(self, guest: Guest) -> None:
        """After each boot: on the network, answering there, writing."""
        if "<interface" in guest.xml():
            address = self.address(guest)
            guest.sh(
                f"ip address show dev eth0 | grep -q {address} || {{ ip address add {address}/24 dev eth0 && "
                "ip link set eth0 up && ip route add 255.255.255.255 dev eth0 && "
                f"{{ nc -ll -p {ECHO_PORT} -e cat >/dev/null 2>&1 </dev/null & }} ; }}"
            )
        guest.judge.start(rate=RATE, most_kib=MOST_KIB, span_blocks=SPAN_BLOCKS, flush_every=8)

    def address(self, guest: Guest) -> str:
        return f"10.213.0.{self.addresses[guest.name]}"

    def _revive(self, guest: Guest) -> None:
        """Whatever a case did to it: running, and writing. Raises LabError when it cannot be had."""
        state = guest.state()
        if state == "paused":
            guest.resume()
        elif state != "running":
            guest.start()
        guest.wait_ready()
        self.awake(guest)

    def retire(self, guest: Guest) -> None:
        """Forget a guest that came to harm, with its files, and the journal that may still know its moves."""
        for key in [key for key, known in self._guests.items() if known is guest]:
            del self._guests[key]
        for host in self.hosts:
            if host.up():
                guest.host = host
                with contextlib.suppress(LabError):
                    host.run(["virsh", "-q", "destroy", guest.name], check=False)
                    host.run(["virsh", "-q", "undefine", guest.name], check=False)
        with contextlib.suppress(LabError):
            self.lab.remove_guest(guest)
        for store in self.stores.values():
            with contextlib.suppress(OSError):
                store.clear_vm(guest.name)
        for path in self.ferry.journal.parent.glob("journal.db*"):
            path.unlink()

    # -- where a guest is ---------------------------------------------------------------------------------------

    def host_of(self, guest: Guest) -> Host:
        """The one host that has it defined. Raises LabError."""
        found = [host for host in self.hosts if host.vm_state(guest.name) != "absent"]
        if len(found) != 1:
            raise LabError(f"{guest.name} is on {len(found)} hosts")
        return found[0]

    def store_of(self, path: str) -> str:
        """The datastore a file lies on; the path itself when on none."""
        return next((name for name, one in self.stores.items() if Path(path).is_relative_to(one.path)), path)

    def files_of(self, guest: Guest) -> set[str]:
        """Every file and directory on any datastore that belongs to this guest by its name."""
        found: set[Path] = set()
        for store in self.stores.values():
            home = store.home(guest.name)
            found |= {*store.path.glob(f"{guest.name}-*"), *store.path.glob(f"{guest.name}.*")}
            found |= {*store.path.glob(f".{guest.name}*"), *store.path.glob(".blockferry-probe-*")}
            found |= {home, *home.rglob("*")} if home.exists() else set()
        return {str(path) for path in found}
