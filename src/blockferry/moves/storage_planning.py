"""`check` and the planning of a move: gather facts, decide, write the move into the journal. Nothing runs yet."""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import tenacity

from blockferry.base.errors import DestinationTaken, KeptTaken, MoveNotFound, Refused, RoomTaken
from blockferry.hosts import identity
from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt import domain_list
from blockferry.moves.environment import Environment, acting_user
from blockferry.moves.kinds import AnyMove
from blockferry.storage_move import claims, survey
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.facts import Facts, TemplateFacts
from blockferry.storage_move.precheck import rules as precheck_rules
from blockferry.storage_move.precheck import space
from blockferry.storage_move.precheck.finding import Severity
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, MoveRequest
from blockferry.storage_move.summary import CheckResult, DiskEstimate, MoveSummary
from blockferry.storage_move.templates import effects as templates_effects

LONG_S = 5.0
"""A survey that has compared images for longer is made anew, so that a move is planned with what is there now."""

PLAN_ATTEMPTS = 20
"""So often a move is planned anew because others took what its plan counted on. Each time one of them was planned."""

TYPICAL_RATE = 200 * 1024**2
"""Bytes/s assumed for estimates when nothing was measured on this host yet."""


def check(env: Environment, request: MoveRequest) -> CheckResult:
    """Every reason for and against, and the plan. Nothing is touched."""
    return _check(env, request, _new_id())[0]


def _check(env: Environment, request: MoveRequest, move: str) -> tuple[CheckResult, space.NeededSpace | None]:
    """The decision, and what the plan was found to fit into; None without a plan."""
    env.site.runner.prepare()  # while libvirt is connected to
    since, seen = time.time(), env.journal.known()
    facts = _facts(env, request, {})
    if sum(template.seconds for template in facts.templates.values()) > LONG_S:
        # While they were compared the VM may have been shut off, or its disks taken elsewhere: look again.
        since, seen = time.time(), env.journal.known()
        facts = _facts(env, request, templates_effects.compared(facts.templates.values()))
    vm = facts.vm
    findings, plan = precheck_rules.precheck(request, facts, move)
    if plan is None:
        return CheckResult(vm.name, findings, None), None
    rate = request.bandwidth or TYPICAL_RATE
    estimates = tuple(
        DiskEstimate(disk.target, disk.copy_bytes, disk.copy_bytes / rate, space.needed(disk)) for disk in plan.disks
    )
    result = CheckResult(
        vm=vm.name,
        findings=findings,
        plan=plan,
        estimates=estimates,
        space=space.estimates(plan.disks, plan.home, plan.firmware.nvram, facts),
        seconds=plan.copy_bytes / rate + 1.0,
    )
    return result, space.room(plan, facts, seen, since)


def _facts(env: Environment, request: MoveRequest, just: Mapping[templates_effects.Pair, TemplateFacts]) -> Facts:
    """What is there now. `just`: what was compared a moment ago."""
    vm = domain_list.vm(env.site.connection, request.vm)
    other = unfinished_move(env, vm.uuid)
    waiting = other if other is not None and other.state == "waiting" else None
    away = elsewhere(env, vm.uuid)
    held = other.id if other is not None and waiting is None else None if away is None else away.id
    if held is None and vm.mark is not None:
        # Another journal's move: whether it is under way cannot be seen from here.
        foreign = vm.mark_journal not in ("", env.journal.identity())
        held = vm.mark if foreign or _is_unfinished(env, vm.mark) else None
    site = env.site
    promised, promised_files = _promised(env, vm.uuid)
    facts = survey.survey(
        site,
        request,
        env.journal.reservations(site.connection.uri, site.connection.host_id()),
        held,
        suspended_start=env.config.suspended_start,
        kept=env.journal.partials(vm.uuid, site.connection.host_id()),
        promised=promised,
        promised_files=promised_files,
        old=_old_disks(env, vm.uuid),
        claims=lambda: claims.claims(env.journal, site.connection.uri, site.connection.host_id()),
        known=functools.cache(
            lambda: replace(
                templates_effects.known(env.journal, site.connection.uri, site.connection.host_id()), just=just
            )
        ),
        tell=env.say,
    )
    return replace(
        facts,
        following=None if waiting is None else waiting.plan.firmware.nvram,
        under_way=other if other is not None and held == other.id else None,
        other_to="" if away is None else away.plan.destination,
    )


