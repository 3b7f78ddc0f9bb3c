"""The invariants: what must hold of everything on the host after a move, whatever the move was. docs/zoo.md lists them.

Judged are two looks (zoo/facts.py) against the model of what was written (zoo/files.py), and what the command said.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab import LabError
from lab.said import Said
from zoo import files, xmlcompare
from zoo.facts import Entry, Facts, disk_paths, named_paths, resolve
from zoo.files import Model
from zoo.spec import File, Host, Move, Vm

KINDS = (
    "end", "refusal", "vanished", "content", "others", "taken", "leftover", "xml", "state", "pools", "owner", "report",
    "destination", "start", "expected", "mark", "lab", "orphans", "bitmaps", "tpm",
)  # fmt: skip
"""The kinds of findings, one for each invariant."""

GROWING = ("log", "serial-file", "serial-log", "vars")
"""What QEMU or virtlogd writes into while the VM runs."""

MARK = "urn:blockferry"


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(slots=True)
class Case:
    """All that the judge looks at."""

    host: Host
    move: Move
    real: Callable[[str], Path]
    model: Model
    before: Facts
    after: Facts
    states: dict[str, str]
    end: str
    said: Said
    loops: frozenset[str] = frozenset()
    edited: bool = False  # somebody did something meanwhile
    findings: list[Finding] = field(default_factory=list)

    def find(self, kind: str, text: str) -> None:
        self.findings.append(Finding(kind, text))

    @property
    def mover(self) -> Vm:
        return self.host.vm(self.move.vm)


def judge(case: Case) -> list[Finding]:
    """Every invariant that does not hold."""
    _ended(case)
    if case.end == "refused" or case.end == "usage":
        _refused(case)
    else:
        over = case.end in ("moved", "cancelled", "failed")
        pairs = _xml(case) if over else {}
        _others(case)
        if over:
            _destination(case)
            _belongings(case, pairs)
            _leftovers(case)
            _report(case)
    _states(case)
    _pools(case)
    _named(case)
    _content(case)
    return case.findings


def relocated(case: Case, place: Callable[[str], str]) -> Host:
    """The host with the mover's files under their new places, for the next move; the model's keys go along.

    place: the place of a path.
    """
    before, after = case.before.vms[case.move.vm].inactive, case.after.vms[case.move.vm].inactive
    pairs = xmlcompare.compare(before, after, case.before.pools, paths_may_differ=True).pairs
    fresh = case.after.tree.keys() - case.before.tree.keys()
    new: dict[str, str] = {}
    for file in case.host.files:
        path = str(case.real(file.place))
        now = pairs.get(path, path)
        if now == path and path not in case.after.tree and _in_home(case, _at(case, file.place)):
            old_home = str(case.real(case.mover.home))
            now = next((one for one in sorted(fresh) if one.endswith(path.removeprefix(old_home))), path)
        if now != path:
            new[file.place] = place(now)
    for old, now in new.items():
        for known in (case.model.plain, case.model.images):
            if old in known:
                known[now] = known[old]  # type: ignore[assignment]
    files_now = [replace(one, place=new.get(one.place, one.place)) for one in case.host.files]
    # What is still where it was, too: another VM may name it, or it is kept.
    files_now += [one for one in case.host.files if one.place in new and str(case.real(one.place)) in case.after.tree]
    mover = case.mover
    disks = tuple(replace(disk, place=new.get(disk.place, disk.place)) for disk in mover.disks)
    named = tuple(replace(one, place=new.get(one.place, one.place)) for one in mover.named)
    homes = {one.rpartition("/")[0] for old, one in new.items() if old.rpartition("/")[0] == mover.home}
    homes -= {pool.place for pool in case.host.pools}  # a datastore's own directory is no home
    home = sorted(homes)[0] if homes and mover.home else ""
    # A VM whose files lay flat, or in a directory of another name, has a home of its own name now: its XML is there.
    name = mover.name.replace("/", "_")
    made = (one for one in sorted(fresh) if case.after.tree[one].kind == "dir" and one.rpartition("/")[2] == name)
    home = home or next((place(one) for one in made), "")
    moved = replace(mover, disks=disks, named=named, home=home)
    vms = tuple(moved if vm.name == mover.name else vm for vm in case.host.vms)
    return replace(case.host, files=_with_layers(case, moved, tuple(files_now), place), vms=vms)


def _with_layers(case: Case, mover: Vm, known: tuple[File, ...], place: Callable[[str], str]) -> tuple[File, ...]:
    """The files with the layers that the mover's disks stand on now: the move may have flattened or copied them."""
    found = {file.place: file for file in known}
    paths = disk_paths(case.after.vms[mover.name].inactive, case.after.pools)
    for disk in mover.disks:
        path, image_format = paths.get(disk.target, ("", ""))
        if disk.device != "disk" or not path or path in case.loops:
            continue
        try:
            layers = files.chain(Path(path), image_format)
        except LabError:
            continue  # judged already: the disk cannot be read
        places = [place(os.path.realpath(one)) for one in layers]
        for at, layer in enumerate(places):
            below = places[at + 1] if at + 1 < len(places) else ""
            kind = image_format if at == 0 else "qcow2" if below else _format_of(layers[at])
            found[layer] = replace(found.get(layer, File(layer, kind)), kind=kind, backing=below, target="")
    return tuple(found.values())


