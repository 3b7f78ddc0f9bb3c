"""A process that plans a move to another host, runs it, or asks for its end: there is no command for it yet.

python -m tests.system.host_move_child JOURNAL plan SOURCE DEST REQUEST(json) | run ID | cancel ID
"""

from __future__ import annotations

import json
import sys

import msgspec

from blockferry.base.errors import BlockferryError
from blockferry.host_move import planning, running
from blockferry.host_move.host_move_journal import HostMoveJournal
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.hosts.host import Host
from blockferry.jobs.outcome import Wanted
from blockferry.safety.shared_directory import SharedDirectories
from blockferry.storage_move.move_journal import MoveJournal


def main(url: str, what: str, *words: str) -> dict[str, object]:
    journal = HostMoveJournal.open(url)
    if what == "plan":
        source, dest = Host(words[0]), Host(words[1])
        request = msgspec.json.decode(words[2], type=HostMoveRequest)
        plan = planning.plan(request, source, dest, SharedDirectories())
        journal.add(plan, HostMoveRecord(bandwidth=request.bandwidth), words[2], "test")
        return {"id": plan.move, "staying": list(plan.staying), "disks": [disk.dest for disk in plan.disks]}
    if what == "cancel":
        journal.want(words[0], Wanted.CANCEL)
        return {}
    done = running.run(journal, MoveJournal.open(url), words[0])
    return {
        "state": done.state,
        "failure": done.record.failure,
        "report": None if done.report is None else json.loads(msgspec.json.encode(done.report)),
    }


if __name__ == "__main__":
    try:
        print(json.dumps(main(*sys.argv[1:])))
    except BlockferryError as error:
        print(json.dumps({"code": error.code, "words": error.sentence}))
        sys.exit(1)
