"""Block job and lifecycle events of one VM, as a thing to wait on.

Events only say that it is worth looking again; what is true is always observed. libvirt's words about a
failed job come with the event and nowhere else, so they are kept here.
"""

from __future__ import annotations

import threading
from types import TracebackType

import libvirt

from blockferry.hosts.libvirt.connection import Connection


class DomainEvents:
    """Subscribe to one VM's events while the context is open."""

    def __init__(self, connection: Connection, uuid: str) -> None:
        self._connection = connection
        self._uuid = uuid
        self._something = threading.Event()
        self._ids: list[int] = []
        self.failed: dict[str, float] = {}  # target -> how often a job of that disk failed

    def __enter__(self) -> DomainEvents:
        with self._connection.doing("subscribe to events"):
            raw = self._connection.raw
            domain = raw.lookupByUUIDString(self._uuid)
            for kind, callback in (
                (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, self._on_job),
                (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            ):
                self._ids.append(raw.domainEventRegisterAny(domain, kind, callback, None))
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for one in self._ids:
            try:
                self._connection.raw.domainEventDeregisterAny(one)
            except libvirt.libvirtError:
                continue  # the connection is gone, and the subscription with it
        self._ids.clear()

    def wait(self, seconds: float) -> bool:
        """Wait for the next event, at most so long. Whether one came."""
        came = self._something.wait(seconds)
        self._something.clear()
        return came

    def wake(self) -> None:
        """Have `wait` return now."""
        self._something.set()

    def _on_job(self, _c: object, _d: object, target: str, _type: int, status: int, _o: object) -> None:
        if status == libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED:
            self.failed[target] = self.failed.get(target, 0) + 1
        self._something.set()

    def _on_lifecycle(self, _c: object, _d: object, _event: int, _detail: int, _o: object) -> None:
        self._something.set()
