"""What the guest and other people do during a move: power, pause, hotplug, resize, snapshots, hands on our jobs."""

from __future__ import annotations

import re
from pathlib import Path

from faults import places
from faults.case import CANCELLED, FAILED, MOVED, Catalogue, Fault
from faults.ground import OLD
from faults.scene import Scene
from lab.process import run
from lab.sizes import MIB

LIVE = places.LIVE
EITHER = frozenset({MOVED, FAILED})


def _run_free(scene: Scene) -> None:
    """Our process stands still at the point, and with it perhaps the VM: the guard lets the VM run."""
    scene.wait(lambda: scene.guest.state() != "paused", 10)


# -- the guest --------------------------------------------------------------------------------------------------------


def _reboot(scene: Scene) -> None:
    _run_free(scene)
    boots = scene.guest.judge.ledger().boots
    if scene.inside("reboot"):
        scene.booted_anew = True
        scene.wake()
        if not scene.wait(lambda: scene.guest.judge.ledger().boots > boots, 60):
            scene.wrong("the guest did not come up again after its reboot")


def _crash(scene: Scene) -> None:
    """The guest's kernel panics, and boots again (panic=1)."""
    _run_free(scene)
    boots = scene.guest.judge.ledger().boots
    scene.inside("sh 5\n(sleep 0.1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &", 5)
    scene.booted_anew = True
    scene.wake()
    if not scene.wait(lambda: scene.guest.judge.ledger().boots > boots, 60):
        scene.wrong("the guest did not come up again after its crash")


def _power_off(scene: Scene) -> None:
    _run_free(scene)
    if scene.inside("poweroff"):
        scene.states |= {"shut off"}
        if scene.chance.random() < 0.5:
            scene.wake()
        scene.wait(lambda: scene.guest.state() == "shut off", 30)
        scene.states -= {"running"}


def _destroy(scene: Scene) -> None:
    if scene.virsh("destroy", scene.vm):
        scene.went_off()
        scene.states -= {"running"}


def _destroy_and_start(scene: Scene) -> None:
    """Somebody pulls the plug and starts it again at once; a cold copy that has begun by then holds the lock."""
    if not scene.virsh("destroy", scene.vm):
        return
    scene.flushed_only = scene.booted_anew = True
    if scene.chance.random() < 0.5:
        scene.wake()
    scene.states.add("shut off")
    if scene.wait(lambda: scene.virsh("start", scene.vm), 30, 0.5):
        scene.states -= {"shut off"}


def _pause(scene: Scene) -> None:
    """By its owner, once it runs; it stays as its owner left it."""
    _run_free(scene)
    if scene.virsh("suspend", scene.vm):
        scene.states.clear()
        scene.states |= {"paused"}


def _unpause(scene: Scene) -> None:
    if scene.guest.state() == "paused":
        scene.guest.resume()


# -- other people -----------------------------------------------------------------------------------------------------


def _extra(scene: Scene) -> Path:
    return scene.ground.stores[OLD].path / "extras" / f"of-{scene.vm}.img"


def _hotplug(scene: Scene) -> None:
    extra = _extra(scene)
    extra.parent.mkdir(exist_ok=True)
    run(["qemu-img", "create", "-q", "-f", "raw", extra, str(4 * MIB)])
    scene.virsh("attach-disk", scene.vm, str(extra), "vdz", "--live", "--subdriver", "raw")


def _unplug(scene: Scene) -> None:
    scene.virsh("detach-disk", scene.vm, "vdz", "--live")


def _resize(scene: Scene) -> None:
    """Larger by 1 MiB; refused by libvirt while a block job runs on the disk."""
    target = scene.chance.choice(("vda", "vdb", "vdc")[: scene.case.disks])
    listed = scene.host.virsh("domblkinfo", scene.vm, target)
    capacity = int(re.findall(r"Capacity:\s+(\d+)", listed)[0])
    scene.virsh("blockresize", scene.vm, target, f"{capacity + MIB}B")


