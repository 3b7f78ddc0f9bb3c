"""Looks at files, and tells errors by their number. Runs by itself on the host that has the files.

This file is sent to the host's own python3 as it is (`images/looking.py` does that), so it imports nothing of
blockferry. The programs of coreutils tell an absent file from one that cannot be looked at only in words, and those
are in the language of whoever set LANGUAGE.

Standard input is JSON: `do` and its arguments. Standard output is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def stat(wish: dict[str, Any]) -> list[dict[str, Any]]:
    """Each path: the fields of stat(2), or `errno`. `links`: of a link itself."""
    found: list[dict[str, Any]] = []
    for path in wish["paths"]:
        try:
            one = os.lstat(path) if wish["links"] else os.stat(path)
        except OSError as error:
            found.append({"errno": error.errno, "error": os.strerror(error.errno or 0)})
            continue
        numbers = {
            "device": one.st_dev,
            "inode": one.st_ino,
            "size": one.st_size,
            "allocated": one.st_blocks * 512,
            "mtime_ns": one.st_mtime_ns,
            "ctime_ns": one.st_ctime_ns,
            "mode": one.st_mode,
            "uid": one.st_uid,
            "gid": one.st_gid,
            "device_number": [os.major(one.st_rdev), os.minor(one.st_rdev)],
        }
        found.append(numbers)
    return found


def write_rate(wish: dict[str, Any]) -> dict[str, float]:
    """Write a file without a name and flush it: how long that took, in seconds."""
    path = os.path.join(wish["directory"], ".blockferry-trial")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.unlink(path)
    block = bytes(1 << 20)
    began = time.monotonic()
    for _ in range(wish["blocks"]):
        left = memoryview(block)
        while left:
            left = left[os.write(file, left) :]
    os.fsync(file)
    return {"seconds": time.monotonic() - began}


if __name__ == "__main__":
    wish = json.load(sys.stdin)
    json.dump({"stat": stat, "write_rate": write_rate}[wish["do"]](wish), sys.stdout)
