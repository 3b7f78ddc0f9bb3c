"""Images at the destination that may take the place of a backing chain's lower layers: found, compared, watched.

What is decided by it: storage_move/templates/rules.py; why so: docs/templates.md. Everything here only reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from blockferry.base.errors import BlockferryError
from blockferry.base.units import format_size
from blockferry.hosts.datastore_id import Directory, FileId, file_of, on_host
from blockferry.hosts.helper import files, image_users
from blockferry.hosts.host_facts import images_of
from blockferry.hosts.identity import may_be_here
from blockferry.hosts.images import conversion, qemu_img
from blockferry.hosts.inventory import Image, Vm
from blockferry.hosts.runner import Runner
from blockferry.storage_move import claims
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.facts import TemplateFacts
from blockferry.storage_move.move_kind import by_file
from blockferry.storage_move.observe import fingerprints, same_path

if TYPE_CHECKING:  # it loads SQLAlchemy, which a listing does without
    from blockferry.storage_move.move_journal import MoveJournal

Pair = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
"""The fingerprints of two images that were compared: of all files that each consists of."""


TELL_AFTER_S, TELL_EVERY_S = 2.0, 10.0


@dataclass(frozen=True, slots=True)
class KnownImages:
    """What the journal knows of images on this host, and of those that other hosts have, too."""

    compared: Collection[Pair] = ()  # pairs that read the same
    busy: Mapping[str, str] = field(default_factory=dict)  # path -> why nothing may be built on it, a clause
    busy_files: Mapping[FileId, str] = field(default_factory=dict)  # the same of what other hosts have to do with
    just: Mapping[Pair, TemplateFacts] = field(default_factory=dict)  # what was compared a moment ago, with its result


def _silent(text: str) -> None:
    del text


class _Shown:
    """What is told of a comparison: nothing of a short one, of a long one a line every ten seconds."""

    def __init__(self, what: str, size: int, tell: Callable[[str], None]) -> None:
        self._what, self._size, self._tell = what, size, tell
        self._due = time.monotonic() + TELL_AFTER_S

    def show(self, fraction: float) -> None:
        now = time.monotonic()
        if now >= self._due and fraction < 1.0:
            self._due = now + TELL_EVERY_S
            self._tell(f"{self._what}: {fraction:.0%} of {format_size(self._size)}; both are read completely, once")


def known(journal: MoveJournal, uri: str, host: str) -> KnownImages:
    busy = {row.path: "it is in quarantine" for row in claims.kept_here(journal, uri, host)}
    files = {
        row.identity: f"it is in quarantine, an old file of {row.vm} on another host"
        for row in journal.kept_sources()
        if row.host != host and row.identity.known
    }
    every = journal.every
    for summary in every.unfinished():
        why = f"move {summary.id} of {summary.plan.vm}, which is not over, has to do with it"
        for claimed in every.kind_of(summary).claimed(summary):
            if may_be_here(claimed.where, uri, host):
                busy.update(dict.fromkeys(claimed.changed, why))
            else:
                files.update({file: why for path in claimed.changed if (file := claimed.file(path)) is not None})
    # Of a host that is not known: then they are compared anew.
    return KnownImages(journal.same_images(host) if host else (), busy, files)


def compared(found: Iterable[TemplateFacts]) -> dict[Pair, TemplateFacts]:
    """What was found by comparing, to be found again without."""
    return {
        _pair(template_facts.prints, template_facts.source_prints): template_facts
        for template_facts in found
        if template_facts.prints
    }


def _pair(prints: Mapping[str, str], source_prints: Mapping[str, str]) -> Pair:
    return tuple(sorted(prints.items())), tuple(sorted(source_prints.items()))


def find(
    runner: Runner,
    layers: Sequence[Image],
    path: str,
    everyone: Iterable[Vm],
    ask: Callable[[], KnownImages],
    tell: Callable[[str], None] = _silent,
    directories: Sequence[Directory] = (),
) -> TemplateFacts | None:
    """Whether the image at `path` may take the place of these layers (one lower layer and all below it).

    `directories`: the datastores of the host, by which other hosts mean the same files. None when there is nothing at
    `path`. Reads both sides completely, unless `ask` says that they were compared before and have not changed; `tell`
    hears of that now and then while it goes on, for it may take long.
    """
    layer = layers[0]
    try:
        if files.stat_one(runner, path) is None:
            return None
        chain = qemu_img.chain(runner, path, layer.format)
        template_facts = TemplateFacts(path, layer.format, chain[0].virtual_size)
        mine = [name for image in chain for name in (image.path, *image.parts)]
        theirs = [name for image in layers for name in (image.path, *image.parts)]
        problem = _unfit(runner, layer, chain, mine, theirs, everyone) or _busy(mine, ask(), directories)
        problem = problem or _writer(runner, mine)
        if problem:
            return replace(template_facts, problem=problem)
        prints, source_prints = fingerprints(runner, mine), fingerprints(runner, theirs)
        pair = _pair(prints, source_prints)
        if pair in ask().compared or by_file(pair, lambda name: _file(name, directories)) in ask().compared:
            return replace(template_facts, prints=prints, source_prints=source_prints, known=True)
        if (before := ask().just.get(_pair(prints, source_prints))) is not None:
            return replace(before, problem=before.problem or _writer(runner, mine))
        began = time.monotonic()
        shown = _Shown(f"comparing the layer {layer.path} with {path}", layer.virtual_size, tell)
        result = conversion.compare(
            runner, layer.path, layer.format, path, layer.format, force_share=True, progress=shown.show
        )
        template_facts = replace(
            template_facts, prints=prints, source_prints=source_prints, seconds=round(time.monotonic() - began, 3)
        )
        if not result.identical:
            return replace(template_facts, problem=_difference(result))
        problem = _writer(runner, mine)
        if fingerprints(runner, mine) != prints or fingerprints(runner, theirs) != source_prints:
            problem = "somebody wrote to one of the two while they were compared"
        return replace(template_facts, problem=problem)
    except BlockferryError as error:
        return TemplateFacts(
            path, layer.format, layer.virtual_size, f"it cannot be compared ({error.sentence.rstrip('.')})"
        )


def _unfit(
    runner: Runner,
    layer: Image,
    chain: Sequence[qemu_img.ChainImage],
    mine: Sequence[str],
    theirs: Sequence[str],
    everyone: Iterable[Vm],
) -> str:
    """Why an image is not to be built on, whatever it holds; "" when nothing speaks against it."""
    if any(image.encrypted for image in chain):
        return "it is encrypted"
    if any(image.corrupt or image.dirty for image in chain):
        return "it needs a repair (`qemu-img check`)"
    if chain[0].virtual_size != layer.virtual_size:
        return f"it has {chain[0].virtual_size} bytes, the layer {layer.virtual_size}"
    stats = files.stat_many(runner, [*mine, *theirs, *(name + destination_effects.MARKER for name in mine)])
    if any(file_stat is None or file_stat.kind != "file" for file_stat in (stats[name] for name in (*mine, *theirs))):
        return "not all that it or the layer consists of are plain files"
    identities = {(file_stat.device, file_stat.inode) for name in mine if (file_stat := stats[name]) is not None}
    if any(
        (file_stat.device, file_stat.inode) in identities for name in theirs if (file_stat := stats[name]) is not None
    ):
        return "it is the layer itself, or has a file in common with it"
    for name in mine:
        if stats[name + destination_effects.MARKER] is not None:
            return f"{name} is being made by a move (`blockferry orphans`)"
    return _top_of(runner, everyone, mine, identities)


def _busy(names: Iterable[str], known: KnownImages, directories: Sequence[Directory]) -> str:
    """Why nothing may be built on one of these files, as the journal knows: by its path or its identity."""
    for name in names:
        why = next((text for path, text in known.busy.items() if same_path(path, name)), "")
        why = why or known.busy_files.get(_file(name, directories), "")
        if why:
            return f"{name}: {why}"
    return ""


def _file(path: str, directories: Sequence[Directory]) -> FileId:
    return file_of(path, directories) or on_host("", path)


def _top_of(runner: Runner, everyone: Iterable[Vm], mine: Sequence[str], identities: set[tuple[int, int]]) -> str:
    """Which VM has one of these files as a disk of its own, which it writes to when it runs."""
    tops = {
        source.path: f"it is {target} of VM {vm.name}, which writes to it"
        for vm in everyone
        for target, source in images_of(vm)
        if source.path is not None and source.path.startswith("/")
    }
    stats = files.stat_many(runner, tops)
    for path, text in tops.items():
        file_stat = stats[path]
        if any(same_path(path, name) for name in mine) or (
            file_stat is not None and (file_stat.device, file_stat.inode) in identities
        ):
            return text
    return ""


def _writer(runner: Runner, names: Iterable[str]) -> str:
    return next((f"{who} can write to {name}" for name in names if (who := image_users.writer(runner, name))), "")


def _difference(result: conversion.Comparison) -> str:
    where = result.first_difference_offset
    return "it reads differently" + ("" if where is None else f", first at byte {where}")
