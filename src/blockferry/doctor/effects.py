"""Looking a host over for `doctor`: gathers facts, touches nothing, takes up no move.

A part that cannot be looked at is a line that says so; the other parts are looked at all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from blockferry.base.errors import BlockferryError, HostCommandFailed
from blockferry.doctor import rules as doctor_rules
from blockferry.doctor.rules import DatastoreDirectory, Diagnosis, HostCheck, JournalState, Leftovers, Level
from blockferry.hosts import qemu_process
from blockferry.hosts.defects import Versions
from blockferry.hosts.helper import files, host_guard, ownership
from blockferry.hosts.host import Host
from blockferry.hosts.identity import may_be_here
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import Datastore, Vm
from blockferry.hosts.libvirt import domain_list, pools, security_model
from blockferry.hosts.runner import LocalRunner, Runner
from blockferry.leftovers import orphans
from blockferry.safety.guard import Guard
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.summary import MoveSummary

PROGRAMS = (
    *("qemu-img", "stat", "find", "sync", "fallocate", "truncate", "blockdev"),
    *(
        "/usr/bin/python3",
        "cp",
        "cmp",
        "mv",
        "ln",
        "unlink",
        "mkdir",
        "rmdir",
        "dd",
        "cat",
        "grep",
        "env",
        "sleep",
    ),
)
"""What hosts/ runs on the host."""

_MISSING = 'for program; do command -v -- "$program" >/dev/null || echo "$program"; done'
NOBODY = "00000000-0000-0000-0000-000000000000"


def diagnose(site: Host, journal: Callable[[], MoveJournal]) -> Diagnosis:
    """Every check. `journal` opens the journal; it may raise JournalFailed."""
    checks, connected, reached = look_host(site)
    if reached:
        part(checks, "clock", lambda: _clock(site.runner))
    opened = part(checks, "journal", lambda: _journal(journal()))
    if opened and connected and reached:
        part(checks, "leftovers", lambda: _leftovers(site, journal()))
    if connected:
        part(checks, "guard", lambda: doctor_rules.guard(works=_guard_works(site.uri)))
    if connected and reached:
        part(checks, "guard", lambda: doctor_rules.host_guard(host_guard.problem(site.runner, site.uri)))
    return Diagnosis(site.uri, tuple(checks))


def look_host(site: Host) -> tuple[list[HostCheck], bool, bool]:
    """What is of the host alone: versions, programs, KVM, datastores; whether libvirt answers, and the files do."""
    checks: list[HostCheck] = []
    vms: list[Vm] = []
    connected = part(checks, "connection", lambda: _connection(site, vms))
    reached = part(checks, "connection", lambda: _access(site.runner))
    if connected:
        part(checks, "versions", lambda: _versions(site, vms, reached=reached))
    if reached:
        part(checks, "tools", lambda: doctor_rules.tools(missing(site.runner, PROGRAMS)))
    if connected and reached:
        part(checks, "kvm", lambda: _kvm(site))
        part(checks, "datastores", lambda: _datastores(site))
    return checks, connected, reached


def part(checks: list[HostCheck], area: str, look: Callable[[], list[HostCheck]]) -> bool:
    """Add what a part finds; False when it could not be looked at."""
    try:
        checks.extend(look())
    except BlockferryError as error:
        checks.append(HostCheck(area, Level.ERROR, error.sentence, error.hint))
        return False
    return True


def _connection(site: Host, vms: list[Vm]) -> list[HostCheck]:
    connection = site.connection
    vms.extend(domain_list.all_vms(connection))
    text = f"libvirt at {site.uri} answers ({connection.hostname()}, {len(vms)} VMs)."
    if site.uri.split("?")[0].endswith("/session"):
        text += " It is a user's session: the VMs of the system are not seen."
        return [HostCheck("connection", Level.WARNING, text, "Use qemu:///system.")]
    return [HostCheck("connection", Level.OK, text)]


def _access(runner: Runner) -> list[HostCheck]:
    who = runner.run(["id", "-u"], timeout_s=30).text.strip()
    if who == "0":
        return [HostCheck("connection", Level.OK, "The host's files are reached as root.")]
    text = f"The host's files are reached as user {who}, who does not see what others have open: old disks are kept."
    return [
        HostCheck("connection", Level.WARNING, text, "Run as root, or log in as root: qemu+ssh://root@HOST/system.")
    ]


def _versions(site: Host, vms: list[Vm], *, reached: bool) -> list[HostCheck]:
    libvirt, qemu = site.connection.versions()
    image, programs = None, {}
    if reached:
        try:
            image = qemu_img.version(site.runner)
        except BlockferryError:
            image = None  # said by the tools' check
        active = [vm for vm in vms if vm.state.active]
        programs = {vm.name: qemu_process.program_of(site.runner, site.uri, vm.name, vm.uuid) for vm in active}
    outdated = [name for name, program in programs.items() if program.replaced]
    running = {name: program.version for name, program in programs.items() if program.version is not None}
    return doctor_rules.versions(Versions(libvirt, qemu), image, vms, outdated, running)


def missing(runner: Runner, programs: Sequence[str]) -> list[str]:
    """Return those of the programs that the host does not have."""
    return runner.run(["sh", "-c", _MISSING, "sh", *programs], timeout_s=30).text.split()


def _kvm(site: Host) -> list[HostCheck]:
    user = security_model.default_user(site.connection)
    if user is None:
        return []
    try:
        return doctor_rules.kvm(user, ownership.openable(site.runner, user, doctor_rules.KVM))
    except HostCommandFailed:  # a host without python3, or we are not root there: both are said by other parts
        return []


def _datastores(site: Host) -> list[HostCheck]:
    stores = pools.datastores(site.connection)
    places = {
        store.name: _place(site.runner, store) for store in stores if store.active and store.is_directory and store.path
    }
    user = security_model.default_user(site.connection)
    paths = [store.path for store in stores if store.name in places and store.path]
    stopped = {}
    if user is not None and user.uid != 0:
        with contextlib.suppress(HostCommandFailed):  # a host without python3: said by the tools' check
            stopped = ownership.unreachable(site.runner, user, paths)
    return [
        *doctor_rules.datastores(stores, places),
        *doctor_rules.out_of_reach(
            user, {store.name: stopped[store.path] for store in stores if store.path in stopped}
        ),
    ]


def _place(runner: Runner, store: Datastore) -> DatastoreDirectory:
    assert store.path is not None
    try:
        file_stat = files.stat_one(runner, store.path)
        if file_stat is None or file_stat.kind != "directory":
            return DatastoreDirectory(f"its directory {store.path} is missing")
        if not files.writable_directory(runner, store.path, timeout_s=30):
            return DatastoreDirectory(f"its directory {store.path} cannot be written")
        kind = files.filesystem_type(runner, store.path)
        return DatastoreDirectory(
            filesystem=kind,
            identity=(file_stat.device, file_stat.inode),
            free=files.free_bytes(runner, store.path),
            size=store.capacity,
            reflink=_reflink(runner, store.path, kind),
        )
    except BlockferryError as error:
        return DatastoreDirectory(f"its directory cannot be looked at: {error.sentence}".rstrip("."))


def _reflink(runner: Runner, path: str, kind: str) -> bool | None:
    if kind == "xfs":
        result = runner.run(["xfs_info", path], check=False, timeout_s=30)
        return "reflink=1" in result.text if result.status == 0 else None
    return {"btrfs": True, "ext2": False, "ext3": False, "ext4": False, "tmpfs": False}.get(kind)


def _clock(runner: Runner) -> list[HostCheck]:
    told = runner.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"], check=False, timeout_s=30)
    synchronised = {"yes": True, "no": False}.get(told.text.strip()) if told.status == 0 else None
    before = time.time()
    told_time = re.match(r"\d+(?:\.\d+)?", runner.run(["date", "+%s.%N"], timeout_s=30).text)  # not every date has %N
    theirs = float(told_time[0]) if told_time else before
    after = time.time()
    remote = not isinstance(runner, LocalRunner)
    return doctor_rules.clock(
        synchronised=synchronised,
        offset_s=theirs - (before + after) / 2,
        uncertainty_s=(after - before) / 2,
        remote=remote,
    )


def _journal(journal: MoveJournal) -> list[HostCheck]:
    if journal.missing:
        return [doctor_rules.no_journal(journal.name)]
    inspection = journal.inspect()
    room = exposed = None
    if inspection.path is not None:
        space = os.statvfs(inspection.path.parent)
        room = space.f_bavail * space.f_frsize
        exposed = _exposed(inspection.path)
    state = JournalState(
        journal.name, inspection.version, inspection.faults, inspection.clock_offset_s, room, bool(exposed)
    )
    return doctor_rules.journal(state)


def _exposed(path: Path) -> bool:
    """Whether others can get at the file: by its own mode and by that of its directory."""
    file, directory = path.stat().st_mode, path.parent.stat().st_mode
    reachable = directory & (stat.S_IXGRP | stat.S_IXOTH)
    return bool(reachable and file & (stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH))


def _leftovers(site: Host, journal: MoveJournal) -> list[HostCheck]:
    uri, host = site.connection.uri, site.connection.host_id()
    every = journal.every
    unfinished = [
        one
        for one in every.unfinished()
        if any(may_be_here(claimed.where, uri, host) for claimed in every.kind_of(one).claimed(one))
    ]
    now = time.time()
    found = orphans.find(site, journal)
    kept = [orphan for orphan in found.left if orphan.kind == "source"]
    others = [orphan for orphan in found.left if orphan.kind != "source"]
    return doctor_rules.leftovers(
        Leftovers(
            interrupted=tuple(_name(one) for one in unfinished if one.state == "interrupted"),
            parked=tuple((_name(one), one.parked) for one in unfinished if one.parked is not None),
            orphans=tuple(
                f"{other.path}: {other.why}." for other in others if other.removable and not other.on_purpose
            ),
            undecided=tuple(f"{other.path}: {other.why}." for other in others if not other.removable),
            partial=tuple(f"{other.path}: {other.why}." for other in others if other.removable and other.on_purpose),
            unsearched=found.unsearched,
            kept=len(kept),
            kept_bytes=sum(orphan.size for orphan in kept),
            expired=tuple(orphan.path for orphan in kept if orphan.expires is not None and orphan.expires <= now),
        )
    )


def _name(move_summary: MoveSummary) -> str:
    return f"Move {move_summary.id} of {move_summary.plan.vm}"


def _guard_works(uri: str) -> bool:
    """A guard for a VM that does not exist: it is never armed."""
    with Guard(uri, NOBODY, "nobody") as guard:
        return guard.works()
