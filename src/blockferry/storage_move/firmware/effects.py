"""Effects on the UEFI variables (NVRAM) of a VM that is off; docs/firmware.md. What to do when: firmware/rules.py."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from blockferry.base.errors import CopyIncomplete
from blockferry.hosts.helper import files
from blockferry.hosts.inventory import PowerState
from blockferry.safety import proof
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.destination import mount_check, owner_and_labels
from blockferry.storage_move.destination.placement import is_in_home
from blockferry.storage_move.firmware.plan import NvramPlan
from blockferry.storage_move.firmware.rules import RELEASED
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.observation import DiskSide, Observation
from blockferry.storage_move.observe import fingerprint
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record


def copy_nvram(context: Context, seen: Observation) -> None:
    """Copy the file. Its fingerprint is taken before and after: a start meanwhile makes the copy void."""
    plan = _plan(context)
    mount_check.check(context, seen.record.mounts)
    before = fingerprint(context.runner, plan.source)
    record = seen.record
    if record.nvram.copied:
        record = replace(record, nvram=replace(record.nvram, copied=""))
        context.save(record)  # before: what is half replaced must not count as copied
    record = destination_effects.make_home(context, record, posixpath.dirname(plan.dest))
    record = destination_effects.name_paths(context, record, plan.dest)
    destination_effects.mark_file(context, plan.dest)
    point("nvram-named")
    # The marker says which file it is before that has its name: a move that is killed leaves none that nobody knows.
    files.copy_file(
        context.runner,
        plan.source,
        plan.dest,
        lambda path: destination_effects.mark_file(context, plan.dest, made=path),
    )
    destination_effects.mark_file(context, plan.dest, made=True)
    owner_and_labels.give_as(context, plan.source, plan.dest)
    if not files.same_content(context.runner, plan.source, plan.dest):
        raise CopyIncomplete("nvram", f"{plan.dest} does not hold what {plan.source} holds")
    if fingerprint(context.runner, plan.source) != before:
        raise CopyIncomplete("nvram", f"{plan.source} was written to while it was copied")
    point("nvram-copied")
    context.save(
        replace(record, nvram=replace(record.nvram, copied=before, made=fingerprint(context.runner, plan.dest)))
    )


def point_nvram(context: Context, action: actions.PointNvram, seen: Observation) -> None:
    """Change the persistent XML. The next look shows whether the VM was started on the old file meanwhile."""
    plan = _plan(context)
    if action.back:
        if files.stat_one(context.runner, plan.source) is None:
            # libvirt would make a new one from the template at the next start: the variables would be wiped.
            raise CopyIncomplete("nvram", f"{plan.source} is gone, so the VM cannot go back to it")
        context.control.write_config({}, {plan.dest: plan.source})
        context.log_event(
            "warning", f"{context.plan.vm} was started on its old UEFI variables meanwhile; they are copied anew"
        )
        context.save(replace(seen.record, nvram=replace(seen.record.nvram, copied="")))
        return
    now = context.control.look(())
    if now.state.active or now.saved or fingerprint(context.runner, plan.source) != seen.record.nvram.copied:
        return  # it was started since the look that this was decided by: look again
    context.control.write_config({}, {plan.source: plan.dest})
    point("nvram-pointed")


def release_nvram(context: Context, seen: Observation) -> None:
    """Remove or keep the old file, as asked; keep it whenever the proof that nothing needs it is not complete."""
    plan = _plan(context)
    if seen.persistent:
        context.control.write_snapshots({plan.source: plan.dest})
    point("releasing-nvram")
    file_stat = files.stat_one(context.runner, plan.source)
    doubt = None if file_stat is None else _reason_to_keep(context, plan, seen)
    text = f"the UEFI variables of {context.plan.vm} are in {plan.dest} now"
    if file_stat is None:
        sentence = f"{plan.source}: was gone already"
    elif doubt is not None:
        sentence = f"{plan.source}: kept, because {doubt}"
        context.quarantine(plan.source, "", file_stat.allocated, doubt, "raw", settled=False, for_good=True)
    elif not context.plan.source.delete:
        why = context.plan.source.why_kept
        sentence = f"{plan.source}: kept, {why}; nothing here uses it"
        context.quarantine(plan.source, "", file_stat.allocated, f"kept {why}; nothing here uses it", "raw")
    else:
        context.check()
        files.remove_file(context.runner, plan.source)
        sentence = f"{plan.source}: removed; nothing used it any more"
    files.remove_file(context.runner, plan.dest + destination_effects.MARKER)
    home_effects.write_metadata(context, posixpath.dirname(plan.dest))
    directory = posixpath.dirname(plan.source)
    if is_in_home(plan.source, context.plan.vm):
        home_effects.remove_directory(context, directory)
    context.log_event("action", text)
    _over(context, seen.record, sentence)


def _reason_to_keep(context: Context, plan: NvramPlan, seen: Observation) -> str | None:
    view = seen.nvram
    new = files.stat_one(context.runner, plan.dest)
    old = files.stat_one(context.runner, plan.source)
    if view is None or view.config is not DiskSide.DESTINATION or DiskSide.SOURCE in (view.live, view.saved):
        return "the VM was not seen to use the new one"
    if new is None or old is None:
        return f"the new one {plan.dest} cannot be found"
    if (new.device, new.inode) == (old.device, old.inode):
        return f"it is the same file as {plan.dest}"
    if fingerprint(context.runner, plan.source) != seen.record.nvram.copied:
        return "it was written to after it was copied; it may hold newer UEFI variables than the new one"
    return proof.blocker(context.site, plan.source, context.claims(), going=[plan.source], is_base=False)


def leave_nvram(context: Context, action: actions.KeepNvram, seen: Observation) -> None:
    """They stay; a copy of ours that nothing uses is taken away."""
    plan, record = _plan(context), seen.record
    kept = ""
    if plan.dest in record.created and files.stat_one(context.runner, plan.dest) is not None:
        doubt = _reason_to_keep_copy(context, plan, seen)
        if doubt is None:
            context.check()
            files.remove_file(context.runner, plan.dest)
        else:
            kept = f"; {plan.dest} is kept as well: {doubt}"
        files.remove_file(context.runner, plan.dest + destination_effects.MARKER)
    context.log_event("warning", f"the UEFI variables of {context.plan.vm} stay where they are: {action.why}{kept}")
    _over(context, record, f"{plan.source}: the UEFI variables stay there, because {action.why}{kept}")


def _reason_to_keep_copy(context: Context, plan: NvramPlan, seen: Observation) -> str | None:
    """Why the new file may hold what the old one does not: then both stay."""
    noted = seen.record.nvram
    if files.stat_one(context.runner, plan.source) is None:
        return f"{plan.source} is gone"
    if seen.state is PowerState.ABSENT and noted.copied:
        return "the VM may be defined again with it"
    if noted.made and fingerprint(context.runner, plan.dest) != noted.made:
        return "it was written to after it was copied"
    if destination_effects.is_somebody_s(context.runner, plan.dest):
        return "another file has taken its name"
    return proof.blocker(context.site, plan.dest, context.claims(), patience_s=0, sure=False, is_base=False)


def _over(context: Context, record: Record, sentence: str) -> None:
    context.sources.append(sentence)
    context.log_event("action", sentence)
    point("nvram-released")
    context.save(replace(record, released=(*record.released, RELEASED)))


def _plan(context: Context) -> NvramPlan:
    assert context.plan.firmware.nvram is not None
    return context.plan.firmware.nvram
