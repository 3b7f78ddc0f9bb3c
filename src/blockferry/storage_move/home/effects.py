"""Effects on a VM's home: its small files and metadata are copied, compared again, and released.

Files of the home may change during the move. So each is fingerprinted when it is copied; before the configuration
names the copies, and before an old file goes, it is looked at again. What has changed is copied again as long as
nothing uses the copy; otherwise both stay, and the report says so. Which files these are: storage_move/home/rules.py.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from blockferry.base.errors import BlockferryError, FileExists, HostCommandFailed, HostUnreachable, ImageUnreadable
from blockferry.base.names import cut
from blockferry.base.units import MiB
from blockferry.hosts.helper import files, image_users
from blockferry.hosts.host import Host
from blockferry.hosts.inventory import Datastore
from blockferry.hosts.libvirt import domain_xml, pools
from blockferry.hosts.runner import Runner
from blockferry.safety import file_references
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import mount_check, owner_and_labels
from blockferry.storage_move.destination.effects import MARKER, make_home, mark_file, marked_by, name_paths
from blockferry.storage_move.home.plan import HomeFile, HomePlan
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record

DIGEST_UP_TO = 64 * MiB
"""Files up to this size are compared by their content, larger ones by size and times."""

TRIES = 3
"""How often a file is copied that changes while it is copied."""

METADATA_UP_TO = 16 * MiB


# ---------------------------------------------------------------- fingerprints


def fingerprint(runner: Runner, path: str) -> str:
    """What tells whether a file has changed: inode, size, times, and the digest of a small one; "" when it is gone.

    Not its device number: that may change at a remount.
    """
    file_stat = files.stat_one(runner, path)
    if file_stat is None:
        return ""
    digest = files.digest(runner, path) if file_stat.size <= DIGEST_UP_TO else ""
    return f"{file_stat.inode}:{file_stat.size}:{file_stat.mtime_ns}:{file_stat.ctime_ns}:{digest}"


def same(then: str, now: str) -> bool:
    """Whether two fingerprints are of the same content. Times of a small file do not count, nor its owner's changes."""
    if not then or not now:
        return then == now
    before, after = then.split(":"), now.split(":")
    if before[4] or after[4]:
        return (before[1], before[4]) == (after[1], after[4])
    return before == after


# ---------------------------------------------------------------- copying


def copy_home(context: Context, seen: Observation) -> None:
    """Metadata and small files first."""
    plan, record = context.plan, seen.record
    if plan.home is None:
        context.save(replace(record, home=replace(record.home, copied=True)))
        return
    mount_check.check(context, record.mounts)
    record = make_home(context, record, plan.home.dest)
    for directory in _subdirectories(plan.home.dest, [file.dest for file in plan.home.files]):
        record = make_home(context, record, directory)
        if plan.home.source is not None:
            old = posixpath.join(plan.home.source, posixpath.relpath(directory, plan.home.dest))
            owner_and_labels.give_as(context, old, directory)
    metadata = _writable(context, plan.home.dest)
    record = name_paths(context, record, *metadata, *(file.dest for file in plan.home.files), ours=metadata)
    point("home-named")
    for path in (*metadata, *(file.dest for file in plan.home.files)):
        mark_file(context, path)
    for path, xml in metadata.items():
        files.write_file(context.runner, path, xml.encode())
        mark_file(context, path, made=True)
    for file in plan.home.files:
        record = _copy(context, record, file)
    number = len(metadata) + len([file for file in plan.home.files if file.source not in record.home.left])
    context.log_event("action", f"the home was copied to {plan.home.dest} ({number} file{'s' if number > 1 else ''})")
    point("home-copied")
    context.save(replace(record, home=replace(record.home, copied=True)))


def _subdirectories(home: str, paths: Iterable[str]) -> list[str]:
    """The directories below a home that these files lie in, from the top down."""
    found: set[str] = set()
    for path in paths:
        directory = posixpath.dirname(path)
        while directory.startswith(home.rstrip("/") + "/"):
            found.add(directory)
            directory = posixpath.dirname(directory)
    return sorted(found)


