"""The QEMU of a VM that libvirt has lost: whether there is one, and letting its guest run."""

from __future__ import annotations

from blockferry.hosts import qemu_process
from blockferry.hosts.helper import qemu_monitor
from blockferry.hosts.libvirt.domain import Control
from blockferry.hosts.runner import Runner


def remains_of_lost(control: Control, runner: Runner) -> qemu_process.QemuPresence:
    """The QEMU of a VM that libvirt calls off or does not know; empty when libvirt knows it, or it is off.

    With a doubt it is not known. Raises HostUnreachable and what libvirt raises.
    """
    if control.goes_off() is not None:
        return qemu_process.QemuPresence()
    qemu_presence = qemu_process.remains(runner, control.connection.uri, control.uuid)
    return qemu_presence if control.goes_off() is None else qemu_process.QemuPresence()


def may_stand(control: Control, runner: Runner) -> bool:
    """Whether libvirt has lost the VM, so that its guest may stand still; also when that cannot be told.

    Raises HostUnreachable and what libvirt raises.
    """
    qemu_presence = remains_of_lost(control, runner)
    return qemu_presence.pid is not None or bool(qemu_presence.doubt)


def let_run(control: Control, runner: Runner) -> bool | None:
    """For the guard: let the guest run if libvirt has lost the VM. Whether it stood still, and runs now.

    None: that cannot be told. Raises HostUnreachable and what libvirt raises.
    """
    qemu_presence = remains_of_lost(control, runner)
    if qemu_presence.pid is None:
        return None if qemu_presence.doubt else False
    answer = qemu_monitor.ask(runner, qemu_presence.pid, control.uuid, "cont")
    return None if answer.problem else answer.did
