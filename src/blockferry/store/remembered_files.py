"""The files that the journal remembers, of all jobs: those in quarantine, broken copies, images that were compared."""

from __future__ import annotations

import abc

import sqlalchemy as sa

from blockferry.base.errors import KeptTaken
from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.kept import Kept
from blockferry.store import codec, listed
from blockferry.store.database import Database
from blockferry.store.kind import PartialCopy, Prints
from blockferry.store.listed import PartialFiles
from blockferry.store.schema import kept

_PLAIN = tuple(name for name in Kept.__match_args__ if name != "file")
"""The fields of a kept file that are columns of their own name."""

_KEPT = (*_PLAIN, "place", "place_path")


class RememberedFiles(abc.ABC):
    """The part of a journal that is about files. Every method may raise JournalFailed; then nothing was changed."""

    _db: Database

    @abc.abstractmethod
    def _catch_up(self) -> None:
        """List what processes of older versions have left since the schema was upgraded."""

    # ------------------------------------------------------------ what finished moves have left

    def partial_copies(self, vm_uuid: str, host: str) -> dict[str, PartialCopy]:
        """Destination path -> the broken copy that the latest job of this VM left there, to be gone on with.

        `host`: libvirt's UUID; copies of hosts that are not known are among them: a marker beside each is the proof.
        """
        self._catch_up()
        with self._db.reading() as connection:
            return listed.partials(connection, vm_uuid, host)

    def partial_files(self) -> PartialFiles:
        """All such copies, of all VMs, on whichever host."""
        self._catch_up()
        with self._db.reading() as connection:
            return listed.partial_files(connection)

    def forget_partial(self, file: FileId, path: str, host: str, move: str = "") -> None:
        """It was removed. Harmless when it is not known. `path`: by which `host` reaches it.

        `move`: the one that its marker named; "": not known. Then the rows of other hosts stay.
        """
        with self._db.writing() as connection:
            listed.forget_partial(connection, file, path, host, move)

    def same_images(self, host: str) -> frozenset[Prints]:
        """The pairs of images that were compared by any move, and read the same.

        Those of this host by path, and by `FileId.text` those of datastores that several hosts have.
        """
        self._catch_up()
        with self._db.reading() as connection:
            return listed.same(connection, host)

    # ------------------------------------------------------------ quarantine

    def add_kept(self, row: Kept) -> None:
        """Remember a file that stays. Repeatable: the latest word on a file counts, whichever host has said it.

        What two hosts call by one name may be two files: the row of another host goes only if the inode says so, too.
        """
        file = row.identity
        plain: dict[str, object] = {name: getattr(row, name) for name in _PLAIN}
        values = {
            **plain,
            "why": codec.plain(row.why),
            "fingerprint": None if row.fingerprint is None else codec.encode(row.fingerprint),
            "place": file.place,
            "place_path": file.path,
        }
        here = _of(row.path, row.host, row.move)
        with self._db.writing() as connection:
            connection.execute(sa.delete(kept).where(here))
            for host, path in _same_elsewhere(connection, row):
                connection.execute(sa.delete(kept).where(kept.c.host == host, kept.c.path == path))
            connection.execute(sa.insert(kept).values(values))

    def remove_kept(self, path: str, host: str, move: str = "") -> None:
        """Forget it; harmless when it is not known. One that names no host: if it is of this `move`."""
        with self._db.writing() as connection:
            connection.execute(sa.delete(kept).where(_of(path, host, move)))

    def kept_sources(self) -> tuple[Kept, ...]:
        """All files that are kept on purpose, of all hosts, by path."""
        with self._db.reading() as connection:
            rows = connection.execute(sa.select(*(kept.c[name] for name in _KEPT)).order_by(kept.c.path, kept.c.host))
            return tuple(codec.kept(row) for row in rows)


def _of(path: str, host: str, move: str) -> sa.ColumnElement[bool]:
    """The row of a host; and one of the first version, which names none, if it is of the same move."""
    unnamed = sa.and_(kept.c.host == "", kept.c.move == move)
    return sa.and_(kept.c.path == path, sa.or_(kept.c.host == host, unnamed))


def _same_elsewhere(connection: sa.Connection, row: Kept) -> list[tuple[str, str]]:
    """Return (host, path) of the rows by which other hosts keep this very file.

    Two sites may have a server of one name each, and a snapshot has the UUID of its origin: an identity is a name.
    Only with the same inode on top of it is it taken for proven.
    """
    file, fingerprint = row.identity, row.fingerprint
    if fingerprint is None or not file.shared:
        return []
    query = sa.select(*(kept.c[name] for name in _KEPT)).where(
        kept.c.place == file.place, kept.c.place_path == file.path, kept.c.host.not_in((row.host, ""))
    )
    others = [codec.kept(other) for other in connection.execute(query)]
    return [
        (other.host, other.path)
        for other in others
        if other.fingerprint is not None and other.fingerprint.inode == fingerprint.inode
    ]


def take(connection: sa.Connection, vm: str, row: Kept) -> None:
    """Take an old disk out of quarantine, as it was seen there."""
    same = (kept.c.path == row.path, kept.c.host.in_((row.host, "")), kept.c.move == row.move)
    when = kept.c.since.is_(None) if row.since is None else kept.c.since == row.since
    if connection.execute(sa.delete(kept).where(*same, when)).rowcount != 1:
        raise KeptTaken(vm, row.path)