def _copy(context: Context, record: Record, file: HomeFile, *, named: bool = False) -> Record:
    """Copy one file, until it has not changed meanwhile. One that is being written to stays where it is; both stay
    when the copy is `named` by the configuration already.
    """
    runner = context.runner
    why = "it is written to all the time"
    for _try in range(TRIES):
        before = fingerprint(runner, file.source)
        if not before:
            why = "it is gone"
            break
        if writer := _writer(runner, file.source):
            why = f"{writer} has it open for writing"
            break
        _put(context, record, file)
        owner_and_labels.give_as(context, file.source, file.dest)
        made = {**record.home.copy_fingerprints, file.source: fingerprint(runner, file.dest)}
        record = replace(record, home=replace(record.home, copy_fingerprints=made))
        if same(before, fingerprint(runner, file.source)):
            left = {path: of for path, of in record.home.left.items() if path != file.source}
            return replace(
                record,
                home=replace(record.home, fingerprints={**record.home.fingerprints, file.source: before}, left=left),
            )
    return _keep_both(context, record, file) if named else _leave(context, record, file, why)


def _put(context: Context, record: Record, file: HomeFile) -> None:
    """Copy the file in place of a copy of ours, or to a free name. Raises FileExists: then the name is not ours."""
    context.check()
    marked = marked_by(context.runner, file.dest) is not None

    def marking(path: str, *, replaces: bool = False) -> None:
        # Before it has its name: a move that is killed leaves no file that nobody knows.
        if marked:
            mark_file(context, file.dest, made=path, replaces=replaces)

    if _is_ours(context, record, file):
        files.copy_over(context.runner, file.source, file.dest, partial(marking, replaces=True))
        if marked:
            mark_file(context, file.dest, made=True)
        return
    try:
        if not files.copy_file(context.runner, file.source, file.dest, marking):
            raise FileExists(file.dest)
        if marked:
            mark_file(context, file.dest, made=True)
    except FileExists:
        # Somebody made it after its name was noted. What is in `created` is removed when the move is rolled back.
        context.check()
        files.remove_file(context.runner, file.dest + MARKER)
        context.save(replace(record, created=tuple(path for path in record.created if path != file.dest)))
        raise


def _is_ours(context: Context, record: Record, file: HomeFile) -> bool:
    """Whether what has the copy's name is the copy that this move has made."""
    file_stat = files.stat_one(context.runner, file.dest)
    if file_stat is None or file.dest not in record.created:
        return False
    made = record.home.copy_fingerprints.get(file.source)
    if made is None:  # an older blockferry has copied it, and noted its name only
        return record.home.copied and file.source not in record.home.fingerprints
    return made.split(":")[0] == str(file_stat.inode)


def _writer(runner: Runner, path: str) -> str:
    """Who has the file open for writing; "" when nobody is seen to, or it is gone."""
    try:
        return image_users.writer(runner, path)
    except ImageUnreadable:
        return "" if files.stat_one(runner, path) is None else "somebody, as far as can be told,"


def _leave(context: Context, record: Record, file: HomeFile, why: str) -> Record:
    """The file stays where it is, and so does its name in the configuration. A copy of ours goes."""
    context.check()
    if _is_ours(context, record, file):
        files.remove_file(context.runner, file.dest)
    files.remove_file(context.runner, file.dest + MARKER)
    record = replace(record, home=replace(record.home, left={**record.home.left, file.source: why}))
    context.notes.append(_stays(file, record))
    context.log_event("warning", context.notes[-1])
    return record


def _stays(file: HomeFile, record: Record) -> str:
    return f"{file.source} stays where it is, because {record.home.left[file.source]}"


def new_names(home: HomePlan | None, record: Record) -> dict[str, str]:
    """Old path -> new path of the home's files that are across, for the configuration."""
    files_ = home.files if home is not None else ()
    return {file.source: file.dest for file in files_ if file.source not in record.home.left}


def refresh(context: Context, seen: Observation) -> Record:
    """Before the configuration names the copies: what has changed since is copied again, or stays where it is."""
    plan, record = context.plan, seen.record
    live, config = context.control.names_now() if plan.home is not None else (set(), set())
    for file in plan.home.files if plan.home is not None else ():
        then = record.home.fingerprints.get(file.source)
        if file.source in record.home.left:
            continue
        if file.dest not in live | config and (writer := _writer(context.runner, file.source)):
            record = _leave(context, record, file, f"{writer} has it open for writing")
        elif _changed(context, file, then):
            if then is None and file.dest not in live | config:
                record = _copy(context, record, file)
            else:
                record = _again(context, record, file, named=file.dest in config)
    if record != seen.record:
        context.save(record)
    return record


