"""Exports of NBD and iSCSI servers, as the host sees them."""

from __future__ import annotations

import json

from blockferry.errors import ImageUnreadable
from blockferry.images.runner import Runner
from blockferry.model import exports

ANSWER_S = 15.0


def size(runner: Runner, uri: str) -> int:
    """Bytes of an export. Raises ImageUnreadable in its server's words, HostCommandFailed when it does not answer."""
    exports.parse(uri)  # nothing else is ever handed to QEMU as a name that is no path
    argv = ["qemu-img", "info", "--output=json", "-U", "-f", "raw", uri]
    result = runner.run(argv, check=False, timeout_s=ANSWER_S)
    if result.status != 0:
        words = result.stderr.strip().splitlines() or ["it said nothing"]
        raise ImageUnreadable(uri, words[-1].removeprefix("qemu-img: "))
    return int(json.loads(result.stdout)["virtual-size"])
