"""The one lab host on which the zoo's hosts live, one after the other: build one, look at it, clear it away."""

from __future__ import annotations

import contextlib
import inspect
import os
import shlex
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import Host as LabHost
from lab import Lab, LabError
from lab.process import ProcessId, kill_and_wait, run, wait_until
from zoo import domains, facts, files
from zoo.facts import Facts, PoolFacts, VmFacts
from zoo.files import Model
from zoo.spec import Disk, Host, Vm

STORES = {
    "a": ("ext4", "1GiB"), "b": ("xfs", "1GiB"), "c": ("ext4", "1GiB"), "d": ("ext4", "1GiB"), "e": ("ext4", "40MiB"),
}  # fmt: skip
"""`a` and `c` cannot share blocks, `b` can; `d` is a pool of the kind fs, whose device libvirt mounts; `e` is too
small for some disks. `side` is a directory of none of them, `f` one behind FUSE (it stands for network file systems).
"""
SIDE, FUSE = "side", "f"


class NotClean(LabError):
    """Something of the host before is still there: the next one would be judged by it."""


@dataclass(slots=True)
class World:
    """A host that was built: its model, what the XML looked like, the devices made for it."""

    host: Host
    model: Model
    loops: dict[str, str]


class Site:
    """A lab with one host (for each profile), used again and again."""

    def __init__(self, lab: Lab, stores: dict[str, Path]) -> None:
        self.lab = lab
        self.stores = stores
        self.scratch = lab.directory / "tmp" / "zoo"
        self._hosts: dict[str, LabHost] = {}
        self._lab_host: LabHost | None = None
        self._loops: list[str] = []
        self._devices: dict[str, str] = {}

    @classmethod
    @contextmanager
    def open(cls, lab: Lab | None = None) -> Iterator[Site]:
        with contextlib.ExitStack() as stack:
            lab = lab or stack.enter_context(Lab.create(f"zoo-{os.getpid()}"))
            stores = {
                name: lab.datastore(f"zoo-{name}", fs=kind, size=size).path for name, (kind, size) in STORES.items()
            }
            stores[SIDE] = lab.directory / "ds" / "zoo-side"
            stores[SIDE].mkdir()
            stores[FUSE] = lab.directory / "ds" / "zoo-fuse"
            stores[FUSE].mkdir()
            if shutil.which("bindfs"):  # else it is one more directory
                behind = lab.directory / "tmp" / "zoo-behind-fuse"
                behind.mkdir()
                run(["bindfs", behind, stores[FUSE]])
                stack.callback(run, ["umount", "-l", stores[FUSE]], check=False)
            site = cls(lab, stores)
            stack.callback(site.close)
            yield site

    def close(self) -> None:
        for device in self._loops:
            run(["losetup", "--detach", device], check=False)
        self._loops.clear()

    def use(self, profile: str) -> None:
        """Work on the lab host whose QEMU runs as this profile says."""
        if profile not in self._hosts:
            options = {"profile": profile} if "profile" in inspect.signature(self.lab.host).parameters else {}
            self._hosts[profile] = self.lab.host(f"zoo-{profile}", **options)  # type: ignore[arg-type]
        self._lab_host = self._hosts[profile]

    @property
    def host(self) -> LabHost:
        assert self._lab_host is not None, "use() comes first"
        return self._lab_host

    def real(self, place: str) -> Path:
        """The path of a place."""
        store, _, rest = place.partition("/")
        return self.stores[store] / rest if rest else self.stores[store]

    def place(self, path: str) -> str:
        """A path as a place, for reports that read the same on every run; the path itself when it is in no store."""
        for name, root in self.stores.items():
            if path == str(root) or path.startswith(f"{root}/"):
                return name + path.removeprefix(str(root))
        return path

    def places(self, text: str) -> str:
        """A text with every path as a place."""
        for name, root in self.stores.items():
            text = text.replace(str(root), name)
        return text

    # -- virsh ----------------------------------------------------------------------------------------------------

    def virsh(self, *commands: tuple[str, ...], check: bool = True) -> str:
        """Several virsh commands in one process; it goes on after one that fails unless `check` finds that."""
        line = "; ".join(" ".join(shlex.quote(word) for word in words) for words in commands)
        done = self.host.run(["virsh", "-q", line], check=False, timeout=300)
        if check and (done.returncode or "error:" in done.stderr):
            raise LabError(f"virsh: {done.stderr.strip()}\n{line}")
        return done.stdout

    # -- building -------------------------------------------------------------------------------------------------

    def build(self, host: Host) -> World:
        """Make everything of the host. Raises LabError when libvirt or QEMU does not take it."""
        self.use(host.profile)
        shutil.rmtree(self.scratch, ignore_errors=True)
        (self.scratch / "model").mkdir(parents=True)
        world = World(host, Model(self.scratch / "model"), {})
        formats: dict[str, str] = {}
        links = {one.target: one.place for one in host.files if one.kind == "link"}
        # Directories and links first: a file below a datastore that is a link would make a directory of its name.
        for file in sorted(host.files, key=lambda one: one.kind not in ("dir", "link")):
            files.make(file, self.real, world.model, formats, profile=host.profile, named_as=links.get(file.place, ""))
        self._pools(host)
        self._block_devices(host, world)
        for vm in host.vms:
            for disk in vm.disks:
                image = behind(host, disk.place)
                if image in world.model.images and disk.device == "disk":
                    world.model.disks[vm.name, disk.target] = world.model.new(world.model.images[image])
        self._define(host, world)
        self._start(host, world)
        for vm in host.vms:
            self._snapshots(vm, world)
        self._settle(host)
        return world

    def _pools(self, host: Host) -> None:
        commands = []
        for pool in host.pools:
            self.real(pool.place).mkdir(parents=True, exist_ok=True)
            device = self._device_of(pool.place) if pool.kind == "fs" else ""
            xml = self._write(f"{domains.pool_uuid(pool.name)}.xml", domains.pool_xml(pool, self.real, device))
            commands.append(("pool-define", str(xml)))
            if pool.active:
                commands += [("pool-start", domains.pool_uuid(pool.name))]
                commands += [("pool-autostart", domains.pool_uuid(pool.name))]
        if commands:
            self.virsh(*commands)

    def _device_of(self, store: str) -> str:
        """The device that is mounted as a store."""
        if store not in self._devices:
            said = run(["findmnt", "--noheadings", "--output", "SOURCE", self.stores[store]]).stdout
            self._devices[store] = said.strip()
        return self._devices[store]

    def _block_devices(self, host: Host, world: World) -> None:
        for vm in host.vms:
            for disk in vm.disks:
                if disk.form == "block" and disk.place not in world.loops:
                    device = run(["losetup", "--find", "--show", self.real(disk.place)]).stdout.strip()
                    self._loops.append(device)
                    world.loops[disk.place] = device
                    user, group = files.qemu_user() if host.profile == "fixed" else (0, 0)
                    # As the files of disks with a seclabel: libvirt does not give it to QEMU's user.
                    mode = "666" if any(option.startswith("seclabel") for option in disk.options) else "660"
                    # On the host, whose /dev lies over the machine's and does not see what is changed below it.
                    self.host.run(["sh", "-c", f"chown {user}:{group} {device} && chmod {mode} {device}"])

    def _write(self, name: str, text: str) -> Path:
        path = self.scratch / name
        path.write_text(text)
        return path

    def _define(self, host: Host, world: World) -> None:
        commands = []
        for vm in host.vms:
            partial = vm.state != "off"
            text = domains.domain_xml(vm, self.real, world.loops, running=partial)
            commands.append(("define", str(self._write(f"{domains.vm_uuid(vm.name)}.xml", text))))
        self.virsh(*commands)

    def _start(self, host: Host, world: World) -> None:
        commands = []
        for vm in host.vms:
            if vm.state == "off":
                continue
            commands.append(("start", domains.vm_uuid(vm.name), *(["--paused"] if vm.state == "paused" else [])))
            for disk in vm.disks:
                if disk.only:
                    text = domains.disk_xml(disk, self.real, world.loops)
                    path = self._write(f"{domains.vm_uuid(vm.name)}-{disk.target}.xml", text)
                    commands.append(("attach-device", domains.vm_uuid(vm.name), str(path), "--config"))
        if commands:
            self.virsh(*commands)

    def _snapshots(self, vm: Vm, world: World) -> None:
        for number, snapshot in enumerate(vm.snapshots):
            words = ["snapshot-create-as", domains.vm_uuid(vm.name), snapshot.name]
            plain = [one for one in vm.disks if one.device == "disk" and one.format == "qcow2" and one.form != "empty"]
            if snapshot.kind == "external":
                words.append("--disk-only")
            self.virsh(tuple(words))
            for disk in plain:
                raw = world.model.disks.get((vm.name, disk.target))
                if raw is None:
                    continue
                world.model.frozen[vm.name, snapshot.name, disk.target] = world.model.new(raw)
                if vm.state == "off" and snapshot.kind == "internal":
                    writes = [((number + 2) * 3 * files.BLOCK, 200 + number)]
                    files.qemu_io(self.real(disk.place), disk.format, writes)
                    files.write_model(raw, writes)

    def _settle(self, host: Host) -> None:
        """Define each VM as libvirt itself shows it: what libvirt adds of its own is there before we look."""
        uuids = [domains.vm_uuid(vm.name) for vm in host.vms]
        shown = self.virsh(*(("dumpxml", "--inactive", "--security-info", one) for one in uuids))
        commands: list[tuple[str, ...]] = []
        for uuid, text in zip(uuids, _split(shown, "</domain>"), strict=True):
            commands.append(("define", str(self._write(f"{uuid}-settled.xml", text))))
        self.virsh(*commands)

    # -- looking --------------------------------------------------------------------------------------------------

    def look(self, host: Host) -> Facts:
        """Everything as it is now. VMs that are gone are missing."""
        pools = self._look_at_pools()
        vms = {vm.name: found for vm in host.vms if (found := self._look_at_vm(vm)) is not None}
        for path in self.stores.values():
            run(["sync", "-f", path])
        return Facts(facts.tree(list(self.stores.values())), vms, pools)

    def _look_at_vm(self, vm: Vm) -> VmFacts | None:
        uuid = domains.vm_uuid(vm.name)
        commands = [("domstate", uuid), *(("dumpxml", uuid, *more, "--security-info") for more in (["--inactive"], []))]
        said = self.virsh(*commands, check=False)
        if not said.strip():
            return None
        state = said.strip().partition("\n")[0]
        shown = _split(said[said.index("<domain") :], "</domain>")
        found = VmFacts(vm.name, state, shown[0], None if state == "shut off" else shown[1])
        if vm.snapshots:
            names = [one for one in self.virsh(("snapshot-list", uuid, "--name")).split("\n") if one]
            found.snapshots = {name: self.virsh(("snapshot-dumpxml", uuid, name)) for name in names}
        return found

    def _look_at_pools(self) -> dict[str, PoolFacts]:
        commands = (("pool-list", "--all", "--uuid"), ("echo", "/"), ("pool-list", "--uuid"), ("echo", "/"),
                    ("pool-list", "--all", "--autostart", "--uuid"))  # fmt: skip
        uuids, active, auto = (part.split() for part in self.virsh(*commands).split("/"))
        if not uuids:
            return {}
        shown = _split(self.virsh(*(("pool-dumpxml", one) for one in uuids)), "</pool>")
        found = {}
        for uuid, text in zip(uuids, shown, strict=True):
            element = ElementTree.fromstring(text)
            name = element.findtext("name") or ""
            found[name] = PoolFacts(name, element.findtext("target/path") or "", uuid in active, uuid in auto)
        return found

    # -- clearing -------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Take everything of the last host away. Raises NotClean when something is still there."""
        self._end_ours()
        if self.host.daemon("libvirtd") is None:
            self.host.start_libvirtd()  # it has died on the last host, which has been told
        said = self.virsh(("list", "--all", "--uuid"), ("echo", "/"), ("pool-list", "--all", "--uuid"))
        uuids, pools = (part.split() for part in said.split("/"))
        keep = ("--snapshots-metadata", "--checkpoints-metadata", "--managed-save", "--nvram")
        commands: list[tuple[str, ...]] = []
        for uuid in uuids:
            commands += [("destroy", uuid), ("undefine", uuid, *keep)]
        for pool in pools:
            commands += [("pool-destroy", pool), ("pool-undefine", pool)]
        if commands:
            self.virsh(*commands, check=False)
        self.close()
        for path in self.stores.values():
            files.empty_directory(path)
        self.prove_clean()

    def _end_ours(self) -> None:
        """End guards and background workers of the last host: they belong to a journal that goes away."""

        def ours(argv: list[str]) -> bool:
            return "python" in argv[0] and any("blockferry" in word for word in argv[1:6])

        while (process := self.host.find_process(ours)) is not None:
            kill_and_wait(process)

    def prove_clean(self) -> None:
        """Raise NotClean when a VM, a pool, a QEMU or a file of the last host is left."""
        left = self.virsh(("list", "--all", "--name"), ("pool-list", "--all", "--name")).split("\n")
        left = [f"VM or pool {one}" for one in left if one.strip()]
        left += list(facts.tree(list(self.stores.values())))
        if left:
            raise NotClean(f"left of the last host: {', '.join(left[:10])}")
        wait_until(lambda: self._qemu() is None, "the end of the last QEMU", timeout=60)

    def _qemu(self) -> ProcessId | None:
        return self.host.find_process(lambda argv: "qemu-system" in argv[0] and any("guest=" in one for one in argv))

    # -- guests ---------------------------------------------------------------------------------------------------

    def state(self, vm: str) -> str:
        return self.host.vm_state(domains.vm_uuid(vm))

    def guest_write(self, vm: str, disk: Disk, offset: int, byte: int) -> str | None:
        """Write and flush a block of a running VM's disk through its virtual device; what went wrong."""
        xml = ElementTree.fromstring(self.virsh(("dumpxml", domains.vm_uuid(vm))))
        for element in xml.iterfind("devices/disk"):
            target, alias = element.find("target"), element.find("alias")
            if target is not None and alias is not None and target.get("dev") == disk.target:
                device = _device(alias.attrib["name"], disk)
                break
        else:
            return f"{disk.target} is not in the live XML"
        for words in (f"write -P {byte} {offset} {files.BLOCK}", "flush"):
            command = f'qemu-io -d {device} "{words}"'
            done = self.host.run(
                ["virsh", "-q", "qemu-monitor-command", domains.vm_uuid(vm), "--hmp", command], check=False, timeout=180
            )
            if said := (done.stdout + done.stderr).strip():
                return said
        return None


def behind(host: Host, place: str) -> str:
    """The place that a place that is a link leads to."""
    while True:
        file = next((one for one in host.files if one.place == place), None)
        if file is None or file.kind != "link":
            return place
        place = file.target


def _device(alias: str, disk: Disk) -> str:
    if disk.bus == "virtio":
        return f"/machine/peripheral/{alias}/virtio-backend"
    if disk.bus == "usb":
        return f"/machine/peripheral/{alias}/{alias}.0/legacy[0]"
    return alias


def _split(text: str, end: str) -> list[str]:
    """The XML documents in the output of several virsh commands."""
    return [f"{one.strip()}\n{end}\n" for one in text.split(end)[:-1]]
