"""On the host, by the interpreter of either version: the proof for many old files; prints seconds and the answers.

Arguments: the files. What is asked is what a release asks before it removes them.
"""

from __future__ import annotations

import json
import sys
import time

from blockferry.hosts.host import Host
from blockferry.safety import proof


def answers(site: Host, paths: list[str]) -> list[str | None]:
    """The answer for each file. Before there was `Proof`, each file was a proof with an inventory of its own."""
    said = proof.Claims()
    if not hasattr(proof, "Proof"):
        return [proof.needed_by(site, path, said, going=paths, patience_s=0) for path in paths]
    asked = proof.Proof(site, paths)
    return [asked.needed_by(path, said, going=paths, patience_s=0) for path in paths]


def main() -> None:
    site = Host("qemu:///system")
    assert site.connection.host_id()
    site.runner.call("files.there", path="/")
    began = time.monotonic()
    found = answers(site, sys.argv[1:])
    print(json.dumps({"seconds": time.monotonic() - began, "answers": found}))
    site.close()


if __name__ == "__main__":
    main()
