"""What the children of the journal's tests do, each in a process of its own; `talk` leads to the test."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import boxes

from blockferry.base import config
from blockferry.base.errors import BlockferryError, MoveBusy
from blockferry.jobs import loop as jobs_loop
from blockferry.local_client import LocalClient
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import Progress
from blockferry.store import Owner, sqlite


def hold(talk: Connection, url: str, move: str, ttl_s: float) -> None:
    """Claim, and write whatever is heard."""
    journal = MoveJournal.open(url)
    lease = journal.claim(move, Owner.here(), ttl_s)
    talk.send("claimed")
    while True:
        word = talk.recv()
        try:
            journal.write(lease, Record(failure=word))
            talk.send("written")
        except BlockferryError as error:
            talk.send(f"{error.code} {error}")


def claim_all(talk: Connection, url: str, moves: list[str]) -> None:
    """At a sign, claim one after the other; say which were won. Lives on, so that no lease is free again."""
    journal = MoveJournal.open(url)
    talk.send("ready")
    talk.recv()
    won = []
    for move in moves:
        try:
            journal.claim(move, Owner.here())
            won.append(move)
        except MoveBusy:
            continue
    talk.send(won)
    talk.recv()


def add_all(talk: Connection, url: str, plans: list[Plan]) -> None:
    """At a sign, add all moves; say for which VMs it worked."""
    journal = MoveJournal.open(url)
    talk.send("ready")
    talk.recv()
    won = []
    for plan in plans:
        try:
            journal.add(plan, Record(), "{}", "child")
            won.append(plan.uuid)
        except MoveBusy:
            continue
    talk.send(won)


def open_it(talk: Connection, url: str) -> None:
    """At a sign, open the journal, which may not exist yet."""
    talk.send("ready")
    talk.recv()
    talk.send(len(MoveJournal.open(url).unfinished()))


def open_as_nobody(talk: Connection, url: str) -> None:
    """As a user without rights, say what comes of opening it."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        MoveJournal.open(url)
        talk.send("opened")
    except BlockferryError as error:
        talk.send(str(error))


def scribble(talk: Connection, url: str, move: str) -> None:
    """Write for ever; say a number when the record that holds it is durable."""
    journal = MoveJournal.open(url)
    lease = journal.claim(move, Owner.here())
    record = journal.read(move)
    number = record.switch.attempts
    while True:
        number += 1
        journal.write(
            lease,
            replace(
                record, created=tuple(map(str, range(number % 500))), switch=replace(record.switch, attempts=number)
            ),
        )
        talk.send(number)
        journal.progress(lease, Progress(f"phase {number}"))
        journal.event(move, "action", f"number {number}")


def look_as_nobody(talk: Connection, url: str) -> None:
    os.setuid(65534)
    try:
        talk.send("missing" if MoveJournal.open(url, make=False).missing else "there")
    except BlockferryError as error:
        talk.send(str(error))


def ask_as_nobody(talk: Connection, system: str, state: str) -> None:
    """As a user without rights whose own journal would be below `state`, say what each question comes to.

    `system`: where root's journal is, as on a host.
    """
    os.environ["XDG_STATE_HOME"] = state
    importlib.import_module("difflib")  # where Python lies that user may not read, and the client loads late
    importlib.import_module("blockferry.storage_move.move_journal")
    config.SYSTEM_JOURNAL = Path(system)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    while True:
        asked = talk.recv()
        said: list[str] = []
        client = LocalClient(config.Config(journal=config.default_journal()))
        client.listen(said.append)
        ask: dict[str, Callable[[], object]] = {
            "moves": client.moves,
            "history": client.history,
            "find": functools.partial(client.find, "web01"),
        }
        try:
            talk.send(ask[asked]() if asked in ask else said if client.missing_journal else "there is one")
        except BlockferryError as error:
            talk.send(str(error))


def run_boxes(talk: Connection, url: str, job: str, wish: str, pauses: bool) -> None:
    """Run a job of boxes.py with a wish for its kill points; say how it ends.

    `pauses`: after the first box say "half", and go on at a sign; say "away" once while the journal is away.
    """
    os.environ["BLOCKFERRY_POINT"] = wish
    jobs_loop.UNFORESEEN_S = jobs_loop.JOURNAL_S = 0.01
    sqlite.BUSY_MS = 50
    if not url.startswith("sqlite"):
        url += ("&" if "?" in url else "?") + "options=-c%20lock_timeout%3D100ms"
    said: set[str] = set()

    def once(word: str) -> bool:
        if word in said or not pauses:
            return False
        said.add(word)
        talk.send(word)
        return True

    def shown(summary: boxes.BoxSummary) -> None:
        if "waiting for the journal" in summary.progress.note:
            once("away")

    journal = boxes.BoxJournal.open(url)
    talk.send("ready")
    try:
        talk.send(boxes.run(journal, job, shown, lambda: talk.recv() if once("half") else None).value)
    except BlockferryError as error:
        talk.send(error.code)


ROLES: dict[str, Callable[..., None]] = {
    "hold": hold,
    "claim": claim_all,
    "add": add_all,
    "open": open_it,
    "open as nobody": open_as_nobody,
    "look as nobody": look_as_nobody,
    "ask as nobody": ask_as_nobody,
    "scribble": scribble,
    "boxes": run_boxes,
}
