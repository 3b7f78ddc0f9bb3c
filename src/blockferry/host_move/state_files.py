"""Effects on the small files of a VM that go along with it: UEFI variables, state of its TPM. docs/firmware.md.

Each is copied before the VM goes. Of a running VM, QEMU at the destination writes all of the variables into that file
again when the guest is let run, from the memory that has come over. So the copy counts when the old file was not
written to after it was made, or when both hold the same in the end; else the old file is kept. The state of a running
VM's TPM is sent by libvirt, which removes it from the source with the definition.
"""

from __future__ import annotations

import hashlib
import posixpath
import time
from dataclasses import replace

from blockferry.base.errors import CopyIncomplete, FileExists
from blockferry.host_move import image_owner, old_home
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_plan import StateFile
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.points import point
from blockferry.host_move.precheck.variables_rules import KEEPS_TPM
from blockferry.hosts import file_identity, fingerprint
from blockferry.hosts.helper import files
from blockferry.hosts.helper.files import FileStat
from blockferry.hosts.host import Host
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.libvirt import migration
from blockferry.hosts.migrating import Instance
from blockferry.hosts.qemu_user import HOME_MODE
from blockferry.hosts.runner import Runner
from blockferry.safety import proof
from blockferry.storage_move.destination.effects import is_made_by, unfinished, write_marker
from blockferry.storage_move.precheck.firmware_and_home import VTPM_DIRECTORY

TPM_LOCK = ".lock"
"""swtpm's, in the directory of the state; it holds nothing."""

WORDS = {"nvram": "the UEFI variables", "tpm": "the state of the TPM"}
"""What a file holds, by its role."""


def file_fingerprint(runner: Runner, path: str) -> str:
    """Return what tells whether a file was written to: "" when it is not there."""
    found = files.fingerprint(runner, path)
    return "" if found is None else fingerprint.of(found.inode, found.size, found.mtime_ns)


def fingerprints(context: HostMoveContext) -> dict[str, str]:
    """Return the old path of each state file -> its fingerprint now."""
    return {file.source: file_fingerprint(context.source.runner, file.source) for file in context.plan.state_files}


def tpm_directory(uuid: str) -> str:
    """Return where libvirt keeps the state of a VM's emulated TPM, on every host."""
    return f"{VTPM_DIRECTORY}/{uuid}"


def tpm_files(runner: Runner, uuid: str) -> dict[str, int]:
    """Return the path of each file in a TPM's directory and in those in it -> its bytes. swtpm's lock is left out."""
    found: dict[str, int] = {}
    directory = tpm_directory(uuid)
    level = [directory] if files.stat_one(runner, directory) is not None else []
    for _depth in range(2):
        paths = [f"{one}/{name}" for one in level for name in files.list_directory(runner, one)]
        stats = files.stat_many(runner, [path for path in paths if posixpath.basename(path) != TPM_LOCK])
        found |= {path: one.size for path, one in stats.items() if one is not None and one.kind == "file"}
        level = [path for path, one in stats.items() if one is not None and one.kind == "directory"]
    return found


def unplanned(context: HostMoveContext, source: Instance, dest: Instance) -> tuple[str, ...]:
    """Return what the source has of the VM's state and the plan does not name: the VM has been started since.

    Of a VM that is off. Once its definition is gone from the source, that of the destination says what it has.
    Variables that the destination has just so at the same path are not missed there: both hosts have the file.
    """
    plan, here = context.plan, context.source.runner
    seen = dest if source.absent else source
    planned = {file.source for file in plan.state_files}
    found = [path for path in tpm_files(here, plan.uuid) if path not in planned] if seen.tpm else []
    nvram = posixpath.normpath(seen.nvram) if seen.nvram.startswith("/") else ""
    if nvram and not any(file.role == "nvram" for file in plan.state_files) and files.is_there(here, nvram):
        there = context.dest.runner
        if not files.is_there(there, nvram) or files.digest(there, nvram) != files.digest(here, nvram):
            found.append(nvram)
    return tuple(found)


def words_of_undefine(context: HostMoveContext, host: Host) -> tuple[str, ...]:
    """Return what virsh is told besides when a host's definition is removed: to leave the state of the TPM of a VM that
    is off. That of a running one libvirt has sent.

    A VM that was planned without any may have been started since: what its definition says at the host now counts.
    """
    plan = context.plan
    if not plan.cold:
        return ()
    planned = any(file.role == "tpm" for file in plan.state_files)
    found = migration.look(host.connection, plan.uuid, plan.vm)
    keeps = planned or (found.tpm and host.connection.versions()[0] >= KEEPS_TPM)
    return ("--keep-tpm",) if keeps else ()


