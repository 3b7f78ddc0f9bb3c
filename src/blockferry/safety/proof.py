"""The proof that nothing needs a file: the one before every removal of something old or left over.

A source's release, the purge of the quarantine, the removal of orphans and of overlays ask here. In doubt the answer is
a sentence, and the file stays. The inventories of all configured hosts are taken once for all files of one decision
(hosts/host_inventory.py); who has a file open is asked at the last moment, for all of them in one call.
"""

from __future__ import annotations

import math
import posixpath
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import tenacity

from blockferry.base import clock
from blockferry.hosts import host_inventory
from blockferry.hosts.datastore_id import FileId, file_at
from blockferry.hosts.filesystem_types import is_of_one_host
from blockferry.hosts.helper import files, image_users
from blockferry.hosts.helper import paths as helper_paths
from blockferry.hosts.helper.files import FileStat
from blockferry.hosts.helper.image_users import Users
from blockferry.hosts.host import Host
from blockferry.hosts.host_facts import HostInventory, HostSight, may_reach
from blockferry.hosts.host_inventory import Also
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.path_identity import PathSeen, same_file, same_file_of_hosts
from blockferry.hosts.runner import Runner
from blockferry.safety import file_references
from blockferry.safety.file_references import FileReferences

PATIENCE_S = 10.0
"""For how long somebody who only looks at a file (a listing, a backup's scan) is waited for."""

VALID_S = 2.0
"""So long after it was taken an inventory answers for removals; on a large host as long as taking it took. What comes
up meanwhile is a VM that is defined, or an image that is made, on an old file in that very moment."""

MOST_VALID_S = 10.0
"""But never for longer: a mount that was waited for makes no inventory last longer."""

USERS_VALID_S = 0.5
"""The same of who has the files open: a VM that is started opens them."""

