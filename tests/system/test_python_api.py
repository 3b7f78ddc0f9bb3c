"""A running VM that moves by the Python API, each program in a process of its own on the lab host."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from lab import Datastore
from lab.namespaces import HostProcess
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import LIMIT_S, Line, Voyage, small_disks

pytestmark = pytest.mark.lab

HEAD = """
import json, sys, time
from blockferry.client import BlockferryError, MoveCancelled, connect, to_json

def say(**what):
    print(json.dumps(what), flush=True)

client, vm = connect(), sys.argv[1]
"""

CANCELLED = """
check = client.check(vm, to="ssd", bandwidth="2MiB/s")
say(refused=check.refused, method=check.plan.method.value)
try:
    client.move(vm, to="no-such-datastore")
except BlockferryError as error:
    say(code=error.code)
move = client.move(vm, to="ssd", method="changed-blocks", bandwidth="2MiB/s")
say(id=move.id)
while not (progress := move.progress()).done:
    time.sleep(0.1)
say(progress=to_json(progress), status=move.status)
say(limit=move.set_speed("1MiB/s").record.bandwidth)
sys.stdin.readline()
move.cancel()
try:
    move.wait(timeout="4min")
except MoveCancelled as cancelled:
    say(code=cancelled.code)
say(status=move.status)
client.close()
"""

ANOTHER = """
move = client.find(vm)
say(id=move.id, moves=[one.id for one in client.moves()], status=move.status, limit=move.latest.record.bandwidth)
say(events=[event.text for event in move.events()])
"""

MOVED = """
seen = []
move = client.move(vm, to="ssd")
done = move.wait(on_progress=seen.append, timeout="4min")
say(id=move.id, state=done.state, seen=len(seen), report=to_json(done)["report"])
say(history=[one.id for one in client.history()])
"""


class Program:
    """A Python program on the lab host, with the journal of the test."""

    def __init__(self, line: Line, text: str, vm: str) -> None:
        self.process: HostProcess = line.station.popen(
            [sys.executable, "-c", HEAD + text, vm],
            env=line.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def hears(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, self.process.communicate(timeout=LIMIT_S)
        found = json.loads(said)
        assert isinstance(found, dict)
        return found

    def end(self, typed: str = "") -> list[dict[str, Any]]:
        """Give it a line, and return what it says until its end."""
        out, err = self.process.communicate(typed, timeout=LIMIT_S)
        assert self.process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()]


def test_a_program_moves_a_vm(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    before = voyage.files(old_san)

    first = Program(line, CANCELLED, guest.name)
    assert first.hears() == {"refused": False, "method": "changed-blocks"}
    assert first.hears() == {"code": "DATASTORE_NOT_FOUND"}
    move = first.hears()["id"]
    seen = first.hears()
    assert seen["status"] == "running"
    assert 0 < seen["progress"]["done"] <= seen["progress"]["total"]
    assert first.hears() == {"limit": 1 << 20}
    story: list[dict[str, Any]] = Program(line, ANOTHER, guest.name).end()
    assert story[0] == {"id": move, "moves": [move], "status": "running", "limit": 1 << 20}
    assert any("set the bandwidth to 1.0 MiB/s" in text for text in story[1]["events"])
    assert first.end("go\n") == [{"code": "MOVE_CANCELLED"}, {"status": "cancelled"}]
    assert voyage.files(old_san) == before
    assert voyage.files(ssd) == set()
    voyage.assert_well()

    done, history = Program(line, MOVED, guest.name).end()
    assert (done["state"], done["report"]["outcome"]) == ("moved", "moved")
    assert done["seen"] > 0
    assert history == {"history": [done["id"], move]}
    voyage.moved_all(ssd)
    voyage.assert_well()
    wait_until(lambda: not line.unfinished(), "nothing under way", timeout=10)
