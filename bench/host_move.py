"""A running VM to another host with its disks, side by side: blockferry, and virsh with --copy-storage-all.

    python -m bench.host_move                                  # 3 rounds of everything; an hour or more
    python -m bench.host_move --rounds 1 --size 256MiB --fill 64MiB --disks 1 --link lan    # to see that it works
    python -m bench.host_move --report FILE

Two lab hosts with a datastore each and a desk, on one switch; the link of the destination is the lab's own, or one of
100 ms there and back (lab/delay_line.py). Every trial has a fresh VM with thin qcow2 disks, judged at the end.
Disks and memory go over the same link; bytes are the counter of the destination's network device.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console

from bench import record, rendering, stats
from bench.options import Size, new_console
from bench.place import BLOCKFERRY
from lab import Datastore, Disk, Guest, Host, Lab, LabError
from lab.process import run
from lab.sizes import GIB, MIB

RESULTS = Path(__file__).parent / "results"
BLOCK_FERRY, VIRSH = "blockferry move --to-host", "virsh migrate --copy-storage-all"
WAYS = (BLOCK_FERRY, VIRSH)
LAN, LONG = "lan", "100ms"
IDLE, WRITING = "idle", "writing"
_DELAY_MS = 50.0
_LIMIT_S = 3600.0
_BEFORE_S = 5.0
_CONTINUES_NS = 300_000_000
"""A stall ends with the next report, which comes after the command."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What was asked for. Sizes are bytes, of each disk."""

    rounds: int
    size: int
    fill: int
    memory: int
    disks: tuple[int, ...]
    loads: tuple[str, ...]
    links: tuple[str, ...]
    seed: int


@dataclass(slots=True)
class HostTrial:
    """One command, measured once."""

    way: str
    link: str
    load: str
    disks: int
    round: int
    started: str = ""
    machine_load: float = 0.0
    seconds: float | None = None
    downtime_ms: float | None = None  # as the tool, or libvirt's record of the job, says it
    stall_s: float | None = None  # the longest time without a sign of the guest
    p99_before_ms: float | None = None  # of the guest's writes, by its own clock
    p99_during_ms: float | None = None
    wire_bytes: int | None = None
    used_bytes: int | None = None  # what the images hold at the source when the command begins
    failure: str | None = None


@dataclass(slots=True)
class HostRun:
    """One run on one machine."""

    version: int
    started: str
    machine: dict[str, str]
    settings: HostSettings
    trials: list[HostTrial] = field(default_factory=list)
    finished: str | None = None


@dataclass(frozen=True, slots=True)
class _Field:
    """Where it happens."""

    lab: Lab
    desk: Host
    source: Host
    dest: Host
    old: Datastore
    new: Datastore
    environment: dict[str, str]


@contextmanager
def _field(settings: HostSettings) -> Iterator[_Field]:
    room = max(settings.disks) * settings.size * 2 + GIB
    with Lab.create(f"hostmove-{os.getpid()}") as lab:
        old, new = (lab.datastore(name, fs="xfs", size=room) for name in ("kvm1-disks", "kvm2-disks"))
        desk, source, dest = (lab.host(name, network=True) for name in ("desk", "kvm1", "kvm2"))
        for host, own, others in ((source, old, new), (dest, new, old)):
            host.run(["mount", "-t", "tmpfs", "none", others.path])  # every host of a lab sees all file systems
            host.attach(own)
            host.virsh("domcapabilities")
        config = lab.directory / "tmp/hosts.toml"
        config.write_text("".join(f'[hosts.{host.name}]\nuri = "{host.ssh_uri}"\n' for host in (source, dest)))
        journal = f"sqlite:///{lab.directory}/tmp/journal.db"
        environment = {"BLOCKFERRY_JOURNAL": journal, "BLOCKFERRY_CONFIG": str(config)}
        yield _Field(lab, desk, source, dest, old, new, environment)


def _received(host: Host) -> int:
    return int(host.run(["cat", "/sys/class/net/eth0/statistics/rx_bytes"]).stdout)


def _move(place: _Field, guest: Guest) -> float | None:
    """By blockferry, typed at the desk; from the stop at the source to the resume in milliseconds, by its report."""
    words = [BLOCKFERRY, "move", guest.name, "--to-host", place.dest.name, "--to", place.new.name, "--json"]
    said = place.desk.run(words, env={**os.environ, **place.environment}, timeout=_LIMIT_S)
    report = json.loads(said.stdout.strip().splitlines()[-1])["move"]["report"]
    stall_s = report.get("switch_stall_s")
    return None if stall_s is None else stall_s * 1000


