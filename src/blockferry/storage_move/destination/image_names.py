"""Which names the files of a move get at the destination, and why one is not used. Pure.

A name is used when nothing is there and no other move makes it, and when it is short enough for the destination's file
system with all that we put behind it (marker, view, overlay). What names there are to choose from: placement.py.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from blockferry.base.units import format_size
from blockferry.hosts.exports import is_export
from blockferry.hosts.inventory import Datastore, Image, is_below
from blockferry.hosts.path_facts import NAME_MAX, PATH_MAX
from blockferry.storage_move.destination import placement
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.home import rules as home_rules
from blockferry.storage_move.home.plan import HomePlan
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.request import MoveRequest

MARKER = ".blockferry"
"""Ending of the marker file beside a file that is being made."""

MOST_NAMES = 8
"""So many names beside those of the move's own images are tried before a disk has none."""

TEMPORARY = 221
"""Bytes of the longest name under which a small file is written before it gets its own (files.temporary_path)."""


@dataclass
class ChosenName:
    """The name of one image at the destination (None: there is none), and what is to be said about it."""

    path: str | None
    findings: list[Finding] = field(default_factory=list)


def lies_flat(facts: Facts, path: str) -> bool:
    """Whether a file lies directly in the directory of its datastore. A block device and an export do, too."""
    if is_export(path) or path.startswith("/dev/"):
        return True
    store = facts.store_of(path)
    return store is not None and facts.resolve(posixpath.dirname(path)) == store.root


def in_home(facts: Facts, top: str) -> bool:
    """Whether a disk goes to the VM's home: unless it lies flat in a datastore, it has a directory of its own."""
    return not lies_flat(facts, top)


def layer_in_home(facts: Facts, image: str, top: str) -> bool:
    """Whether a lower layer goes to the VM's home: when it is the VM's own, by its directory. A template stays flat."""
    if lies_flat(facts, image) or facts.users.get(image):
        return False
    return placement.is_in_home(image, facts.vm.name) or posixpath.dirname(image) == posixpath.dirname(top)


def candidates(
    facts: Facts, store: Datastore, target: str, image: Image, format: str, *, home: bool, most: int
) -> tuple[str, ...]:
    """The names that one image may get, the preferred one first. `most`: how many images the move has."""
    names = placement.image_paths(store, facts.vm.name, target, image.path, format, in_home=home)
    return tuple(itertools.islice(names, most + MOST_NAMES))


def choose(
    facts: Facts,
    store: Datastore,
    target: str,
    image: Image,
    format: str,
    *,
    home: bool,
    taken: Iterable[str],
    tail: int,
) -> ChosenName:
    """The first name that can be used. `target`: the disk, or "base" for a lower layer; `tail`: bytes put behind it.

    A broken copy of this disk that is there is gone on with, or replaced: its name comes first. A name of the source
    file itself is returned as it is: that is another reason to refuse.
    """
    used = frozenset(taken)
    for path, partial in facts.partials.items():
        mine = partial.kept and partial.target == target and partial.format == format and path not in used
        if mine and (here := facts.store_of(path)) is not None and here.same_place(store):
            return ChosenName(path)
    names = [
        candidate
        for candidate in candidates(facts, store, target, image, format, home=home, most=len(used) + 1)
        if candidate not in used
    ]
    for path in names:
        broken = facts.partials.get(path)
        if broken is not None and broken.target in ("", target):
            return ChosenName(path)
    said: list[Finding] = []
    blocked = ""
    for path in names:
        if too_long(facts, path, tail):
            said = said or [_too_long(facts, path, tail)]
            continue
        same = facts.identities.get(path)
        if same is not None and same == facts.identities.get(image.path):
            return ChosenName(path)
        if path in facts.existing or path in facts.promised:
            blocked = blocked or path
            continue
        what = "the disk" if target != "base" else f"the layer {image.path}"
        if blocked:
            why = "is there already" if blocked in facts.existing else "is made by another move"
            name = f"{target}: {blocked}" if target != "base" else blocked
            return ChosenName(path, [finding("NAME_TAKEN", f"{name} {why}; {what} goes to {path}.")])
        if said:
            text = f"{what.capitalize()} {target} goes to {path}: {said[0].text}"
            return ChosenName(path, [finding("NAME_SHORTENED", text)])
        return ChosenName(path)
    if blocked:
        text = f"{blocked} is there already, and so are {len(names) - 1} other names for {target}."
        return ChosenName(None, [finding("NAME_COLLISION", text)])
    return ChosenName(None, said)


def of_home(request: MoveRequest, facts: Facts) -> set[str]:
    """The names that files of the home get: no image may have one of them."""
    store = facts.datastore(request.home or request.to or "")
    if store is None or not store.is_directory:
        return set()
    dest = placement.home_directory(store, facts.vm.name)
    return {home_rules.destination(dest, facts.home_source, small.path) for small in facts.home_files}


