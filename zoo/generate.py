"""Hosts as they are in the field, drawn by a seed: `generate(seed, index)` gives the same host on every machine.

All that is left to chance comes from a `Dice`; hypothesis draws through the same interface (`hosts()`), so that its
properties see the same hosts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from zoo.domains import OPTIONS
from zoo.spec import Disk, Edit, File, Host, Move, Named, Pool, Snapshot, Vm

T = TypeVar("T")

NAMES = (
    "web01", "db 02", "mail-ü-ß", "it's", 'a"b', "-dash", "prod", "x" * 60 + "-long", "100%", "$HOME", "a&b", "v,w",
    "c=d", "n" * 200,
)  # fmt: skip
PROFILES = ("default", "fixed", "root")
LIVE_POINTS = (
    "marked", "home-copied", "image-made", "copy-started", "copying", "in-step", "resumed", "switched-noted",
    "config-written", "releasing-source",
)  # fmt: skip
SNAPSHOT_POINTS = ("overlay-taken", "base-synced", "copy-started", "in-step", "config-written", "releasing-source")
COLD_POINTS = ("home-copied", "cold-copying", "cold-copied", "config-written", "releasing-source")
CANCEL_POINTS = ("home-copied", "image-made", "copy-started", "copying", "in-step")
CANCEL_COLD_POINTS = ("home-copied", "cold-copying")


PLACES = (
    ("a", "b"), ("a", "b"), ("a", "c"), ("b", "a"), ("b", "b"), ("c", "b"), ("a", "f"), ("f", "b"), ("d", "b"),
    ("a", "d"), ("a", "e"),
)  # fmt: skip
"""Stores of the source and of the destination, see zoo/site.py."""


class Dice(Protocol):
    """Where chance comes from."""

    def one_of(self, options: Sequence[T]) -> T: ...

    def chance(self, percent: int) -> bool: ...


class Seeded:
    """Dice of a seed."""

    def __init__(self, seed: int, index: int) -> None:
        self._random = random.Random(f"zoo {seed} {index}")

    def one_of(self, options: Sequence[T]) -> T:
        return self._random.choice(options)

    def chance(self, percent: int) -> bool:
        return self._random.randrange(100) < percent


class Drawn:
    """Dice of hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def one_of(self, options: Sequence[T]) -> T:
        return self._draw(st.sampled_from(options))

    def chance(self, percent: int) -> bool:
        return self._draw(st.integers(0, 99)) >= 100 - percent  # small values are the simple host: hypothesis shrinks


def generate(seed: int, index: int) -> Host:
    """The host of this seed and index."""
    return _Drawing(Seeded(seed, index)).host()


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    """Hosts for properties of generator and judge."""
    return _Drawing(Drawn(draw)).host()


