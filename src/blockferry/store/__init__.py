"""The journal: jobs, their memory, their story, and who runs them. The only package that knows SQL."""

from typing import TYPE_CHECKING

from blockferry.base import lazy

if TYPE_CHECKING:
    from blockferry.store.journal import AnyJournal, Journal
    from blockferry.store.lease import Lease, LeaseKeeper
    from blockferry.store.process_identity import Owner
else:  # SQLAlchemy is loaded with the journal, not with what only describes a job
    __getattr__ = lazy.attributes(
        __name__,
        {
            "blockferry.store.journal": ("AnyJournal", "Journal"),
            "blockferry.store.lease": ("Lease", "LeaseKeeper"),
            "blockferry.store.process_identity": ("Owner",),
        },
    )

__all__ = ["AnyJournal", "Journal", "Lease", "LeaseKeeper", "Owner"]