def _again(context: Context, record: Record, file: HomeFile, *, named: bool) -> Record:
    """The old file has changed since it was copied: copied again where nothing uses the copy yet, else both stay."""
    if file.dest in context.control.names_now()[0] or not _untouched(context, record, file):
        return _keep_both(context, record, file)
    context.log_event("warning", f"{file.source} has changed since it was copied; it is copied again")
    record = _copy(context, record, file, named=named)
    # The VM may have been started on the copy that was replaced; what it writes there would be lost.
    used = file.dest in context.control.names_now()[0]
    return _keep_both(context, record, file) if used else record


def _changed(context: Context, file: HomeFile, then: str | None) -> bool:
    """Whether the old file is another than the one that was copied. One that is gone has not changed.

    `then` is None when an older blockferry has copied it, which noted no fingerprints: the contents are compared.
    """
    now = fingerprint(context.runner, file.source)
    if not now or (then is not None and same(then, now)):
        return False
    if then is None:
        return not _same_content(context.runner, file)
    small = bool(now.split(":")[4])
    return small or not _same_content(context.runner, file)


def _same_content(runner: Runner, file: HomeFile) -> bool:
    """Whether the copy holds what the old file holds. False when they cannot be compared.

    Of a large file whose times have changed: libvirt changes the owner of what a VM starts with.
    """
    try:
        return files.same_content(runner, file.source, file.dest)
    except HostCommandFailed:
        return False


def _untouched(context: Context, record: Record, file: HomeFile) -> bool:
    """Whether nobody has written to the copy since it was made."""
    made = record.home.copy_fingerprints.get(file.source, "")
    return bool(made) and same(made, fingerprint(context.runner, file.dest))


def _keep_both(context: Context, record: Record, file: HomeFile) -> Record:
    why = f"it has changed since it was copied, and {file.dest} is in use by now: both are kept"
    if file.source not in record.home.fingerprints:  # copied by an older blockferry
        why = f"it holds something else than {file.dest}, or they cannot be compared: both are kept"
    if file.source not in record.home.kept:
        context.log_event("warning", f"{file.source}: {why}")
    return replace(record, home=replace(record.home, kept={**record.home.kept, file.source: why}))


# ---------------------------------------------------------------- releasing


def release_home(context: Context, seen: Observation) -> None:
    """The old home's small files and directory; and the new home's metadata written as it is now."""
    plan, home, record = context.plan, context.plan.home, seen.record
    if home is not None:
        write_metadata(context, home.dest)
        images = {disk.dest.path for disk in plan.disks}
        for path in record.created:
            below = path.startswith(home.dest.rstrip("/") + "/")
            if below and not path.endswith("/") and path not in images:
                files.remove_file(context.runner, path + MARKER)
        stays = home.source is not None and is_datastore(
            context.runner, home.source, pools.datastores(context.site.connection)
        )
        if stays:  # a plan of an older blockferry, or the pool was defined since
            text = f"{home.source} is the directory of a datastore: the files of the old home stay there"
            context.notes.append(text)
            context.log_event("warning", text)
        for file in home.files:
            if stays and file.source.startswith(f"{home.source}".rstrip("/") + "/"):
                continue
            if file.source not in record.home.left:
                record = _release(context, record, file)
            elif (note := _stays(file, record)) not in context.notes:
                context.notes.append(note)
        if home.source is not None and not stays:
            _release_directories(context, home)
    point("home-released")
    context.save(replace(record, released=(*record.released, "home")))