@dataclass(slots=True)
class _Drawing:
    """A host being drawn. Paths are named once and shared by whoever names them."""

    dice: Dice
    pools: list[Pool] = field(default_factory=list)
    files: dict[str, File] = field(default_factory=dict)
    vms: list[Vm] = field(default_factory=list)
    number: int = 0
    profile: str = "default"

    def host(self) -> Host:
        dice = self.dice
        name = dice.one_of(NAMES)
        state = dice.one_of(("running", "running", "running", "off", "off", "paused"))
        self.profile = profile = dice.one_of(PROFILES)
        source, dest = self._stores()
        home = self._home(source, name)
        mover = self._mover(name, state, home, source)
        if dice.chance(15):  # libvirt lets no two pools have one path, but knows nothing of links
            self.add(self.source.place, "dir")
            self.pools.append(Pool("twin", self.add("a/pools/twin", "link", target=self.source.place)))
        self.vms.insert(0, mover)
        self._scenery(source, home, mover)
        mover = self.vms[0]
        move, mover = self._move(mover, source, dest, home)
        self.vms[0] = mover
        return Host(tuple(self.pools), tuple(self.files.values()), tuple(self.vms), move, profile)

    # -- files and pools ------------------------------------------------------------------------------------------

    def add(self, place: str, kind: str, **more: object) -> str:
        """A file, unless there is one of this place; returns the place."""
        self.number += 1
        if place not in self.files:
            self.files[place] = replace(File(place, kind, self.number), **more)  # type: ignore[arg-type]
        return place

    def _stores(self) -> tuple[Pool, Pool]:
        """The pools of the move. The source's directory may have the VM's name (see `_home`) or be a link."""
        a, b = self.dice.one_of(PLACES)
        source = _pool(self.dice.one_of(("old", "old san", "alt-ü")), a, "old")
        dest = _pool(self.dice.one_of(("new", "new ssd", "neu'")), b, "new")
        if source.kind == "dir" and self.dice.chance(12):
            self.add(f"{a}/srv/real-old", "dir")
            self.add(f"{a}/pools/old", "link", target=f"{a}/srv/real-old")
        if dest.kind == "dir" and self.dice.chance(12):
            self.add(f"{b}/srv/real-new", "dir")
            self.add(f"{b}/pools/new", "link", target=f"{b}/srv/real-new")
        self.pools += [source, dest]
        if self.dice.chance(15):
            self.pools.append(Pool("nested", f"{source.place}/nested"))
        if self.dice.chance(15):
            self.pools.append(Pool("sleeping", f"{a}/pools/sleeping", active=False))
        return source, dest

    def _home(self, source: Pool, name: str) -> str:
        """The mover's home: a place, or "" where its images lie flat in the pool."""
        kind = self.dice.one_of(("home", "home", "home", "flat", "pool", "deep", "link"))
        if kind == "flat":
            return ""
        if (
            kind == "pool" and source.kind == "dir" and source.place not in self.files
        ):  # the pool's directory has the VM's name
            store = source.place.partition("/")[0]
            place = f"{store}/pools/{name}"
            self.pools[:] = [replace(pool, place=place) if pool.place == source.place else pool for pool in self.pools]
            self.pools[:] = [
                replace(pool, place=f"{place}/nested") if pool.name == "nested" else pool for pool in self.pools
            ]
            return place
        home = f"{source.place}/{name}"
        if kind == "deep":
            return f"{source.place}/instances/{name}"
        if kind == "link":
            self.add(f"side/homes/{self.number}", "dir")
            self.add(home, "link", target=f"side/homes/{self.number - 1}")
            return home
        if self.dice.chance(20):
            self.add(
                home, "dir", owner=self.dice.one_of(("", "1000:100")), mode=self.dice.one_of((0o2775, 0o711, 0o755))
            )
        return home

    @property
    def source(self) -> Pool:
        return self.pools[0]

    # -- the VM that moves ----------------------------------------------------------------------------------------

    def _mover(self, name: str, state: str, home: str, source: Pool) -> Vm:
        source = self.source
        where = home or source.place
        prefix = "" if home else f"{name[:60]}-"
        disks = [self._disk(number, where, prefix) for number in range(self.dice.one_of((1, 1, 1, 2, 3)))]
        if self.dice.chance(25):
            disks.append(self._cdrom(where, source))
        if self.dice.chance(12):
            floppy = self.add(f"{where}/{prefix}floppy.img", "floppy", size_kib=1440)
            disks.append(Disk("fda", "fdc", floppy, device="floppy", format="raw"))
        if state != "off" and self.dice.chance(8):
            late = self.add(f"{where}/{prefix}late.qcow2", "qcow2", size_kib=4096)
            disks.append(Disk("vdz", "virtio", late, only="persistent"))
        named = self._named(where, prefix)
        snapshots: tuple[Snapshot, ...] = ()
        tpm = ""
        if self.dice.chance(8) and self.profile != "fixed":  # there, QEMU's user may not open swtpm's socket
            tpm = "emulator" if state != "off" else self.dice.one_of(("emulator", "external"))
        if state == "off" and self.dice.chance(10):
            named.append(Named("vhost-user", self.add(f"{where}/{prefix}vhost.sock", "socket")))
        simple = all(
            disk.format == "qcow2" and disk.form == "file" if disk.device == "disk" else disk.device == "cdrom"
            for disk in disks
        ) and not any(disk.only for disk in disks)
        if simple and self.dice.chance(25):
            firmware = any(one.role == "vars" for one in named)
            kind = "external" if state != "off" or firmware else self.dice.one_of(("internal", "external"))
            if kind == "external" and self.profile == "fixed":  # libvirt's overlay would be root's
                return Vm(name, state, _fit(disks), tuple(named), (), home, tpm)
            snapshots = (Snapshot("before update", kind),)
        return Vm(name, state, _fit(disks), tuple(named), snapshots, home, tpm)

    def _disk(self, number: int, where: str, prefix: str) -> Disk:
        dice = self.dice
        bus = dice.one_of(("virtio", "virtio", "virtio", "scsi", "sata", "ide", "usb"))
        letters = {"virtio": "vd", "ide": "hd"}.get(bus, "sd")
        target = letters + "abcdef"[number]
        kind = dice.one_of(("qcow2", "qcow2", "qcow2", "raw"))
        form = dice.one_of(("file", "file", "file", "file", "volume", "block"))
        size = dice.one_of((4096, 4096, 16384, 32768))
        stem = dice.one_of((target, target, target, "disk", "disk", "with space", "größe", "it's", "l" * 180))
        names = {file.place for file in self.files.values()}
        place = f"{where}/{prefix}{stem}.{kind}"
        if place in names:
            place = f"{where}/{prefix}{target}.{kind}"
        if form == "volume" and where != self.source.place:
            form = "file"  # a directory pool's volumes lie flat in it
        if form == "block":
            kind, place = "raw", f"side/luns/{number}.raw"
        more: dict[str, object] = {"size_kib": size}
        if form != "block" and dice.chance(20):
            more |= {"owner": dice.one_of(("1000:100", "0:0", "qemu")), "mode": dice.one_of((0o660, 0o644, 0o600))}
        options = self._options(bus, kind, number)
        if self.profile == "fixed" and more.get("owner", "qemu") != "qemu":
            more["mode"] = 0o666
        if any(option.startswith("seclabel") for option in options):
            more["mode"] = 0o666  # libvirt makes it nobody's: QEMU's user opens it all the same
        if kind == "qcow2" and form == "file" and dice.chance(15):
            base = self.add(f"{where}/{prefix}{target}-base.qcow2", "qcow2", size_kib=size)
            more |= {"backing": base, "backing_as": dice.one_of(("absolute", "relative"))}
        if kind == "qcow2" and dice.chance(10):
            more["bitmap"] = "backup-7"
        if form == "file" and dice.chance(8):
            self.add(f"side/real/{target}.{kind}", kind, **more)
            self.add(place, "link", target=f"side/real/{target}.{kind}")
        else:
            self.add(place, kind, **more)
        return Disk(
            target, bus, place, form=form, format=kind, pool=self.source.name if form == "volume" else "",
            options=options,
        )  # fmt: skip

    def _options(self, bus: str, kind: str, number: int) -> tuple[str, ...]:
        """Options that can be together: none sets what another sets."""
        taken: list[str] = []
        keys: set[str] = set()
        fitting = [
            name
            for name, one in OPTIONS.items()
            if (not one.buses or bus in one.buses) and (not one.formats or kind in one.formats)
        ]
        for _ in range(self.dice.one_of((0, 0, 1, 2, 3, 4))):
            name = self.dice.one_of(fitting)
            option = OPTIONS[name]
            sets = {*option.driver, *([name.partition("-")[0]] if name.startswith("seclabel") else [name])}
            if name in ("boot-order", "user-alias", "shareable", "readonly") and (number or not self.dice.chance(50)):
                continue
            if sets & keys or ({"readonly", "copy-on-read"} <= {*taken, name}):
                continue
            keys |= sets
            taken.append(name)
        return tuple(taken)

    def _cdrom(self, where: str, source: Pool) -> Disk:
        kind = self.dice.one_of(("home", "library", "volume", "empty"))
        if kind == "empty":
            return Disk("sdz", "sata", device="cdrom", form="empty", format="raw")
        if kind == "home":
            place = self.add(f"{where}/install {self.number}.iso", "iso", size_kib=256)
        elif kind == "library":
            place = self.add("side/iso/library.iso", "iso", size_kib=256)
        else:
            place = self.add(f"{source.place}/volume.iso", "iso", size_kib=256)
            return Disk("sdz", "sata", place, device="cdrom", form="volume", format="raw", pool=source.name)
        return Disk("sdz", "sata", place, device="cdrom", format="raw")

    def _named(self, where: str, prefix: str) -> list[Named]:
        """Files that the XML names elsewhere than in disks."""
        dice, found = self.dice, []

        def put(role: str, name: str, kind: str, **more: object) -> None:
            found.append(Named(role, self.add(f"{where}/{prefix}{name}", kind, **more)))

        firmware = dice.one_of(("", "", "", "bios", "uefi", "kernel"))
        if firmware == "bios":
            put("bios", "bios.bin", "bios")
        elif firmware == "uefi":
            put("code", "OVMF_CODE.fd", "code", size_kib=64)
            put("vars", dice.one_of(("VARS.fd", "nvram")), "vars", size_kib=64)
        elif firmware == "kernel":
            put("kernel", "vmlinuz", "kernel")
            if dice.chance(60):
                put("initrd", "initrd.img", "blob")
        if dice.chance(10):
            put("serial-log", "serial.log", "log", mode=0o666)
        elif dice.chance(10):
            put("serial-file", "console.log", "log", mode=0o666)
        if dice.chance(10):
            put("share", "share", "dir", mode=0o777)
            self.add(f"{where}/{prefix}share/report.txt", "text", mode=0o644)
        if dice.chance(7):
            put("virtiofs", "virtiofs", "dir", mode=0o777)
            self.add(f"{where}/{prefix}virtiofs/table.txt", "text", mode=0o644)
        if dice.chance(8):
            put("nvdimm", "nvdimm.img", "nvdimm", size_kib=4096)
        if dice.chance(8) and not set("&\"'<>") & set(where):  # libvirt 9.0 escapes that path twice
            put("fwcfg", "note.cfg", "text", mode=0o644)
        if dice.chance(6):
            put("rom", "nic.rom", "blob", mode=0o644)
        return found

    # -- who and what else is there -------------------------------------------------------------------------------

    def _scenery(self, source: Pool, home: str, mover: Vm) -> None:
        dice, source = self.dice, self.source
        if home and dice.chance(35):
            self.add(f"{home}/notes.txt", "text", owner=dice.one_of(("", "1000:100")), mode=0o644)
        if home and dice.chance(20):
            self.add(f"{home}/old backup.qcow2", "qcow2", size_kib=4096)
        if home and dice.chance(10):
            self.add(f"{home}/sub/deep.txt", "text")
        if dice.chance(30):
            self.add(f"{source.place}/other host.qcow2", "qcow2", size_kib=4096)
        if dice.chance(20):
            self.add(f"{source.place}/library/debian.iso", "iso", size_kib=256)
        if dice.chance(15):
            self._in_the_way(mover)
        disk = next((one for one in mover.disks if one.device == "disk"), None)
        if disk is not None and dice.chance(50):
            kinds = (
                self._template,
                self._template,
                self._clones,
                self._clones,
                self._twin,
                self._neighbour,
                self._sleeper,
            )
            dice.one_of(kinds)(source, home, mover, disk)
        elif dice.chance(30):
            self._neighbour(source, home, mover, disk)

    def _in_the_way(self, mover: Vm) -> None:
        """Somebody's file has the name that the home or an image would have at the destination."""
        dest = self.pools[1].place
        names = [mover.name, f"{mover.name}/vda.qcow2", f"{mover.name}-vda.qcow2"]
        names += [disk.place.rpartition("/")[2] for disk in mover.disks if disk.device == "disk" and disk.place]
        self.add(f"{dest}/{self.dice.one_of(names)}", "text")

    def _template(self, source: Pool, home: str, mover: Vm, disk: Disk) -> None:
        """The mover is a linked clone: its image stands on that of a VM that is off, named by volume or by file."""
        if disk.format != "qcow2" or disk.form == "block" or self.files[disk.place].kind != "qcow2" or mover.snapshots:
            return
        top = self.files[disk.place]
        if top.backing:
            return
        place = self.add(f"{source.place}/tmpl.qcow2", "qcow2", size_kib=top.size_kib)
        self.files = {place: self.files.pop(place), **self.files}  # made before what stands on it
        self.files[disk.place] = replace(top, backing=place, backing_as=self.dice.one_of(("absolute", "relative")))
        self._off("template", place, source)

    def _clones(self, source: Pool, home: str, mover: Vm, disk: Disk) -> None:
        """The mover is a template: another VM's image stands on its own."""
        if (
            disk.format != "qcow2"
            or disk.form == "block"
            or self.files[disk.place].kind != "qcow2"
            or mover.state != "off"
            or mover.snapshots
        ):
            return
        top = self.files[disk.place]
        place = self.add(
            f"{source.place}/clone.qcow2", "qcow2", size_kib=top.size_kib, backing=disk.place,
            backing_as=self.dice.one_of(("absolute", "relative")),
        )  # fmt: skip
        self._off("clone", place, source)

    def _twin(self, source: Pool, home: str, mover: Vm, disk: Disk) -> None:
        """Another VM, off, names the very image that moves."""
        if disk.form == "block" or self.files[disk.place].kind == "link" or mover.snapshots:
            return
        by_volume = disk.place.rpartition("/")[0] == source.place and self.dice.chance(70)
        other = replace(disk, form="volume" if by_volume else "file", pool=source.name if by_volume else "", options=())
        self.vms.append(Vm("rescue", "off", (replace(other, target="vda", bus="virtio"),)))

    def _sleeper(self, source: Pool, home: str, mover: Vm, disk: Disk) -> None:
        """A VM names a volume of a pool that is not active: what it stands on cannot be looked at by libvirt."""
        pool = next((one for one in self.pools if not one.active), None)
        if pool is None:
            pool = Pool("sleeping", "a/pools/sleeping", active=False)
            self.pools.append(pool)
        place = self.add(f"{pool.place}/sleeping.qcow2", "qcow2", size_kib=4096)
        self.vms.append(
            Vm("sleeper", "off", (Disk("vda", "virtio", place, form="volume", pool=pool.name, format="qcow2"),))
        )

    def _neighbour(self, source: Pool, home: str, mover: Vm, disk: Disk | None) -> None:
        """A VM with its image in the mover's home or in the pool."""
        where = home if home and self.dice.chance(50) else source.place
        place = self.add(f"{where}/neighbour.qcow2", "qcow2", size_kib=4096)
        state = self.dice.one_of(("off", "off", "running"))
        disks = [Disk("vda", "virtio", place)]
        iso = next((one for one in mover.disks if one.device == "cdrom" and one.form == "file"), None)
        if iso is not None:
            disks.append(replace(iso, options=()))
        kernel = next((named for named in mover.named if named.role in ("kernel", "bios", "code")), None)
        shared = (kernel,) if kernel is not None and kernel.role != "code" and self.dice.chance(40) else ()
        self.vms.append(Vm("neighbour", state, tuple(disks), shared))

    def _off(self, name: str, place: str, source: Pool) -> None:
        """A VM that is off with this one disk, by volume or by file."""
        by_volume = place.rpartition("/")[0] == source.place and self.dice.chance(70)
        disk = Disk(
            "vda", "virtio", place, form="volume" if by_volume else "file", pool=source.name if by_volume else ""
        )
        self.vms.append(Vm(name, "off", (disk,)))

    # -- the move -------------------------------------------------------------------------------------------------

    def _move(self, mover: Vm, source: Pool, dest: Pool, home: str) -> tuple[Move, Vm]:
        dice = self.dice
        live = mover.state != "off"
        method = dice.one_of(
            ("auto", "auto", "mirror", "changed-blocks", "snapshot", self._cloning(dest))
            if live
            else ("auto", "auto", "cold")
        )
        words: list[str] = []
        if dice.chance(15):
            words += ["--keep-source", "7d"]
        elif dice.chance(10):
            words += ["--delete-source"]
        if dice.chance(12):
            words += ["--format", dice.one_of(("qcow2", "raw"))]
        chained = any(self.files[disk.place].backing for disk in mover.disks if disk.place in self.files)
        if (chained or mover.snapshots) and dice.chance(75):
            words += ["--chain", dice.one_of(("flatten", "keep", "copy", "share"))]
            if method == "mirror" and dice.chance(70):  # mirror keeps no chain: most such hosts would be refused
                method = "auto"
        if dice.chance(8):
            words += ["--verify"]
        if dice.chance(10):
            words += ["--provision", dice.one_of(("thin", "thick"))]
        to = dest.name
        nested = next((pool for pool in self.pools if pool.name == "nested"), None)
        if nested is not None and dice.chance(25):
            to = nested.name
        disks: tuple[tuple[str, str], ...] = ()
        real = [disk for disk in mover.disks if disk.device == "disk" and disk.form != "empty"]
        if len(real) > 1 and dice.chance(25):
            to, disks = "", ((dice.one_of(real).target, to),)
        edits, cancel_at = self._meanwhile(mover, method, live=live, real=real, home=home)
        back = self.source.name if not disks and not cancel_at and dice.chance(18) else ""
        return Move(mover.name, to, disks, method, tuple(words), edits, cancel_at, back), mover

    def _cloning(self, dest: Pool) -> str:
        """`clone` where it can be: both pools on the file system that shares blocks."""
        return "clone" if self.source.place[0] == dest.place[0] == "b" or self.dice.chance(5) else "auto"

    def _meanwhile(
        self, mover: Vm, method: str, *, live: bool, real: list[Disk], home: str
    ) -> tuple[tuple[Edit, ...], str]:
        """What is done while the move stands at one point, and whether it is cancelled there."""
        dice = self.dice
        if dice.chance(15):
            point = dice.one_of(CANCEL_POINTS if live else CANCEL_COLD_POINTS)
            edits = [Edit(point, "guest-write", target=real[0].target)] if live and real and dice.chance(50) else []
            return tuple(edits), point
        points = COLD_POINTS if not live else SNAPSHOT_POINTS if method in ("snapshot", "clone") else LIVE_POINTS
        point = dice.one_of(points)
        edits = []
        if live and real and dice.chance(55):
            edits += [Edit(point, "guest-write", target=disk.target) for disk in real if "readonly" not in disk.options]
        notes = [
            file.place for file in self.files.values() if file.kind in ("text", "log") and _below(file.place, home)
        ]
        if notes and dice.chance(50):
            edits.append(Edit(point, "append", place=dice.one_of(notes)))
        floppy = next((disk for disk in mover.disks if disk.device == "floppy"), None)
        if floppy is not None and dice.chance(50):
            edits.append(Edit(point, "rewrite", place=floppy.place))
        cd = next((disk for disk in mover.disks if disk.device == "cdrom"), None)
        if (
            live
            and cd is not None
            and dice.chance(30)
            and point in ("marked", "home-copied", "image-made", "overlay-taken")
        ):
            iso = self.add("side/iso/other.iso", "iso", size_kib=128)
            edits.append(Edit(point, "change-cd", place=iso, target=cd.target))
        if mover.state == "running" and dice.chance(10):
            edits.append(Edit(point, "suspend"))
        if dice.chance(14):
            edits.append(Edit(point, "kill-libvirtd"))
        return tuple(edits), ""


