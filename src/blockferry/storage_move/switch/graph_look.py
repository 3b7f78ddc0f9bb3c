"""Asking QEMU for its block graph. It may be slow to tell: it looks at each image's file, and storage may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from blockferry.base.errors import LibvirtFailed
from blockferry.base.units import format_duration
from blockferry.hosts.libvirt.domain import Control
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.switch import graph_proof
from blockferry.storage_move.switch.graph_proof import GraphView

PATIENCE_S = 5.0
"""So long one look waits for an answer. The question stays open: the next look may have it."""

BESIDE_S = 0.2
"""The same once the doubt is noted: then only an alarm counts, and the move goes on meanwhile."""

LIMIT_S = 60.0
"""Without an answer for so long, that QEMU uses the new images only cannot be proven."""

TIMED_OUT = "VIR_ERR_OPERATION_TIMEOUT"


class GraphLook:
    """Asks for one plan, in a thread of its own."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._thread: threading.Thread | None = None
        self._found: list[GraphView | BaseException] = []
        self._asked: tuple[object, int] | None = None  # by which connection, and of which QEMU
        self._since: float | None = None  # monotonic seconds: when the first question without an answer was asked

    @property
    def pending(self) -> bool:
        """Whether QEMU has been asked and has not answered yet."""
        return self._thread is not None and not self._found

    def look(
        self, control: Control, aliases: Mapping[str, str], incarnation: int, *, beside: bool = False
    ) -> GraphView | None:
        """What QEMU says; None: nothing yet, ask again. No answer for LIMIT_S is a doubt. Raises HostUnreachable."""
        connection = control.connection
        if self._asked is None or self._asked[0] is not connection or self._asked[1] != incarnation:
            self._asked, self._thread = (connection, incarnation), None
        self._since = time.monotonic() if self._since is None else self._since
        if self._thread is None:
            self._thread, self._found = self._ask(control, aliases)
        self._thread.join(BESIDE_S if beside else PATIENCE_S)
        if not self._found:
            return self._none_yet(f"QEMU has not answered for {format_duration(time.monotonic() - self._since)}")
        answer, self._thread = self._found[0], None
        if isinstance(answer, LibvirtFailed):
            text = f"QEMU could not be asked: {answer.sentence.rstrip('.')}"
            return self._none_yet(text) if answer.libvirt_code == TIMED_OUT else GraphView(doubt=text)
        if isinstance(answer, BaseException):
            raise answer
        self._since = None
        return answer

    def _none_yet(self, doubt: str) -> GraphView | None:
        assert self._since is not None
        return GraphView(doubt=doubt) if time.monotonic() - self._since >= LIMIT_S else None

    def _ask(
        self, control: Control, aliases: Mapping[str, str]
    ) -> tuple[threading.Thread, list[GraphView | BaseException]]:
        found: list[GraphView | BaseException] = []

        def look() -> None:
            try:
                found.append(graph_proof.judge(self._plan, control.block_graph(), aliases))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller
                found.append(error)

        thread = threading.Thread(target=look, name="block-graph", daemon=True)
        thread.start()
        return thread, found