def _old_disks(env: Environment, uuid: str) -> dict[str, tuple[Kept, str]]:
    """Path -> what quarantine keeps of disks of this VM on this host, and of which disk."""
    found = {}
    for row in claims.kept_here(env.journal, env.site.connection.uri, env.site.connection.host_id()):
        with contextlib.suppress(MoveNotFound):
            plan = env.journal.get(row.move).plan
            if plan.uuid == uuid:
                generator = (disk.target for disk in plan.disks if row.path in (disk.source.path, disk.dest.path))
                if target := next(generator, ""):
                    found[row.path] = row, target
    return found


def _promised(env: Environment, uuid: str) -> tuple[frozenset[str], frozenset[FileId]]:
    """The files that unfinished moves of other VMs make: paths of those on this host; files of those on any."""
    uri, host = env.site.connection.uri, env.site.connection.host_id()
    every = env.every_move
    made = [
        every.kind_of(move_summary).made(move_summary.plan)
        for move_summary in every.unfinished()
        if move_summary.plan.uuid != uuid
    ]
    others = [one for one in made if one is not None]
    paths: frozenset[str] = frozenset().union(
        *(other.paths for other in others if identity.may_be_here(other.where, uri, host))
    )
    files: frozenset[FileId] = frozenset().union(*(other.files for other in others))
    return paths, files


def unfinished_move(env: Environment, uuid: str) -> MoveSummary | None:
    return next((move_summary for move_summary in env.journal.unfinished() if move_summary.plan.uuid == uuid), None)


def elsewhere(env: Environment, uuid: str) -> AnyMove | None:
    """The move of another kind of this VM that is not over."""
    found = env.every_move.unfinished()
    return next(
        (
            move_summary
            for move_summary in found
            if move_summary.plan.uuid == uuid and move_summary.kind != env.journal.kind.name
        ),
        None,
    )


def _is_unfinished(env: Environment, move: str) -> bool:
    return any(move_summary.id == move for move_summary in env.every_move.unfinished())


def move(env: Environment, request: MoveRequest) -> MoveSummary:
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
            summary = _plan(env, request)
    return summary


def _plan(env: Environment, request: MoveRequest) -> MoveSummary:
    """One attempt. Raises Refused, MoveBusy, RoomTaken, DestinationTaken."""
    move = _new_id()
    result, room = _check(env, request, move)
    if result.plan is None:
        reasons = [finding for finding in result.findings if finding.is_error]
        text = " ".join(f"[{reason.code}] {reason.text} {reason.remedy}".rstrip() for reason in reasons)
        raise Refused(result.vm, text, tuple(reason.code for reason in reasons))
    left = [disk for disk in result.plan.disks if disk.partial.move is not None]
    taken = tuple(disk.partial.old for disk in left if disk.partial.old is not None)
    record = Record(
        bandwidth=request.bandwidth,
        created=tuple(disk.dest.path for disk in left),
        disks={disk.target: DiskRecord(partial=True) for disk in left if disk.partial.allocated},
    )
    wish = msgspec.json.encode(request).decode()
    other = unfinished_move(env, result.plan.uuid)
    waiting = other if other is not None and other.state == "waiting" else None
    summary = env.made_journal().add(result.plan, record, wish, acting_user(), waiting, room, taken)
    env.uris[summary.id] = env.site.uri
    for finding in result.findings:
        if finding.severity is Severity.WARNING:
            env.journal.event(move, "warning", f"[{finding.code}] {finding.text}")
        elif finding.code in ("RESUME_FROM", "TEMPLATE_REUSED", "TEMPLATE_NOT_REUSED") or (
            finding.code == "RESUME_NOT" and result.plan.method is not Method.MIRROR
        ):
            env.journal.event(move, "action", finding.text)
    env.journal.event(move, "phase", f"planned: {result.plan.method.value}, {result.plan.method_reason}")
    return summary


def move_under_way(env: Environment, vm: str) -> str | None:
    """The id of the VM's move that is under way; one that waits for a power-off lets everything else go on."""
    uuid = domain_list.vm(env.site.connection, vm).uuid
    move_summary = unfinished_move(env, uuid)
    if move_summary is None or move_summary.state == "waiting":
        found_elsewhere = elsewhere(env, uuid)
        return None if found_elsewhere is None else found_elsewhere.id
    return move_summary.id


def _new_id() -> str:
    return secrets.token_hex(4)