def _format_of(image: Path) -> str:
    """Raw or qcow2, for the lowest layer, which names no format of its own."""
    with image.open("rb") as file:
        return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"


def _ended(case: Case) -> None:
    """The command ends with a status that is right for what was done."""
    right = {"moved", "refused"} | ({"cancelled"} if case.move.cancel_at else set())
    if "--format" in case.move.words and {"keep", "copy", "share"} & set(case.move.words):
        right.add("usage")  # a kept chain has one format; which disks have a chain is seen only on the host
    if case.end not in right or "Traceback" in case.said.err:
        case.find("end", f"the command ended as {case.end}: {case.said.message} {case.said.err[-600:]}")


# -- a refusal --------------------------------------------------------------------------------------------------------


def _refused(case: Case) -> None:
    """A refusal touched nothing at all: no file, no time of a file, no XML, no pool."""
    before, after = case.before, case.after
    for path in sorted(before.tree.keys() | after.tree.keys()):
        old, new = before.tree.get(path), after.tree.get(path)
        if old is None or new is None:
            case.find("refusal", f"refused, but {path} has {'appeared' if old is None else 'vanished'}")
        elif (_differs(old, new) or (old.mtime_ns != new.mtime_ns and old.kind == "file")) and not (
            case.edited or _grows(case, path)
        ):
            case.find("refusal", f"refused, but {path} has changed: {_difference(old, new)}")
    for name, vm in before.vms.items():
        now = after.vms.get(name)
        if now is None or (now.inactive != vm.inactive and not case.edited) or now.snapshots != vm.snapshots:
            case.find("refusal", f"refused, but the configuration of {name} has changed")


def _differs(old: Entry, new: Entry) -> bool:
    return old.as_seen() != new.as_seen()


def _difference(old: Entry, new: Entry) -> str:
    names = ("kind", "mode", "uid", "gid", "size", "content", "attributes", "mtime_ns")
    return ", ".join(
        f"{name} {getattr(old, name)} -> {getattr(new, name)}"
        for name in names
        if getattr(old, name) != getattr(new, name)
    )


def _grows(case: Case, path: str) -> bool:
    return any(_at(case, named.place) == path for vm in case.host.vms for named in vm.named if named.role in GROWING)


# -- the XML ----------------------------------------------------------------------------------------------------------


def _xml(case: Case) -> dict[str, str]:
    """Every VM's XML equals the one before but for the mover's paths. Returns new path by old path."""
    pairs: dict[str, str] = {}
    for name, vm in case.before.vms.items():
        now = case.after.vms.get(name)
        if now is None:
            case.find("xml", f"{name} is not defined any more")
            continue
        own = name == case.move.vm
        compared = xmlcompare.compare(vm.inactive, now.inactive, case.before.pools, paths_may_differ=own)
        for text in compared.differences:
            if "/domain/metadata was added: <metadata />" in text:
                case.find("mark", f"{name}: an empty <metadata/> is left")
            elif not (own and "--format" in case.move.words and _of_the_format(text)):
                case.find("xml", f"{name}: {text}")
        pairs.update(compared.pairs)
        if MARK in now.inactive and MARK not in vm.inactive:
            case.find("xml", f"{name}: a mark of ours is left in the configuration")
        if now.live is not None:
            _live(case, name, now.live, now.inactive)
        _snapshots(case, name)
    return pairs


