"""Looking past libvirt: whether a VM that libvirt takes for off has a QEMU, and what that says of itself.

Only when libvirt says that the VM is off or that there is none: while libvirt knows it as running, nothing here costs
anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts import qemu_process
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import image_users, qemu_monitor
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt.domain import Control, DomainView
from blockferry.hosts.runner import Runner
from blockferry.storage_move.lost_vm import rules as lost_vm_rules
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.observation import LostView
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record


@dataclass(frozen=True, slots=True)
class QemuState:
    """What was seen past libvirt. Neither: it is off."""

    lost: LostView | None = None
    doubt: str = ""
    doubt_s: float = 0.0  # for so long there has been one


class PastLibvirt:
    """Looks at the host's processes for one plan."""

    def __init__(self, plan: Plan, runner: Runner) -> None:
        self._plan = plan
        self._runner = runner
        self._holders_seen = False
        self._lost_at: float | None = None  # monotonic seconds
        self._doubt_at: float | None = None  # the same

    def look(self, control: Control, view: DomainView, record: Record, now_s: float) -> tuple[DomainView, QemuState]:
        """`view` says off or gone. The state LOST where that is wrong, or a newer view where it is over.

        Raises HostUnreachable and what libvirt raises.
        """
        qemu_presence = qemu_process.remains(self._runner, self._plan.uri, self._plan.uuid)
        doubt = qemu_presence.doubt
        if qemu_presence.pid is None and not doubt and not self._holders_seen:
            doubt = self._holders()
            self._holders_seen = not doubt
        if not doubt:
            self._doubt_at = None
        if qemu_presence.pid is None and not doubt:
            self._lost_at = None
            return view, QemuState()
        # It may have been started since libvirt was asked.
        again = control.look(tuple(disk.target for disk in self._plan.disks))
        if again.state.active:
            return again, QemuState()
        if qemu_presence.pid is None:
            self._doubt_at = now_s if self._doubt_at is None else self._doubt_at
            return again, QemuState(doubt=doubt, doubt_s=now_s - self._doubt_at)
        self._holders_seen = False
        self._lost_at = now_s if self._lost_at is None else self._lost_at
        answer = qemu_monitor.ask(self._runner, qemu_presence.pid, self._plan.uuid)
        known = lost_vm_rules.current_images(self._plan, answer.graph) if answer.graph is not None else {}
        seen = LostView(
            pid=qemu_presence.pid,
            run=qemu_presence.run,
            status=answer.status,
            problem=answer.problem,
            gone=answer.gone,
            current=known,
            jobs=answer.jobs,
            since_s=now_s - self._lost_at,
            autostart=again.persistent and control.autostart(),
        )
        return replace(again, state=PowerState.LOST), QemuState(lost=seen)

    def _holders(self) -> str:
        """Who holds an image of the VM as a QEMU does, a clause; "" for nobody. By then no process has its UUID."""
        paths = [path for disk in self._plan.disks for path in lost_vm_rules.images(disk) if not is_export(path)]
        try:
            found = image_users.writing_qemus(self._runner, paths)
        except HostCommandFailed as error:
            return f"who has its images open cannot be looked at: {error.sentence.rstrip('.')}"
        return f"a QEMU (process {found[0][0]}) has {found[0][1]} open for writing" if found else ""

    def same_run(self, lost: LostVm) -> bool:
        """Whether the VM runs in the QEMU that libvirt had lost."""
        return qemu_process.remains(self._runner, self._plan.uri, self._plan.uuid).run == lost.run
