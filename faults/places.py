"""Where in a move a fault strikes: phases, and the named points (storage_move/points.py) that lie in each."""

from __future__ import annotations

MIRROR, CHANGED, SNAPSHOT, COLD = "mirror", "changed-blocks", "snapshot", "cold"
LIVE = (MIRROR, CHANGED, SNAPSHOT)
METHODS = (*LIVE, COLD)

PREPARE, BULK, IN_STEP, SWITCH, RELEASE = "prepare", "bulk", "in-step", "switch", "release"
PHASES = (PREPARE, BULK, IN_STEP, SWITCH, RELEASE)

AT_RANDOM = "at-random"
"""A place that is a moment instead of a point: so many seconds after the command was typed, drawn by the seed."""

_RELEASE = ("switched-noted", "config-written", "settled", "releasing-source", "source-released", "home-released")
_END = ("unmarked", "finishing")

_LIVE = {
    PREPARE: (
        "marked", "home-named", "home-copied", "image-named", "image-made", "watching", "starting-copy", "copy-called",
        "copy-started",
    ),
    BULK: ("copying",),
    IN_STEP: ("in-step", "flushed"),
    SWITCH: (
        "suspending-to-switch", "suspended-to-switch", "pivoting", "pivoted-one", "pivots-asked", "pivoted", "resuming",
        "resumed",
    ),
    RELEASE: (*_RELEASE, *_END),
}  # fmt: skip
_SNAPSHOT = {
    PREPARE: ("marked", "home-named", "home-copied", "overlay-named", "overlay-made", "overlay-taken"),
    BULK: ("syncing-base", "base-synced"),
    IN_STEP: (
        "image-named",
        "image-made",
        "watching",
        "starting-copy",
        "copy-called",
        "copy-started",
        "in-step",
        "flushed",
    ),
    SWITCH: _LIVE[SWITCH],
    RELEASE: (
        *("switched-noted", "config-written", "commit-starting", "commit-called", "commit-started"),
        *("commit-pivoting", "commit-pivoted"),
        "graph-noted",
        *_RELEASE[2:],
        *_END,
    ),
}
_COLD = {
    PREPARE: ("marked", "home-named", "home-copied"),
    BULK: ("cold-copying", "cold-copied"),
    RELEASE: (*_RELEASE, *_END),
}

START = ("suspending-to-start", "suspended-to-start", "resuming-from-start")
"""Passed only where copies are started in a suspension: QEMU 8 and later, or as configured."""

BACK = ("aborting", "abort-asked", "removing-destination", "destination-removed")
"""Passed only on the way back: after a wish to cancel, or a failure."""

BACK_COLD = BACK[2:]

BEFORE_BACK = {MIRROR: "copying", CHANGED: "copying", SNAPSHOT: "copy-started", COLD: "cold-copying"}
"""Where a move is cancelled whose way back is to be disturbed."""

VERIFY = ("view-prepared", "taking-view", "view-taken", "verifying", "verified", "ending-view", "view-ended")
"""Passed only by a move with `--verify`."""

VERIFY_COLD = ("verifying", "verified")

COURSE = (
    *("trimming", "trimmed", "trimming-again", "trimmed-again", "cloning", "cloned", "layer-named", "layer-copied"),
    *("leaving-synchronous", "cut-off-noted"),
    *("measured", "going-synchronous", "throttling", "throttled", "unthrottled"),
    *("checkpoint-suspending", "checkpoint-suspended", "committing-off", "committed-off"),
    *("following", "nvram-named", "nvram-copied", "nvram-pointed", "releasing-nvram", "nvram-released"),
    *("saving", "vm-saved", "saved-noted", "restoring", "restored", "let-go"),
    "snapshots-written",
    "truth-named",
    "guest-resumed",
    *("point-made", "changes-begun", "changes-read"),
    "purging",
    *("lost-running", "lost-noted", "lost-pointed", "lost-barred", "lost-ended", "found-noted"),
    *("releasing-home-file", "home-file-aside"),
    *("taking-old-disk", "old-disk-taken", "old-disk-given-back"),
)
"""Passed only when the destination hangs, under a latency contract, when a copy does not converge, with checkpoints,
by the overlay of a VM that goes off, with UEFI variables, snapshots, `--trim`, by cloning, with layers that are kept,
with files in the home, when libvirt has lost the VM, into an old disk that was kept, or by no move at all (tracking of
changed blocks, quarantine); the matrix does not walk them (test_home, test_destination_hangs, test_pace, test_resume,
test_firmware, test_quarantine, test_snapshots, test_trim, test_clone, test_templates, test_lost,
test_simulated_way_back and test_tracking do)."""

_OF_VERIFY = {"view-prepared": IN_STEP, "taking-view": SWITCH, "view-taken": SWITCH}


def _table(method: str) -> dict[str, tuple[str, ...]]:
    return {SNAPSHOT: _SNAPSHOT, COLD: _COLD}.get(method, _LIVE)


def phases(method: str) -> tuple[str, ...]:
    """The phases that a move by this method goes through."""
    return tuple(_table(method))


def points(phase: str, method: str, disks: int) -> tuple[str, ...]:
    """The points of a phase that a move of so many disks passes, in order."""
    found = _table(method).get(phase, ())
    return tuple(point for point in found if point != "pivoted-one" or disks > 1)


def way(method: str, disks: int) -> tuple[str, ...]:
    """All points of an undisturbed move that succeeds, in the order in which they are first passed."""
    return tuple(point for phase in phases(method) for point in points(phase, method, disks))


def windows(method: str, disks: int) -> tuple[str, ...]:
    """Where our process stands just before libvirtd concludes a job of the VM: there it forgets the VM when killed."""
    return tuple(point for point in way(method, disks) if point in ("pivoting", "pivoted-one", "commit-pivoting"))


def every_point(method: str, disks: int) -> tuple[str, ...]:
    """The same with those of verification, of a suspended start and of the way back."""
    if method == COLD:
        return (*way(method, disks), *VERIFY_COLD, *BACK_COLD)
    return (*way(method, disks), *VERIFY, *START, *BACK)


def phase_of(point: str, method: str) -> str:
    """The phase a point lies in; for those beside the way: `prepare` (start) and `back`."""
    if point in BACK:
        return "back"
    if point in START:
        return PREPARE
    if point in VERIFY:
        return _OF_VERIFY.get(point, RELEASE)
    for phase, found in _table(method).items():
        if point in found:
            return phase
    return point
