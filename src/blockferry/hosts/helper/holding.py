"""Being the one who runs a move to another host, as its hosts know it: our calls there are refused once we are not.

`hosts/helper/program/holder_calls.py` does the work there; docs/design/host-move.md says why.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blockferry.base.errors import BlockferryError, HostCallFailed, HostUnreachable, LibvirtFailed, MoveNotHeld
from blockferry.hosts.helper.host_guard import local_uri
from blockferry.hosts.helper.host_process import Running
from blockferry.hosts.helper.program.holder_calls import BUSY, HOLDER, NONE
from blockferry.hosts.helper.session import Pending
from blockferry.hosts.process import Completed, Process, judge
from blockferry.hosts.runner import Runner

HOLD_S = 60.0
LISTEN_S = 5.0
KEPT_S = 30.0
PROBLEM_S = 40.0


class Holding:
    """One move, run by this process. `check` raises LeaseLost when somebody else has taken it over. `point` is passed
    right before a call.

    The order matters: a host is told of our number, then `check`, then our calls. A process that takes over after that
    check tells the host of a newer number before it looks at anything.
    """

    def __init__(self, move: str, token: int, check: Callable[[], None], point: Callable[[str], None]) -> None:
        self.move, self.check, self.point = move, check, point
        self._token, self._count = token, 0
        self._told: set[int] = set()  # id() of the runners whose host knows of us by the number of now

    @property
    def number(self) -> list[int]:
        """Ours. The second part grows whenever nobody knows what has become of a call of our own."""
        return [self._token, self._count]

    def ensure(self, *runners: Runner) -> None:
        """Have these hosts know that this process runs the move. Raises LeaseLost, HostUnreachable."""
        if all(id(runner) in self._told for runner in runners):
            return
        for runner in runners:
            said = runner.call("holder.hold", timeout_s=HOLD_S, move=self.move, number=self.number)
            if said != HOLDER:
                self.check()
                raise _not_yet(runner, said)
            self._told.add(id(runner))
        self.check()

    def doubt(self) -> None:
        """Nobody knows whether a call of ours is yet to be carried out: from now on it is refused, like an old one."""
        self._count += 1
        self._told.clear()

    def lost(self, runner: Runner) -> None:
        """The host knows of nobody: it was started again, or the move is over."""
        self._told.discard(id(runner))

    def asked(self, runner: Runner, do: str, words: Mapping[str, Any], point: str = "") -> Any:
        """Have something done by the host of `runner`, if it is still ours to do. `point`: see `Holding`.

        Raises LeaseLost, HostUnreachable when it is not known what has become of it, and what the call raises.
        """
        for _attempt in range(2):
            self._before(runner, point)
            try:
                said = runner.call(f"holder.{do}", repeat=False, move=self.move, number=self.number, **words)
            except HostCallFailed:
                raise  # an answer
            except BlockferryError:
                self.doubt()
                raise
            if "result" in said:
                return said["result"]
            standing = str(said["refused"])
            self.lost(runner)
            self.check()
            if standing != NONE:
                break
        raise _not_yet(runner, standing)

    def _before(self, runner: Runner, point: str) -> None:
        self.ensure(runner)
        self.check()
        if point:
            self.point(point)

    def migrate(
        self, runner: Runner, uri: str, uuid: str, name: str, words: Sequence[str], texts: Mapping[str, str]
    ) -> None:
        """Have the source's host begin a migration by `virsh migrate`, and wait for its end.

        `uri`: the source's libvirt, as used from here. Raises LibvirtFailed, LeaseLost, HostUnreachable when nothing is
        heard of it any more: it may go on, or be begun until somebody holds the move anew.
        """
        what = f"migrate VM {name}"
        wish = {
            "uri": local_uri(uri), "uuid": uuid, "move": self.move, "words": list(words), "texts": dict(texts),
        }  # fmt: skip
        self._before(runner, "calling-migrate")
        try:
            about = f"{self.move} {uuid}"
            process = runner.start_own("migration_calls", {**wish, "number": self.number}, stays=True, about=about)
            said: dict[str, Any] = {}
            while not said and not process.ended:
                said = process.said("over", LISTEN_S)
        except BlockferryError:
            self.doubt()
            raise
        if "over" not in said:
            self.doubt()
            raise HostUnreachable(runner.uri, f"nothing is heard of the migration of {name} any more")
        if said["refused"]:
            self.lost(runner)
            self.check()
            raise _not_yet(runner, str(said["refused"]))
        _judge(what, {"status": said["over"], "words": said["words"]})

    def forget(self, *runners: Runner) -> None:
        """The move is over: no call of anybody for it is carried out there after this. Raises HostUnreachable."""
        for runner in runners:
            self.ensure(runner)  # a call of which nobody knows what became is refused from now on
            said = runner.call("holder.forget", timeout_s=HOLD_S, move=self.move, number=self.number)
            if said == BUSY:
                raise _not_yet(runner, said)
            self.lost(runner)


def problem(runner: Runner, uri: str) -> str:
    """Return why the host cannot carry out our calls by itself, a clause; "" when it can. `uri`: as used from here."""
    return str(runner.call("holder.problem", timeout_s=PROBLEM_S, uri=local_uri(uri)))


def _not_yet(runner: Runner, standing: str) -> MoveNotHeld:
    why = "it is carrying out another call of this move"
    return MoveNotHeld(
        runner.uri, why if standing == BUSY else "it takes another process for the one that runs this move"
    )


class HeldRunner:
    """A host's runner, every call of which is refused there once another process runs the move. See Runner.

    Only for what changes something; what only reads needs no such care.
    """

    def __init__(self, runner: Runner, holding: Holding) -> None:
        self._runner, self._holding = runner, holding

    @property
    def uri(self) -> str:
        return self._runner.uri

    def run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None, check: bool = True
    ) -> Completed:
        """See Runner. It is waited for to its end."""
        words = {"argv": list(argv), "data": base64.b64encode(stdin or b"").decode()}
        return judge(_completed(argv, self._holding.asked(self._runner, "run", words)), self.uri, check=check)

    def start(self, argv: Sequence[str]) -> Process:
        raise NotImplementedError("what runs on is no call")

    def prepare(self) -> None:
        self._runner.prepare()

    def begin(self, do: str, *, repeat: bool = True, **words: Any) -> Pending:
        """It has been answered when this returns."""
        return _Answered(self.call(do, repeat=repeat, **words))

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        """See Runner. It is waited for to its end, and never asked twice."""
        point = "calling-remove" if do == "files.remove" else ""
        return self._holding.asked(self._runner, "call", {"what": do, "words": words}, point)

    def start_own(self, module: str, wish: dict[str, Any], *, stays: bool = False, about: str = "") -> Running:
        raise NotImplementedError("what runs on is no call")


@dataclass(frozen=True, slots=True)
class _Answered:
    answer: Any

    def wait(self, seconds: float | None) -> bool:
        return True

    def result(self) -> Any:
        return self.answer

    def leave(self) -> None:
        """It is over."""


def _completed(argv: Sequence[str], said: Mapping[str, Any]) -> Completed:
    return Completed(tuple(argv), said["status"], base64.b64decode(said["out"]), said["words"])


class HeldVm:
    """One VM at one of the hosts: what changes it, by a virsh there. Raises LibvirtFailed, and as `Holding.asked`."""

    def __init__(self, runner: Runner, holding: Holding, uri: str, uuid: str, name: str) -> None:
        """`uri`: the libvirt URI of the host, as used from here."""
        self._runner, self._holding, self._uuid, self._name = runner, holding, uuid, name
        self._uri = local_uri(uri)

    def virsh(self, what: str, *words: str, texts: Mapping[str, str] | None = None) -> None:
        """One command of virsh; `what`: what it is to do, for people. `texts`: see holder_calls.virsh."""
        asked = {"uri": self._uri, "words": list(words), "texts": dict(texts or {})}
        _judge(what, self._holding.asked(self._runner, "virsh", asked, f"calling-{words[0]}"))

    def end(self) -> None:
        """End its QEMU. The caller has proven that its guest is not needed."""
        self.virsh(f"end the QEMU of VM {self._name}", "destroy", self._uuid)

    def resume(self) -> None:
        """Let its guest run."""
        self.virsh(f"resume VM {self._name}", "resume", self._uuid)

    def define(self, xml: str) -> None:
        """Define it, or define it anew."""
        self.virsh(f"define VM {self._name}", "define", "@definition", texts={"definition": xml})

    def undefine(self, *more: str) -> None:
        """Remove its definition, which the host keeps in a file before. Nothing is done when there is none."""
        asked = {"uri": self._uri, "uuid": self._uuid, "words": ["--keep-nvram", *more]}
        what = f"remove the definition of VM {self._name}"
        _judge(what, self._holding.asked(self._runner, "undefine", asked, "calling-undefine"))

    def autostart(self, *, wanted: bool) -> None:
        """Have libvirt start it when the host boots, or not."""
        what = f"set whether VM {self._name} is started with its host"
        self.virsh(what, "autostart", *(() if wanted else ("--disable",)), self._uuid)

    def abort(self) -> None:
        """Ask for the end of its migration. Nothing is done when another job, or none, is under way."""
        asked = {"uri": self._uri, "uuid": self._uuid}
        what = f"end the migration of VM {self._name}"
        _judge(what, self._holding.asked(self._runner, "abort", asked, "calling-domjobabort"))

    def put_overlays(self, snapshot: str) -> None:
        """Put overlays that exist above disks, all in one instant. libvirt keeps no snapshot of its own of it."""
        flags = ("--disk-only", "--atomic", "--no-metadata", "--reuse-external")
        what = f"put overlays above disks of VM {self._name}"
        self.virsh(what, "snapshot-create", self._uuid, "@snapshot", *flags, texts={"snapshot": snapshot})

    def start_commit(self, target: str) -> None:
        """Start committing the active overlay of a disk into the image right below it, without a limit."""
        what = f"commit the overlay of disk {target} of {self._name} into its base"
        self.virsh(what, "blockcommit", self._uuid, target, "--active", "--shallow")

    def pivot(self, target: str) -> None:
        """Ask for the switch of a disk to the base that has all; the live XML tells when it is done."""
        what = f"switch disk {target} of {self._name} to its base"
        self.virsh(what, "blockjob", self._uuid, target, "--pivot", "--async")

    def keep(self) -> None:
        """Have the host keep its definition in a file: libvirt is about to remove it."""
        asked = {"uri": self._uri, "uuid": self._uuid}
        _judge(f"keep the definition of VM {self._name}", self._holding.asked(self._runner, "keep", asked))

    def kept(self) -> tuple[str, str | None]:
        """Return the file in which this move keeps a definition that is removed, and what is in it."""
        said = self._runner.call("holder.kept", timeout_s=KEPT_S, move=self._holding.move, uuid=self._uuid)
        return str(said["path"]), said["xml"]

    def drop(self) -> None:
        """Remove that file."""
        self._holding.asked(self._runner, "drop", {"uuid": self._uuid})

    def mark(self, uri: str, key: str, xml: str | None, *, live: bool, config: bool) -> None:
        """Put an element into its metadata, below this URI and prefix; None takes it away."""
        words = ["metadata", self._uuid, uri, *(("--live",) if live else ()), *(("--config",) if config else ())]
        words += ["--remove"] if xml is None else ["--key", key, "--set", xml]
        self.virsh(f"mark VM {self._name}", *words)


def _judge(what: str, said: Mapping[str, Any]) -> None:
    if said["status"] != 0:
        lines = [line.removeprefix("error: ") for line in said["words"].splitlines() if line.strip()]
        raise LibvirtFailed(what, "; ".join(lines[-2:]) or "it said nothing", f"virsh, status {said['status']}")