def copy(context: HostMoveContext, record: HostMoveRecord, path: str) -> None:
    """Copy one file and compare the copy. A file of that name that is not ours is never overwritten. Repeatable."""
    plan, file = context.plan, _planned(context, path)
    runner = context.dest_files
    again = files.is_there(runner, file.dest)
    if again and (file.dest not in record.created or not is_own(context, file)):
        raise FileExists(file.dest)
    copied = {old: found for old, found in record.state_copied.items() if old != path}
    record = replace(record, state_copied=copied)  # before: what is half replaced must not count as copied
    record = _make_directory(context, record, file)
    if not again:
        _mark(context, file, None)
    point("state-file-named")
    before = file_fingerprint(context.source.runner, file.source)
    data = files.read_file(context.source.runner, file.source)
    if len(data) != file.size:
        raise CopyIncomplete(file.role, f"{file.source} has {len(data)} bytes, and had {file.size}")

    def known(aside: str) -> None:
        """Before it has its name: a move that is killed leaves no file that nobody knows."""
        image_owner.give_file(context, file.source, aside)
        _mark(context, file, aside, replaces=again)
        point("state-file-written")

    if not files.write_known(runner, file.dest, data, known, over=again):
        raise FileExists(file.dest)
    _mark(context, file, file.dest)
    if files.digest(runner, file.dest) != hashlib.sha256(data).hexdigest():
        raise CopyIncomplete(file.role, f"{file.dest} does not hold what {file.source} held")
    if plan.cold and file_fingerprint(context.source.runner, file.source) != before:
        raise CopyIncomplete(file.role, f"{file.source} was written to while it was copied")
    files.flush(runner, posixpath.dirname(file.dest))
    point("state-file-copied")
    context.save(replace(record, state_copied={**record.state_copied, path: before}))


def _mark(context: HostMoveContext, file: StateFile, made: str | None, *, replaces: bool = False) -> None:
    """Say beside the new file whose it is, and which. See write_marker."""
    plan = context.plan
    write_marker(
        context.dest_files, file.dest, move=plan.move, vm=plan.vm, journal=context.journal, host=plan.dest_host,
        made=made, replaces=replaces,
    )  # fmt: skip


def is_own(context: HostMoveContext, file: StateFile) -> bool:
    """Whether it is proven that this move has made the file at the new path, as far as it had its name noted there.

    Where a blockferry was killed before its marker said which file it is: it holds just what the old one does.
    """
    runner, move = context.dest_files, context.plan.move
    if is_made_by(runner, file.dest, move):
        return True
    if not unfinished(runner, file.dest, move) or not files.is_there(context.source.runner, file.source):
        return False
    return files.digest(runner, file.dest) == files.digest(context.source.runner, file.source)


def _make_directory(context: HostMoveContext, record: HostMoveRecord, file: StateFile) -> HostMoveRecord:
    """Have the file's directory, and both names in the record before either is made."""
    runner = context.dest_files
    pairs = [(posixpath.dirname(file.source), posixpath.dirname(file.dest))]
    mine = {path.rstrip("/") for path in record.created} - set(context.plan.directories)  # those are the disks' matter
    while files.stat_one(runner, pairs[0][1]) is None or pairs[0][1] in mine:
        pairs.insert(0, (posixpath.dirname(pairs[0][0]), posixpath.dirname(pairs[0][1])))
    fresh = [*(f"{directory}/" for _, directory in pairs[1:]), file.dest]
    record = replace(record, created=tuple(dict.fromkeys((*record.created, *fresh))))
    context.save(record)
    for old, directory in pairs[1:]:
        files.make_directory(runner, directory, HOME_MODE)
        image_owner.give_file(context, old, directory)
        files.flush(runner, posixpath.dirname(directory))
    return record


def prove(context: HostMoveContext, record: HostMoveRecord, path: str) -> None:
    """Have the new file on the destination's storage, and note it when it holds what the old one did.

    The guest may have changed its variables since it runs there, so that a difference is a doubt and no fault.
    """
    plan, file = context.plan, _planned(context, path)
    if files.is_there(context.dest.runner, file.dest):
        files.flush(context.dest_files, file.dest)
    why = _unproven(context, record, file)
    point("state-file-proven")
    words = WORDS[file.role]
    if why:
        note = f"it is not proven that {words} at {plan.dest_host_name} are those of {plan.host_name}: {why}"
        context.log_event("warning", f"{note}; {file.source} is kept")
        context.save(replace(record, doubted={**record.doubted, path: why}))
    else:
        context.save(replace(record, proven=(*record.proven, path)))


