"""The journal: moves, their memory, their story, and who runs them. The only package that knows SQL."""

from blockferry.store.journal import Journal
from blockferry.store.lease import Lease, LeaseKeeper
from blockferry.store.process_identity import Owner

__all__ = ["Journal", "Lease", "LeaseKeeper", "Owner"]
