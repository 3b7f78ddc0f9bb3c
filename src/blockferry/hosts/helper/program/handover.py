"""A VM that has gone to another host: the proof that it cannot run here any more, and letting its guest run there.

Only from this host it can be proven, for here is what must not run: libvirt removes a VM's definition, and ends its
QEMU, once the destination has said that it has all of it. When neither is left nothing here can start that guest again.
The destination is reached as libvirt here reaches it, by the migration's own URI.
"""

from __future__ import annotations

import enum
import json
import os
from typing import Any

from blockferry.hosts.helper.program import stalled_link
from blockferry.hosts.helper.program.arrival_calls import PAUSED, RUNNING, Arriving
from blockferry.hosts.helper.program.suspended_vm import RESUME_S, SUSPENDED, SuspendedVm

OFF_MIGRATED = (5, 4)
"""VIR_DOMAIN_SHUTOFF, VIR_DOMAIN_SHUTOFF_MIGRATED (libvirt-domain.h)."""


class LeftAtSource(enum.Enum):
    """What this host has of the VM."""

    QEMU = enum.auto()
    DEFINITION = enum.auto()
    NOTHING = enum.auto()
    UNKNOWN = enum.auto()


class Handover:
    """One VM of this host, on its way. `peer`: the destination's libvirt, as reached from here."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.here = SuspendedVm(wish["uri"], wish["uuid"])
        self.there = Arriving(wish["peer"], wish)
        self.uuid: str = wish["uuid"]
        self.tell = self.there.tell
        self.pid = 0

    def same_qemu(self) -> int:
        """The process of its QEMU that was seen last, if it is there yet; else 0."""
        return self.pid if self.pid and self.here.is_its_qemu(str(self.pid)) else 0

    def qemu(self) -> int:
        """The process of its QEMU here; 0 when there is none."""
        if pid := self.same_qemu():
            return pid
        self.pid = next((int(one) for one in os.listdir("/proc") if one.isdigit() and self.here.is_its_qemu(one)), 0)
        return self.pid

    def left(self) -> LeftAtSource:
        if self.qemu():
            return LeftAtSource.QEMU
        known = self.here.virsh("list", "--all", "--uuid")
        if known is None:
            return LeftAtSource.UNKNOWN
        if self.uuid in known.split():
            return LeftAtSource.DEFINITION
        # Once more, after libvirt has said that it has none: it may have been started and undefined meanwhile.
        return LeftAtSource.QEMU if self.qemu() else LeftAtSource.NOTHING

    def query(self, command: dict[str, Any], seconds: float) -> Any:
        """A QMP command by way of libvirt, which holds the monitor; None when it is refused or not answered."""
        words = ["qemu-monitor-command", self.uuid, json.dumps(command)]
        return stalled_link.answered(self.here.virsh(*words, seconds=seconds))

    def is_marked(self) -> bool:
        """Whether the VM bears this move's mark here."""
        return self.there.is_marked(self.here)

    def stands_there(self) -> bool:
        """Whether the destination has all of it, stopped, and it is this move's."""
        return self.there.vm.state() == SUSPENDED and self.there.is_marked()

    def finish_here(self, *, handed: bool) -> None:
        """End what is left here of a guest that was handed over. `handed`: blockferry has proven that, and noted it.

        Without that only a definition goes of which libvirt itself says that its VM has gone to another host. What does
        not bear this move's mark is another VM's, or was defined anew.
        """
        state = self.here.state()
        if state is not None and state[0] == PAUSED and handed and self.is_postmigrate() and self.is_marked():
            self.tell("its QEMU here, which has handed its guest over, is ended")
            self.here.virsh("destroy", self.uuid, seconds=RESUME_S)
            state = self.here.state()
        off = state is not None and state[0] not in (RUNNING, PAUSED) and not self.qemu()
        if off and (handed or (state == OFF_MIGRATED and self.stands_there())) and self.is_marked():
            self.tell("its definition here is removed: it is at the destination")
            self.here.virsh("undefine", "--keep-nvram", self.uuid, seconds=RESUME_S)

    def is_postmigrate(self) -> bool:
        said = self.query({"execute": "query-status"}, 5.0)
        return isinstance(said, dict) and said.get("status") == "postmigrate"