LOOKED_VALID_S = 60.0
"""The same where the answer is only shown, or a removal asks again."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Whoever has a say besides VMs: moves under way, and kept files, which may stand on others.

    `moves`: path -> id of the unfinished move that plans with it. `kept`: files in quarantine on this host.
    """

    moves: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[Kept, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # as `moves`, of other hosts: counts on shared storage
    files: Mapping[FileId, str] = field(default_factory=dict)  # the same by identity, of datastores that are known
    kept_elsewhere: Mapping[str, tuple[Kept, ...]] = field(default_factory=dict)  # as `kept`, by the UUID of the host

    @property
    def kept_files(self) -> Mapping[FileId, Kept]:
        """What other hosts keep in quarantine on file systems that are known; of several rows the one that lasts."""
        rows = [row for every in self.kept_elsewhere.values() for row in every if row.identity.known]
        rows.sort(key=lambda row: math.inf if row.expires is None else row.expires)
        return {row.identity: row for row in rows}


def blocker(
    site: Host,
    path: str,
    said: Claims,
    *,
    going: Iterable[str] = (),
    together: Iterable[str] = (),
    patience_s: float = PATIENCE_S,
    sure: bool = True,
    is_base: bool = True,
) -> str | None:
    """The proof for one file by itself: see `Proof.blocker`."""
    proof = Proof(site, [path])
    return proof.blocker(path, said, going=going, together=together, patience_s=patience_s, sure=sure, is_base=is_base)


@dataclass(frozen=True, slots=True)
class _Known:
    """One host of the proof, with what is named there. `names` is None when no inventory could be taken."""

    sight: HostSight
    names: FileReferences | None


class Proof:
    """One decision about files of a host. They are asked about one after the other; the inventories are taken once.

    Taken anew when they are too old to remove anything by, and when something is asked that they do not answer.
    """

    def __init__(self, site: Host, paths: Iterable[str] = (), *, only_shown: bool = False) -> None:
        """Nothing is looked at yet. `paths`: all files that are to be asked about.

        `only_shown`: nothing is removed by the answers, so that they may be a minute old.
        """
        self._site = site
        self._paths = dict.fromkeys(paths)
        self._least_s = LOOKED_VALID_S if only_shown else VALID_S
        self._users_s = LOOKED_VALID_S if only_shown else USERS_VALID_S
        self._hosts: tuple[_Known, ...] = ()
        self._kept: tuple[Kept, ...] = ()
        self._until = 0.0  # clock.seconds()
        self._users: dict[str, Users] = {}
        self._users_until = 0.0

    def blocker(
        self,
        path: str,
        said: Claims,
        *,
        going: Iterable[str] = (),
        together: Iterable[str] = (),
        patience_s: float = PATIENCE_S,
        sure: bool = True,
        is_base: bool = True,
    ) -> str | None:
        """Why a file must stay, as the end of "it is kept, because ..."; None when it is proven that nothing needs it.

        The proof: it is a plain file; no process has it open or locked; no move under way plans with it; no VM of a
        host that may reach it names it anywhere in its XML, live or persistent, in a snapshot or a saved state, nor a
        directory that holds it; no VM's backing chain, no kept file and no image of a datastore stands on it. A file
        counts as named also by another path that leads to it. What could not be looked at is a doubt, and keeps it
        (safety/file_references.py); so is a host that may reach it and could not be asked.
        `going`: files that go together with it, which may stand on it. `together`: kept files of which it may be one
        by another path: they need it no longer. `sure` off, for what we have just made: users that one may not look
        for do not count; QEMU's locks do, also when they could not be looked at. `is_base` off, for what no image can
        stand on because a running VM was writing to it: then images that no VM names do not matter.
        Raises HostUnreachable, LibvirtFailed, HostCommandFailed: then nothing is proven either.
        """
        self._paths.setdefault(path)
        file_stat = files.stat_one(self._site.runner, path)
        if file_stat is None:
            return None
        if file_stat.kind != "file":
            return (
                "it is a block device; only its owner can tell what else it is for"
                if file_stat.kind == "block"
                else "it is no plain file"
            )
        move = said.moves.get(posixpath.normpath(path))
        if move is not None:
            return f"move {move}, which is not over, has to do with it"
        claimed = _claimed_elsewhere(self._site, path, said)
        if claimed is not None:
            return claimed
        gone = frozenset({*map(posixpath.normpath, going), posixpath.normpath(path)})
        rows = _rows(said.kept, {*gone, *map(posixpath.normpath, together)})
        self._look(said, path, file_stat, gone)
        holders = _holders(self._site.runner, path, patience_s, sure=sure, known=self._users_known(path))
        if holders is not None:
            return holders
        own = self._hosts[0]
        assert own.names is not None
        gone |= _also_going(self._site.runner, gone, own.names.named_by(path, own.names.inventory.seen(path)))
        named = _named(path, own.names, gone) or _claimed(path, own.names.inventory, said, rows)
        doubt = next((one.sentence for one in own.names.doubts if one.about(path, is_base=is_base, going=gone)), None)
        unseen = _unseen_itself(path, file_stat, own.names.inventory)
        return (
            named or doubt or unseen or _needed_elsewhere(path, own.names.inventory, self._hosts[1:], is_base=is_base)
        )

    # ------------------------------------------------------------ looking

    def _look(self, said: Claims, path: str, file_stat: FileStat, gone: frozenset[str]) -> None:
        """Take the inventories, unless those that we have answer this question, and are of now."""
        if not self._answers(said, path, file_stat, gone):
            self._take(said)

    def _answers(self, said: Claims, path: str, file_stat: FileStat, gone: frozenset[str]) -> bool:
        own = self._hosts[0].names if self._hosts else None
        if own is None or clock.seconds() > self._until:
            return False
        new = set(said.kept) - set(self._kept)
        if any(posixpath.normpath(row.path) not in gone and not self._needs_no_look(row, own) for row in new):
            return False
        if own.inventory.problems:
            return True  # to look again would bring the same, after as long a wait
        seen = own.inventory.seen(path)
        same = seen is not None and seen.identity == (file_stat.device, file_stat.inode)
        return same and all(move in own.inventory.looked.paths for move in said.moves)

    @staticmethod
    def _needs_no_look(row: Kept, names: FileReferences) -> bool:
        """Whether a file that was kept since stands on nothing."""
        return row.format in (None, "raw") and row.path in names.inventory.looked.paths

    def _take(self, said: Claims) -> None:
        began = clock.seconds()
        asked = [*self._paths, *(above for path in self._paths for above in _above(path))]
        paths = frozenset((*asked, *said.moves, *(row.path for row in said.kept)))
        of_others = {host: _images(rows) for host, rows in said.kept_elsewhere.items()}
        sights = host_inventory.take_all(self._site, Also(_images(said.kept), paths, of_others))
        self._kept = said.kept
        self._hosts = tuple(
            _Known(
                one, None if one.inventory is None else file_references.find(one.inventory, _kept_on(one, said, place))
            )
            for place, one in enumerate(sights)
        )
        now = clock.seconds()
        self._until = now + max(self._least_s, min(now - began, MOST_VALID_S))
        self._users_until = 0.0

    def _users_known(self, path: str) -> Users | None:
        """Who has the file open: all files are asked about at once. None when nothing was told of this one."""
        if path not in self._users or clock.seconds() > self._users_until:
            self._users = _users_of(self._site.runner, self._paths)
            self._users_until = clock.seconds() + self._users_s
        return self._users.get(path)


def _holders(runner: Runner, path: str, patience_s: float, *, sure: bool, known: Users | None = None) -> str | None:
    """Who has the file open, in words; one who only looks is waited for. `known`: what was found a moment ago."""
    users = _patiently(runner, path, patience_s) if known is None or known.any or known.locks_unseen else known
    if users.any or users.locks_unseen or (users.why and sure):
        return users.why
    # Root meets a hardened process here and there that it may not look into; QEMU's locks do not depend on that.
    if users.unseen_processes and sure and runner.run(["id", "-u"]).text.strip() != "0":
        return f"{users.unseen_processes} processes could not be looked at, which takes root's rights"
    return None


def _users_of(runner: Runner, paths: Iterable[str]) -> dict[str, Users]:
    """Who has the files open. A doubt is looked at again: a process that starts or ends cannot be seen whole."""
    found = image_users.users_of_all(runner, paths)
    for _ in range(2):
        if not any(users.doubts for users in found.values()):
            break
        time.sleep(0.2)
        found = image_users.users_of_all(runner, paths)
    return found


def _patiently(runner: Runner, path: str, patience_s: float) -> Users:
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda one: one.any or one.locks_unseen),
        stop=tenacity.stop_after_delay(patience_s),
        wait=tenacity.wait_fixed(0.5),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    users: Users = retrying(image_users.users_of, runner, path)
    return users