def _of_the_format(text: str) -> bool:
    """Whether a difference is due to another format; libvirt takes a metadata cache for qcow2 only."""
    return "driver@type" in text or "driver/metadata_cache is gone" in text


def _live(case: Case, name: str, live: str, inactive: str) -> None:
    """The running VM and its configuration name the same images, and no block job is left."""
    if "<mirror" in live or MARK in live:
        case.find("xml", f"{name}: a block job or a mark is left in the running VM")
    running, configured = disk_paths(live, case.after.pools), disk_paths(inactive, case.after.pools)
    for target, (path, image_format) in running.items():
        if (
            target in configured
            and configured[target] != (path, image_format)
            and not _medium_stays(case, target, path)
        ):
            case.find("xml", f"{name} {target}: runs on {path}, but its configuration names {configured[target][0]}")


def _snapshots(case: Case, name: str) -> None:
    """Every snapshot is there with its metadata."""
    old, new = case.before.vms[name].snapshots, case.after.vms[name].snapshots
    if old.keys() != new.keys():
        case.find("xml", f"{name}: its snapshots were {', '.join(old)}, and are {', '.join(new)}")


# -- where things are -------------------------------------------------------------------------------------------------


def _destination(case: Case) -> None:
    """After a move the disks that were to move are in the pools that were named; after a cancel none is."""
    now = case.after.vms.get(case.move.vm)
    if now is None:
        return
    paths = disk_paths(now.inactive, case.after.pools)
    old = disk_paths(case.before.vms[case.move.vm].inactive, case.before.pools)
    for disk in case.mover.disks:
        if disk.device != "disk" or disk.form == "empty" or disk.target not in paths:
            continue
        pool = dict(case.move.disks).get(disk.target, case.move.to)
        path = paths[disk.target][0]
        if case.end == "moved" and pool:
            if not _inside(path, case.after.pools[pool].path):
                case.find("destination", f"moved, but {disk.target} is at {path}, not in {pool}")
        elif path != old[disk.target][0]:
            case.find("destination", f"{case.end}, but {disk.target} is at {path}, no more at {old[disk.target][0]}")


def _inside(path: str, directory: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(directory) + "/")


def _mine(case: Case) -> set[str]:
    """Files that only the mover has to do with: named by its XML or below one that is, and by no other VM."""
    mine = _reach(case, {case.move.vm})
    others = _reach(case, set(case.before.vms) - {case.move.vm})
    return mine - others


def _reach(case: Case, names: set[str]) -> set[str]:
    """Every file that these VMs name, with chains, and with what lies in directories that they name; links too."""
    found: set[str] = set()
    facts = case.before
    for name in names:
        vm = facts.vms[name]
        for xml in (vm.inactive, vm.live or "", *vm.snapshots.values()):
            if xml:
                found |= {os.path.normpath(named_path) for named_path in named_paths(xml, facts.pools)}
        host_vm = case.host.vm(name)
        for disk in host_vm.disks:
            found |= set(_places_below(case, disk.place))
    reached: set[str] = set()
    for path in found:
        real, links = resolve(facts.tree, path)
        reached |= {path, real, *links}
    return reached | {path for path in facts.tree if any(path.startswith(f"{one}/") for one in reached)}


def _medium_stays(case: Case, target: str, path: str) -> bool:
    """Whether it is a drive whose medium could not be changed in the running VM, and the report names the old one.

    QEMU opens the new medium for writing, which its user may not where libvirt gives it no files.
    """
    drive = any(disk.target == target and disk.device == "cdrom" for disk in case.mover.disks)
    there = resolve(case.after.tree, path)[0] in case.after.tree
    return drive and there and json.dumps(path)[1:-1] in case.said.out


def _places_below(case: Case, place: str) -> Iterator[str]:
    """The file and what it stands on, as it was built."""
    known = {one.place: one for one in case.host.files}
    while place in known:
        file = known[place]
        yield str(case.real(place))
        place = file.backing or file.target


def _homes(case: Case) -> list[str]:
    if not case.mover.home:
        return []
    home = str(case.real(case.mover.home))
    return list(dict.fromkeys([home, resolve(case.before.tree, home)[0]]))


def _in_home(case: Case, path: str) -> bool:
    return any(path.startswith(f"{home}/") for home in _homes(case))


