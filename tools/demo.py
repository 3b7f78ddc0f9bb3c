"""`make demo`: a real VM with two disks and a database moves live, and the judge says whether anything was lost.

Starts a lab host of its own, never the machine's libvirt; leaves nothing behind unless `--keep` is given.
Exit status 1 when anything is not as it should be, above all when the judge misses a write.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from lab import Datastore, Disk, Guest, Host, Lab, LabError, sweep
from lab.state import ROOT, State

NAME = "demo"
VM = "web01"
PROGRAM = Path(sys.executable).with_name("blockferry")
BEFORE_S = 4.0
"""How long the guest is watched before the move, to compare with."""
AFTER_S = 2.0
"""How long the guest writes on at the new place before it is judged."""
CANCELLED, INTERRUPTED = 6, 130
"""Exit statuses, docs/exit-statuses.md."""

console = Console(highlight=False, soft_wrap=True)


class Wrong(click.ClickException):
    """Something is not as it should be: the demonstration has failed."""


def expect(*, condition: bool, words: str) -> None:
    if not condition:
        raise Wrong(words)


@dataclass
class Demo:
    """One demonstration in one lab."""

    lab: Lab
    began: float = field(default_factory=time.monotonic)
    report: list[tuple[str, str]] = field(default_factory=list)

    def play(self) -> None:
        self.chapter("1. A lab: a libvirt host of its own, two datastores on two file systems, a VM that works")
        self.build()
        self.say("web01 runs: a writer on each disk, and a database on vda. Every acknowledged write is noted outside.")
        self.ferry("vms")
        self.ferry("datastores")

        self.chapter("2. What would a move do?")
        self.ferry("check", VM, "--to", "ssd")
        before = self.watch(BEFORE_S)

        self.chapter("3. The move, while the guest writes")
        since = self.guest.judge.now()
        self.ferry("move", VM, "--to", "ssd")
        until = self.guest.judge.now()

        self.chapter("4. The judge: was anything lost?")
        time.sleep(AFTER_S)
        self.measured(before, (since, until))
        self.judge_inside("in the running guest")
        self.judge_outside()
        self.power_cycle()
        self.print_report()

    # -- the lab ------------------------------------------------------------------------------------------------

    def build(self) -> None:
        self.old_san: Datastore = self.lab.datastore("old-san", fs="ext4", size="4GiB")
        self.ssd: Datastore = self.lab.datastore("ssd", fs="xfs", size="4GiB")
        self.host: Host = self.lab.host("kvm1")
        for store in (self.old_san, self.ssd):
            self.host.attach(store)
        disks = [
            Disk("vda", self.old_san, size="768MiB", fs="128MiB", fill="320MiB"),
            Disk("vdb", self.old_san, size="384MiB", fill="192MiB"),
        ]
        self.guest: Guest = self.lab.guest(self.host, VM, disks, start=True)
        self.work()
        self.guest.judge.wait_writes(500)

    def work(self) -> None:
        self.guest.database.start(rate=20)
        self.guest.judge.start(rate=200, most_kib=16)

    def environment(self) -> dict[str, str]:
        """The command line must find this lab and nothing else, whatever the caller's shell says."""
        config = self.lab.directory / "config.toml"
        config.touch()
        return {
            "BLOCKFERRY_URI": "qemu:///system",
            "BLOCKFERRY_JOURNAL": f"sqlite:///{self.lab.directory}/journal.db",
            "BLOCKFERRY_CONFIG": str(config),
        }

    def command(self, *words: str) -> list[str]:
        variables = [f"{name}={value}" for name, value in self.environment().items()]
        return self.host.namespaces.command(["env", "--default-signal=INT", *variables, PROGRAM, *words], Path.cwd())

    def ferry(self, *words: str) -> None:
        """Run the command line on the host, on this terminal; Ctrl-C is its to answer.

        So it must end neither us nor the nsenter that stands in between.
        """
        console.print(f"\n[bold cyan]root@kvm1 # blockferry {' '.join(words)}[/]")
        argv = self.command(*words)
        sys.stdout.flush()
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            child = os.posix_spawnp(argv[0], argv, os.environ)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            signal.signal(signal.SIGINT, handler)
        if status in (CANCELLED, INTERRUPTED):
            raise KeyboardInterrupt
        expect(condition=status == 0, words=f"blockferry {' '.join(words)} ended with status {status}")

    # -- judging ------------------------------------------------------------------------------------------------

    def watch(self, seconds: float) -> tuple[int, int]:
        since = self.guest.judge.now()
        time.sleep(seconds)
        return since, self.guest.judge.now()

    def measured(self, before: tuple[int, int], during: tuple[int, int]) -> None:
        judge = self.guest.judge
        calm, moving = judge.latencies(*before), judge.latencies(*during)
        stalls = [judge.longest_gap(*window) * 1000 for window in (before, during)]
        self.report += [
            ("writes acknowledged during the move", f"{moving.count}"),
            ("longest stall of the guest", f"{stalls[1]:.0f} ms during the move, {stalls[0]:.0f} ms before it"),
            (
                "write latency, p50 / p99",
                f"{moving.p50_ms:.1f} / {moving.p99_ms:.1f} ms during the move, "
                f"{calm.p50_ms:.1f} / {calm.p99_ms:.1f} ms before it",
            ),
        ]
        expect(condition=moving.count > 0, words="the guest wrote nothing during the move, so nothing is proven")

    def judge_inside(self, where: str) -> None:
        live = self.guest.judge.verify_live()
        expect(condition=live.ok, words=f"the judge {where} found blocks that are not what was written:\n{live.text}")
        database = self.guest.database.check()
        expect(condition=database.ok, words=f"the database {where} has lost something: {database}")
        self.good(f"{where}: every block of both disks is as last written; the database has all its rows")

    def judge_outside(self) -> None:
        """Off, and looked at from the host, by other code than what ran in the guest."""
        judge, guest = self.guest.judge, self.guest
        judge.stop()
        guest.database.stop()
        database = guest.database.check()
        expect(condition=database.ok, words=f"the database has lost something: {database}")
        guest.poweroff()
        written = judge.total_writes()
        lost = 0
        for target, path in guest.sources(inactive=True).items():
            expect(condition=path.startswith(f"{self.ssd.path}/"), words=f"{target} is still configured at {path}")
            verdict = judge.check_image(target, path, guest.formats(inactive=True)[target])
            expect(condition=verdict.ok, words=f"the image is not what the guest wrote:\n{verdict}")
            lost += verdict.lost_count
            self.host.run(["qemu-img", "check", "-q", path])
        left = [str(path) for path in self.old_san.path.rglob(f"{VM}*")]
        expect(condition=not left, words=f"the old datastore still holds {', '.join(left)}")
        self.good("with the VM off, from outside: both images hold every acknowledged write, and nothing else changed")
        self.report.insert(0, ("acknowledged writes, in all", f"{written}"))
        self.report.insert(1, ("of them lost", f"{lost}"))
        self.report.insert(2, ("database commits, of them lost", f"{database.committed}, 0"))

    def power_cycle(self) -> None:
        self.guest.start()
        self.work()  # the judge reads all that is there first, and says so if it is not what was written
        self.guest.judge.wait_writes(200)
        self.judge_inside("after a power cycle, in the guest")

    # -- words --------------------------------------------------------------------------------------------------

    def chapter(self, words: str) -> None:
        console.print()
        console.print(Panel.fit(words, style="bold"), soft_wrap=False)

    def say(self, words: str) -> None:
        console.print(words)

    def good(self, words: str) -> None:
        console.print(f"[green]✓[/] {words}")

    def print_report(self) -> None:
        table = Table.grid(padding=(0, 2))
        for name, value in (*self.report, ("the demonstration took", f"{time.monotonic() - self.began:.0f} s")):
            table.add_row(name, value)
        console.print()
        title = "[green]No acknowledged write was lost[/]"
        console.print(Panel(table, title=title, title_align="left", expand=False, style="bold"), soft_wrap=False)

    def how_to_play(self, name: str) -> None:
        lab = f".venv/bin/python -m lab --lab {name}"
        inside = [f"{name}={shlex.quote(value)}" for name, value in self.environment().items()]
        console.print(f"\nThe lab stays up, and {VM} goes on writing. To play:\n")
        console.print(f"  {lab} shell kvm1      # a shell on the host; in it:")
        console.print(f"    export {' '.join(inside)}")
        console.print(f"    {PROGRAM} move {VM} --to old-san")
        console.print(f"  {lab} judge {VM}     # stalls, latency, a check of every block")
        console.print(f"  {lab} down            # the end")


