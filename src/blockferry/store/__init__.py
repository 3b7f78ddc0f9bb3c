"""The journal: moves, their memory, their story, and who runs them. The only package that knows SQL.

The rows' types (kept.py) are loaded by programs that open no journal, so SQLAlchemy is loaded with the first of these
names only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockferry.store.journal import Journal
    from blockferry.store.lease import Lease, LeaseKeeper
    from blockferry.store.process_identity import Owner

__all__ = ["Journal", "Lease", "LeaseKeeper", "Owner"]

_MODULES = {"Journal": "journal", "Lease": "lease", "LeaseKeeper": "lease", "Owner": "process_identity"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
