"""How long a guest stands still for the clean start of a commit, with and without a second overlay (defect 3273).

    python -m bench.overlay_commit --size 1024GiB --clusters 100000

An overlay with many clusters, each stored apart, on a large disk; the guest writes all the time. By libvirt's calls
alone, as a move makes them: the commit of that overlay in use, started while the VM is suspended; then a second
overlay above it, the first one committed at rest below it, and the second one committed in use. The judge has the last
word on every block of its area.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click

from bench.options import Size
from lab import Disk, Guest, Host, Lab
from lab.process import run
from lab.sizes import GIB, KIB

_JUDGED = 4 * GIB
_AREA = 2 * GIB
"""So much of the disk the guest writes to; the clusters of the overlay lie behind it."""

_LIMIT_S = 3600

_CALLS = """
import json, os, sys, time
import libvirt
from xml.etree import ElementTree

name, base, first, second, rounds = *sys.argv[1:5], int(sys.argv[5])
libvirt.registerErrorHandler(lambda *_words: None, None)
domain = libvirt.open("qemu:///system").lookupByName(name)

def disk():
    return ElementTree.fromstring(domain.XMLDesc(0)).find(".//disk[@device='disk']")

def chain():
    found, at = [], disk()
    while at is not None and at.find("source") is not None:
        found.append(os.path.basename(at.find("source").get("file")))
        at = at.find("backingStore")
    return found

def until(condition, step):
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > 3000:
            raise SystemExit(f"it does not end: {info()} {chain()}")
        time.sleep(step)
    return round(time.monotonic() - began, 4)

def info():
    return domain.blockJobInfo("vda", 0) or {}

def looked():
    return info().get("end", 0) > 1 or disk().find("mirror[@ready='yes']") is not None

def in_a_suspension():
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_SHALLOW
    began = time.monotonic()
    domain.suspend()
    suspended = time.monotonic()
    domain.blockCommit("vda", None, None, 0, flags)
    until(looked, 0.001)
    seen = time.monotonic()
    domain.resume()
    return {"look_s": round(seen - suspended, 4), "suspended_s": round(time.monotonic() - began, 4)}

def aborted():
    domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC)
    return until(lambda: disk().find("mirror") is None and not info(), 0.01)

for number in range(rounds):
    print(json.dumps({"what": "first overlay, in use", **in_a_suspension()}), flush=True)
    aborted()
print(json.dumps({"what": "before", "base_allocated": os.stat(base).st_blocks * 512,
                  "first_allocated": os.stat(first).st_blocks * 512}), flush=True)
snapshot = ElementTree.Element("domainsnapshot")
one = ElementTree.SubElement(ElementTree.SubElement(snapshot, "disks"), "disk", name="vda", snapshot="external")
ElementTree.SubElement(one, "driver", type="qcow2")
ElementTree.SubElement(one, "source", file=second)
flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
began = time.monotonic()
domain.snapshotCreateXML(ElementTree.tostring(snapshot, "unicode"), flags)
print(json.dumps({"what": "second overlay put above", "seconds": round(time.monotonic() - began, 4), "chain": chain()}))
began = time.monotonic()
domain.blockCommit("vda", base, first, 0, 0)
called = time.monotonic() - began
until(lambda: not info() and len(chain()) == 2, 0.05)
print(json.dumps({"what": "first overlay, at rest", "called_s": round(called, 4),
                  "seconds": round(time.monotonic() - began, 3), "chain": chain(),
                  "base_allocated": os.stat(base).st_blocks * 512}), flush=True)
size = os.stat(second).st_blocks * 512
for number in range(rounds):
    print(json.dumps({"what": "second overlay, in use", "allocated": size, **in_a_suspension()}), flush=True)
    if number < rounds - 1:
        aborted()
until(lambda: disk().find("mirror[@ready='yes']") is not None, 0.02)
began = time.monotonic()
domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
print(json.dumps({"what": "pivot", "seconds": round(time.monotonic() - began, 4), "chain": chain()}), flush=True)
"""


def scatter(path: Path, size: int, clusters: int) -> None:
    """Write so many clusters of 64 KiB into an image, each stored apart from the others."""
    step = (size - _JUDGED) // clusters // (64 * KIB) * (64 * KIB)
    orders = "".join(f"write -q -P 7 {_JUDGED + number * step} 4k\n" for number in range(clusters))
    words = ["qemu-io", "-f", "qcow2", "-t", "unsafe", str(path)]
    done = subprocess.run(words, input=orders, text=True, capture_output=True, check=False, timeout=_LIMIT_S)
    assert done.returncode == 0, done.stderr[-500:]


def measure(host: Host, guest: Guest, base: Path, rounds: int) -> int:
    """Print the figures as JSON lines; the status of the program that makes the calls."""
    first = Path(guest.disk("vda").path)
    second = first.with_name("second.qcow2")
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(first), "-F", "qcow2", str(second)])
    words = [sys.executable, "-c", _CALLS, guest.name, str(base), str(first), str(second), str(rounds)]
    process = host.popen(words)
    return process.wait(_LIMIT_S)


@click.command()
@click.option("--size", type=Size(), default="1024GiB", show_default=True, help="Of the thin disk.")
@click.option("--clusters", default=100_000, show_default=True, help="In the first overlay.")
@click.option("--rate", default=100, show_default=True, help="Writes a second and writer.")
@click.option("--rounds", default=3, show_default=True)
def main(size: int, clusters: int, rate: int, rounds: int) -> None:
    """Print one JSON line for each suspension and step, then the judge's verdict."""
    with Lab.create(f"commit-{os.getpid()}") as lab:
        store = lab.datastore("old-san", fs="xfs", size=24 * GIB)
        host = lab.host("kvm1")
        host.attach(store)
        disk = Disk("vda", store, size=_AREA, fill=GIB // 4, overlays=1)
        guest = lab.guest(host, "vm1", [disk], cache="none")
        first = Path(guest.disk("vda").path)
        said = json.loads(run(["qemu-img", "info", "--output", "json", str(first)]).stdout)
        base = Path(said["full-backing-filename"])
        for image in (first, base):  # the other way round the overlay would hide the base behind zero clusters
            run(["qemu-img", "resize", "-q", "-f", "qcow2", str(image), str(size)])
        scatter(first, size, clusters)
        guest.start()
        guest.judge.start(writers=2, rate=rate, most_kib=4, random_percent=100)
        guest.judge.wait_writes(500)
        begin = guest.judge.now()
        status = measure(host, guest, base, rounds)
        guest.judge.settle()
        gap = guest.judge.longest_gap(begin, guest.judge.now())
        guest.judge.stop()
        verdict = guest.judge.verify_live()
        print(json.dumps({"status": status, "gap_s": gap, "ok": verdict.ok, "load": os.getloadavg()}), flush=True)


if __name__ == "__main__":
    main()