def _others(case: Case) -> None:
    """What is not the mover's own is where it was, and as it was: content, owner, mode, kind."""
    mine = _mine(case)
    relabelled = _reach(case, {case.move.vm}) if case.host.profile == "default" else set()
    for path, old in case.before.tree.items():
        if path in mine or _own_trace(case, path) or _snapshot_metadata(case, path):
            continue
        if old.kind == "dir" and (_holds_mine(path, mine) or path in _homes(case)):
            continue
        new = case.after.tree.get(path)
        if new is None:
            if not (_in_home(case, path) and _came_along(case, path)):
                case.find("others", f"{path} is gone, and it was not {case.move.vm}'s")
        elif path in relabelled and _differs(replace(old, uid=new.uid, gid=new.gid), new) is False:
            continue  # libvirt gives a file back when a running VM does not use it any more
        elif _differs(old, new) and not (_grows(case, path) or _edited(case, path)):
            case.find("others", f"{path} has changed: {_difference(old, new)}")


def _holds_mine(directory: str, mine: set[str]) -> bool:
    return any(one.startswith(f"{directory}/") for one in mine)


def _edited(case: Case, path: str) -> bool:
    return case.edited and any(_at(case, edit.place) == path for edit in case.move.edits if edit.place)


def _at(case: Case, place: str) -> str:
    """Where the file of a place was before the move: links above it are followed."""
    return resolve(case.before.tree, str(case.real(place)))[0]


def _own_trace(case: Case, path: str) -> bool:
    """The XML that an earlier move of the same VM left in its home."""
    return os.path.basename(path) == f"{case.move.vm}.xml"


def _came_along(case: Case, path: str) -> bool:
    """A plain file of the home may go along: it is in the new home, with the newest content. Images may not."""
    place = _place(case, path)
    if place is None or _kind(case, place) in files.IMAGES:
        return False
    expected, old = case.model.plain.get(place), case.before.tree[path]
    home = next(one for one in _homes(case) if path.startswith(f"{one}/"))
    rest = path.removeprefix(home)
    for new, entry in case.after.tree.items():
        if new.endswith(rest) and new != path and (entry.content == expected or (old.kind == "dir" == entry.kind)):
            if entry.right != old.right:
                case.find("owner", f"{path} went along to {new}, but {old.right} became {entry.right}")
            return True
    return False


def _place(case: Case, path: str) -> str | None:
    return next((file.place for file in case.host.files if _at(case, file.place) == path), None)


def _kind(case: Case, place: str) -> str:
    return case.host.file(place).kind


def _belongings(case: Case, pairs: dict[str, str]) -> None:
    """What the mover's XML named and names elsewhere now is there with the rights that it had."""
    for old, new in pairs.items():
        was = case.before.tree.get(resolve(case.before.tree, old)[0])
        if was is None and (old in case.loops or (old == new and not old.startswith(_roots(case)))):
            continue  # a device, or something of the host that was never in a datastore (the socket of a TPM)
        now = case.after.tree.get(os.path.realpath(new))
        if now is None:
            case.find("vanished", f"{new} (was {old}) is named, but does not exist")
            continue
        if was is None or was.kind == "link" or case.states[case.move.vm] != case.before.vms[case.move.vm].state:
            continue
        if old == new and _edited(case, old):
            continue  # a medium that was put in meanwhile: libvirt gives it to QEMU's user
        if now.right != was.right:
            case.find("owner", f"{new}: {now.right}; {old} had {was.right}")
    _home_rights(case, pairs)
    for path in sorted(_mine(case)):
        entry = case.before.tree.get(path)
        if entry is None or path in case.after.tree or entry.kind in ("dir", "link"):
            continue
        if not (
            _replaced(case, path, pairs) or _came_along(case, path)
            if _in_home(case, path)
            else _replaced(case, path, pairs)
        ):
            case.find("taken", f"{path} is gone, and nothing has taken its place")


def _home_rights(case: Case, pairs: dict[str, str]) -> None:
    """A home that was made has owner, group, mode and ACL of the old one."""
    for home in _homes(case):
        was = case.before.tree.get(home)
        if was is None or was.kind != "dir" or any(pool.path == home for pool in case.before.pools.values()):
            continue
        fresh = {os.path.dirname(new) for old, new in pairs.items() if os.path.dirname(old) == home and old != new}
        for new in sorted(fresh - case.before.tree.keys()):
            now = case.after.tree.get(new)
            if now is not None and os.path.basename(new) == os.path.basename(home) and now.right != was.right:
                case.find("owner", f"{new}: {now.right}; {home} had {was.right}")


