"""The journal: jobs, their memory, their story, and who runs them. The only package that knows SQL."""

from blockferry.store.journal import AnyJournal, Journal
from blockferry.store.lease import Lease, LeaseKeeper
from blockferry.store.process_identity import Owner

__all__ = ["AnyJournal", "Journal", "Lease", "LeaseKeeper", "Owner"]
