"""Exports of NBD, iSCSI and Ceph RBD servers, as the host sees them."""

from __future__ import annotations

import json

from blockferry.base.errors import ImageUnreadable
from blockferry.hosts import exports
from blockferry.hosts.images.nbd_tls import TlsClient
from blockferry.hosts.runner import Runner

ANSWER_S = 15.0


def filename(uri: str) -> str:
    """What qemu-img calls an export. Raises ValueError.

    One of RBD is told as libvirt tells it to QEMU, which has no address of that kind (BlockdevOptionsRbd,
    https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html).
    """
    export = exports.parse(uri)  # nothing else is ever handed to QEMU as a name that is no path
    if export.protocol != exports.RBD:
        return uri
    pool, image = export.name.split("/")
    found: dict[str, object] = {"driver": "rbd", "pool": pool, "image": image}
    if export.conf:
        found["conf"] = export.conf
    if export.host:
        found["server"] = [{"host": export.host, "port": str(export.port)}]
    return "json:" + json.dumps({"driver": "raw", "file": found})


def size(runner: Runner, uri: str, tls: TlsClient | None = None) -> int:
    """Bytes of an export. `tls`: of an NBD server that takes nothing else.

    Raises ImageUnreadable in its server's words, HostCommandFailed when it does not answer."""
    argv = ["qemu-img", "info", "--output=json", "-U"]
    argv += ["-f", "raw", filename(uri)] if tls is None else [*tls.options(), "--image-opts", tls.image(uri)]
    result = runner.run(argv, check=False, timeout_s=ANSWER_S)
    if result.status != 0:
        words = result.stderr.strip().splitlines() or ["it said nothing"]
        raise ImageUnreadable(uri, words[-1].removeprefix("qemu-img: "))
    return int(json.loads(result.stdout)["virtual-size"])
