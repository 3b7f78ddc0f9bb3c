"""The disk of a VM that is off, from host to host: an NBD server at the destination, qemu-img at the source.

No data passes the manager. Both programs end with this process (hosts/process.py), so that no export is left listening.
"""

from __future__ import annotations

import secrets
import time

from blockferry.base.errors import BlockferryError, CopyIncomplete, HostCommandFailed
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_plan import HostMovePlan, TravellingDisk
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.helper import files
from blockferry.hosts.images import conversion, nbd_tls, network_exports
from blockferry.hosts.images.nbd_tls import TlsClient
from blockferry.hosts.process import Process

FIRST_PORT, PORTS = 49216, 128
"""Right above the ports that libvirt takes for migrations (migration_port_max is 49215)."""

TRIES = 5
LISTENING_S = 15.0


def copy_image(context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk) -> None:
    """Copy one image into the one that was made. On the destination's storage when this returns. Repeatable.

    Raises ConversionStopped, HostCommandFailed, CopyIncomplete.
    """
    plan = context.plan
    path, client = plan.made_path(disk), _client(plan)
    for attempt in range(TRIES):
        port = FIRST_PORT + secrets.randbelow(PORTS)
        argv = ["qemu-nbd", "--persistent", "--shared=4", "--cache=none", "--discard=unmap", "--detect-zeroes=unmap"]
        argv += nbd_tls.server_options(plan.tls.dest) if plan.tls is not None else []
        argv += ["-b", context.plan.address, "-p", str(port), "-x", context.plan.move, "-f", disk.format, "--", path]
        context.check()
        with context.dest.runner.start(argv) as server:
            uri = f"nbd://{context.plan.address}:{port}/{context.plan.move}"
            try:
                _await_server(context, disk, server, uri)
            except HostCommandFailed:
                if attempt == TRIES - 1:
                    raise
                continue  # somebody else has that port
            conversion.convert_to_export(
                context.source.runner,
                disk.source,
                disk.format,
                uri,
                progress=lambda fraction: _show(context, disk, fraction),
                should_stop=context.should_stop,
                rate_limit=record.bandwidth or None,
                tls=client,
            )
        break
    files.flush(context.dest.runner, path)


def _client(plan: HostMovePlan) -> TlsClient | None:
    return None if plan.tls is None else TlsClient(plan.tls.source, plan.tls.name)


def _show(context: HostMoveContext, disk: TravellingDisk, fraction: float) -> None:
    context.cold[disk.target] = fraction
    context.show()


def _await_server(context: HostMoveContext, disk: TravellingDisk, server: Process, uri: str) -> None:
    """Until the source sees the export, in its whole size. Raises HostCommandFailed, CopyIncomplete."""
    until = time.monotonic() + LISTENING_S
    while True:
        if (status := server.poll()) is not None:
            raise HostCommandFailed("qemu-nbd", status, server.stderr.strip())
        try:
            size = network_exports.size(context.source.runner, uri, _client(context.plan))
            break
        except BlockferryError as error:
            if time.monotonic() > until:
                raise HostCommandFailed("qemu-img info", 1, f"{uri} does not answer: {error.sentence}") from error
            time.sleep(0.1)
    if size < disk.virtual_size:
        raise CopyIncomplete(disk.target, f"the new image holds {size} of {disk.virtual_size} bytes")