def _unproven(context: HostMoveContext, record: HostMoveRecord, file: StateFile) -> str:
    """Why the new file is not known to hold what the old one did; "" when it is."""
    plan = context.plan
    if record.unproven:
        return record.unproven
    new = files.stat_one(context.dest.runner, file.dest)
    there = new is not None and new.size > 0
    if file.sent and there and not files.is_there(context.source.runner, file.source):
        return ""  # libvirt removes it at the source only after the destination has said that it has all
    if new is None or (new.size != file.size and not file.sent):
        size = "is not there" if new is None else f"has {new.size} bytes instead of {file.size}"
        return f"{file.dest} {size}"
    now = file_fingerprint(context.source.runner, file.source)
    if not now:
        return f"{file.source} is not at {plan.host_name} any more"
    if now == record.state_copied.get(file.source):
        return ""  # compared when it was copied, and the old one was not written to since
    if files.digest(context.source.runner, file.source) == files.digest(context.dest.runner, file.dest):
        return ""
    return f"{file.source} was written to after it was copied, and {file.dest} holds something else"


def release(context: HostMoveContext, record: HostMoveRecord, path: str) -> None:
    """Remove or keep an old file, as asked for the old disks; keep it in any doubt."""
    plan, runner, file = context.plan, context.source.runner, _planned(context, path)
    point("releasing-state-file")
    file_stat = files.stat_one(runner, path)
    if file_stat is None:
        sentence = f"{path}: was gone already"
    else:
        doubt = record.doubted.get(path) or _changed(context, file)
        doubt = doubt or proof.blocker(context.source, path, context.claims(), going=[path], is_base=False)
        if doubt is None and plan.source.delete:
            files.remove_with_links(context.source_files, path)
            file_stat = None
            sentence = f"{path}: removed; nothing used it any more"
        else:
            what = f"{WORDS[file.role]} of {plan.vm} before it went to {plan.dest_host_name}"
            why = doubt or f"kept {plan.source.why_kept}: {what}"
            context.quarantine(_kept(context, file, file_stat, why, for_good=doubt is not None))
            sentence = f"{path}: kept{f', because {doubt}' if doubt else f' {plan.source.why_kept}'}"
    if file_stat is None and file.role == "tpm":
        _clear_tpm(context, posixpath.dirname(path))
    elif file_stat is None:
        old_home.clear(context, path)
    context.log_event("action", sentence)
    point("state-file-released")
    context.save(replace(record, released=(*record.released, path), sources=(*record.sources, sentence)))


def _clear_tpm(context: HostMoveContext, directory: str) -> None:
    """Remove the directories of a TPM's state that is gone, once nothing but swtpm's lock is left in them."""
    runner = context.source.runner
    if files.stat_one(runner, directory) is not None and set(files.list_directory(runner, directory)) <= {TPM_LOCK}:
        files.remove_file(context.source_files, posixpath.join(directory, TPM_LOCK))
        files.remove_directory_if_empty(context.source_files, directory)
        files.remove_directory_if_empty(context.source_files, posixpath.dirname(directory))


def _changed(context: HostMoveContext, file: StateFile) -> str | None:
    """Why the old file stays although it was proven: the new one is not there any more."""
    if files.stat_one(context.dest.runner, file.dest) is None:
        return f"{context.plan.dest_host_name} does not have {file.dest}"
    return None


def _kept(context: HostMoveContext, file: StateFile, file_stat: FileStat, why: str, *, for_good: bool) -> Kept:
    plan, now = context.plan, time.time()
    expires = None if for_good or plan.source.keep_s is None else now + plan.source.keep_s
    return Kept(
        file.source, plan.move, plan.vm, "", expires, file_stat.allocated, why, host=plan.host, since=now, format="raw",
        fingerprint=KeptFingerprint(file_stat.inode, file_stat.size, file_stat.mtime_ns),
        file=file_identity.files_at(context.source.runner, plan.host, [file.source])[file.source],
    )  # fmt: skip


def _planned(context: HostMoveContext, path: str) -> StateFile:
    return next(file for file in context.plan.state_files if file.source == path)
