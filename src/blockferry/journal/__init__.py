"""The journal: moves, their memory, their story, and who runs them. The only package that knows SQL."""

from blockferry.journal.lease import Lease, LeaseKeeper
from blockferry.journal.owner import Owner
from blockferry.journal.store import Journal

__all__ = ["Journal", "Lease", "LeaseKeeper", "Owner"]