def _release(context: Context, record: Record, file: HomeFile) -> Record:
    """Remove or keep one old file. It is kept when it is newer than the copy, or somebody needs it."""
    plan, runner = context.plan, context.runner
    aside = _aside(context, file.source)
    if files.stat_one(runner, aside) is not None and not _take_back(context, file.source, aside):
        return record
    if files.stat_one(runner, file.source) is None:
        return record
    then = record.home.fingerprints.get(file.source)
    if _changed(context, file, then):
        record = _again(context, record, file, named=True)
        context.save(record)
    # QEMU holds the medium of a drive until the next power cycle, when it could not be changed.
    doubt = record.home.kept.get(file.source) or _no_copy(context, file, file.source)
    doubt = doubt or context.blocker(file.source, patience_s=0, is_base=False)
    if doubt is None and plan.source.delete:
        point("releasing-home-file")
        doubt = _remove(context, file, record.home.fingerprints.get(file.source))
    if doubt is not None:
        context.notes.append(f"{file.source} is kept, because {doubt}")
        context.quarantine(file.source, "", file.size, doubt, "raw", settled=False, for_good=True)
    elif not plan.source.delete:
        context.quarantine(file.source, "", file.size, f"kept {plan.source.why_kept}", "raw")
    return record


def _no_copy(context: Context, file: HomeFile, path: str) -> str | None:
    """Why the old file, which is at `path` now, may be the only one; None when there is a copy beside it."""
    try:
        old, new = files.stat_one(context.runner, path), files.stat_one(context.runner, file.dest)
    except HostCommandFailed as error:
        return f"its copy cannot be looked at: {error.sentence.rstrip('.')}"
    if new is None or new.kind != "file":
        return f"its copy {file.dest} is not there"
    if old is not None and (old.device, old.inode) == (new.device, new.inode):
        return f"it is the same file as {file.dest}"
    return None


def _aside(context: Context, path: str) -> str:
    directory, name = posixpath.split(path)
    return posixpath.join(directory, f".{cut(name, 180)}.{context.plan.move}.blockferry-old")


def _remove(context: Context, file: HomeFile, then: str | None) -> str | None:
    """Remove an old file; or why it stays. Whoever writes between the last look and the removal must not be lost.

    It is renamed first, so that nobody finds it any more who has not opened it; then it is looked at once more.
    """
    runner, aside = context.runner, _aside(context, file.source)
    context.check()
    try:
        files.rename(runner, file.source, aside)
    except HostCommandFailed as error:
        if files.stat_one(runner, aside) is not None:
            _take_back(context, file.source, aside)
        return error.sentence.rstrip(".")
    point("home-file-aside")
    try:
        doubt = _no_copy(context, file, aside)
        doubt = doubt or image_users.users_of(runner, aside).why or None
        if doubt is None and not _is_what_was_copied(runner, file, aside, then):
            doubt = "it has changed since it was copied"
    except BlockferryError as error:
        doubt = error.sentence
    if doubt is None:
        context.check()  # whoever runs the move by now takes the file back by itself
        try:
            files.remove_file(runner, aside)
        except HostCommandFailed as error:
            doubt = error.sentence.rstrip(".")
        else:
            return None
    _take_back(context, file.source, aside)
    return doubt


def _is_what_was_copied(runner: Runner, file: HomeFile, aside: str, then: str | None) -> bool:
    if then is None:
        return _same_content(runner, replace(file, source=aside))
    return _is_still(runner, aside, then)


def _is_still(runner: Runner, aside: str, then: str) -> bool:
    """As `same`; a rename changes a file's ctime."""
    now = fingerprint(runner, aside)
    before, after = then.split(":"), now.split(":")
    if len(after) == len(before) == 5 and not after[4]:
        before[3] = after[3]
    return same(":".join(before), ":".join(after))


def _take_back(context: Context, path: str, aside: str) -> bool:
    """Give a file its old name again; False when that is taken by now: then both stay."""
    if files.appear(context.runner, aside, path):
        return True
    context.notes.append(f"{path} was made anew by somebody; the old one is kept as {aside}")
    context.quarantine(aside, "", 0, "another file has taken its name", "raw", settled=False, for_good=True)
    return False


