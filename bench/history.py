"""`python -m bench history`: what the journal's part of a pre-check costs with many finished moves. Needs no root."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import click
import sqlalchemy as sa

from bench.options import new_console
from blockferry.base.units import GiB
from blockferry.hosts.inventory import PowerState
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move import claims
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import DiskPlan, DiskSizes, SourceImage
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, SourcePolicy
from blockferry.storage_move.summary import Report
from blockferry.storage_move.templates import effects as templates_effects
from blockferry.store import Owner

URI, HOST = "qemu:///system", "6f0c1d9e-aaaa-4bbb-8ccc-000000000001"
PARTIAL = "/ssd/vm-1/vda.qcow2"


@click.command()
@click.option("--moves", default=10_000, show_default=True, help="Finished ones in the journal.")
@click.option("--rounds", default=9, show_default=True)
def history(moves: int, rounds: int) -> None:
    """The journal's part of `check`: every question that it asks, and reading the moves' JSON as before schema 0003."""
    with tempfile.TemporaryDirectory(prefix="bf-history-") as place:
        url = f"sqlite:///{place}/journal.db"
        with closing(MoveJournal.open(url)) as journal:
            fill(journal, url, moves)
            now = measure(lambda: check(journal), rounds)
            before = measure(lambda: journal.finished(moves), min(2, rounds))
    say = new_console().print
    say(f"{moves} finished moves, the journal's part of a pre-check, median of {rounds}: {now * 1000:.1f} ms")
    say(f"reading all of them, which every check did before schema 0003: {before * 1000:.0f} ms")


def check(journal: MoveJournal) -> None:
    """What Service.check asks the journal for, in its order."""
    journal.known()
    journal.unfinished()
    journal.reservations(URI, HOST)
    assert PARTIAL in journal.partials("uuid-1", HOST)
    journal.unfinished()
    claims.kept_here(journal, URI, HOST)
    claims.claims(journal, URI, HOST)
    templates_effects.known(journal, URI, HOST)


def measure(work: Callable[[], object], rounds: int) -> float:
    """Median, seconds; one round before does not count."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def fill(journal: MoveJournal, url: str, moves: int) -> None:
    """A journal of so many finished moves. One is made as any move is; the others are copies of its row."""
    disks = tuple(a_disk(target) for target in ("vda", "vdb"))
    plan = Plan(
        "m-1", URI, "vm-1", "uuid-1", Method.CHANGED_BLOCKS, "for the benchmark", disks,
        DomainPlan(persistent=True, was=PowerState.RUNNING), SourcePolicy(), host=HOST,
    )  # fmt: skip
    record = Record(kept=(PARTIAL,), outcome=Outcome.FAILED)
    journal.add(plan, record, "{}", "bench")
    journal.finish(journal.claim("m-1", Owner.here()), record, Report(Outcome.FAILED, 1.0))
    active = replace(
        plan,
        move="a-1",
        vm="vm-0",
        uuid="uuid-0",
        disks=(replace(disks[0], dest=replace(disks[0].dest, path="/ssd/vm-0/x.qcow2")),),
    )
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        table = sa.Table("moves", sa.MetaData(), autoload_with=connection)
        row = dict(connection.execute(sa.select(table)).one()._mapping)
        rows = []
        for number in range(2, moves + 1):
            values = {"id": f"m-{number}", "vm_uuid": f"uuid-{number}", "vm": f"vm-{number}", "created": 1.7e9 + number}
            plan_text = row["plan"].replace("m-1", f"m-{number}").replace("vm-1", f"vm-{number}")
            record_text = record_of_moved(row["record"])
            rows.append({**row, **values, "plan": plan_text, "record": record_text, "state": "moved"})
        connection.execute(sa.insert(table), rows)
    engine.dispose()
    journal.add(active, Record(), "{}", "bench")


def record_of_moved(text: str) -> str:
    return text.replace(f'"kept":["{PARTIAL}"]', '"kept":[]').replace('"outcome":"failed"', '"outcome":"moved"')


def a_disk(target: str) -> DiskPlan:
    return DiskPlan(
        target=target,
        source=SourceImage(path=f"/old-san/vm-1/{target}.qcow2", format="qcow2", kind="file", datastore="old-san"),
        dest=DestinationImage(path=f"/ssd/vm-1/{target}.qcow2", format="qcow2", datastore="ssd"),
        sizes=DiskSizes(virtual=4 * GiB, allocation=3 * GiB),
        release=ReleasePlan(files=(f"/old-san/vm-1/{target}.qcow2",)),
    )