def _migrate(place: _Field, guest: Guest) -> float | None:
    """By virsh, typed at the source: the images are made first, as one has to; the downtime as libvirt recorded it."""
    xml = place.source.virsh("dumpxml", guest.name, "--migratable")
    home = place.new.home(guest.name)
    home.mkdir()
    for disk in guest.spec.disks:
        path = home / Path(disk.path).name
        run(["qemu-img", "create", "-q", "-f", disk.format, path, str(disk.size_bytes)])
        place.dest.qemu_owner.own(path)
        xml = xml.replace(disk.path, str(path))
    there = place.lab.directory / "tmp" / f"{guest.name}.xml"
    there.write_text(xml)
    options = ["--live", "--p2p", "--persistent", "--undefinesource", "--copy-storage-all"]
    place.source.run(
        ["virsh", "-q", "migrate", *options, "--xml", there, "--persistent-xml", there, guest.name, place.dest.ssh_uri],
        timeout=_LIMIT_S,
    )
    for line in place.dest.virsh("domjobinfo", guest.name, "--completed", check=False).splitlines():
        if line.startswith("Total downtime:"):
            return float(line.split()[2])
    return None


_COMMANDS: dict[str, Callable[[_Field, Guest], float | None]] = {BLOCK_FERRY: _move, VIRSH: _migrate}