def _replaced(case: Case, path: str, pairs: dict[str, str]) -> bool:
    """Whether a file that is gone has a new one: of itself, of the image that stood on it, or of its directory."""
    for old, new in pairs.items():
        real = resolve(case.before.tree, old)[0]
        if path in (old, real) or (path.startswith(f"{old}/") and f"{new}{path.removeprefix(old)}" in case.after.tree):
            return True
    for disk in case.mover.disks:
        below = list(_places_below(case, disk.place))
        if path in {
            *below,
            *(resolve(case.before.tree, one)[0] for one in below),
        }:  # the content is judged by the disk's model
            return True
    return False


def _leftovers(case: Case) -> None:
    """What has appeared is named by an XML, a layer of what is, the VM's XML in its home, or came along with it."""
    fresh = case.after.tree.keys() - case.before.tree.keys()
    named: set[str] = set()
    for vm in case.after.vms.values():
        for xml in (vm.inactive, vm.live or "", *vm.snapshots.values()):
            if xml:
                named |= {os.path.realpath(named_path) for named_path in named_paths(xml, case.after.pools)}
    for path in [*named]:
        entry = case.after.tree.get(path)
        if entry is not None and entry.kind == "file" and path in fresh:
            try:
                named |= {os.path.realpath(one) for one in files.chain(Path(path))}
            except LabError:
                continue
    homes = {os.path.dirname(one) for one in named if one in fresh}
    for path in sorted(fresh):
        entry = case.after.tree[path]
        if path in named or any(path.startswith(f"{one}/") for one in named) or _own_trace(case, path):
            continue
        if entry.kind == "dir" and any(one.startswith(f"{path}/") for one in (named | (fresh - {path}))):
            continue
        if os.path.dirname(path) in homes and path.endswith((".xml", ".snapshots", ".json")):
            continue
        if _snapshot_metadata(case, path):
            continue
        if any(_carried(case, path, old) for old in case.before.tree if _in_home(case, old)):
            continue
        case.find("leftover", f"{path} was not there before, and nothing names it")


def _snapshot_metadata(case: Case, path: str) -> bool:
    """A snapshot's metadata is written into the home, also where the images lie flat; it goes back with it."""
    directory, name = os.path.split(path)
    return os.path.basename(directory) == case.move.vm and name.startswith("snapshot-") and name.endswith(".xml")


def _carried(case: Case, new: str, old: str) -> bool:
    home = next(one for one in _homes(case) if old.startswith(f"{one}/"))
    return new.endswith(old.removeprefix(home))


# -- what was said ----------------------------------------------------------------------------------------------------


def _report(case: Case) -> None:
    """What is reported as removed is gone, and what is reported as kept is there."""
    for sentence in case.said.sources:
        for path in sorted(case.before.tree, key=len, reverse=True):
            if not (sentence.startswith(path) and sentence[len(path) : len(path) + 1] in ("", ":", " ", ",")):
                continue
            there = path in case.after.tree
            words = sentence.removeprefix(path).lower()
            if ("removed" in words and "not removed" not in words) and there:
                case.find("report", f"said: {sentence!r}, but it is there")
            if ("kept" in words or "not removed" in words) and not there:
                case.find("report", f"said: {sentence!r}, but it is gone")
            if "removed" in words and case.before.tree[path].kind == "link":
                target = case.before.tree[path].content
                if target in case.after.tree:
                    case.find("report", f"said: {sentence!r}, but what the link points to is still there: {target}")
            break


def _states(case: Case) -> None:
    """Each VM runs, is paused or off as before, or as its owner wanted it meanwhile."""
    for name, state in case.states.items():
        now = case.after.vms.get(name)
        if now is not None and now.state != state:
            case.find("state", f"{name} was {state} and is {now.state}")


def _pools(case: Case) -> None:
    """Every pool is as before, and its directory is there."""
    before = dict(case.before.pools)
    if case.edited and any(edit.what == "kill-libvirtd" for edit in case.move.edits):
        # libvirtd calls a directory pool active at its start when the directory is there.
        again = [name for name, pool in case.after.pools.items() if pool.active and name in before]
        before |= {name: replace(before[name], active=True) for name in again}
    if before != case.after.pools:
        case.find("pools", f"the pools were {case.before.pools} and are {case.after.pools}")
    for pool in case.after.pools.values():
        if case.before.pools.get(pool.name) and not os.path.isdir(pool.path):
            case.find("pools", f"the directory of {pool.name} is gone: {pool.path}")


