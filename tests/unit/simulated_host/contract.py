"""What the simulated libvirt claims: the same assertions for it and for a real one, through hosts/libvirt/domain.py.

Each takes a bench with one running VM whose only disk is a qcow2 that holds something, and leaves it at any state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest

from blockferry.base.errors import LibvirtFailed
from blockferry.hosts.inventory import Disk, PowerState
from blockferry.hosts.libvirt.domain import Control, CopyOrder, DomainView

TARGET = "vda"


class Bench(Protocol):
    """A host with a running VM, whose guest writes to its disk all the time."""

    @property
    def control(self) -> Control: ...

    def source(self) -> str:
        """The image that the disk was on at first."""

    def new_image(self, name: str, *, backing: str = "") -> str:
        """An empty qcow2 of the disk's size beside the other ones, above `backing` (qcow2) where one is given."""

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Let time pass until it holds; fail when it never does."""

    def off(self) -> None:
        """End the VM's QEMU."""

    def restart_libvirtd(self) -> None:
        """The QEMU lives on."""

    def unlink(self, path: str) -> None: ...


def look(bench: Bench) -> DomainView:
    return bench.control.look((TARGET,))


def disk(bench: Bench) -> Disk:
    return next(disk for disk in look(bench).disks if disk.target == TARGET)


def places(bench: Bench) -> tuple[str | None, str | None]:
    """Where live and persistent XML have the disk."""
    now = disk(bench)
    return now.live.path if now.live else None, now.config.path if now.config else None


def refused(code: str, work: Callable[[], object]) -> None:
    with pytest.raises(LibvirtFailed) as error:
        work()
    assert error.value.libvirt_code == code, str(error.value)


def suspend_and_resume(bench: Bench) -> None:
    control = bench.control
    assert look(bench).state is PowerState.RUNNING
    assert control.suspend()
    assert not control.suspend()
    assert (look(bench).state, look(bench).pause_reason) == (PowerState.PAUSED, "user")
    assert control.resume()
    assert not control.resume()
    assert look(bench).state is PowerState.RUNNING


def copy_and_pivot(bench: Bench) -> None:
    """Both XMLs and QEMU's block graph are on the copy once the job is over; the VM is suspended all the while."""
    control, source, dest = bench.control, bench.source(), bench.new_image("copy")
    control.start_copy(TARGET, CopyOrder(dest, "qcow2", synchronous=False, zeroed=True))  # also before libvirt 12.2
    bench.until("the copy to be in step", lambda: ready(bench))
    now = disk(bench)
    assert now.mirror is not None
    assert (now.mirror.job, now.mirror.dest, now.mirror.dest_format) == ("copy", dest, "qcow2")
    assert places(bench) == (source, source)
    incarnation = look(bench).incarnation
    control.suspend()
    bench.until("nothing to be outstanding", lambda: outstanding(bench) == 0)
    control.pivot(TARGET)
    bench.until("the switch", lambda: disk(bench).mirror is None)
    assert places(bench) == (dest, dest)
    graph = control.block_graph()
    on = graph.on([dest])
    assert on is not None
    assert on.alias == disk(bench).alias
    assert source not in graph.writable()
    assert look(bench).incarnation == incarnation
    control.resume()
    assert look(bench).jobs == {}


def ready(bench: Bench) -> bool:
    mirror = disk(bench).mirror
    return mirror is not None and mirror.ready


def outstanding(bench: Bench) -> int:
    info = look(bench).jobs[TARGET]
    return info.end - info.cur


def what_is_refused(bench: Bench) -> None:
    control, dest = bench.control, bench.new_image("copy")
    refused("VIR_ERR_INVALID_ARG", lambda: control.pivot(TARGET))
    refused("VIR_ERR_INVALID_ARG", lambda: control.abort(TARGET))
    refused("VIR_ERR_INVALID_ARG", lambda: control.set_speed(TARGET, 1 << 20))
    with pytest.raises(LibvirtFailed):
        control.start_copy(TARGET, CopyOrder(dest + "-absent", "qcow2", synchronous=False))
    assert disk(bench).mirror is None
    control.start_copy(TARGET, CopyOrder(dest, "qcow2", synchronous=False))
    refused("VIR_ERR_BLOCK_COPY_ACTIVE", lambda: control.start_copy(TARGET, CopyOrder(dest, "qcow2")))
    refused("VIR_ERR_BLOCK_COPY_ACTIVE", lambda: control.start_commit(TARGET, 0))


def abort_a_copy(bench: Bench) -> None:
    control, source, dest = bench.control, bench.source(), bench.new_image("copy")
    control.start_copy(TARGET, CopyOrder(dest, "qcow2"))
    bench.until("the copy to be in step", lambda: ready(bench))
    control.abort(TARGET)
    bench.until("the end of the copy", lambda: disk(bench).mirror is None)
    assert places(bench) == (source, source)
    assert dest not in control.block_graph().writable()


