"""Leaving a move to a process of its own (`blockferry run-move`), which outlives this one and its terminal."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys

from blockferry.base.errors import JournalFailed
from blockferry.hosts.process import reap
from blockferry.moves import kinds
from blockferry.moves.environment import Environment

log = logging.getLogger(__name__)


def start(env: Environment, move_id: str) -> bool:
    """A process of its own runs the move; it outlives this one and its terminal. False: the journal is away.

    Then the worker waits for it: a move that this process has planned or run is not left to nobody.
    """
    try:
        summary = env.every_move.get(move_id)
    except JournalFailed as error:
        if not error.passing or move_id not in env.uris:
            raise
        _start_worker(env, move_id, env.uris[move_id])
        return False
    _start_worker(env, summary.id, kinds.of(summary).reach(env, summary))
    return True


def _start_worker(env: Environment, move: str, uri: str) -> None:
    argv = [sys.executable, "-m", "blockferry", "--uri", uri, "run-move", "--journal-from-stdin", move]
    # The journal's URL may hold a password, and everybody can read the arguments of every process.
    worker = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError), worker.stdin as pipe:
        pipe.write(env.config.journal.encode())
    reap(worker)
    log.info("move %s is left to process %d", move, worker.pid)
