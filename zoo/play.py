"""One host of the zoo from its building to the verdict: the move, the edits meanwhile, every VM started at the end."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import LabError
from lab.namespaces import HostProcess
from lab.said import Said
from zoo import domains, files, judge
from zoo.facts import Facts, disk_paths
from zoo.ferry import Ferry
from zoo.site import Site, World, behind
from zoo.spec import Disk, Edit, Host, Move

OVER = ("moved", "refused", "cancelled")
END_S = 300.0
REACH_S = 300.0
"""On a busy machine a move of three disks has taken two minutes; a move that stops later than this never goes on."""


@dataclass(slots=True)
class Played:
    """What became of a host. `findings` is empty when all is well."""

    end: str = ""  # moved, refused, cancelled, failed ..., or "not built"
    codes: tuple[str, ...] = ()
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: list[judge.Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kinds(self) -> set[str]:
        return {finding.kind for finding in self.findings}


def play(site: Site, host: Host) -> Played:
    """Build, move, judge, start everything, clear. Raises LabError only when the lab itself is broken."""
    began = time.monotonic()
    played = Played()
    site.use(host.profile)
    try:
        world = site.build(host)
    except LabError as why:
        played.end = "not built"
        played.notes.append(site.places(str(why))[:600])
    else:
        under_way = Play(site, world, played, host)
        try:
            under_way.go()
        except LabError as why:
            under_way.find("lab", f"what should always work did not: {str(why)[:600]}")
            if site.host.daemon("libvirtd") is None:
                under_way.find("lab", f"libvirtd has died: {site.host.evidence()[-1500:]}")
    finally:
        site.clear()
    played.seconds = time.monotonic() - began
    return played


@dataclass(slots=True)
class Play:
    """A host under way."""

    site: Site
    world: World
    played: Played
    built: Host  # the host before anything moved
    states: dict[str, str] = field(default_factory=dict)  # as they must be at the end
    case: judge.Case | None = None  # the last one judged
    warned: str = ""  # all that the moves printed

    def go(self) -> None:
        host = self.built
        before = self.site.look(host)
        self.states = {name: vm.state for name, vm in before.vms.items()}
        ferry = Ferry(self.site.host, self.site.scratch)
        self._one(ferry, host.move, before, words(host.move), host.move.edits, host.move.cancel_at)
        moved = self.played.end == "moved"
        if host.move.back and self.played.end == "moved":
            again = self.site.look(host)
            assert self.case is not None
            self.world.host = judge.relocated(self.case, self.site.place)
            back = Move(host.move.vm, host.move.back)
            self._one(ferry, back, again, words(back), (), "")
        if self.played.end in ("moved", "cancelled", "refused"):
            self._write_after()
        if moved or self.played.end == "cancelled":
            self._orphans(ferry)
        if moved and self.played.end == "refused":
            self.played.end = "moved, not back"  # a refusal to go back is no refusal of the move
        if host.expect and self.played.end != host.expect:
            self.find("expected", f"the move ended as {self.played.end!r}; right is {host.expect!r}")
        if self.played.end in ("moved", "cancelled", "refused", "moved, not back"):
            self._start_all()

    def _one(
        self, ferry: Ferry, move: Move, before: Facts, said_words: list[str], edits: Sequence[Edit], cancel_at: str
    ) -> None:
        """One command and its verdict."""
        stops = sorted({one.point for one in edits} | ({cancel_at} if cancel_at else set()))
        tpm = self._tpm()
        process = ferry.start(said_words, ",".join(f"{stop}:stop" for stop in stops))
        reached = bool(stops) and self._wait_stopped(process)
        if reached:
            for edit in edits:
                self._edit(edit, before)
            if cancel_at:
                process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGCONT)
        said = ferry.end(process, said_words, END_S)
        self.played.commands.append(f"blockferry {' '.join(self.site.places(said_word) for said_word in said_words)}")
        self.played.codes = said.codes
        self.played.end = ended(said)
        self.warned += said.out
        if reached and self.played.end not in OVER and any(one.what == "kill-libvirtd" for one in edits):
            said = self._resumed(ferry, said)
        self.played.notes.append(f"-> {said.status} {self.site.places(said.message)}"[:400])
        if said.status is None:
            self.played.notes.append(f"the last it said: {self.site.places(said.out[-600:])}")
        if stops and not reached:
            self.played.notes.append(f"{', '.join(stops)} was not reached")
        after = self.site.look(self.world.host)
        case = judge.Case(
            host=self.world.host, move=move, real=self.site.real, model=self.world.model, before=before, after=after,
            states=self.states, end=self.played.end, said=said, loops=frozenset(self.world.loops.values()),
            edited=reached,
        )  # fmt: skip
        self.case = case
        if self._tpm() != tpm:
            self.find("tpm", f"the TPM's state was {', '.join(tpm)} and is {', '.join(self._tpm())}")
        for finding in judge.judge(case):
            self.find(finding.kind, finding.text)

    def _resumed(self, ferry: Ferry, said: Said) -> Said:
        """The move did not get over libvirtd's end by itself: `resume`, as its user would."""
        self.played.notes.append(f"-> {said.status} {self.site.places(said.message)}"[:400])
        again = ["resume", "--", self.world.host.move.vm]
        said = ferry.end(ferry.start(again), again, END_S)
        self.played.commands.append(f"blockferry {' '.join(again)}")
        self.played.codes = said.codes
        self.played.end = ended(said)
        self.warned += said.out
        return said

    def _tpm(self) -> list[str]:
        """The files of the mover's emulated TPM, which libvirt keeps on the host, outside of datastores."""
        place = self.site.host.directory / "lib/swtpm" / domains.vm_uuid(self.world.host.move.vm)
        return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.name != ".lock")

    @staticmethod
    def _wait_stopped(process: HostProcess) -> bool:
        end = time.monotonic() + REACH_S
        while process.poll() is None and time.monotonic() < end:
            inner = process.inner_pid()
            if inner is not None and "\nState:\tT" in _status(inner):
                return True
            time.sleep(0.005)
        return False

    def find(self, kind: str, text: str) -> None:
        self.played.findings.append(judge.Finding(kind, self.site.places(text)))

    # -- what others do meanwhile ---------------------------------------------------------------------------------

    def _edit(self, edit: Edit, before: Facts) -> None:
        mover = self.world.host.mover
        text = f"at {edit.point}: {edit.what} {edit.place or edit.target}"
        self.played.notes.append(text)
        if edit.what in ("append", "rewrite"):
            path = self.site.real(edit.place)
            if not path.exists():
                return
            with path.open("ab" if edit.what == "append" else "r+b") as file:
                file.write(b"the newest line\n")
            self.world.model.plain[edit.place] = files.digest(path)
        elif edit.what == "guest-write":
            self._guest_write(next(disk for disk in mover.disks if disk.target == edit.target))
        elif edit.what == "suspend":
            if self.site.state(mover.name) == "running":
                self.site.virsh(("suspend", domains.vm_uuid(mover.name)), check=False)
                self.states[mover.name] = "paused"
        elif edit.what == "change-cd":
            self._change_cd(edit, before)
        elif edit.what == "kill-libvirtd":
            self.site.host.restart_libvirtd()

    def _guest_write(self, disk: Disk, places: Sequence[int] = (2, 9)) -> None:
        mover = self.world.host.mover
        if self.site.state(mover.name) != "running":
            return
        raw = self.world.model.disks[mover.name, disk.target]
        writes = [(files.BLOCK * place, 77 + place) for place in places]
        for offset, byte in writes:
            wrong = self.site.guest_write(mover.name, disk, offset, byte)
            if wrong:
                self.played.notes.append(f"no write into {disk.target}: {wrong[:200]}")
                return
            files.write_model(raw, [(offset, byte)])

    def _change_cd(self, edit: Edit, before: Facts) -> None:
        uuid, path = domains.vm_uuid(self.world.host.mover.name), str(self.site.real(edit.place))
        live = ["--live"] if self.site.state(self.world.host.mover.name) != "shut off" else []
        done = self.site.host.run(
            ["virsh", "-q", "change-media", uuid, edit.target, path, "--update", "--config", *live], check=False
        )
        if done.returncode != 0:
            self.played.notes.append(f"no change of {edit.target}: {done.stderr.strip()[:200]}")
            return
        now = self.site.look(self.world.host)
        text = now.vms[self.world.host.mover.name].inactive
        if judge.MARK in text:  # the move's own, which goes away with it
            text = re.sub(r"\s*<metadata.*?</metadata>", "", text, flags=re.DOTALL)
        before.vms[self.world.host.mover.name].inactive = text

    def _orphans(self, ferry: Ferry) -> None:
        """No leftover that blockferry itself knows of; what is kept on purpose is none."""
        said = ferry.end(ferry.start(["orphans"]), ["orphans"], END_S)
        listed = [one for document in said.documents for one in document.get("orphans") or ()]
        for one in listed:
            if one.get("kind") not in ("source", "partial"):
                self.find("orphans", f"{one.get('path')}: {one.get('why')}")
        if said.status != 0:
            self.find("orphans", f"orphans could not be listed: {said.status} {said.message}")

    def _write_after(self) -> None:
        """What the guest writes from now on arrives in the images that its configuration names."""
        host = self.world.host
        mover = host.mover
        if self.site.state(mover.name) != "running":
            return
        for disk in mover.disks:
            if (mover.name, disk.target) in self.world.model.disks and "readonly" not in disk.options:
                self._guest_write(disk, (5, 11))
        after = self.site.look(host)
        for finding in judge.written(after, self.world.model, mover.name):
            self.find(finding.kind, finding.text)

    # -- everything starts ----------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        """Start every VM from its persistent configuration. One that fails is tried on the host as it was built."""
        failed = self.failing(self.world.host)
        if not failed:
            self._bitmaps()
            return
        self.site.clear()
        self.world = self.site.build(self.built)
        could_not = self.failing(self.world.host)
        for name, why in failed.items():
            if name in could_not:
                self.played.notes.append(f"{name} does not start, and did not before: {self.site.places(why)[:300]}")
            else:
                self.find("start", f"{name} does not start any more: {why}")

    def _bitmaps(self) -> None:
        """A backup program's bitmaps went along, unless the plan said that they would be lost. QEMU writes them at its
        end, so this comes when no VM runs any more."""
        host = self.world.host
        if self.played.end not in ("moved", "cancelled", "refused") or "BITMAPS_LOST" in self.warned:
            return
        paths = disk_paths(self.site.look(host).vms[host.mover.name].inactive, self.site.look(host).pools)
        for disk in self.built.mover.disks:
            wanted = self.built.file(behind(self.built, disk.place)).bitmap if disk.place else ""
            layers = files.chain(Path(paths[disk.target][0])) if wanted else []
            if wanted and not any(wanted in files.bitmaps(layer) for layer in layers):
                self.find("bitmaps", f"{disk.target}: {paths[disk.target][0]} has lost its bitmap {wanted}")

    def failing(self, host: Host) -> dict[str, str]:
        """Why each VM that cannot be started does not start."""
        commands: list[tuple[str, ...]] = []
        for uuid in (domains.vm_uuid(vm.name) for vm in host.vms):
            commands += [("destroy", uuid), ("start", uuid, "--paused"), ("domstate", uuid), ("destroy", uuid)]
        states = self.site.virsh(*commands, check=False).split("\n\n")
        found = {}
        for vm, state in zip(host.vms, states, strict=False):
            if state.strip() != "paused":
                started = self.site.host.run(
                    ["virsh", "-q", "start", domains.vm_uuid(vm.name), "--paused"], check=False
                )
                if started.returncode != 0:
                    found[vm.name] = started.stderr.strip()
        return found


def words(move: Move) -> list[str]:
    """The command of a move. The name comes after --, as it may begin with a dash."""
    found = ["move", *(["--to", move.to] if move.to else [])]
    for target, pool in move.disks:
        found += ["--disk", f"{target}={pool}"]
    if move.method != "auto":
        found += ["--method", move.method]
    return [*found, *move.words, "--", move.vm]


def ended(said: Said) -> str:
    known = {0: "moved", 2: "usage", 3: "refused", 4: "refused", 5: "failed", 6: "cancelled", 9: "parked"}
    return "no end" if said.status is None else known.get(said.status, f"status {said.status}")


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
