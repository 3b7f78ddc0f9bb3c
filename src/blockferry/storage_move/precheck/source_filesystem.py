"""What follows for old files where other hosts may have the file system mounted, too (hosts/filesystem_types.py).

A network or cluster file system shows us one side only: a file that no VM of this host needs may be in use by a VM of
another one, and only QEMU's locks would tell, where the file system carries them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from blockferry.hosts.filesystem_types import is_shared
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.firmware.plan import NvramPlan
from blockferry.storage_move.home.plan import HomePlan
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.request import SourcePolicy


def source_policy(
    asked: SourcePolicy, facts: Facts, disks: Iterable[DiskPlan], home: HomePlan | None, nvram: NvramPlan | None
) -> tuple[SourcePolicy, list[Finding]]:
    """What becomes of the old files, and what `check` says of it.

    Without the user's word they are kept when one of them lies where other hosts may use it.
    """
    old = [path for disk in disks for path in disk.release.files]
    old += [file.source for file in home.files] if home is not None else []
    old += [nvram.source] if nvram is not None else []
    kinds = {path: facts.filesystems.get(path, "") for path in old if path.startswith("/")}
    return kept_where_shared(asked, facts.vm.name, kinds)


def kept_where_shared(asked: SourcePolicy, vm: str, kinds: Mapping[str, str]) -> tuple[SourcePolicy, list[Finding]]:
    """The same of old files by their paths. `kinds`: path -> type of its file system."""
    shared = {path: kind for path, kind in kinds.items() if is_shared(kind)}
    if not shared or not asked.delete:
        return asked, []
    path, kind = next(iter(shared.items()))
    kind = kind or "a file system of a type that is not known"
    if asked.explicit:
        text = f"{path} lies on {kind}, which other hosts may use. It is deleted all the same, as you said."
        return asked, [finding("SOURCE_SHARED", text)]
    why = f"{path} lies on {kind}, which other hosts may use, too"
    text = f"The old files of {vm} are kept: {why}."
    return replace(asked, delete=False, keep_s=None, shared=why), [finding("SOURCE_SHARED", text)]