def _pool(name: str, store: str, directory: str) -> Pool:
    return Pool(name, "d", "fs") if store == "d" else Pool(name, f"{store}/pools/{directory}")


def _below(place: str, home: str) -> bool:
    return bool(home) and place.startswith(f"{home}/")


def _fit(disks: list[Disk]) -> tuple[Disk, ...]:
    """At most the four IDE places, and one target each."""
    seen: dict[str, Disk] = {}
    for disk in disks:
        seen.setdefault(disk.target, disk)
    return tuple(seen.values())


def features(host: Host) -> set[str]:
    """What of the field this host has, in words that a table can count."""
    mover, move = host.mover, host.move
    found = {f"state {mover.state}", f"method {move.method}", f"profile {host.profile}"}
    for vm in host.vms:
        who = "" if vm is mover else "other's "
        for disk in vm.disks:
            found |= {f"{who}{disk.form} {disk.device}", f"bus {disk.bus}", f"format {disk.format}"}
            found |= {f"option {option}" for option in disk.options}
            if disk.only:
                found.add("disk only persistent")
        found |= {f"{who}{named.role}" for named in vm.named}
    found |= {f"snapshot {snapshot.kind}" for snapshot in mover.snapshots}
    found |= {f"tpm {mover.tpm}"} if mover.tpm else set()
    found |= {f"vm {vm.name}" for vm in host.vms if vm is not mover and vm.name != mover.name}
    for file in host.files:
        if file.backing:
            found.add(f"backing {file.backing_as}")
        if file.bitmap:
            found.add("bitmap of a backup program")
        if file.owner or file.mode:
            found.add("owner and mode")
        if file.kind == "link":
            found.add("link to " + ("pool" if any(one.place == file.place for one in host.pools) else
                                    "home" if file.place == mover.home else "image"))  # fmt: skip
        if _below(file.place, mover.home) and file.kind == "text":
            found.add("text in the home")
        if file.place.endswith(("old backup.qcow2", "other host.qcow2", "debian.iso")):
            found.add("stranger's file")
    found |= {f"pool {one.name}" for one in host.pools if one.name in ("twin", "nested", "sleeping")}
    if any(pool.place == mover.home for pool in host.pools):
        found.add("pool named like the VM")
    if not mover.home:
        found.add("flat in the pool")
    elif "/instances/" in mover.home:
        found.add("home in a sub-directory")
    if mover.name not in ("web01", "prod"):
        found.add("odd name")
    found |= {f"edit {edit.what}" for edit in move.edits}
    if any(file.kind == "text" and file.place.startswith(host.pools[1].place) for file in host.files):
        found.add("in the way at the destination")
    found |= {f"store {one.place[0]}" for one in host.pools}
    if move.to == "nested":
        found.add("into the nested pool")
    if move.cancel_at:
        found.add("cancelled")
    if any(one.kind == "fs" for one in host.pools):
        found.add("pool of the kind fs")
    if move.back:
        found |= {"moved back"} | ({"moved back with layers"} if "--chain" in move.words else set())
    if move.disks:
        found.add("one disk only")
    found |= {f"word {word}" for word in move.words if word.startswith("--")}
    return found
