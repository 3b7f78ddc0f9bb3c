"""A disk that nothing writes to, from host to host: an NBD server at the destination, qemu-img at the source.

Of a VM that is off, or below the overlay on which its VM runs meanwhile (overlay_rules.py).

No data passes the manager. Both programs end with this process (hosts/process.py), so that no export is left listening.

The disk goes in parts. Each is on the destination's storage before the record says so, so that a copy goes on after a
break where it was: of what was copied at most one part is copied again.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from blockferry.base.errors import BlockferryError, CopyIncomplete, HostCommandFailed, HostUnreachable, ImageUnreadable
from blockferry.base.units import MiB, format_size
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_plan import TravellingDisk
from blockferry.host_move.host_record import HostMoveRecord, PartCopied
from blockferry.host_move.points import point
from blockferry.hosts.helper import files
from blockferry.hosts.images import nbd_tls, network_exports, part_copy, qemu_img
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.images.nbd_tls import TlsClient
from blockferry.hosts.images.part_copy import PartCopy
from blockferry.hosts.process import Process

FIRST_PORT, PORTS = 49216, 128
"""Right above the ports that libvirt takes for migrations (migration_port_max is 49215)."""

TRIES = 5
LISTENING_S = 15.0
SILENT_S = 20.0
"""A copy of which nothing was heard for so long: the server is asked whether it can be reached."""
AGAIN_S = 2.0

LEAST_PART, MOST_PARTS = 4 * MiB, 32
"""A part is a 32nd of the disk, and not less than what makes starting qemu-img for it worth its while. Bytes."""


class LinkLost(Exception):
    """The source does not reach the server at the destination."""


def part_size(disk: TravellingDisk) -> int:
    """Bytes of a part, whole MiB."""
    return max(LEAST_PART, -(-disk.virtual_size // (MOST_PARTS * MiB)) * MiB)


def copy_image(
    context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk, fingerprint: str
) -> HostMoveRecord:
    """Copy one image into the one that was made. On the destination's storage when this returns. Repeatable.

    `fingerprint`: of the source image, as it is now. Returns the record as it was saved last. Raises ConversionStopped,
    HostCommandFailed, CopyIncomplete.
    """
    copy = _Copy(context, record, disk, fingerprint)
    copy.run()
    files.flush(context.dest.runner, context.plan.made_path(disk))
    copy.prove()
    return copy.record


class _Copy:
    """One disk. `done`: bytes from its beginning that are at the destination."""

    def __init__(
        self, context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk, fingerprint: str
    ) -> None:
        self.context, self.record, self.disk, self.fingerprint = context, record, disk, fingerprint
        plan = context.plan
        self.client = None if plan.tls is None else TlsClient(plan.tls.source, plan.tls.name)
        part = record.parts.get(disk.target)
        self.done = part.size if part is not None and part.fingerprint == fingerprint else 0
        self.heard_at = time.monotonic()

    def run(self) -> None:
        """To its end, also over a link that is cut for a while."""
        if self.done:
            text = f"the copy of {self.disk.target} goes on at {format_size(self.done)}"
            self.context.log_event("action", text)
        failures, told = 0, False
        while self.done < self.disk.virtual_size:
            before = self.done
            try:
                self.copy_parts()
            except LinkLost as lost:
                if not self.done and failures >= TRIES:
                    raise HostCommandFailed("qemu-img info", 1, str(lost)) from None  # it was never reached
                if not told:
                    self.context.log_event("warning", f"{lost}; the copy of {self.disk.target} waits for it")
                told = True
            except HostCommandFailed:
                if failures >= TRIES:
                    raise
            failures = 0 if self.done > before else failures + 1
            if self.context.should_stop():
                raise ConversionStopped
            if self.done < self.disk.virtual_size:
                time.sleep(AGAIN_S)

    def prove(self) -> None:
        """The new image is sound in itself; one that is not is copied from its beginning. Raises CopyIncomplete."""
        path = self.context.plan.made_path(self.disk)
        try:
            problem = "" if qemu_img.check(self.context.dest.runner, path, self.disk.format).sound else "it is corrupt"
        except ImageUnreadable as error:
            problem = error.sentence.rstrip(".")
        if problem:
            left = {target: part for target, part in self.record.parts.items() if target != self.disk.target}
            self.record = replace(self.record, parts=left)
            self.context.save(self.record)
            raise CopyIncomplete(self.disk.target, f"{path}: {problem}")

    def copy_parts(self) -> None:
        """All that is left, by one server. Raises LinkLost, ConversionStopped, HostCommandFailed, CopyIncomplete.

        The export has a name that no other server has, also none of this move: another disk's takes nothing of this.
        """
        plan, port = self.context.plan, FIRST_PORT + secrets.randbelow(PORTS)
        export = f"{plan.move}-{secrets.token_hex(8)}"
        argv = ["qemu-nbd", "--persistent", "--shared=4", "--cache=none", "--discard=unmap", "--detect-zeroes=unmap"]
        argv += nbd_tls.server_options(plan.tls.dest) if plan.tls is not None else []
        argv += ["-b", plan.address, "-p", str(port), "-x", export]
        argv += ["-f", self.disk.format, "--", plan.made_path(self.disk)]
        self.context.check()
        with self.context.dest.runner.start(argv) as server:
            uri = f"nbd://{plan.address}:{port}/{export}"
            self.await_server(server, uri)
            while self.done < self.disk.virtual_size:
                self.copy_from(uri)

    def await_server(self, server: Process, uri: str) -> None:
        """Until the source sees the export, in its whole size. Raises LinkLost, HostCommandFailed, CopyIncomplete."""
        until = time.monotonic() + LISTENING_S
        while True:
            size = self.size(uri)
            if (status := server.poll()) is not None:  # or somebody else has that port
                raise HostCommandFailed("qemu-nbd", status, server.stderr.strip())
            if size is not None:
                break
            if time.monotonic() > until:
                raise LinkLost(f"{self.context.plan.host_name} does not reach {uri}")
            if self.context.should_stop():
                raise ConversionStopped
            time.sleep(0.1)
        if size < self.disk.virtual_size:
            target = self.disk.target
            raise CopyIncomplete(target, f"the new image holds {size} of {self.disk.virtual_size} bytes")

    def size(self, uri: str) -> int | None:
        """Bytes of the export as the source sees it; None when it does not."""
        try:
            return network_exports.size(self.context.source.runner, uri, self.client)
        except HostUnreachable:
            raise
        except BlockferryError:
            return None

    def copy_from(self, uri: str) -> None:
        """All that is left, at the present bandwidth. Each part is on the destination's storage when it is noted."""
        lost = False
        rate = self.context.bandwidth()
        self.heard_at = time.monotonic()

        def should_stop() -> bool:
            nonlocal lost
            if self.context.bandwidth() != rate:
                return True
            if time.monotonic() - self.heard_at > SILENT_S:
                lost = self.size(uri) is None
                self.heard_at = time.monotonic()
            return lost or self.context.should_stop()

        order = PartCopy(
            self.disk.source,
            self.disk.format,
            uri,
            start=self.done,
            end=self.disk.virtual_size,
            step=part_size(self.disk),
            rate_limit=rate,
            tls=self.client,
        )
        try:
            part_copy.copy(
                self.context.source.runner, order, done=self.note_part, progress=self.show, should_stop=should_stop
            )
        except ConversionStopped:
            if self.context.should_stop():
                raise
            if lost:
                raise LinkLost(f"{self.context.plan.host_name} does not reach {uri} any more") from None
            # Another bandwidth: the part under way begins anew with it.

    def note_part(self, done: int) -> None:
        """So many bytes from the beginning are on the destination's storage."""
        self.done = done
        part = PartCopied(self.fingerprint, done)
        self.record = replace(self.record, parts={**self.record.parts, self.disk.target: part})
        self.context.save(self.record)
        point("cold-part-copied")
        self.show(done)

    def show(self, at: int) -> None:
        self.heard_at = time.monotonic()
        self.context.cold[self.disk.target] = at / self.disk.virtual_size
        self.context.show()