def _snapshot(scene: Scene) -> None:
    """An external one, of the first disk; refused by libvirt while a block job runs on it."""
    overlay = Path(scene.guest.sources()["vda"]).parent / "vda.somebodys-snapshot"
    scene.kept_by_others.add(str(overlay))
    scene.virsh("snapshot-create-as", scene.vm, "somebodys", "--disk-only", "--no-metadata", "--diskspec",
                f"vda,file={overlay}", *(f"--diskspec={other},snapshot=no" for other in ("vdb", "vdc")[: scene.case.disks - 1]))  # fmt: skip  # noqa: E501


def _undo_snapshot(scene: Scene) -> None:
    """Somebody commits their overlay again; only then can the move be taken up."""
    overlay = next(iter(scene.kept_by_others), None)
    if overlay is None or overlay not in scene.guest.sources().values():
        return
    if scene.process is not None:
        scene.over()
    if scene.virsh("blockcommit", scene.vm, "vda", "--active", "--shallow", "--pivot", "--wait"):
        Path(overlay).unlink(missing_ok=True)


def _managed_save(scene: Scene) -> None:
    """Refused by libvirt while a block job runs; else the VM is off, and its next start goes on where it was."""
    if scene.virsh("managedsave", scene.vm):
        scene.states.clear()
        scene.states |= {"shut off"}


def _start_if_parked(scene: Scene) -> None:
    """The saved state names the old disks: the move says that it waits until the VM is started."""
    if scene.states != {"shut off"}:
        return
    scene.over()
    move = scene.move()
    if move is not None and move.parked is not None:
        scene.note(f"parked: {move.parked}")
        scene.virsh("start", scene.vm)
        if scene.guest.state() == "paused":
            scene.guest.resume()
        scene.states.clear()
        scene.states |= {"running"}


def _without_saved_mark(scene: Scene) -> None:
    """Saved with the mark of the move, it came back with it; a user takes away what `orphans` lists."""
    scene.do("orphans", "--remove", f"vm:{scene.vm}", "--yes")


def _abort(scene: Scene) -> None:
    scene.virsh("blockjob", scene.vm, "vda", "--abort")


def _pivot(scene: Scene) -> None:
    """Only a copy that is in step can be switched."""
    scene.virsh("blockjob", scene.vm, "vda", "--pivot")


def _cancel_wish(scene: Scene) -> None:
    """The user changes their mind."""
    move = scene.move()
    if move is not None:
        scene.ends.add(CANCELLED)
        scene.cancel(move.id, "--no-wait")


def _while_there_is_a_job(_method: str, _disks: int) -> tuple[str, ...]:
    return (places.BULK, places.IN_STEP, places.SWITCH)


def add_to(catalogue: Catalogue[Fault]) -> None:
    """The faults of this file."""

    def guest(name: str, what: str, **more: object) -> Fault:
        values: dict[str, object] = {"methods": LIVE, **more}
        return Fault(name, "guest", what, **values)  # type: ignore[arg-type]

    catalogue.add(
        guest("reboot", "the guest reboots", strike=_reboot),
        guest("crash", "the guest's kernel panics and boots again", strike=_crash),
        guest("power-off", "the guest powers off", strike=_power_off),
        guest("destroy", "virsh destroy", strike=_destroy),
        guest("destroy-start", "virsh destroy, and virsh start at once", strike=_destroy_and_start),
        guest("pause", "virsh suspend by its owner", strike=_pause, tidy=_unpause),
        guest("hotplug", "another disk is plugged in", strike=_hotplug, tidy=_unplug),
        guest("resize", "virsh blockresize by somebody else", strike=_resize, ends=EITHER),
        guest("snapshot", "virsh snapshot-create-as --disk-only by somebody else", strike=_snapshot,
              heal=_undo_snapshot, ends=EITHER),
        guest("managed-save", "virsh managedsave by somebody else", strike=_managed_save, heal=_start_if_parked,
              tidy=_without_saved_mark),
        guest("job-abort", "virsh blockjob --abort by somebody else", strike=_abort, at=_while_there_is_a_job,
              ends=EITHER),
        guest("job-pivot", "virsh blockjob --pivot by somebody else", strike=_pivot, at=_while_there_is_a_job),
        Fault("cancel", "user", "the user cancels", _cancel_wish),
    )  # fmt: skip