def _release_directories(context: Context, home: HomePlan) -> None:
    """Our metadata in the old home, and the directory once it is empty. What cannot be done is a note, no more."""
    assert home.source is not None
    if context.plan.source.delete:
        try:
            _remove_metadata(context, home.source)
            below = _subdirectories(home.source, [file.source for file in home.files])
            for directory in reversed(below):
                remove_directory(context, directory)
        except HostUnreachable:
            raise
        except BlockferryError as error:
            context.notes.append(f"the old home {home.source} could not be cleared: {error.sentence}")
        why = remove_directory(context, home.source)
        if why:
            context.notes.append(f"the old home {home.source} stays: {why}")


def remove_directory(context: Context, directory: str) -> str:
    """Remove a directory of the VM's, if it is empty; else why it stays. Never that of a datastore.

    Raises HostUnreachable: the loop comes again once the host answers.
    """
    nvram = context.plan.firmware.nvram
    return clear_directory(context.site, context.runner, directory, "" if nvram is None else nvram.source)


def clear_directory(site: Host, runner: Runner, directory: str, nvram: str = "") -> str:
    """As `remove_directory`, outside of a move. `nvram`: UEFI variables that have yet to follow."""
    try:
        if is_datastore(runner, directory, pools.datastores(site.connection)):
            return "it is the directory of a datastore"
        if (target := files.link_target(runner, directory)) is not None:
            return f"it is a symbolic link to {target}, which stays, too"
        if files.stat_one(runner, directory) is None:
            return ""
        if user := file_references.directory_user(site, directory):
            return user  # a socket that is made at the VM's start, a directory that its guest sees
        if files.remove_directory_if_empty(runner, directory):
            return ""
        names = files.list_directory(runner, directory)
    except HostUnreachable:
        raise
    except BlockferryError as error:
        return error.sentence
    if nvram and names == (posixpath.basename(nvram),):
        return f"until the UEFI variables have followed, it holds {names[0]}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"it still holds {', '.join(names[:5])}{more}"


def is_datastore(runner: Runner, directory: str, stores: Iterable[Datastore]) -> bool:
    """Whether a directory is that of a datastore, active or not, by whatever path; in doubt it is."""
    paths = [store.path for store in stores if store.path]
    if posixpath.normpath(directory) in {posixpath.normpath(path) for path in paths}:
        return True
    # Datastores that are not there at the moment are no error.
    found = files.identities(runner, [directory, *(path for path in paths if path.startswith("/"))], timeout_s=30)
    mine = found.pop(directory)
    if mine is not None:
        return mine in found.values()
    try:
        return files.stat_one(runner, directory) is not None  # what is not there is nobody's
    except HostCommandFailed:
        return True


# ---------------------------------------------------------------- metadata


def write_metadata(context: Context, directory: str) -> None:
    """What libvirt knows of the VM, as it is now, into its home. A file of that name that is not ours stays."""
    for path, xml in _writable(context, directory).items():
        files.write_file(context.runner, path, xml.encode())


def _writable(context: Context, directory: str) -> dict[str, str]:
    """Path -> XML of the metadata that may be written there."""
    found = {}
    for name, xml in context.control.metadata().items():
        path = posixpath.join(directory, name)
        if files.stat_one(context.runner, path) is None or _own(context, path):
            found[path] = domain_xml.signed(xml, context.plan.uuid)
        else:
            note = f"{path} is not blockferry's; it stays as it is, and the VM's metadata is not written there"
            if note not in context.notes:
                context.notes.append(note)
    return found


def _own(context: Context, path: str) -> bool:
    """Whether a metadata file is ours: by its first line. It appears whole, so a move that was killed leaves it."""
    return is_ours(context.runner, path, context.plan.uuid)


def is_ours(runner: Runner, path: str, uuid: str) -> bool:
    """Whether blockferry has written this metadata file, for the VM of this UUID."""
    file_stat = files.stat_one(runner, path)
    if file_stat is None or file_stat.kind != "file" or file_stat.size > METADATA_UP_TO:
        return False
    try:
        return domain_xml.is_signed(files.read_file(runner, path).decode(errors="replace"), uuid)
    except HostCommandFailed:
        return False


def _remove_metadata(context: Context, directory: str) -> None:
    """Metadata that an earlier move of this VM wrote there."""
    for name in files.list_directory(context.runner, directory):
        path = posixpath.join(directory, name)
        if name.endswith(".xml") and is_ours(context.runner, path, context.plan.uuid):
            files.remove_file(context.runner, path)