def _images(rows: Iterable[Kept]) -> frozenset[tuple[str, str]]:
    """The kept files whose chains count: a raw image stands on nothing."""
    return frozenset((row.path, row.format) for row in rows if row.format is not None and row.format != "raw")


def _kept_on(sight: HostSight, said: Claims, place: int) -> tuple[Kept, ...]:
    return said.kept if place == 0 else said.kept_elsewhere.get(sight.host.uuid, ())


def _needed_elsewhere(path: str, own: HostInventory, others: Iterable[_Known], *, is_base: bool) -> str | None:
    """Who of another host needs a file, or may need it. What lies on a file system of one host is no other's."""
    seen = own.seen(path)
    if seen is not None and not seen.may_be_reached_by_others:
        return None
    for other in others:
        if not may_reach(own.space_of(path), other.sight.reaches):
            continue
        host = f"on the host {other.sight.host.name or other.sight.host.uri}"
        if other.names is None:
            return (
                f"{host} a VM may use it, and that host could not be asked ({other.sight.problem}): have it answer "
                f"(`blockferry hosts` shows it), or take it out of `hosts` in blockferry.toml if it is gone for good"
            )
        named = other.names.same_file_user(seen, frozenset(), same_file_of_hosts) or _tree_elsewhere(
            path, own, other.names
        )
        doubt = next((one.sentence for one in other.names.doubts if one.about(path, is_base=is_base)), None)
        if named or doubt:
            return f"{host} {named or doubt}"
    return None


def _unseen_itself(path: str, file_stat: FileStat, inventory: HostInventory) -> str | None:
    """Why it cannot be told by which other paths the file is reached: it, or a directory above it, was not seen."""
    if inventory.problems:
        return None  # each of them is a doubt about every file
    seen = inventory.seen(path)
    if seen is None or seen.error:
        return f"it could not be looked at ({'not asked' if seen is None else seen.error})"
    if seen.identity != (file_stat.device, file_stat.inode):
        return "it was replaced by another file while it was looked at"
    for directory in _above(path):
        above = inventory.seen(directory)
        if above is not None and above.error:
            return f"{directory}, where it lies, could not be looked at ({above.error})"
    return None


def _tree_elsewhere(path: str, own: HostInventory, names: FileReferences) -> str | None:
    """Whether another host's VM uses a directory that holds the file."""
    above = [seen for one in _above(path) if (seen := own.seen(one)) is not None]
    for tree in names.trees:
        seen = names.inventory.seen(tree.path)
        if seen is not None and any(same_file_of_hosts(seen, path_seen) for path_seen in above):
            return tree.sentence
    return None