def place() -> str:
    """A name for the lab. What an earlier demo with --keep has left is removed; one that runs now is let alone."""
    sweep.gc()
    directory = ROOT / NAME
    if not directory.exists():
        return NAME
    try:
        owner = State.load(directory).owner
    except (OSError, ValueError, KeyError, TypeError):
        owner = None
    if owner is not None:
        return f"{NAME}-{os.getpid()}"
    console.print(f"Removing the lab {NAME} that an earlier demo has kept.")
    sweep.remove(directory)
    return NAME


@contextlib.contextmanager
def ended_politely() -> Iterator[None]:
    """A closed terminal and SIGTERM end the demo as Ctrl-C does: with everything removed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, stop)
    yield


def remove(lab: Lab) -> None:
    """Take everything away; nothing may interrupt that."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    lab.down()


@click.command()
@click.option("--keep", is_flag=True, help="Leave the lab up for playing.")
@click.option("--name", help="Name of the lab; default: demo.")
def main(*, keep: bool, name: str | None) -> None:
    """A running VM moves, judged."""
    if os.geteuid() != 0:
        raise click.ClickException("the demo needs root: it makes namespaces and loop devices")
    played = False
    with ended_politely():
        try:
            lab = Lab.create(name=name or place(), keep=keep)
            try:
                demo = Demo(lab)
                demo.play()
                played = True
            finally:
                if not (keep and played):
                    remove(lab)
        except LabError as why:
            raise Wrong(f"the lab: {why}") from why
        except KeyboardInterrupt:
            console.print("\nInterrupted; the lab is removed.")
            sys.exit(130)
    if keep:
        demo.how_to_play(lab.name)
    else:
        console.print("The lab is removed; nothing is left behind.")


if __name__ == "__main__":
    main()
