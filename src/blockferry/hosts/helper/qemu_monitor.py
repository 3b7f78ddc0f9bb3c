"""The monitor of a QEMU that libvirt has lost, past libvirt: the one place where blockferry speaks QMP by itself.

Why it may: libvirt has forgotten the VM while its QEMU runs (lost_vm/rules.py), so there is no call of libvirt's that
reaches it, and libvirt does not hold the monitor any more. Without this a guest that we have suspended would stand
still for good, and nobody could say which images it writes to. Why not otherwise: while libvirt holds the monitor,
QEMU answers nobody else, and whatever is changed behind libvirt's back would make its own picture wrong.

What is said: queries; `cont`, to end a suspension of ours; `quit`, when the guest has powered off. Nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts import block_graph
from blockferry.hosts.block_graph import BlockGraph
from blockferry.hosts.runner import Runner

LIMIT_S = 20.0

_OVER = frozenset({"concluded", "null", "aborting"})


@dataclass(frozen=True, slots=True)
class MonitorAnswer:
    """What QEMU said; with a `problem` (a clause) nothing was asked or done that counts."""

    status: str = ""  # of QEMU's RunState: running, paused, shutdown, io-error, ...
    graph: BlockGraph | None = None
    jobs: tuple[str, ...] = ()  # block jobs that are not over, by their ids
    did: bool = False  # what was wished was done
    problem: str = ""
    gone: bool = False  # and nothing can be asked any more: its socket was removed


def ask(runner: Runner, pid: int, uuid: str, wish: str = "") -> MonitorAnswer:
    """What the VM's QEMU says of itself. `wish`: "cont" or "quit", which is done only where QEMU's status asks for it.

    Raises HostUnreachable; all else that goes wrong is the answer's problem.
    """
    try:
        said = runner.call("monitor.ask", timeout_s=LIMIT_S, repeat=not wish, pid=pid, uuid=uuid, wish=wish)
        if "problem" in said:
            return MonitorAnswer(problem=str(said["problem"]), gone=bool(said["gone"]))
        jobs = tuple(str(one["id"]) for one in said["jobs"] if one["status"] not in _OVER)
        graph = block_graph.read(said["block"], said["named"])
        return MonitorAnswer(str(said["status"]), graph, jobs, bool(said["did"]))
    except HostCommandFailed as error:
        return MonitorAnswer(problem=f"its monitor cannot be asked: {error.sentence.rstrip('.')}")
    except (ValueError, KeyError, TypeError) as error:
        return MonitorAnswer(problem=f"its monitor's answer cannot be read ({error!r})")


def alive(runner: Runner, pid: int, uuid: str) -> bool:
    """Whether that process is the VM's QEMU still. Raises HostUnreachable."""
    return bool(runner.call("monitor.alive", pid=pid, uuid=uuid))
