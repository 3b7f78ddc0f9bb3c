"""The use cases, as the command line (and later the server) calls them."""

from __future__ import annotations

import contextlib
import functools
import getpass
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import tenacity

from blockferry.base.config import Config, hidden_journal
from blockferry.base.errors import (
    BlockferryError,
    DestinationTaken,
    HostUnreachable,
    JournalFailed,
    KeptTaken,
    LeaseLost,
    MoveBusy,
    MoveCancelled,
    MoveFailed,
    MoveNotFound,
    OtherHost,
    Refused,
    RoomTaken,
    TooLateToCancel,
    UsageError,
    VmNotFound,
)
from blockferry.base.units import format_rate
from blockferry.doctor import effects as doctor_effects
from blockferry.doctor.rules import Diagnosis
from blockferry.hosts import identity
from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.host import Host
from blockferry.hosts.inventory import datastore_of
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.process import reap
from blockferry.hosts.slow_calls import SlowCalls
from blockferry.jobs import unexpected_errors
from blockferry.jobs.loop import Loop, Waiting
from blockferry.jobs.store_outage import Lifeline
from blockferry.leftovers import orphans as leftovers_orphans
from blockferry.leftovers import quarantine
from blockferry.leftovers.quarantine_rules import KeptFile, Restore
from blockferry.safety import proof
from blockferry.safety.guard import Guard
from blockferry.storage_move import survey
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import datastore_places
from blockferry.storage_move.facts import Facts, TemplateFacts
from blockferry.storage_move.firmware import rules as firmware_rules
from blockferry.storage_move.pace.effects import Pacer
from blockferry.storage_move.precheck import rules as precheck_rules
from blockferry.storage_move.precheck import space
from blockferry.storage_move.precheck.finding import Severity
from blockferry.storage_move.record import Outcome, Record, Wanted
from blockferry.storage_move.request import Method, MoveRequest
from blockferry.storage_move.summary import (
    CheckResult,
    DatastoreListing,
    DiskEstimate,
    DiskListing,
    Event,
    MoveSummary,
    Orphan,
    Orphans,
    Progress,
    Report,
    VmListing,
)
from blockferry.storage_move.templates import effects as templates_effects
from blockferry.storage_move.verify import rules as verify_rules
from blockferry.store import Journal, Lease, LeaseKeeper, Owner
from blockferry.store.kept import Kept
from blockferry.tracking import effects as tracking_effects
from blockferry.tracking.rules import Changes, Point, TrackingStatus

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""For how long a planned move is left to the process that planned it."""

LONG_S = 5.0
"""A survey that has compared images for longer is made anew, so that a move is planned with what is there now."""

PLAN_ATTEMPTS = 20
"""So often a move is planned anew because others took what its plan counted on. Each time one of them was planned."""

TYPICAL_RATE = 200 * 1024**2
"""Bytes/s assumed for estimates when nothing was measured on this host yet."""


class Service:
    """Everything a user can ask for, on one host with one journal."""

    def __init__(self, config: Config) -> None:
        """Opens nothing yet. Raises UsageError for a URI that cannot be used."""
        self.config = config
        self._site = Host(config.uri)
        self._journal: Journal | None = None
        self._lock = threading.Lock()
        self._say: Callable[[str], None] = lambda _: None
        self._uris: dict[str, str] = {}  # move -> URI of its host: a worker is started also while the journal is away

    @property
    def uri(self) -> str:
        return self.config.uri

    @property
    def no_journal(self) -> str | None:
        return self.journal.name if self.journal.missing else None

    @property
    def journal(self) -> Journal:
        """The journal as it is. One that is not there is not made by looking at it: see `_made_journal`."""
        with self._lock:
            if self._journal is None:
                self._journal = Journal.open(self.config.journal, make=False)
                hidden = hidden_journal(self.config.journal) if self._journal.missing else None
                if hidden is not None:
                    self._say(f"root's journal {hidden} is not readable by you; moves in it are not shown")
            return self._journal

    @property
    def _move_journal(self) -> Journal:
        """The journal, for whoever asks about moves. Raises JournalFailed where root's is not readable."""
        journal = self.journal
        hidden = hidden_journal(self.config.journal) if journal.missing else None
        if hidden is not None:
            raise JournalFailed(str(hidden), "it is root's and not readable by you: run as root")
        return journal

    def _made_journal(self) -> Journal:
        """The journal, made if it was not there: the first move makes it, no command that only looks does."""
        with self._lock:
            if self._journal is None or self._journal.missing:
                made = Journal.open(self.config.journal)
                if self._journal is not None:
                    self._journal.close()
                self._journal = made
            return self._journal

    def listen(self, say: Callable[[str], None]) -> None:
        self._say = say

    def close(self) -> None:
        self._site.close()
        if self._journal is not None:
            self._journal.close()

    # ------------------------------------------------------------ looking

    def vm_names(self) -> tuple[str, ...]:
        return domain_list.names(self._site.connection)

    def datastore_names(self) -> tuple[str, ...]:
        return pools.names(self._site.connection)

    def disk_names(self, vm: str) -> tuple[str, ...]:
        found = domain_list.vm(self._site.connection, vm)
        return tuple(disk.target for disk in found.disks if disk.device == "disk")

    def vms(self) -> tuple[VmListing, ...]:
        self._site.runner.prepare()  # while libvirt is connected to
        stores = datastore_places.datastores(self._site)
        uri, host = self._site.connection.uri, self._site.connection.host_id()
        under_way = [one for one in self.journal.unfinished() if identity.may_be_here(one.plan, uri, host)]
        moving = {one.plan.uuid: one.id for one in under_way}
        listings = []
        everyone = domain_list.all_vms(self._site.connection)
        resolved = datastore_places.resolved(self._site.runner, everyone)
        for vm in everyone:
            disks = []
            for disk in vm.disks:
                chain, problem = survey.read_chain(self._site.runner, disk)
                path = disk.source.path if disk.source else None
                store = datastore_of(path, stores, resolved.get(path, "")) if path else None
                disks.append(
                    DiskListing(
                        target=disk.target,
                        device=disk.device,
                        path=path or (disk.source.description if disk.source else None),
                        format=disk.source.format if disk.source else "",
                        datastore=None if store is None else store.name,
                        virtual_size=chain[0].virtual_size if chain else None,
                        allocation=sum(image.allocation for image in chain) if chain else None,
                        problem=problem,
                        layers=max(1, len(chain)),
                    )
                )
            listings.append(VmListing(vm, tuple(disks), moving.get(vm.uuid)))
        return tuple(listings)

    def datastores(self) -> tuple[DatastoreListing, ...]:
        self._site.runner.prepare()  # while libvirt is connected to
        connection, runner = self._site.connection, self._site.runner
        everyone = domain_list.all_vms(connection)
        problems: dict[str, str | None] = {}
        for store in pools.datastores(connection):
            problems[store.name] = pools.refresh_pool(connection, store.name) if store.active else "not active"
        stores = datastore_places.datastores(self._site)
        users = survey.names_in(stores, everyone, datastore_places.resolved(runner, everyone))
        totals = survey.committed(runner, stores, everyone)
        listings = []
        for store in stores:
            total = totals[store.name] if store.active and store.is_directory else None
            listings.append(DatastoreListing(store, total, tuple(sorted(users[store.name])), problems.get(store.name)))
        return tuple(listings)

    def diagnose(self) -> Diagnosis:
        """Whether the host is fit for moves. Raises nothing for what is wrong: that is what it tells."""
        self._site.runner.prepare()  # while libvirt is connected to
        return doctor_effects.diagnose(self._site, lambda: self.journal)

    # ------------------------------------------------------------ deciding

    def check(self, request: MoveRequest) -> CheckResult:
        """Every reason for and against, and the plan. Nothing is touched."""
        return self._check(request, _new_id())[0]

    def _check(self, request: MoveRequest, move: str) -> tuple[CheckResult, space.NeededSpace | None]:
        """The decision, and what the plan was found to fit into; None without a plan."""
        self._site.runner.prepare()  # while libvirt is connected to
        since, seen = time.time(), self.journal.known()
        facts = self._facts(request, {})
        if sum(one.seconds for one in facts.templates.values()) > LONG_S:
            # While they were compared the VM may have been shut off, or its disks taken elsewhere: look again.
            since, seen = time.time(), self.journal.known()
            facts = self._facts(request, templates_effects.compared(facts.templates.values()))
        vm = facts.vm
        findings, plan = precheck_rules.precheck(request, facts, move)
        if plan is None:
            return CheckResult(vm.name, findings, None), None
        rate = request.bandwidth or TYPICAL_RATE
        estimates = tuple(
            DiskEstimate(one.target, one.copy_bytes, one.copy_bytes / rate, space.needed(one)) for one in plan.disks
        )
        result = CheckResult(
            vm=vm.name,
            findings=findings,
            plan=plan,
            estimates=estimates,
            space=space.estimates(plan.disks, plan.home, plan.nvram, facts),
            seconds=plan.copy_bytes / rate + 1.0,
        )
        return result, space.room(plan, facts, seen, since)

    def _facts(self, request: MoveRequest, just: Mapping[templates_effects.Pair, TemplateFacts]) -> Facts:
        """What is there now. `just`: what was compared a moment ago."""
        vm = domain_list.vm(self._site.connection, request.vm)
        other = self._unfinished(vm.uuid)
        waiting = other if other is not None and other.state == "waiting" else None
        held = other.id if other is not None and waiting is None else None
        if held is None and vm.mark is not None:
            # Another journal's move: whether it is under way cannot be seen from here.
            foreign = vm.mark_journal not in ("", self.journal.identity())
            held = vm.mark if foreign or self._is_unfinished(vm.mark) else None
        site = self._site
        facts = survey.survey(
            site,
            request,
            self.journal.reservations(site.connection.uri, site.connection.host_id()),
            held,
            self.config.suspended_start,
            self.journal.partials(vm.uuid, site.connection.host_id()),
            *self._promised(vm.uuid),
            self._old_disks(vm.uuid),
            lambda: proof.claims(self.journal, site.connection.uri, site.connection.host_id()),
            functools.cache(
                lambda: replace(
                    templates_effects.known(self.journal, site.connection.uri, site.connection.host_id()), just=just
                )
            ),
            self._say,
        )
        return replace(
            facts,
            following=None if waiting is None else waiting.plan.nvram,
            under_way=other if other is not None and held == other.id else None,
        )

    def _old_disks(self, uuid: str) -> dict[str, tuple[Kept, str]]:
        """Path -> what quarantine keeps of disks of this VM on this host, and of which disk."""
        found = {}
        for row in proof.kept_here(self.journal, self._site.connection.uri, self._site.connection.host_id()):
            with contextlib.suppress(MoveNotFound):
                plan = self.journal.get(row.move).plan
                if plan.uuid == uuid:
                    mine = (disk.target for disk in plan.disks if row.path in (disk.source, disk.dest))
                    if target := next(mine, ""):
                        found[row.path] = row, target
        return found

    def _promised(self, uuid: str) -> tuple[frozenset[str], frozenset[FileId]]:
        """The files that unfinished moves of other VMs make: paths of those on this host; files of those on any."""
        uri, host = self._site.connection.uri, self._site.connection.host_id()
        others = [one.plan for one in self.journal.unfinished() if one.plan.uuid != uuid]
        paths: frozenset[str] = frozenset().union(
            *(plan.made for plan in others if identity.may_be_here(plan, uri, host))
        )
        every: frozenset[FileId] = frozenset().union(*(plan.made_files for plan in others))
        return paths, every

    def _unfinished(self, uuid: str) -> MoveSummary | None:
        return next((one for one in self.journal.unfinished() if one.plan.uuid == uuid), None)

    def _is_unfinished(self, move: str) -> bool:
        return any(one.id == move for one in self.journal.unfinished())

    def move(self, request: MoveRequest) -> MoveSummary:
        """Pre-check and write the move into the journal. Raises Refused, MoveBusy.

        Others that are planned in the same moment may take the room, or the names, that the pre-check saw free. The
        journal sees to that in one transaction; then the pre-check is made again, with them in view.
        """
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((RoomTaken, DestinationTaken, KeptTaken)),
            stop=tenacity.stop_after_attempt(PLAN_ATTEMPTS),
            reraise=True,
        ):
            with attempt:
                summary = self._plan(request)
        return summary

    def _plan(self, request: MoveRequest) -> MoveSummary:
        """One attempt. Raises Refused, MoveBusy, RoomTaken, DestinationTaken."""
        move = _new_id()
        result, room = self._check(request, move)
        if result.plan is None:
            reasons = [one for one in result.findings if one.is_error]
            text = " ".join(f"[{one.code}] {one.text} {one.remedy}".rstrip() for one in reasons)
            raise Refused(result.vm, text, tuple(one.code for one in reasons))
        left = [disk for disk in result.plan.disks if disk.partial_of is not None]
        old = self._old_disks(result.plan.uuid) if request.use_kept else {}
        taken = tuple(old[disk.dest][0] for disk in left if disk.dest in old)
        record = Record(
            bandwidth=request.bandwidth,
            created=tuple(disk.dest for disk in left),
            partial=tuple(disk.target for disk in left if disk.partial_bytes),
        )
        wish = msgspec.json.encode(request).decode()
        other = self._unfinished(result.plan.uuid)
        waiting = other if other is not None and other.state == "waiting" else None
        summary = self._made_journal().add(result.plan, record, wish, _user(), waiting, room, taken)
        self._uris[summary.id] = self._site.uri
        for one in result.findings:
            if one.severity is Severity.WARNING:
                self.journal.event(move, "warning", f"[{one.code}] {one.text}")
            elif one.code in ("RESUME_FROM", "TEMPLATE_REUSED", "TEMPLATE_NOT_REUSED") or (
                one.code == "RESUME_NOT" and result.plan.method is not Method.MIRROR
            ):
                self.journal.event(move, "action", one.text)
        self.journal.event(move, "phase", f"planned: {result.plan.method.value}, {result.plan.method_reason}")
        return summary

    # ------------------------------------------------------------ running

    def run(self, move_id: str, on_progress: Callable[[MoveSummary], None], stop: threading.Event) -> MoveSummary:
        """Drive a move to its end in this thread."""
        summary = self.journal.get(move_id)
        if summary.finished is not None:
            return self._verdict(summary)
        site = self._site_of(summary)
        self._uris[summary.id] = site.uri
        try:
            lease = self._claim(summary.id)
        except UsageError:
            done = self.journal.get(summary.id)
            if done.finished is None:
                raise
            on_progress(done)  # it has ended this moment, in another process
            return self._verdict(done)
        # From here on whatever goes wrong gives the claim back, and the lease is renewed whatever takes long.
        with self._parking_bugs(lease), LeaseKeeper(self.journal, lease) as keeper:
            try:
                site.expect(lambda connection: self._see(summary, connection, asked=True))
                self._drive(summary, site, lease, keeper, on_progress, stop)
            except LeaseLost:
                # The connection may have broken in the very commit that ended the move.
                if self.journal.get(summary.id).finished is None:
                    raise
            finally:
                site.expect(None)
                self._done_with(site)
        done = self.journal.get(summary.id)
        on_progress(done)
        return self._verdict(done)

    def _drive(
        self,
        summary: MoveSummary,
        site: Host,
        lease: Lease,
        keeper: LeaseKeeper,
        on_progress: Callable[[MoveSummary], None],
        stop: threading.Event,
    ) -> None:
        """Run the loop of a move that this process has claimed."""
        self.journal.unpark(summary.id)
        tried = self.journal.read(summary.id)
        known = tried.unexpected if summary.parked is None else 0  # else its user has looked
        fresh = replace(tried, fold_attempts=0, switch_attempts=0, unexpected=known)
        if fresh != tried:  # by processes before: what hindered them may be put right
            self.journal.write(lease, fresh)
        plan = summary.plan
        live = (plan.was.active and not summary.record.following) or firmware_rules.still_now(plan, summary.record)
        with (
            contextlib.ExitStack() as stack,
            Guard(site.uri, plan.uuid, plan.vm, start=live) as guard,
        ):
            line = Lifeline(self.journal, lease, keeper, on_progress, stop, self.journal.get(summary.id))
            context = Context(
                plan=plan,
                site=site,
                guard=guard,
                note=lambda record: self.journal.write(lease, record),
                tell=line.tell,
                keep=lambda *words, **more: self.journal.add_kept(quarantine.row(site, plan, *words, **more)),
                claims=lambda: proof.claims(self.journal, site.uri, site.connection.host_id(), plan.move),
                journal=self.journal.identity(),
                check=keeper.check,
                should_stop=line.should_stop,
                bandwidth=line.bandwidth,
                stop=stop,
            )

            if plan.contract is not None and live:
                targets = tuple(disk.target for disk in plan.disks)
                context.pacer = stack.enter_context(
                    Pacer(
                        lambda: site.control(plan.uuid, plan.vm).counters(targets),
                        lambda: context.memory.suspended_at is not None,
                    )
                )

            slow = stack.enter_context(
                SlowCalls(site.slowest_call, line.publish, lambda: context.memory.suspended_at is not None)
            )

            def publish(progress: Progress) -> None:
                slow.seen(progress)
                line.publish(progress)

            def finish(record: Record, report: Report) -> None:
                self.journal.finish(lease, record, report)

            loop = Loop(
                context=context,
                read=line.read,
                publish=publish,
                regain=keeper.regain,
                away=line.away,
                finish=finish,
                park=lambda problem: self.journal.park(lease, problem),
                check_lease=keeper.check,
                follow=lambda record, report: self.journal.follow(lease, record, report),
                began_at=summary.created,
                earlier=summary.report,
            )
            with contextlib.suppress(Waiting):
                loop.run()

    @contextlib.contextmanager
    def _parking_bugs(self, lease: Lease) -> Iterator[None]:
        """An unexpected error around the loop is counted, and parks the move, as one in it does.

        The lease is released after that: nobody can write without it.
        """
        try:
            yield
        except BlockferryError:
            raise
        except Exception as error:
            with contextlib.suppress(BlockferryError):  # the journal's own; then it is only logged
                why = unexpected_errors.note(
                    lease.move,
                    error,
                    lambda: self.journal.read(lease.move),
                    lambda record: self.journal.write(lease, record),
                    lambda kind, text: self.journal.event(lease.move, kind, text),
                )
                if why is not None:
                    self.journal.park(lease, why)
            raise
        finally:
            _release_quietly(self.journal, lease)

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(MoveBusy),
        stop=tenacity.stop_after_delay(5),
        wait=tenacity.wait_fixed(0.5),
        reraise=True,
    )
    def _claim(self, move: str) -> Lease:
        """Become the one who runs it; one who is just leaving is waited for."""
        return self.journal.claim(move, Owner.here())

    @staticmethod
    def _verdict(done: MoveSummary) -> MoveSummary:
        outcome = done.record.outcome
        if outcome is Outcome.CANCELLED:
            raise MoveCancelled(done.id, done.plan.vm, done.holds)
        if outcome is Outcome.FAILED:
            problem = (done.record.failure or "unknown").rstrip(".") + "."
            raise MoveFailed(done.id, done.plan.vm, problem, done.holds)
        verify_rules.see_verified(done)
        return done

    def spawn(self, move_id: str) -> bool:
        """A process of its own runs the move; it outlives this one and its terminal. False: the journal is away.

        Then the worker waits for it: a move that this process has planned or run is not left to nobody.
        """
        try:
            summary = self.journal.get(move_id)
        except JournalFailed as error:
            if not error.passing or move_id not in self._uris:
                raise
            self._start_worker(move_id, self._uris[move_id])
            return False
        site = self._site_of(summary)
        self._done_with(site)
        self._start_worker(summary.id, site.uri)
        return True

    def _start_worker(self, move: str, uri: str) -> None:
        argv = [sys.executable, "-m", "blockferry", "--uri", uri, "run-move", "--journal-from-stdin", move]
        # The journal's URL may hold a password, and everybody can read the arguments of every process.
        worker = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        assert worker.stdin is not None
        with contextlib.suppress(BrokenPipeError), worker.stdin as pipe:
            pipe.write(self.config.journal.encode())
        reap(worker)
        log.info("move %s is left to process %d", move, worker.pid)

    def moves(self) -> tuple[MoveSummary, ...]:
        return self._move_journal.unfinished()

    def history(self, limit: int) -> tuple[MoveSummary, ...]:
        return self._move_journal.finished(limit)

    def show(self, move: str) -> tuple[MoveSummary, tuple[Event, ...]]:
        summary = self.journal.get(move)
        return summary, self.journal.events(summary.id)

    def find(self, word: str | None) -> MoveSummary:
        return self._move_journal.find(word)

    def cancel(self, move: str, here: bool = False) -> MoveSummary:
        """Write the wish down. `here`: the user says that a move without a noted host was planned on this one."""
        summary = self.journal.get(move)
        if here and not summary.plan.host and summary.finished is None and not summary.owner_alive:
            summary = self._adopt(summary)
        if summary.too_late_to_cancel:
            raise TooLateToCancel(summary.id, summary.plan.vm, summary.plan.destination)
        if summary.finished is None:
            if not summary.owner_alive:
                self._done_with(self._site_of(summary))  # somebody has to run it for that, here
            self.journal.want(summary.id, Wanted.CANCEL)
            self.journal.event(summary.id, "user", f"{_user()} asked to cancel")
        return self.journal.get(summary.id)

    def speed(self, move: str, bandwidth: int) -> MoveSummary:
        summary = self.journal.get(move)
        if summary.finished is None:
            self.journal.set_bandwidth(summary.id, bandwidth)
            rate = format_rate(bandwidth) if bandwidth else "no limit"
            self.journal.event(summary.id, "user", f"{_user()} set the bandwidth to {rate}")
        return self.journal.get(summary.id)

    def interrupted(self) -> tuple[MoveSummary, ...]:
        return tuple(
            one
            for one in self.journal.unfinished()
            if not one.owner_alive and one.parked is None and not self._just_planned(one) and self._ours(one)
        )

    # ------------------------------------------------------------ whose host it is

    def _ours(self, one: MoveSummary) -> bool:
        """Whether a move that nobody runs is to be taken up here: it is of this host, and there is something to do."""
        try:
            self._see(one, self._site.connection)
        except OtherHost:
            return False
        except BlockferryError:  # libvirt does not answer: whoever runs it waits for it, and asks then
            if self.journal.path is None or one.plan.uri != self.uri:
                return False
        return self._due(one)

    def _see(self, one: MoveSummary, connection: Connection, *, asked: bool = False) -> None:
        """Raise OtherHost unless the move belongs to the host behind this connection; HostUnreachable."""
        plan = one.plan
        here = identity.HostId(connection.uri, connection.host_id(), connection.hostname())
        if identity.same_host(plan, here.uri, here.uuid):
            return
        trace = identity.VmTrace()
        with contextlib.suppress(VmNotFound):
            vm = domain_list.vm(connection, plan.uuid)
            trace = identity.VmTrace(vm.uuid == plan.uuid, vm.mark, vm.mark_journal)
        local = self.journal.path is not None
        if not identity.belongs(plan, here, trace, self.journal.identity(), local_journal=local, asked=asked):
            last = "" if plan.host or one.owner is None else f" (run last by {one.owner})"
            raise OtherHost(plan.move, plan.vm, identity.where(plan) + last, str(here), noted=bool(plan.host))

    def _adopt(self, one: MoveSummary) -> MoveSummary:
        connection = self._site.connection
        if identity.names_another_machine(one.plan.uri, self.uri):
            raise UsageError(
                f"Move {one.id} was planned by way of {one.plan.uri}, which is another machine than {self.uri}.",
                f"Say it there: `blockferry --uri {one.plan.uri} cancel {one.id} --here`.",
            )
        uuid = connection.host_id()
        if not uuid:
            raise UsageError(
                f"libvirt at {connection.uri} tells no UUID of this host, so the move cannot be tied to it."
            )
        if self.journal.adopt(one.id, uuid, connection.hostname()):
            self.journal.event(
                one.id, "user", f"{_user()} said that it was planned on {connection.hostname()} ({uuid})"
            )
        return self.journal.get(one.id)

    def _site_of(self, one: MoveSummary) -> Host:
        """The host of a move: this one, by whatever URI, or the one that its own URI leads to. Raises OtherHost.

        A host that does not answer is not asked; whoever runs the move asks before the first look (Site.expect).
        """
        own = self._site
        try:
            self._see(one, own.connection, asked=True)
        except OtherHost:
            if one.plan.uri == own.uri:
                raise
        except HostUnreachable:
            if one.plan.uri == own.uri:
                return own
        else:
            return own
        other = Host(one.plan.uri)
        try:
            self._see(one, other.connection)
        except BaseException:
            other.close()
            raise
        return other

    def _done_with(self, site: Host) -> None:
        if site is not self._site:
            site.close()

    def _due(self, one: MoveSummary) -> bool:
        """Whether there is something to do: a move that waits for a power-off has to be told of it by somebody."""
        if one.state != "waiting" or one.record.wanted is Wanted.CANCEL:
            return True
        try:
            view = self._site.control(one.plan.uuid, one.plan.vm).look(())
        except BlockferryError:
            return False
        moved_on = one.plan.nvram is None or view.nvram != one.plan.nvram.source
        return not view.saved and (not view.state.active or moved_on)

    @staticmethod
    def _just_planned(one: MoveSummary) -> bool:
        """Whether the process that planned it is about to run it."""
        return one.owner is None and one.deaths == 0 and not one.record.marked and time.time() - one.created < GRACE_S

    def resume(self, move: str | None) -> tuple[str, ...]:
        """The ids of the moves to run again: the one named, or all that nobody runs and that are not parked."""
        if move is not None:
            summary = self.journal.get(move)
            if summary.finished is not None:
                return ()
            self._done_with(self._site_of(summary))
            return (summary.id,)
        return tuple(
            one.id
            for one in self.journal.unfinished()
            if not one.owner_alive and one.parked is None and self._ours(one)
        )

    # ------------------------------------------------------------ leftovers

    def orphans(self) -> Orphans:
        return leftovers_orphans.find(self._site, self.journal)

    def remove_orphan(self, one: Orphan, abandoned: bool = False) -> str:
        return leftovers_orphans.remove(self._site, self.journal, one, abandoned)

    def quarantine(self) -> tuple[KeptFile, ...]:
        return quarantine.listing(self._site, self.journal)

    def purge(self, paths: Sequence[str], now: bool) -> tuple[tuple[str, bool, str], ...]:
        return quarantine.purge(self._site, self.journal, paths, now)

    def restorable(self, what: str, compare: bool | None) -> Restore:
        return quarantine.restorable(self._site, self.journal, what, compare)

    def restore(self, agreed: Restore) -> tuple[str, ...]:
        return quarantine.restore(self._site, self.journal, agreed, _user())

    # ------------------------------------------------------------ changed blocks

    def tracking(self, vm: str) -> TrackingStatus:
        return tracking_effects.status(self._site, vm)

    def enable_tracking(self, vm: str, disks: Sequence[str]) -> tuple[Point, bool]:
        return tracking_effects.enable(self._site, vm, disks, self._moving(vm))

    def make_point(self, vm: str, disks: Sequence[str], id: str | None, keep: int | None) -> Point:
        return tracking_effects.make(self._site, vm, disks, id, keep, self._moving(vm))

    def drop_points(self, vm: str, ids: Sequence[str], *, everything: bool) -> tuple[str, ...]:
        return tracking_effects.drop(self._site, vm, ids, everything, self._moving(vm))

    def changes(
        self, vm: str, since: str, disks: Sequence[str], mark: str | None, keep: int | None, power_cycles: bool
    ) -> Changes:
        return tracking_effects.ask(
            self._site, vm, since, disks, mark=mark, keep=keep, power_cycles=power_cycles, moving=self._moving(vm)
        )

    def _moving(self, vm: str) -> str | None:
        """The id of the VM's move that is under way; one that waits for a power-off lets everything else go on."""
        found = self._unfinished(domain_list.vm(self._site.connection, vm).uuid)
        return None if found is None or found.state == "waiting" else found.id


def _new_id() -> str:
    return secrets.token_hex(4)


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _release_quietly(journal: Journal, lease: Lease) -> None:
    try:
        journal.release(lease)
    except BlockferryError:
        return  # it expires by itself


def open_service(uri: str | None = None, journal: str | None = None) -> Service:
    """A service by the configuration, with these two overridden. Raises ConfigInvalid, UsageError."""
    config = Config.load()
    return Service(replace(config, uri=uri or config.uri, journal=journal or config.journal))
