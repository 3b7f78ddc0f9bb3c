"""On the host, by the interpreter of either version: the proof for many old files; prints seconds and the answers.

Arguments: the files. What is asked is what a release asks before it removes them.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any


def versions() -> tuple[Any, Any]:
    """The module of the proof, and the class of a host, of the version that is measured: by its layout of today, or of
    before the rooms."""
    try:
        host = importlib.import_module("blockferry.hosts.host").Host
        return importlib.import_module("blockferry.safety.proof"), host
    except ModuleNotFoundError:
        site = importlib.import_module("blockferry.engine.site").Site
        return importlib.import_module("blockferry.engine.proof"), site


def answers(proof: Any, host: Any, paths: list[str]) -> list[str | None]:
    """The answer for each file. Before there was `Proof`, each file was a proof with an inventory of its own."""
    said = proof.Claims()
    if not hasattr(proof, "Proof"):
        return [proof.blocker(host, path, said, going=paths, patience_s=0) for path in paths]
    asked = proof.Proof(host, paths)
    return [asked.blocker(path, said, going=paths, patience_s=0) for path in paths]


def main() -> None:
    proof, make = versions()
    host = make("qemu:///system")
    assert host.connection.host_id()
    host.runner.call("files.there", path="/")
    began = time.monotonic()
    found = answers(proof, host, sys.argv[1:])
    print(json.dumps({"seconds": time.monotonic() - began, "answers": found}))
    host.close()


if __name__ == "__main__":
    main()