def overlay_and_commit(bench: Bench) -> None:
    """An overlay is in both XMLs; its commit shows as a mirror; after the pivot both are on the base again."""
    control, base = bench.control, bench.source()
    overlay = bench.new_image("overlay", backing=base)
    control.take_overlays({TARGET: overlay}, {TARGET: base})
    assert places(bench) == (overlay, overlay)
    now = disk(bench)
    assert now.live is not None
    assert now.live.backing[0] == base
    assert base not in control.block_graph().writable()
    control.start_commit(TARGET, 0)
    bench.until("the commit to be in step", lambda: ready(bench))
    mirror = disk(bench).mirror
    assert mirror is not None
    assert (mirror.job, mirror.dest) == ("active-commit", base)
    control.pivot(TARGET)
    bench.until("the commit", lambda: disk(bench).mirror is None)
    assert places(bench) == (base, base)
    assert overlay not in control.block_graph().writable()


def shallow_copy(bench: Bench) -> None:
    """A copy of the overlay alone, onto a base that is there already."""
    control, base = bench.control, bench.source()
    overlay, new_base = bench.new_image("overlay", backing=base), bench.new_image("base")
    control.take_overlays({TARGET: overlay}, {TARGET: base})
    dest = bench.new_image("above", backing=new_base)
    control.start_copy(TARGET, CopyOrder(dest, "qcow2", backing=(new_base, "qcow2"), synchronous=False))
    bench.until("the copy to be in step", lambda: ready(bench))
    control.abort(TARGET)
    bench.until("the end of the copy", lambda: disk(bench).mirror is None)
    assert places(bench) == (overlay, overlay)


def marks(bench: Bench) -> None:
    control = bench.control
    control.mark("m1", "a journal")
    assert look(bench).mark == "m1"
    control.unmark(bare=True)
    assert look(bench).mark is None
    assert control.has_no_metadata()


def configuration(bench: Bench) -> None:
    """Written for the next start only."""
    control, source = bench.control, bench.source()
    dest = bench.new_image("other")
    control.write_config({TARGET: (dest, "qcow2")}, {})
    assert places(bench) == (source, dest)
    control.write_config({TARGET: (source, "qcow2")}, {})
    assert places(bench) == (source, source)


def gone_off(bench: Bench) -> None:
    """A job ends with its QEMU; what is asked of a VM that is off is refused by one code, before anything is done."""
    control, source, dest = bench.control, bench.source(), bench.new_image("copy")
    control.start_copy(TARGET, CopyOrder(dest, "qcow2", synchronous=False))
    bench.off()
    now = look(bench)
    assert (now.state, now.incarnation, now.jobs, now.saved) == (PowerState.OFF, -1, {}, False)
    assert places(bench) == (None, source)
    assert control.goes_off() is None
    for work in (control.pivot, control.abort, lambda target: control.start_commit(target, 0)):
        refused("VIR_ERR_OPERATION_INVALID", lambda work=work: work(TARGET))  # type: ignore[misc]
    refused("VIR_ERR_OPERATION_INVALID", control.suspend)


def a_removed_image_is_written_to(bench: Bench) -> None:
    """QEMU does not notice that somebody takes the name of an image away, nor does a job on it end."""
    control, dest = bench.control, bench.new_image("copy")
    control.start_copy(TARGET, CopyOrder(dest, "qcow2", synchronous=False))
    bench.until("the copy to be in step", lambda: ready(bench))
    bench.unlink(dest)
    control.suspend()
    bench.until("nothing to be outstanding", lambda: outstanding(bench) == 0)
    control.pivot(TARGET)
    bench.until("the switch", lambda: disk(bench).mirror is None)
    assert places(bench) == (dest, dest)


def libvirtd_dies(bench: Bench) -> None:
    """A copy goes on without libvirtd, and the next one knows of it."""
    control, dest = bench.control, bench.new_image("copy")
    control.start_copy(TARGET, CopyOrder(dest, "qcow2", synchronous=False))
    bench.until("the copy to be in step", lambda: ready(bench))
    bench.restart_libvirtd()
    now = disk(bench)
    assert now.mirror is not None
    assert (now.mirror.job, now.mirror.dest) == ("copy", dest)
    bench.until("the copy to be in step", lambda: ready(bench))


CONTRACT: dict[str, Callable[[Bench], None]] = {
    one.__name__: one
    for one in (
        suspend_and_resume,
        copy_and_pivot,
        what_is_refused,
        abort_a_copy,
        overlay_and_commit,
        shallow_copy,
        marks,
        configuration,
        gone_off,
        a_removed_image_is_written_to,
        libvirtd_dies,
    )
}