def kept_findings(request: MoveRequest, facts: Facts, store: Datastore, target: str, disk: DiskPlan) -> list[Finding]:
    """What is to be said of the old disk in quarantine at the destination: what it is, and what can be done with it."""
    old = [
        kept_disk
        for kept_disk in facts.kept.values()
        if kept_disk.target == target and kept_disk.path != disk.dest.path
    ]
    old = [
        kept_disk
        for kept_disk in old
        if (here := facts.store_of(kept_disk.path)) is not None and here.same_place(store)
    ]
    if not old or facts.partials.get(disk.dest.path) is not None:
        return []
    kept_disk, vm = max(old, key=lambda kept: kept.since or 0.0), facts.vm.name
    size = format_size(kept_disk.allocated)
    what = f"{target}: {kept_disk.path} ({size}) is the old disk of {vm} that move {kept_disk.move} has left"
    if request.use_kept:
        why = kept_disk.problem or f"it is {kept_disk.format}, and the copy is to be {disk.dest.format}"
        return [
            finding("KEPT_UNUSED", f"{what}; it stays as it is, and the disk is copied to {disk.dest.path}: {why}.")
        ]
    remedy = (
        f"To write only what differs into it: --use-kept. To go back to what it holds: shut {vm} down, then "
        f"`blockferry quarantine restore {kept_disk.path}`. To remove it: "
        f"`blockferry quarantine purge {kept_disk.path} --now`."
    )
    return [finding("KEPT_HERE", f"{what}; it stays, and the disk is copied to {disk.dest.path}.", remedy)]


def tail_of(request: MoveRequest) -> int:
    """Bytes of the longest ending that this move puts behind the name of an image."""
    return len(f".{'0' * 8}.view{MARKER}") if request.verify else len(MARKER)


def too_long(facts: Facts, path: str, tail: int = 0) -> bool:
    """Whether a file of this name, with `tail` more bytes, cannot be made there."""
    look = facts.places.get(posixpath.dirname(path))
    name_max, path_max = (look.name_max, look.path_max) if look is not None else (NAME_MAX, PATH_MAX)
    directory, name = posixpath.split(path)
    longest = max(_bytes(name) + tail, min(TEMPORARY, name_max))
    return _bytes(name) + tail > name_max or _bytes(directory) + 1 + longest >= path_max


def _too_long(facts: Facts, path: str, tail: int) -> Finding:
    look = facts.places.get(posixpath.dirname(path))
    limit = NAME_MAX if look is None else look.name_max
    behind = f" and {tail} that blockferry puts behind it" if tail else ""
    text = f"The name {_shown(posixpath.basename(path))} has {_bytes(posixpath.basename(path))} bytes{behind}"
    return finding("NAME_TOO_LONG", f"{text}; {posixpath.dirname(path)} takes names of {limit} bytes.")


def _shown(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:40]}...{name[-15:]}"


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def home_findings(
    request: MoveRequest, facts: Facts, home: HomePlan | None, stores: Sequence[Datastore]
) -> list[Finding]:
    """What keeps a home from being made, or a file in it. `stores`: where disks go."""
    found: list[Finding] = []
    vm = facts.vm.name
    homes = {placement.home_directory(store, vm): store for store in stores if store.path is not None}
    named = {} if home is None else {home.dest: facts.datastore(home.datastore)}
    for path, store in {**homes, **named}.items():
        text = _directory_problem(facts, path, store)
        if text:
            found.append(finding("HOME_UNUSABLE", f"{text}; the home of {vm} would be there."))
    if home is not None:
        metadata = [f"{vm}.xml", *(f"snapshot-{snapshot.name}.xml" for snapshot in facts.snapshots)]
        metadata += [f"checkpoint-{checkpoint}.xml" for checkpoint in facts.vm.checkpoints]
        paths = [posixpath.join(home.dest, name.replace("/", "_")) for name in metadata]
        for path in (*paths, *(file.dest for file in home.files)):
            if too_long(facts, path, len(MARKER)):
                found.append(_too_long(facts, path, len(MARKER)))
    return found


def _directory_problem(facts: Facts, path: str, store: Datastore | None) -> str:
    """Why a directory cannot be a home, the beginning of a sentence; "" when it can, or can be made."""
    look = facts.places.get(path)
    if look is None or look.kind == "absent":
        return ""
    if look.kind == "dangling":
        return f"{path} is a symbolic link that leads nowhere"
    if look.kind == "unknown":
        return f"{path} cannot be looked at (errno {look.errno})"
    if look.kind != "directory":
        return f"{path} is there already and is no directory"
    if not look.writable:
        return f"{path} cannot be written"
    if any(datastore.root == look.resolved for datastore in facts.datastores):
        return f"{path} is the directory of a datastore"
    if store is not None and look.link and not is_below(look.resolved, store.root):
        return f"{path} is a symbolic link to {look.resolved}, which is not on {store.name}"
    return ""


def made_findings(facts: Facts, plan: Plan) -> list[Finding]:
    """Every other path that the plan makes, overlays at the source among them, and that is too long."""
    paths = {path for disk in plan.disks for path in (disk.overlays.source, disk.overlays.dest) if path}
    found = [_too_long(facts, path, len(MARKER)) for path in sorted(paths) if too_long(facts, path, len(MARKER))]
    if plan.firmware.nvram is not None and too_long(facts, plan.firmware.nvram.dest, len(MARKER)):
        found.append(_too_long(facts, plan.firmware.nvram.dest, len(MARKER)))
    return found
