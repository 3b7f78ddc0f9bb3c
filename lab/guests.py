"""A guest: a VM with images, channels and the judge inside."""

from __future__ import annotations

import shutil
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from lab.channel import Channel, Collector
from lab.database import Database
from lab.datastores import Datastore
from lab.errors import GuestRefused, GuestSilent, LabError
from lab.guestspec import DiskSpec, GuestSpec
from lab.hosts import Host
from lab.judge import Judge
from lab.process import tail, wait_until


@dataclass(frozen=True, slots=True)
class Disk:
    """What a test asks of a disk; sizes as bytes or like "1GiB"."""

    target: str
    datastore: Datastore
    format: str = "qcow2"
    size: int | str = "256MiB"
    layout: str = "home"
    """"home": `<datastore>/<vm>/<target>.<format>`; "flat": `<datastore>/<vm>-<target>.<format>`."""
    fill: int | str = 0
    """Of the judge's area, so much carries incompressible content from the beginning."""
    fs: int | str = 0
    """An ext4 of this size at the start of the disk (for the database); the judge keeps behind it."""
    overlays: int = 0
    """The content lies in a base image, with so many layers above (qcow2)."""
    backing: tuple[Path, str] | None = None
    """(path, format) of an existing image to lay this one upon; it should read as zeros."""
    options: str | None = None
    """qemu-img -o options of the (bottom) image."""

    def path(self, vm: str) -> Path:
        if self.layout == "flat":
            return self.datastore.path / f"{vm}-{self.target}.{self.format}"
        return self.datastore.home(vm) / f"{self.target}.{self.format}"


class Guest:
    """One guest. `host` is where it was made; `on` another host after a migration is the caller's to say."""

    def __init__(self, spec: GuestSpec, host: Host, directory: Path, lab: Path, xml: str | None) -> None:
        self.spec = spec
        self.host = host
        self.directory = directory
        self.collector = Collector(directory, lab)
        self.channel = Channel(directory, spec.name)
        self.judge = Judge(spec, directory, self.channel, lab / "tmp")
        self.database = Database(self.channel, self.judge)
        self.transient_xml = xml

    @property
    def name(self) -> str:
        return self.spec.name

    def disk(self, target: str) -> DiskSpec:
        return self.spec.disk(target)

    # -- power --------------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True, timeout: float = 120) -> None:
        """Start it (transient guests are created anew from their XML); with `wait`, until labd answers."""
        if self.transient_xml is not None:
            self.host.virsh("create", "/dev/stdin", stdin=self.transient_xml)
        else:
            self.host.virsh("start", self.name)
        if wait:
            self.wait_ready(timeout)

    def wait_ready(self, timeout: float = 120) -> None:
        """Until labd answers; gives up early when the VM is not running any more."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.channel.must("ping", timeout=1)
                return
            except (GuestSilent, GuestRefused) as why:
                state = self.host.vm_state(self.name)
                if time.monotonic() > deadline or state not in ("running", "paused", "idle"):
                    raise LabError(f"guest {self.name} ({state}) did not come up\n{self.evidence()}") from why

    def state(self) -> str:
        return self.host.vm_state(self.name)

    def wait_state(self, *states: str, timeout: float = 60) -> None:
        what = f"guest {self.name} to be {' or '.join(states)}"
        wait_until(lambda: self.state() in states, what, timeout=timeout, step=0.1, report=self.evidence)

    def poweroff(self, *, wait: bool = True) -> None:
        """Shut down from inside: the database and the judge stop first, everything is flushed."""
        self.channel.must("poweroff")
        if wait:
            self.wait_state("shut off", "absent")

    def shutdown(self, *, wait: bool = True) -> None:
        """The power button, as `virsh shutdown` presses it."""
        self.host.virsh("shutdown", self.name, "--mode", "acpi")
        if wait:
            self.wait_state("shut off", "absent")

    def reboot(self, *, wait: bool = True) -> None:
        """Reboot from inside; with `wait`, until labd of the new boot answers."""
        boots = self.judge.ledger().boots
        self.channel.must("reboot")
        if wait:
            wait_until(lambda: self.judge.ledger().boots > boots, f"the reboot of {self.name}", report=self.evidence)
            self.wait_ready()

    def destroy(self) -> None:
        """Pull the plug."""
        self.host.virsh("destroy", self.name)

    def suspend(self) -> None:
        self.host.virsh("suspend", self.name)

    def resume(self) -> None:
        self.host.virsh("resume", self.name)

    # -- inside -------------------------------------------------------------------------------------------------

    def sh(self, script: str, *, check: bool = True, timeout: float = 60) -> str:
        """Output (both streams) of a shell script in the guest."""
        status, output = self.channel.ask(f"sh {int(timeout)}\n{script}", timeout=timeout + 5)
        if check and status != 0:
            raise GuestRefused(f"guest {self.name}: {script!r}: exit status {status}\n{output}")
        return output

    def console(self, lines: int = 40) -> str:
        return tail(self.directory / "console.log", lines)

    def evidence(self) -> str:
        """What a failure message needs: the tails of the console, of QEMU's log and of libvirtd's."""
        qemu_log = self.host.directory / "log/qemu" / f"{self.name}.log"
        parts = [f"--- console of {self.name}\n{self.console()}", f"--- {qemu_log}\n{tail(qemu_log, 15)}"]
        return "\n".join([*parts, self.host.evidence()])

    # -- as libvirt sees it -------------------------------------------------------------------------------------

    def xml(self, *, inactive: bool = False) -> str:
        return self.host.virsh("dumpxml", self.name, *(["--inactive"] if inactive else []))

    def sources(self, *, inactive: bool = False) -> dict[str, str]:
        """Target -> path of each disk that has a file, now."""
        found = {}
        for disk in ElementTree.fromstring(self.xml(inactive=inactive)).iterfind("devices/disk"):
            target, source = disk.find("target"), disk.find("source")
            if target is not None and source is not None and "file" in source.attrib:
                found[target.attrib["dev"]] = source.attrib["file"]
        return found

    def formats(self, *, inactive: bool = False) -> dict[str, str]:
        """Target -> image format of each disk, now."""
        found = {}
        for disk in ElementTree.fromstring(self.xml(inactive=inactive)).iterfind("devices/disk"):
            target, driver = disk.find("target"), disk.find("driver")
            if target is not None and driver is not None:
                found[target.attrib["dev"]] = driver.attrib.get("type", "raw")
        return found

    def remove(self) -> None:
        """End and undefine it, stop its collector. Its images stay where they are."""
        if self.host.up():
            self.host.run(["virsh", "-q", "destroy", self.name], check=False)
            words = ["--nvram", "--snapshots-metadata", "--checkpoints-metadata", "--managed-save"]
            self.host.run(["virsh", "-q", "undefine", self.name, *words], check=False)
        self.collector.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