def _perform(place: _Field, settings: HostSettings, trial: HostTrial, name: str) -> None:
    """One trial with a guest of its own. Raises LabError and what a broken answer raises."""
    disks = [Disk(f"vd{letter}", place.old, size=settings.size, fill=settings.fill) for letter in "abc"[: trial.disks]]
    guest = place.lab.guest(place.source, name, disks, memory=settings.memory, start=True)
    try:
        if trial.load == WRITING:
            guest.judge.start(rate=50, most_kib=16, span_blocks=settings.fill // 4096)
            guest.judge.wait_writes(50)
        else:
            for disk in guest.spec.disks:
                guest.judge.define(disk.target)
        before_ns = guest.judge.now()
        time.sleep(_BEFORE_S)
        trial.used_bytes = sum(Path(disk.path).stat().st_blocks * 512 for disk in guest.spec.disks)
        received, begin_ns = _received(place.dest), guest.judge.now()
        trial.downtime_ms = _COMMANDS[trial.way](place, guest)
        end_ns = guest.judge.now()
        trial.seconds = (end_ns - begin_ns) / 1e9
        trial.wire_bytes = _received(place.dest) - received
        guest.host = place.dest
        time.sleep(_CONTINUES_NS / 1e9)
        trial.stall_s = guest.judge.longest_gap(begin_ns, end_ns + _CONTINUES_NS)
        if trial.load == WRITING:
            trial.p99_before_ms = guest.judge.latencies(before_ns, begin_ns).p99_ms
            trial.p99_during_ms = guest.judge.latencies(begin_ns, end_ns).p99_ms
        verdict = guest.judge.verify_live()
        if not verdict.ok:
            raise LabError(f"LOST WRITES: {verdict.text}")
    finally:
        for host in (place.source, place.dest):
            guest.host = host
            host.run(["virsh", "-q", "destroy", guest.name], check=False)
            host.run(["virsh", "-q", "undefine", guest.name], check=False)
        place.lab.remove_guest(guest)
        for store in (place.old, place.new):
            store.clear_vm(guest.name)


def planned(settings: HostSettings) -> list[HostTrial]:
    """Every trial: both ways of a cell one after the other, in an order drawn by the seed."""
    order, found = random.Random(settings.seed), []
    for number in range(1, settings.rounds + 1):
        for link, disks, load in itertools.product(settings.links, settings.disks, settings.loads):
            ways = order.sample(WAYS, len(WAYS))
            found += [HostTrial(way, link, load, disks, number) for way in ways]
    return found


def perform(run_: HostRun, path: Path, console: Console, budget_s: float | None) -> None:
    """Every trial, saved as soon as it is made; one that fails is written down and the rest goes on."""
    began = time.monotonic()
    with _field(run_.settings) as place:
        for number, trial in enumerate(planned(run_.settings), 1):
            if budget_s is not None and time.monotonic() - began > budget_s:
                return
            trial.started, trial.machine_load = record.now(), os.getloadavg()[0]
            place.dest.shorten_network()
            if trial.link == LONG:
                place.dest.lengthen_network(_DELAY_MS)
            try:
                _perform(place, run_.settings, trial, f"vm{number}")
            except (LabError, OSError, LookupError, ValueError) as error:
                trial.failure = f"{type(error).__name__}: {error}"
            run_.trials.append(trial)
            record.save(path, run_)
            console.print(_line(trial), style="red" if trial.failure else None, highlight=False, markup=False,
                          soft_wrap=True)  # fmt: skip
    run_.finished = record.now()
    record.save(path, run_)


def _line(trial: HostTrial) -> str:
    where = f"round {trial.round} {trial.link:5} {trial.disks} disk(s) {trial.load:7} {trial.way:33}"
    if trial.failure is not None:
        return f"{where} FAILED: {trial.failure}"
    wire = (trial.wire_bytes or 0) / MIB
    return (
        f"{where} {trial.seconds:6.1f} s, stall {trial.stall_s:.2f} s, {wire:.0f} MiB [load {trial.machine_load:.1f}]"
    )


# -- the table ------------------------------------------------------------------------------------------------------


def _ratio(trials: list[HostTrial], value: Callable[[HostTrial], float | None]) -> str:
    """Median of the rounds' ratios, blockferry to virsh in the same round."""
    found = []
    for one in trials:
        pair = next((other for other in trials if other.way == VIRSH and other.round == one.round), None)
        mine, its = value(one), None if pair is None else value(pair)
        if one.way == BLOCK_FERRY and mine is not None and its:
            found.append(mine / its)
    return f"{sorted(found)[len(found) // 2]:.2f}" if found else "-"


def _median(trials: list[HostTrial], value: Callable[[HostTrial], float | None], digits: int) -> str:
    return rendering.spread_text(stats.Spread.of(map(value, trials)), digits)


def _p99_ratio(trial: HostTrial) -> float | None:
    before, during = trial.p99_before_ms, trial.p99_during_ms
    return during / before if before and during is not None else None


def _wire(trial: HostTrial) -> float | None:
    return trial.wire_bytes / trial.used_bytes if trial.wire_bytes is not None and trial.used_bytes else None


def table(run_: HostRun) -> rendering.Table:
    """A row for each way of each cell, and the ratios."""
    rows = []
    good = [trial for trial in run_.trials if trial.failure is None]
    cells = dict.fromkeys((trial.link, trial.disks, trial.load) for trial in good)
    for link, disks, load in cells:
        at = [trial for trial in good if (trial.link, trial.disks, trial.load) == (link, disks, load)]
        for way in WAYS:
            of = [trial for trial in at if trial.way == way]
            rows.append(
                (
                    f"{link}, {disks} disk{'s'[: disks - 1]}, {load}", way, _median(of, lambda one: one.seconds, 1),
                    _median(of, lambda one: one.downtime_ms, 0), _median(of, lambda one: one.stall_s, 2),
                    _median(of, lambda one: one.p99_before_ms, 1), _median(of, lambda one: one.p99_during_ms, 1),
                    _median(of, _p99_ratio, 2), _median(of, _wire, 2),
                )
            )  # fmt: skip
        ratios = _ratio(at, lambda one: one.seconds), _ratio(at, lambda one: one.wire_bytes)
        rows.append(
            ("", "blockferry : virsh", ratios[0], "", _ratio(at, lambda one: one.stall_s), "", "", "", ratios[1])
        )
    columns = ("cell", "command", "seconds", "downtime ms", "stall s", "p99 before ms", "p99 during ms", "p99 ratio",
               "wire : used")  # fmt: skip
    note = (
        "Median (least - most) of the rounds. Used: what the images hold at the source; wire: all that came over the "
        "destination's network device, memory included. The last line of a cell has the ratios of both commands."
    )
    return rendering.Table("To another host with its disks", columns, rows, note)


def markdown(run_: HostRun) -> str:
    failures = [f"FAILED: {trial.way}, {trial.link}: {trial.failure}" for trial in run_.trials if trial.failure]
    head = [rendering.headline(run_.started, run_.finished, run_.machine)]
    return rendering.to_markdown(head, [table(run_)], failures)


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--size", type=Size(), default="2GiB", show_default=True, help="Of each thin disk.")
@click.option("--fill", type=Size(), default="512MiB", show_default=True, help="So much of it holds random data.")
@click.option("--memory", type=Size(), default="256MiB", show_default=True)
@click.option("--disks", type=click.Choice(["1", "3"]), multiple=True, help="[default: both]")
@click.option("--load", "loads", type=click.Choice([IDLE, WRITING]), multiple=True, help="[default: both]")
@click.option("--link", "links", type=click.Choice([LAN, LONG]), multiple=True, help="[default: both]")
@click.option("--seed", type=int, help="Of the order; default: a new one.")
@click.option("--budget", type=float, metavar="MINUTES", help="Begin no trial after so long.")
@click.option("--output", type=click.Path(path_type=Path), help="The JSON file; default: in bench/results.")
@click.option("--report", "shown", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Show that run.")
def main(
    rounds: int,
    size: int,
    fill: int,
    memory: int,
    disks: tuple[str, ...],
    loads: tuple[str, ...],
    links: tuple[str, ...],
    seed: int | None,
    budget: float | None,
    output: Path | None,
    shown: Path | None,
) -> None:
    """Time, downtime, stall, p99 and bytes of a move to another host, by blockferry and by virsh. Needs root."""
    if shown is not None:
        click.echo(markdown(msgspec.json.decode(shown.read_bytes(), type=HostRun)), nl=False)
        return
    settings = HostSettings(
        rounds=rounds, size=size, fill=fill, memory=memory, disks=tuple(map(int, disks or ("1", "3"))),
        loads=loads or (IDLE, WRITING), links=links or (LAN, LONG),
        seed=random.randrange(2**31) if seed is None else seed,
    )  # fmt: skip
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    path = output or RESULTS / f"{stamp}-host-move.json"
    run_ = HostRun(1, record.now(), record.machine(), settings)
    perform(run_, path, new_console(), None if budget is None else budget * 60)
    path.with_suffix(".md").write_text(markdown(run_))
    click.echo(markdown(run_))
    sys.exit(1 if any(trial.failure for trial in run_.trials) else 0)


if __name__ == "__main__":
    main()
