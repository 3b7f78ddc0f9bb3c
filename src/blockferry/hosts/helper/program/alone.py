"""A module that runs as a process of its own: beside a helper, which hands it its orders and passes on what it says."""

from __future__ import annotations

import importlib
import json
import sys

from blockferry.hosts.helper.program.refusing import CallRefused


def main(words: bytes) -> None:
    """Run the module that the words name."""
    order = json.loads(words)
    module = importlib.import_module("blockferry.hosts.helper.program." + order["module"])
    try:
        module.alone(order["wish"])
    except CallRefused as error:
        sys.exit(str(error))
