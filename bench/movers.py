"""The commands that are compared, as a user types them, timed from outside."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.place import BLOCKFERRY, Place
from lab import Datastore, Guest, LabError
from lab.process import run

MIRROR, CHANGED, VIRSH = "blockferry mirror", "blockferry changed-blocks", "virsh blockcopy"
CONVERT, CONVERT_DIRECT, DD = "qemu-img convert", "qemu-img convert -t none -T none -W", "dd O_DIRECT"

PACED = "blockferry --guest-latency 20ms"

LIVE = (MIRROR, CHANGED, VIRSH)
OF_PACE = (PACED, CHANGED, MIRROR, VIRSH)
"""The contract implies changed-blocks; without one `auto` takes mirror."""
FLOORS = (CONVERT, CONVERT_DIRECT, DD)

_LIMIT_S = 1800.0
_CANCEL_S = 120.0
_CANCELLED = 6
"""An exit status: docs/exit-statuses.md."""
_AFTER_SWITCH_NS = 300_000_000
"""So much longer a window looks: a silence ends with the next report, which comes after the command."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One move that was made. Nanoseconds are of the host's monotonic clock, as the judge's."""

    begin_ns: int
    end_ns: int
    switch_ns: tuple[int, int]  # around the switch
    phases: dict[str, float] = field(default_factory=dict)
    stall_s: float | None = None
    own_p99_ms: tuple[float, float] | None = None  # of the guest's writes before and during, by blockferry's report
    within: float | None = None  # the same: the share of them that kept the contract
    verify_ns: tuple[int, int] | None = None

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e9


def move(place: Place, guest: Guest, method: str, *more: str, buffer: int = 0) -> Moved:
    """Move all disks of a running VM from `old-san` to `ssd`; `buffer`: bytes of QEMU's copy buffer, 0 as it is."""
    if method == VIRSH:
        return _virsh(place, guest)
    words = method.removeprefix("blockferry ").split()
    method_words = words if words[0].startswith("--") else ["--method", *words]
    program = ["env", f"BLOCKFERRY_CONFIG={_config(place, buffer)}", BLOCKFERRY] if buffer else [BLOCKFERRY]
    return run_blockferry(place, guest, ["--to", place.dest.name, *method_words, *more], program)


def _config(place: Place, buffer: int) -> Path:
    file = place.lab.directory / f"buffer-{buffer}.toml"
    file.write_text(f'copy_buffer = "{buffer}"\n', encoding="utf-8")
    return file


def move_by_pivots(place: Place, guest: Guest, method: str) -> Moved:
    """The same for the measure of the switch: by virsh all disks are brought in step first, then each is pivoted."""
    if method != VIRSH:
        return move(place, guest, method)
    begin = time.monotonic_ns()
    for disk in guest.spec.disks:
        _blockcopy(place, guest, disk.target, place.dest)
    return _pivot_all(place, guest, begin)


def move_back(place: Place, guest: Guest) -> None:
    """Have all disks on `old-san` and nothing on `ssd`, untimed, whatever the trial before left."""
    place.source.home(guest.name).mkdir(exist_ok=True)
    for disk in guest.spec.disks:
        place.host.run(["virsh", "blockjob", guest.name, disk.target, "--abort"], check=False)
        if Path(guest.sources()[disk.target]).is_relative_to(place.dest.path):
            place.image(place.source, guest, disk.target).unlink(missing_ok=True)
            _blockcopy(place, guest, disk.target, place.source, "--pivot")
        place.image(place.dest, guest, disk.target).unlink(missing_ok=True)
    place.dest.home(guest.name).mkdir(exist_ok=True)


def copy(place: Place, guest: Guest, method: str) -> float:
    """Copy the image of a VM that is off by a plain program; seconds."""
    (disk,) = guest.spec.disks
    source, dest = disk.path, str(place.image(place.dest, guest, disk.target))
    formats = ["-f", disk.format, "-O", disk.format]
    argv = {
        CONVERT: ["qemu-img", "convert", *formats, source, dest],
        CONVERT_DIRECT: ["qemu-img", "convert", *formats, "-t", "none", "-T", "none", "-W", source, dest],
        DD: ["dd", f"if={source}", f"of={dest}", "bs=4M", "iflag=direct", "oflag=direct", "conv=fsync"],
    }[method]
    begin = time.monotonic()
    run(argv, timeout=_LIMIT_S)
    return time.monotonic() - begin


