"""An image that no VM writes to, copied to an NBD server in parts, by qemu-img on the image's host.

One process there does all parts (`hosts/helper/program/part_calls.py`): a new ssh connection for each would cost more
than the part. It ends with us.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.helper.files import absolute
from blockferry.hosts.images import nbd_tls
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.images.nbd_tls import TlsClient
from blockferry.hosts.runner import Runner

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class PartCopy:
    """What is to be copied: bytes `start` to `end` of the content of `source`, to the same place of the export `uri`
    (NBD), `step` bytes in a part; whole sectors. `rate_limit`: bytes/s. `tls`: of a server that takes nothing else."""

    source: str
    source_format: str
    uri: str
    start: int
    end: int
    step: int
    rate_limit: int = 0
    tls: TlsClient | None = None


def copy(
    runner: Runner,
    order: PartCopy,
    *,
    done: Callable[[int], None],
    progress: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Copy all of it. `done` is called with the bytes from the beginning that are on the server's storage, after each
    part and a flush that the server has answered well; `progress` in between. May be repeated.

    Raises ConversionStopped, HostCommandFailed, HostUnreachable.
    """
    absolute(order.source)
    image = {"file.driver": order.source_format, "file.file.driver": "file", "file.file.filename": order.source}
    target = {f"file.{name}": value for name, value in nbd_tls.blockdev(order.uri, order.tls).items()}
    argv = ["qemu-img", "convert", "-p", "-n", "--image-opts", "--target-image-opts"]
    argv += order.tls.options() if order.tls is not None else []
    argv += ["-r", str(order.rate_limit)] if order.rate_limit else []
    flush = ["qemu-io", *(order.tls.options() if order.tls is not None else []), "--image-opts", "-c", "flush"]
    wish = {
        "argv": argv,
        "flush": [*flush, nbd_tls.image_options({"driver": "raw", **target})],
        "source": nbd_tls.image_options(image),
        "target": nbd_tls.image_options(target),
        "start": order.start,
        "end": order.end,
        "step": order.step,
    }
    rest, reached = b"", order.start
    with runner.start_own("part_calls", wish, about=order.source) as process:
        while (chunk := process.read(_POLL_S)) != b"":
            if should_stop():
                raise ConversionStopped
            *lines, rest = (rest + (chunk or b"")).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "failed" in said:
                    raise HostCommandFailed(str(said["program"]), int(said["failed"]), str(said["words"]))
                if "done" in said:
                    reached = int(said["done"])
                    done(reached)
                elif "at" in said:
                    progress(int(said["at"]))
        status, words = process.wait()
    if reached < order.end:
        raise HostCommandFailed("qemu-img convert", status, words.strip() or "it ended early")
