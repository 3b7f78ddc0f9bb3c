"""`buffered.py BYTES COMMAND...`: blockferry's command line with another default for QEMU's copy buffer.

A program of its own, so that the product needs no option that only a benchmark wants.
"""

from __future__ import annotations

import sys

from blockferry.cli.main import run
from blockferry.model import pace

if __name__ == "__main__":
    pace.BUFFER = int(sys.argv.pop(1))
    if pace.buffer_bytes(None, False) != pace.BUFFER:
        raise SystemExit("pace.BUFFER is not the default buffer any more: mend bench/buffered.py")
    run()
