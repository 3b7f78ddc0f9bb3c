"""`python -m bench inventory`: what the inventory of a large host costs: the proof before a release, and `vms`.

On a host of the lab with a real libvirtd. The VMs are defined and off, their images are small and real: what costs is
their number. Another version of blockferry can be measured in the same rounds. Needs root.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.options import new_console
from lab import Datastore, Host, Lab
from lab.sizes import GIB

HERE = Path(__file__).parent
NOW = "this version"
SESSION = "virsh: list --all, domblklist, one session"
PROCESSES = "virsh: the same, a process each"


@dataclass
class Figures:
    """Seconds of each measured command, by its name."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def lines(self, names: tuple[str, ...]) -> list[str]:
        """Each with its ratio to the first."""
        first = self.median(names[0])
        return [f"  {name:42} {self.median(name):8.2f} s  {self.median(name) / first:6.2f} x" for name in names]


@click.command()
@click.option("--vms", "most", default=500, show_default=True, help="VMs for the proof; each has three images.")
@click.option("--files", default=20, show_default=True, help="Old files that are proven to be unneeded.")
@click.option("--listed", default=200, show_default=True, help="VMs for `blockferry vms`.")
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--beside", type=click.Path(exists=True, path_type=Path), help="`src` of another version, to be measured, too."
)
@click.option("--beside-files", default=2, show_default=True, help="So many files for that one's proof; scaled up.")
def inventory(most: int, files: int, listed: int, rounds: int, beside: Path | None, beside_files: int) -> None:
    """The proof for 20 old files on a host of 500 VMs with 1,500 images; `vms` with 200 VMs beside virsh."""
    say = new_console().print
    versions = {NOW: HERE.parent / "src", **({} if beside is None else {"before": beside})}
    with Lab.create(f"bench-{os.getpid()}") as lab:
        store = lab.datastore("old-san", fs="ext4", size=4 * GIB)
        host = lab.host("kvm1")
        host.attach(store)
        old = make_files(store, files)
        define(host, store, 0, listed)
        say(f"{listed} VMs are defined; load {os.getloadavg()[0]:.1f}")
        figures = Figures()
        for _ in range(rounds if listed else 0):
            measure_vms(host, figures, versions, listed)
        if listed:
            for line in figures.lines((SESSION, PROCESSES, *(f"blockferry vms, {version}" for version in versions))):
                say(line)
        define(host, store, listed, most)
        say(f"{most} VMs, {3 * most} images, {files} old files; load {os.getloadavg()[0]:.1f}")
        for number in range(rounds):
            for name, source in versions.items():
                asked = old if name == NOW else old[:beside_files]
                if name == NOW or number == 0:
                    figures.add(f"proof, {name}", prove(host, source, asked) * len(old) / len(asked))
        for line in figures.lines(tuple(f"proof, {version}" for version in versions)):
            say(line)


def make_files(store: Datastore, count: int) -> list[str]:
    """Old disks that nothing names."""
    found = [store.path / f"old-{number}" / "vda.qcow2" for number in range(count)]
    found[0].parent.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", found[0], "1M"], check=True)
    for path in found[1:]:
        path.parent.mkdir()
        path.write_bytes(found[0].read_bytes())
    return [str(path) for path in found]


def define(host: Host, store: Datastore, begin: int, end: int) -> None:
    """VMs with two disks: one by itself, one on a base of its own. The images are copies of one made by qemu-img."""
    model = store.path / "model"
    if not model.exists():
        model.mkdir()
        argv = ["qemu-img", "create", "-q", "-f", "qcow2"]
        for name in ("vda", "base"):
            subprocess.run([*argv, model / f"{name}.qcow2", "1M"], check=True)
        subprocess.run([*argv, "-b", "base.qcow2", "-F", "qcow2", model / "vdb.qcow2"], check=True)
    images = {path.name: path.read_bytes() for path in sorted(model.iterdir())}
    lines = []
    for number in range(begin, end):
        home = store.path / "homes" / f"vm-{number:04}"
        home.mkdir(parents=True)
        for name, content in images.items():
            (home / name).write_bytes(content)
        xml = home.parent / f"{home.name}.xml"
        xml.write_text(domain(home))
        lines.append(f"define {xml}")
    host.virsh(stdin="\n".join(lines) + "\n", timeout=600)


def domain(home: Path) -> str:
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{home}/{target}.qcow2'/>"
        f"<target dev='{target}' bus='virtio'/></disk>"
        for target in ("vda", "vdb")
    )
    return (
        f"<domain type='qemu'><name>{home.name}</name><memory>65536</memory><os><type>hvm</type></os>"
        f"<devices>{disks}</devices></domain>"
    )


def measure_vms(host: Host, figures: Figures, versions: dict[str, Path], count: int) -> None:
    names = [f"vm-{number:04}" for number in range(count)]
    session = "list --all\n" + "".join(f"domblklist {name}\n" for name in names)
    figures.add(SESSION, timed(lambda: host.virsh(stdin=session, timeout=600)))
    loop = 'virsh list --all; for one in "$@"; do virsh domblklist $one; done'
    figures.add(
        PROCESSES,
        timed(lambda: host.run(["sh", "-c", loop, "sh", *names], timeout=600)),
    )
    for name, source in versions.items():
        began = time.monotonic()
        run(host, [sys.executable, "-m", "blockferry", "vms"], source)
        figures.add(f"blockferry vms, {name}", time.monotonic() - began)


def prove(host: Host, source: Path, paths: list[str]) -> float:
    done = json.loads(run(host, [sys.executable, str(HERE / "proof_child.py"), *paths], source))
    assert done["answers"] == [None] * len(paths), done
    return float(done["seconds"])


def run(host: Host, argv: list[str], source: Path) -> str:
    """A command with the package of that source."""
    return host.run(argv, env={"PYTHONPATH": str(source)}, cwd=Path("/"), timeout=3600).stdout


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
