"""A lab: hosts, datastores and guests under one directory, all gone at the end."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lab import bootimage, domainxml, images, sweep
from lab.bootimage import Boot
from lab.datastores import Datastore, DatastoreSpec
from lab.errors import LabError
from lab.guests import Disk, Guest
from lab.guestspec import DiskSpec, GuestSpec
from lab.hosts import Host
from lab.namespaces import Namespaces
from lab.network import SWITCH, Network
from lab.process import ProcessId, run
from lab.qemuuser import Profile
from lab.roots import RootName
from lab.sizes import to_bytes
from lab.state import FILE, ROOT, State
from lab.witness import Witness


class Lab:
    """Use as a context manager, or call `down()`. What a crash leaves behind, `lab.sweep.gc` removes."""

    def __init__(self, directory: Path, state: State) -> None:
        self.directory = directory
        self.name = state.name
        self._state = state
        self.datastores: dict[str, Datastore] = {}
        self.hosts: dict[str, Host] = {}
        self.guests: dict[str, Guest] = {}
        self._network: Network | None = None

    # -- making, finding, ending --------------------------------------------------------------------------------

    @classmethod
    def create(cls, name: str | None = None, directory: Path | None = None, *, keep: bool = False) -> Lab:
        """A new, empty lab. keep: it outlives this process, until `down`."""
        if os.geteuid() != 0:
            raise LabError("the lab needs root: namespaces, mounts, loop devices")
        name = name or f"lab-{os.getpid()}-{secrets.token_hex(2)}"
        directory = (directory or ROOT / name).resolve()
        if len(str(directory)) > 45:
            raise LabError(f"{directory}: too long a path for the sockets below it")
        lab = cls(directory, State(name, None if keep else ProcessId.own()))
        try:
            os.makedirs(directory)
        except FileNotFoundError:  # another lab's end removed the parent in between
            os.makedirs(directory)
        try:
            lab._save()
            for part in ("ds", "guests", "tmp", "hosts"):
                (directory / part).mkdir()
            # Shared, so that a datastore mounted later appears in hosts that are up already.
            run(["mount", "--bind", directory / "ds", directory / "ds"])
            run(["mount", "--make-shared", directory / "ds"])
        except BaseException:
            lab.down()
            raise
        if not keep:
            atexit.register(lab._at_exit)
        return lab

    @classmethod
    def open(cls, name: str | None = None, directory: Path | None = None) -> Lab:
        """A lab that another process made: its hosts, datastores and guests as they are now."""
        directory = (directory or ROOT / (name or "default")).resolve()
        if not (directory / FILE).exists():
            raise LabError(f"there is no lab in {directory}")
        lab = cls(directory, State.load(directory))
        for store in lab._state.datastores:
            lab.datastores[store.name] = Datastore.existing(store, directory)
        running = {}
        for init in sweep.inits(directory):
            running[Path(f"/proc/{init.pid}/cmdline").read_bytes().split(b"\0")[2].decode()] = init
        if SWITCH in running:
            lab._network = Network(directory, running[SWITCH])
        for host_name in lab._state.hosts:
            place = directory / "hosts" / host_name
            network = lab._network if (place / "address").exists() else None
            host = Host(host_name, place, directory, bootimage.program("reaper"), network)
            if host_name in running:
                host.adopt(Namespaces(running[host_name]))
            lab.hosts[host_name] = host
        for spec in lab._state.guests.values():
            lab._adopt_guest(spec)
        return lab

    def _adopt_guest(self, spec: GuestSpec) -> None:
        place = self.directory / "guests" / spec.name
        transient = place / "transient.xml"
        xml = transient.read_text() if transient.exists() else None
        self.guests[spec.name] = Guest(spec, self.hosts[spec.host], place, self.directory, xml)

    def _at_exit(self) -> None:
        if self._state.owner == ProcessId.own():  # not in a forked child of the owner
            self.down()

    def down(self) -> None:
        """Remove everything. May be called again."""
        atexit.unregister(self._at_exit)
        sweep.end_devices(self.directory)
        for host in self.hosts.values():
            host.power_loss()
        for guest in self.guests.values():
            with contextlib.suppress(OSError, ValueError):
                guest.collector.stop()
        self.hosts.clear()
        self.guests.clear()
        if self.directory.exists():
            sweep.remove(self.directory)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _save(self) -> None:
        self._state.hosts = list(self.hosts)
        self._state.guests = {name: guest.spec for name, guest in self.guests.items()}
        self._state.save(self.directory)

    # -- parts --------------------------------------------------------------------------------------------------

    def datastore(
        self,
        name: str,
        *,
        fs: str = "ext4",
        size: int | str = "2GiB",
        failing: bool = False,
        beside: Datastore | None = None,
    ) -> Datastore:
        """A new datastore: ext4, xfs or btrfs on a sparse file, or a plain directory ("dir").

        failing: its device can be made to fail, see `Datastore.device`.
        beside: a directory of that one's file system, under a mount of its own; of one size, of course.
        """
        if beside is not None:
            spec = DatastoreSpec(name, beside.spec.fs, beside.spec.size_bytes, beside=beside.name)
        else:
            spec = DatastoreSpec(name, fs, to_bytes(size), failing)
        self._state.datastores.append(spec)
        self._save()
        store = Datastore.create(spec, self.directory)
        self.datastores[name] = store
        return store

    def host(
        self,
        name: str,
        *,
        debug: bool = False,
        profile: Profile = "default",
        root: RootName | None = None,
        network: bool = False,
    ) -> Host:
        """A new host, up. debug: libvirtd logs everything. profile: as whom QEMU runs, see lab/qemuuser.py.

        root: another root file system than this machine's, see lab/roots.py. network: it is on the lab's network, an
        sshd runs on it, and all such hosts get to each other by name as root: `host.ssh_uri`.
        """
        if name in self.hosts or name == SWITCH:
            raise LabError(f"there is a host {name} already")
        reaper = bootimage.program("reaper")
        if network and self._network is None:
            self._network = Network.create(self.directory, reaper)
        host = Host.create(
            name, self.directory, reaper,
            debug=debug, profile=profile, root_name=root, network=self._network if network else None,
        )  # fmt: skip
        self.hosts[name] = host
        self._save()
        return host

    def guest(
        self,
        host: Host,
        name: str,
        disks: Sequence[Disk],
        *,
        memory: int | str = "192MiB",
        persistent: bool = True,
        cache: str | None = "none",
        discard: str | None = "unmap",
        vcpus: int = 1,
        machine: str = "pc",
        agent: bool = False,
        extra_devices: str = "",
        extra_os: str = "",
        start: bool = False,
    ) -> Guest:
        """A new guest with its images, defined on the host (or, not persistent, ready to be created by `start`).

        agent: the QEMU guest agent runs in it.
        """
        if name in self.guests:
            raise LabError(f"there is a guest {name} already")
        seed = secrets.randbits(63)
        specs = []
        for disk in disks:
            size = to_bytes(disk.size)
            offset, blocks, filled = images.area(size, to_bytes(disk.fs), to_bytes(disk.fill))
            serial = zlib.crc32(f"{seed}/{name}/{disk.target}".encode())
            image_format = "qcow2" if disk.overlays or disk.backing else disk.format
            path = str(disk.path(name))
            specs.append(DiskSpec(disk.target, path, image_format, size, serial, offset, blocks, filled))
        spec = GuestSpec(name, host.name, seed, tuple(specs))
        for disk, made in zip(disks, specs, strict=True):
            scratch = self.directory / "tmp"
            layers = images.create(
                made, seed, scratch=scratch, overlays=disk.overlays, backing=disk.backing, options=disk.options
            )
            # libvirt knows nothing of an image's further files (extents of a VMDK, a data file): QEMU has to own them;
            # and on a host of the profile `fixed` nobody else gives it anything.
            beside = [path for path in layers[-1].parent.glob(f"{layers[-1].stem}*") if path not in layers]
            host.qemu_owner.own(*beside, *(layers if host.profile == "fixed" else ()))
        place = self.directory / "guests" / name
        place.mkdir()
        xml = domainxml.domain_xml(
            name, specs, boot=self._boot(agent=agent), channels=place, memory_bytes=to_bytes(memory), cache=cache,
            discard=discard, vcpus=vcpus, machine=machine, agent=agent, extra_devices=extra_devices,
            extra_os=extra_os,
        )  # fmt: skip
        guest = Guest(spec, host, place, self.directory, None if persistent else xml)
        self.guests[name] = guest
        self._save()
        guest.collector.start()
        if persistent:
            host.virsh("define", "/dev/stdin", stdin=xml)
        else:
            (place / "transient.xml").write_text(xml)
        if start:
            guest.start()
        return guest

    def _boot(self, *, agent: bool) -> Boot:
        """Kernel and initramfs as files of this lab's own: libvirt gives them to QEMU's user and marks them."""
        cached = bootimage.boot(agent=agent)
        own = []
        for file in (cached.kernel, cached.initrd):
            copy = self.directory / "boot" / file.name
            if not copy.exists():
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy.with_suffix(".new"))
                copy.with_suffix(".new").replace(copy)
            own.append(copy)
        return Boot(own[0], own[1], cached.cmdline)

    def witness(self) -> Witness:
        """Who hears from now on which guest runs on which host of the network; ended with the lab, or by `stop`."""
        if self._network is None:
            raise LabError("no host of this lab is on a network")
        return Witness(self.directory, self._network.pid, self._network.ports())

    def remove_guest(self, guest: Guest) -> None:
        """End, undefine and forget a guest; its images are removed where they were made."""
        guest.remove()
        self.guests.pop(guest.name, None)
        self._save()