def _named(case: Case) -> None:
    """Every file that any VM's XML names, live or persistent or of a snapshot, exists if it existed before."""
    for name, vm in case.after.vms.items():
        was = case.before.vms[name]
        old = set()
        for xml in (was.inactive, was.live or "", *was.snapshots.values()):
            old |= named_paths(xml, case.before.pools) if xml else set()
        for xml in (vm.inactive, vm.live or "", *vm.snapshots.values()):
            for path in sorted(named_paths(xml, case.after.pools) if xml else ()):
                if path in case.loops or os.path.exists(path) or not path.startswith(_roots(case)):
                    continue
                if path in old and path not in case.before.tree and os.path.realpath(path) not in case.before.tree:
                    continue  # it was missing before
                case.find("vanished", f"{name} names {path}, which does not exist")


def _roots(case: Case) -> tuple[str, ...]:
    return tuple({str(case.real(file.place.partition("/")[0])) for file in case.host.files})


def written(facts: Facts, model: Model, name: str) -> list[Finding]:
    """Each disk of a VM reads as what was written to it, by the running and by the persistent configuration."""
    found: list[Finding] = []
    vm, compared = facts.vms[name], set()
    for xml, where in ((vm.inactive, ""), (vm.live, " (running)")):
        for target, (path, image_format) in disk_paths(xml, facts.pools).items() if xml else ():
            raw = model.disks.get((name, target))
            if raw is None or (target, path, image_format) in compared:
                continue
            compared.add((target, path, image_format))
            wrong = files.same_content(raw, Path(path), image_format)
            if wrong:
                found.append(Finding("content", f"{name} {target}{where}: {path}: {wrong}"))
    return found


def _content(case: Case) -> None:
    """Each disk reads as what was written to it, each other file that is named holds what was written there last."""
    for name in case.after.vms:
        case.findings += written(case.after, case.model, name)
        _plain_content(case, name)
        _frozen_content(case, name)


def _plain_content(case: Case, name: str) -> None:
    """Kernel, ISO, firmware and the like, where the XML names them now."""
    before, after = case.before.vms[name].inactive, case.after.vms[name].inactive
    pairs = xmlcompare.compare(before, after, case.before.pools, paths_may_differ=True).pairs
    vm = case.host.vm(name)
    places = [named.place for named in vm.named if named.role not in GROWING and named.role != "share"]
    places += [disk.place for disk in vm.disks if disk.device != "disk" and disk.form != "empty"]
    for place in places:
        path = str(case.real(place))
        expected = case.model.plain.get(place)
        now = pairs.get(path, path)
        if expected is None or (case.edited and any(edit.what == "change-cd" for edit in case.move.edits)):
            continue
        entry = case.after.tree.get(os.path.realpath(now))
        if entry is None or entry.content != expected:
            case.find("content", f"{name} names {now}, which does not hold what was last written to {path}")


def _frozen_content(case: Case, name: str) -> None:
    """A snapshot still holds the disks as they were."""
    paths = disk_paths(case.after.vms[name].inactive, case.after.pools)
    for snapshot in case.host.vm(name).snapshots:
        for (vm, label, target), model in case.model.frozen.items():
            if (vm, label) != (name, snapshot.name):
                continue
            wrong = None
            if snapshot.kind == "internal" and target in paths:
                wrong = files.same_snapshot(model, Path(paths[target][0]), snapshot.name)
            elif snapshot.kind == "external":
                domain = _domain_of(case.after.vms[name].snapshots.get(snapshot.name, ""))
                layer = disk_paths(domain, case.after.pools).get(target) if domain else None
                if layer is None:
                    continue
                wrong = files.same_content(model, Path(layer[0]), layer[1])
            if wrong:
                case.find("content", f"snapshot {snapshot.name} of {name}, {target}: {wrong}")


def _domain_of(metadata: str) -> str:
    """The domain in a snapshot's metadata, as it was then."""
    if not metadata:
        return ""
    domain = ElementTree.fromstring(metadata).find("domain")
    return "" if domain is None else ElementTree.tostring(domain, encoding="unicode")
