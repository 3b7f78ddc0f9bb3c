"""Runs on the desk of the lab: the pre-check of a move to another host, its findings as JSON on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

from blockferry.host_move.precheck import looks, rules
from blockferry.host_move.precheck.host_move_facts import Asked, HostFacts
from blockferry.hosts.host import Host


def main(source: str, destination: str, vm: str, asked: dict[str, Any]) -> None:
    here, there = Host(source), Host(destination)
    try:
        facts = looks.gather(here, there, vm, Asked(**asked))
        found = [[finding.code, finding.text, finding.remedy] for finding in rules.findings(facts, Asked(**asked))]
        json.dump({"findings": found, "seen": seen(facts)}, sys.stdout)
    finally:
        here.close()
        there.close()


def seen(facts: HostFacts) -> dict[str, Any]:
    """What the test looks at beside the findings."""
    assert facts.ports is not None
    return {
        "ports": {str(port): number for port, number in facts.ports.ports.items()},
        "address": facts.ports.address,
        "cpu": facts.cpu.answer.value,
        "machines": len(facts.hypervisor.machines),
        "memory_free": facts.destination.memory_free,
        "running_qemu": facts.running_qemu,
        "paths": {path: look.kind for path, look in facts.paths.items()},
        "peer": None if facts.peer is None else facts.peer.problem,
        "everything": repr(facts),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
