"""Starting a module of ours as a process of its own, for what takes long or is to stay when the helper ends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program.starting import ALONE, Sent
from blockferry.hosts.helper.program.streaming import Stream

MOST_WORDS = 64 * 1024
MOST_SHOWN = 1000


def run(stream: Stream, module: str, wish: dict[str, Any], *, stays: bool, about: str) -> dict[str, Any]:
    """Run it to its end: its exit status, and what it said on standard error.

    `stays`: in a session of its own, so that it outlives us; it notices that by the end of its orders. `about`: what
    ps(1) shows behind the module's name.
    """
    words = json.dumps({"module": module, "wish": wish}).encode()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", ALONE, "blockferry:" + module, about[:MOST_SHOWN]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=stays,
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"%d %d\n" % (len(Sent.text), len(words)) + Sent.text + words)
                process.stdin.flush()
            stream.attach(process)
            while True:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    break
                stream.tell(chunk)
            status = process.wait()
            stream.detach()
        said = os.pread(errors.fileno(), MOST_WORDS, 0).decode("utf-8", "replace")
    return {"status": status if status >= 0 else 128 - status, "words": said}


STREAMS: dict[str, Callable[..., Any]] = {"run": run}
CALLS: dict[str, Callable[..., Any]] = {}