def fsync_dest(place: Place, guest: Guest) -> float:
    """Have the destination on stable storage; seconds."""
    begin = time.monotonic()
    for disk in guest.spec.disks:
        file = os.open(place.image(place.dest, guest, disk.target), os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    return time.monotonic() - begin


def _virsh(place: Place, guest: Guest) -> Moved:
    (disk,) = guest.spec.disks
    begin = time.monotonic_ns()
    _blockcopy(place, guest, disk.target, place.dest, "--pivot")
    end = time.monotonic_ns()
    return Moved(begin, end, (begin, end + _AFTER_SWITCH_NS))


def _blockcopy(place: Place, guest: Guest, target: str, store: Datastore, *words: str) -> None:
    """`--transient-job` is what libvirt demands for a persistent VM; all else is virsh's default."""
    dest = place.image(store, guest, target)
    options = ["--dest", str(dest), "--format", guest.disk(target).format, "--transient-job", "--wait", *words]
    place.host.run(["virsh", "blockcopy", guest.name, target, *options], timeout=_LIMIT_S)


def _pivot_all(place: Place, guest: Guest, begin: int) -> Moved:
    switch = time.monotonic_ns()
    for disk in guest.spec.disks:
        place.host.run(["virsh", "blockjob", guest.name, disk.target, "--pivot"], timeout=_LIMIT_S)
    end = time.monotonic_ns()
    return Moved(begin, end, (switch, end + _AFTER_SWITCH_NS))


class GivenUp(RuntimeError):
    """The command did not end in the time that it was given; it was cancelled, and has ended now."""


def run_blockferry(
    place: Place,
    guest: Guest,
    words: Sequence[str],
    program: Sequence[str] = (BLOCKFERRY,),
    *,
    limit_s: float | None = None,
    before_cancel: Callable[[], None] = lambda: None,
) -> Moved:
    """`blockferry move VM` with these words, and what its report says. Raises RuntimeError with its error's words.

    limit_s: after that it is cancelled as with Ctrl-C, and GivenUp is raised. `before_cancel` is called first.
    """
    argv = [*program, "move", guest.name, *words, "--json"]
    begin = time.monotonic_ns()
    stdout, stderr, status = _end_of(place, argv, limit_s, before_cancel)
    end = time.monotonic_ns()
    documents = [json.loads(line) for line in stdout.splitlines()]
    if status != 0:
        said = next((document["message"] for document in documents if document["kind"] == "error"), stderr.strip())
        if status == _CANCELLED and limit_s is not None:
            raise GivenUp(f"no end after {limit_s:.0f} s")
        raise RuntimeError(f"exit status {status}: {said}")
    report = next(document for document in documents if document["kind"] == "report")["move"]["report"]
    own = report["guest"] or {}
    before, during = own.get("before"), own.get("during")
    phases = _phases_ns(documents)
    at = dict(reversed(phases))  # when each first began
    verify = next(((one[1], after[1]) for one, after in itertools.pairwise(phases) if one[0] == "verify"), None)
    return Moved(
        begin_ns=begin,
        end_ns=end,
        switch_ns=(at["switch"], at["clean up"] + _AFTER_SWITCH_NS),
        phases=report["phases"],
        stall_s=report["switch_stall_s"],
        own_p99_ms=(before["p99_s"] * 1000, during["p99_s"] * 1000) if before and during else None,
        within=own.get("within"),
        verify_ns=verify,
    )


def _end_of(
    place: Place, argv: Sequence[str], limit_s: float | None, before_cancel: Callable[[], None]
) -> tuple[str, str, int]:
    """Output, errors and exit status of a command on the host. After `limit_s` it gets one SIGINT."""
    pipe = subprocess.PIPE
    environment = {**os.environ, **place.journal}
    running = place.host.popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    try:
        try:
            stdout, stderr = running.communicate(timeout=limit_s or _LIMIT_S)
        except subprocess.TimeoutExpired:
            before_cancel()
            running.send_signal(signal.SIGINT)
            stdout, stderr = running.communicate(timeout=_CANCEL_S)
    except BaseException as why:
        running.kill()
        running.wait(timeout=20)
        if isinstance(why, subprocess.TimeoutExpired):
            raise LabError(f"{' '.join(argv)}: no end {_CANCEL_S:.0f} s after SIGINT") from why
        raise
    return stdout, stderr, running.returncode


def _phases_ns(documents: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """The phases and when each began, from the move's own story, on the host's monotonic clock. One can come twice."""
    events = [document["event"] for document in documents if document["kind"] == "event"]
    return [(event["text"], _monotonic_ns(event["at"])) for event in events if event["kind"] == "phase"]


def _monotonic_ns(wall_s: float) -> int:
    return int(wall_s * 1e9) - time.time_ns() + time.monotonic_ns()


class JobEvents:
    """When QEMU's copy jobs ran: by QEMU's own events, so the same for whoever started it. A virsh beside listens."""

    _LINE = re.compile(r"event JOB_STATUS_CHANGE at (?P<at>[\d.]+) for domain [^:]*: (?P<data>{.*})")

    def __init__(self, place: Place, guest: Guest) -> None:
        words = ["--domain", guest.name, "--event", "JOB_STATUS_CHANGE", "--loop"]
        self._virsh = place.host.popen(["virsh", "-q", "qemu-monitor-event", *words], stdout=subprocess.PIPE)
        time.sleep(0.3)  # it does not say when it listens
        self._at: dict[str, dict[str, int]] = {}  # status -> job -> when it first had it

    def __enter__(self) -> JobEvents:
        return self

    def __exit__(self, *_error: object) -> None:
        self._virsh.send_signal(signal.SIGINT)  # then it prints what it has, and ends
        try:
            printed = self._virsh.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            self._virsh.kill()
            printed = self._virsh.communicate()[0]
        for found in self._LINE.finditer(printed):
            data = json.loads(found["data"])
            if data["id"].startswith("copy-"):
                self._at.setdefault(data["status"], {}).setdefault(data["id"], _monotonic_ns(float(found["at"])))

    @property
    def copying(self) -> tuple[int, int]:
        """From the first job's start until the last one was in step."""
        return min(self._at["running"].values()), max(self._at["ready"].values())


def disks_at(guest: Guest, store: Datastore) -> bool:
    """Whether the running VM has all its disks on that datastore now."""
    found = guest.sources()
    return all(Path(found[disk.target]).is_relative_to(store.path) for disk in guest.spec.disks)
