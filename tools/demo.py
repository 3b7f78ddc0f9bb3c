"""`make demo`: a real VM with two disks and a database moves live, and the judge says whether anything was lost.

Starts a lab host of its own, never the machine's libvirt; leaves nothing behind unless `--keep` is given.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.panel import Panel

from lab import Datastore, Disk, Guest, Host, Lab, LabError, sweep

NAME = "demo"
PROGRAM = str(Path(sys.executable).with_name("blockferry"))
console = Console(soft_wrap=True)


def say(words: str) -> None:
    console.print(Panel.fit(words, style="bold"))


def ferry(host: Host, journal: Path, *words: str) -> None:
    """Run the command line on the host, on this terminal."""
    console.print(f"[bold]# blockferry {' '.join(words)}[/bold]")
    argv = host.namespaces.command(["env", f"BLOCKFERRY_JOURNAL=sqlite:///{journal}", PROGRAM, *words], Path.cwd())
    sys.stdout.flush()
    status = os.spawnvp(os.P_WAIT, argv[0], list(argv))
    if status != 0:
        raise click.ClickException(f"blockferry {' '.join(words)} ended with status {status}")


def fail_unless(condition: bool, words: str) -> None:
    if not condition:
        raise click.ClickException(words)


def play(lab: Lab) -> None:
    """The whole demonstration."""
    say("1. A lab host (libvirtd of its own), two datastores on two file systems, a VM with two disks that works")
    old_san: Datastore = lab.datastore("old-san", fs="ext4", size="4GiB")
    ssd: Datastore = lab.datastore("ssd", fs="xfs", size="4GiB")
    host = lab.host("kvm1")
    host.attach(old_san)
    host.attach(ssd)
    disks = [
        Disk("vda", old_san, size="1GiB", fs="128MiB", fill="384MiB"),
        Disk("vdb", old_san, size="512MiB", fill="256MiB"),
    ]
    guest: Guest = lab.guest(host, "web01", disks, start=True)
    guest.database.start(rate=20)
    guest.judge.start(rate=300, most_kib=16)
    guest.judge.wait_writes(500)
    journal = lab.directory / "journal.db"
    ferry(host, journal, "vms")
    ferry(host, journal, "datastores")

    say("2. What would happen, then the move itself, while the guest writes")
    ferry(host, journal, "check", "web01", "--to", "ssd")
    since = guest.judge.now()
    ferry(host, journal, "move", "web01", "--to", "ssd")
    until = guest.judge.now()
    time.sleep(1)

    say("3. The judge: every acknowledged write, in the running guest, after a power cycle, from outside")
    stall = guest.judge.longest_gap(since, until)
    live = guest.judge.verify_live()
    fail_unless(live.ok, f"the judge in the guest found lost or foreign blocks: {live}")
    guest.judge.stop()
    database = guest.database.check()
    fail_unless(database.ok, f"the database lost something: {database}")
    guest.database.stop()
    guest.poweroff()
    for target, path in guest.sources(inactive=True).items():
        fail_unless(str(path).startswith(str(ssd.path)), f"{target} is still configured at {path}")
        verdict = guest.judge.check_image(target, path, "qcow2")
        fail_unless(verdict.ok, f"the image {path} is not what the guest wrote: {verdict}")
        console.print(f"  {target}: {path}: every acknowledged write is there, nothing else changed")
    guest.start()
    guest.wait_ready()
    after = guest.database.check()
    fail_unless(after.ok, f"the database did not survive the power cycle: {after}")
    console.print(f"  database: {after}")
    console.print(f"  longest time that the guest stood still during the whole move: {stall * 1000:.0f} ms")
    say("No acknowledged write was lost.")


@click.command()
@click.option("--keep", is_flag=True, help="Leave the lab up for playing.")
def main(keep: bool) -> None:
    """A running VM moves, judged."""
    if os.geteuid() != 0:
        raise click.ClickException("the demo needs root: it makes namespaces and loop devices")
    sweep.gc()
    with contextlib.suppress(LabError):
        Lab.open(NAME).down()  # what an earlier demo with --keep has left
    with Lab.create(name=NAME, keep=keep) as lab:
        play(lab)
    if keep:
        lab_command = f".venv/bin/python -m lab --lab {NAME}"
        console.print(f"The lab stays up. To play: {lab_command} shell kvm1; to end it: {lab_command} down")


if __name__ == "__main__":
    main()
