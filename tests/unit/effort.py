"""How much the property tests try: a part in `make test`, everything in `make test-all`."""

from __future__ import annotations

import os

EVERYTHING = os.environ.get("BLOCKFERRY_EFFORT") == "all"


def examples(whole: int) -> int:
    """`whole` in `make test-all`, else a quarter of it: the first ones of the same sequence."""
    return whole if EVERYTHING else max(25, whole // 4)