def _claimed_elsewhere(site: Host, path: str, said: Claims) -> str | None:
    """Whether a move of another host, or its quarantine, has to do with this very file, whatever its name is there."""
    said_of_path = _claimed_by_path(path, said)
    if said_of_path is not None and not is_of_one_host(files.filesystem_type(site.runner, path)):
        return said_of_path
    kept = said.kept_files
    if not said.files and not kept:
        return None
    directory = posixpath.dirname(path)
    look = helper_paths.look(site.runner, [directory], mounted=True)[directory]
    if look.mounted is None:
        return (
            f"{directory} cannot be looked at, so it cannot be told whether a move of another host, which is "
            "not over, or its quarantine has to do with it"
        )
    file = file_at(look.mounted, site.connection.host_id(), path)
    if (move := said.files.get(file)) is not None:
        return f"move {move} of another host, which is not over, has to do with it"
    row = kept.get(file)
    if row is None or row.expired(time.time()):
        return None
    return f"quarantine keeps it, an old file of {row.vm}, on the host with UUID {row.host} as {row.path}"


def _claimed_by_path(path: str, said: Claims) -> str | None:
    """The same by the path alone, which may be another file there."""
    path = posixpath.normpath(path)
    if (move := said.elsewhere.get(path)) is not None:
        return f"move {move} of another host, which is not over, has to do with it (or with a file of that path there)"
    now = time.time()
    for row in (row for rows in said.kept_elsewhere.values() for row in rows):
        if not row.identity.known and posixpath.normpath(row.path) == path and not row.expired(now):
            return (
                f"quarantine keeps it (or a file of that path there), an old file of {row.vm}, on the host with UUID "
                f"{row.host}"
            )
    return None


def _rows(kept: Iterable[Kept], going: set[str]) -> list[Kept]:
    """The kept files whose time is not over, and that are not to go now."""
    return [row for row in kept if not row.expired(time.time()) and posixpath.normpath(row.path) not in going]


def _above(path: str) -> list[str]:
    """The directories that a file lies in."""
    found = [posixpath.dirname(posixpath.normpath(path))]
    while found[-1] != posixpath.dirname(found[-1]):
        found.append(posixpath.dirname(found[-1]))
    return found


def fingerprint(file_stat: FileStat) -> KeptFingerprint:
    return KeptFingerprint(file_stat.inode, file_stat.size, file_stat.mtime_ns)


def _claimed(path: str, inventory: HostInventory, said: Claims, rows: Iterable[Kept]) -> str | None:
    """Whether the file is one that a move plans with, or that quarantine keeps, by another path."""
    seen = inventory.looked.paths
    claims = [(one, f"move {move}, which is not over, has to do with it") for one, move in said.moves.items()]
    claims += [(row.path, f"quarantine keeps it, an old file of {row.vm},") for row in rows]
    for other, sentence in claims:
        if other in seen and path in seen and same_file(seen[other], seen[path]):
            return f"{sentence} as {other}"
    for other, sentence in claims:
        if other in seen and seen[other].error:
            return f"{other} cannot be looked at ({seen[other].error}) and may be this file: {sentence} then"
    kept = {row.path for row in rows}
    for other, sentence in claims:
        # What a move is yet to make is absent without being out of sight: its directory may be empty, or not there yet.
        away = (
            other in seen and seen[other].absent and (other in kept or not (seen[other].empty or seen[other].nearest))
        )
        if away and posixpath.basename(other) == posixpath.basename(path):
            return f"{other} cannot be looked at ({seen[other].absent}) and may be this file: {sentence} then"
    return None


def _also_going(runner: Runner, going: frozenset[str], needed_by: frozenset[str]) -> frozenset[str]:
    """Those of the images that are files which go, by another path: a datastore may be reached by two.

    Not one that has several names: what stays of it, stands on what it stood on.
    """
    others = needed_by - going
    if not others or not going:
        return frozenset()
    stats = files.stat_many(runner, [*others, *going])
    files_going = {(stat.device, stat.inode) for path in going if (stat := stats[path]) is not None and stat.names == 1}
    return frozenset(
        path for path in others if (stat := stats[path]) is not None and (stat.device, stat.inode) in files_going
    )


def _named(path: str, names: FileReferences, going: frozenset[str]) -> str | None:
    """Whether something names the file, or a directory that it lies in: by its words, or by another path."""
    seen, above = names.inventory.looked.paths, _above(path)
    user = names.file_user(path, seen.get(path), going, same_file)
    if user is not None:
        return user
    places = {seen[one].identity for one in above if one in seen and seen[one].there}
    for tree in names.trees:
        if posixpath.normpath(tree.path) in above:
            return tree.sentence
        path_seen = seen.get(tree.path)
        if (
            path_seen is not None
            and path_seen.there
            and (path_seen.identity in places or _holds(path_seen, seen.get(path)))
        ):
            return tree.sentence
    return None


def _holds(directory: PathSeen, file: PathSeen | None) -> bool:
    return file is not None and directory.holds(file)
