"""Every reason for and against a move, and the plan. Pure: a request and facts in, findings and a plan out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from blockferry.hosts import defects, exports, fencing
from blockferry.hosts.datastore_id import Directory
from blockferry.hosts.defects import Defect
from blockferry.hosts.inventory import Datastore
from blockferry.storage_move import checkpoint_notes
from blockferry.storage_move.clone import rules as clone_rules
from blockferry.storage_move.destination import image_names
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.home.plan import HomePlan
from blockferry.storage_move.overlays import resume_rules
from blockferry.storage_move.pace.plan import PacePlan
from blockferry.storage_move.plan import DomainPlan, HangPlan, OutagePlan, Plan
from blockferry.storage_move.precheck import method as precheck_method
from blockferry.storage_move.precheck import network, space, start_pause, vm_checks
from blockferry.storage_move.precheck import source_filesystem as filesystems
from blockferry.storage_move.precheck.destinations import destinations, named
from blockferry.storage_move.precheck.disks import look_at_disk
from blockferry.storage_move.precheck.draft import Draft
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.precheck.firmware_and_home import home_plan, nvram_plan, vtpm_left_behind
from blockferry.storage_move.request import (
    COPY_BUFFER,
    IfNotConverging,
    Method,
    MoveRequest,
    PausedPolicy,
)
from blockferry.storage_move.templates import rules as templates_rules
from blockferry.storage_move.trim import rules as trim_rules


@dataclass(frozen=True, slots=True)
class _MethodChoice:
    """How the VM is moved: the method, why in one sentence, and what is done when the guest outruns the copy."""

    method: Method
    reason: str
    if_not_converging: IfNotConverging


def precheck(request: MoveRequest, facts: Facts, move: str) -> tuple[tuple[Finding, ...], Plan | None]:
    """All findings (errors first) and, if nothing speaks against it, the plan.

    Raises DatastoreNotFound, DiskNotFound, UsageError for names that do not exist and for contradictions.
    """
    wanted = destinations(request, facts)
    if (moving := vm_checks.under_way(facts)) is not None:
        return (*vm_checks.lost_vm_findings(facts), moving), None
    draft = Draft([*vm_checks.host_findings(facts), *vm_checks.vm_findings(request, facts)], [], set(), set())
    draft.taken |= image_names.of_home(request, facts)
    keeps = request.chain.keeps_layers and any(len(facts.chains.get(target, ())) > 1 for target in wanted)
    unsafe = defects.against_synchronous(facts.versions)
    draft.findings.extend(_mirror_impossible(request, facts, unsafe, keeps_chain=keeps))
    choice = _method(request, facts, unsafe, keeps_chain=keeps)
    draft.modes = _copy_modes(facts, choice, can_be_synchronous=not keeps and unsafe is None, keeps_chain=keeps)
    _look_at_disks(request, facts, wanted, draft)
    home = home_plan(request, facts, draft)
    nvram = nvram_plan(request, facts, home, draft)
    vtpm = vtpm_left_behind(facts, draft)
    if not draft.disks and not any(problem.is_error for problem in draft.findings):
        draft.findings.append(_nothing_to_move(facts, wanted))
    disks = tuple(resume_rules.planned(disk, request, facts, move) for disk in draft.disks)
    disks, not_cloned = clone_rules.planned(disks, request, facts, move)
    if unfit := resume_rules.spoiled(disks, request, facts):
        return precheck(request, facts.without_kept(unfit), move)
    if disks and all(disk.copy.clone for disk in disks):
        choice = _method(request, facts, unsafe, keeps_chain=keeps, cloned=True)
    elif resume_rules.resumes_partial_copy(disks):
        choice = _method(request, facts, unsafe, keeps_chain=keeps, resumes=True)
    disks = start_pause.planned(disks, request, facts, choice.method)
    if any(disk.overlays.first for disk in disks) and choice.if_not_converging is IfNotConverging.MIRROR:
        # a copy by way of an overlay never writes to both sides at once
        choice = replace(choice, if_not_converging=IfNotConverging.WAIT)
    draft.findings.extend(_method_findings(request, facts, choice, disks))
    trims, why_not = trim_rules.planned(request, facts, [disk.target for disk in disks])
    draft.findings.extend(why_not)
    draft.findings.extend(resume_rules.findings(disks, request, facts, choice.method))
    draft.findings.extend(_kept_name_findings(request, facts, disks))
    source, said = filesystems.source_policy(request.source, facts, disks, home, nvram)
    draft.findings.extend(said)
    draft.findings.extend(clone_rules.findings(disks, not_cloned, replace(request, source=source), facts))
    draft.findings.extend(templates_rules.unused(request, facts, disks))
    draft.findings.extend(space.space_findings(disks, home, nvram, facts))
    draft.findings.extend(_checkpoint_findings(facts, disks))
    stores = [facts.datastore(name) for name in dict.fromkeys(disk.dest.datastore for disk in disks)]
    draft.findings.extend(image_names.home_findings(request, facts, home, [store for store in stores if store]))
    severities = ("error", "warning", "info")
    findings = tuple(sorted(draft.findings, key=lambda problem: severities.index(problem.severity.value)))
    if any(problem.is_error for problem in findings):
        return findings, None
    plan = _plan(request, facts, move, choice, disks, home)
    plan = replace(
        plan,
        source=source,
        trim=trims,
        firmware=replace(plan.firmware, nvram=nvram, vtpm=vtpm),
        pace=replace(plan.pace, background_only=unsafe is not None),
    )
    late = image_names.made_findings(facts, plan)
    return (*late, *findings), None if late else plan


def _plan(
    request: MoveRequest,
    facts: Facts,
    move: str,
    choice: _MethodChoice,
    disks: tuple[DiskPlan, ...],
    home: HomePlan | None,
) -> Plan:
    """The plan as far as it follows from request and facts alone; `precheck` fills in what it decided on the way."""
    return Plan(
        move=move,
        uri=facts.uri,
        host=facts.host,
        host_name=facts.host_name,
        directories=_directories(facts, disks, home),
        vm=facts.vm.name,
        uuid=facts.vm.uuid,
        method=choice.method,
        method_reason=choice.reason,
        disks=disks,
        home=home,
        source=request.source,
        verify=request.verify,
        chain=request.chain,
        domain=DomainPlan(
            persistent=facts.vm.persistent,
            was=facts.vm.state,
            snapshots=tuple(snapshot.name for snapshot in facts.snapshots),
            checkpoints=facts.vm.checkpoints if any(disk.source.has_bitmaps for disk in disks) else (),
            resume_after=facts.vm.pause_reason == "ioerror" and request.paused is PausedPolicy.RESUME,
        ),
        pace=PacePlan(
            bandwidth=request.bandwidth,
            contract=request.contract,
            buffer=COPY_BUFFER if request.contract is not None else request.buffer,
            if_not_converging=choice.if_not_converging,
        ),
        outage=OutagePlan(on_break=request.on_break, hang=_hang_plan(request, facts, choice.method)),
    )


def _mirror_impossible(
    request: MoveRequest, facts: Facts, unsafe: Defect | None, *, keeps_chain: bool
) -> Iterable[Finding]:
    """Why a mirror that was asked for cannot be done: a chain is to be kept, or the host has a defect (`unsafe`)."""
    vm = facts.vm.name
    if keeps_chain and request.method is Method.MIRROR:
        yield finding("METHOD_CHAIN", f"{vm} has a backing chain that is to be kept; mirror cannot do that.")
    if keeps_chain and request.if_not_converging is IfNotConverging.MIRROR:
        yield finding(
            "METHOD_CHAIN",
            f"{vm} has a backing chain that is to be kept; its copy cannot go over to a mirror.",
            "Use --if-not-converging throttle, wait or stop, or --chain flatten.",
        )
    if unsafe is not None and request.if_not_converging is IfNotConverging.MIRROR:
        text = f"The copy of {vm} cannot go over to a mirror on this host: {unsafe.title}. It waits instead."
        yield finding("KNOWN_DEFECT", text)


def _copy_modes(facts: Facts, choice: _MethodChoice, *, can_be_synchronous: bool, keeps_chain: bool) -> set[bool]:
    """Whether the copies are to be synchronous (True) or in the background (False); both, where that may change."""
    synchronous_later = choice.if_not_converging is IfNotConverging.MIRROR and can_be_synchronous
    modes = {choice.method is Method.MIRROR and not keeps_chain, synchronous_later}
    if facts.storage:
        modes.add(False)  # a mirror whose destination has hung goes on in the background
    if facts.partials:
        modes.add(False)  # a copy that broke is gone on with in the background
    return modes


def _look_at_disks(request: MoveRequest, facts: Facts, wanted: dict[str, Datastore], draft: Draft) -> None:
    """Fill the draft with the plans of the disks, and the findings of destinations, disks and snapshots."""
    for store in {store.name: store for store in wanted.values() if not exports.is_export(store.name)}.values():
        draft.findings.extend(vm_checks.datastore_findings(store, facts))
    for target, store in wanted.items():
        disk = facts.vm.disk(target)
        assert disk is not None
        look_at_disk(request, facts, disk, store, draft)
    draft.findings.extend(vm_checks.snapshot_findings(request, facts, tuple(wanted)))


def _nothing_to_move(facts: Facts, wanted: dict[str, Datastore]) -> Finding:
    names = ", ".join(sorted({store.name for store in wanted.values()}))
    return finding("NOTHING_TO_MOVE", f"All disks of {facts.vm.name} that were asked for live on {names} already.")


def _method_findings(
    request: MoveRequest, facts: Facts, choice: _MethodChoice, disks: tuple[DiskPlan, ...]
) -> Iterable[Finding]:
    """What the chosen method means for the guest's writes, and the known defects that it can meet."""
    if request.contract is not None and choice.method is Method.MIRROR:
        text = f"The writes of {facts.vm.name} have a latency contract, and by mirror they wait for the destination."
        yield finding("CONTRACT_MIRROR", text)
    yield from start_pause.findings(disks, request, facts, choice.method)
    yield from _hang_findings(request, facts, choice.method, choice.if_not_converging)
    yield from vm_checks.defect_findings(facts, choice.method, [disk.target for disk in disks])


def _kept_name_findings(request: MoveRequest, facts: Facts, disks: tuple[DiskPlan, ...]) -> Iterable[Finding]:
    for disk in disks:
        if not exports.is_export(disk.dest.datastore):
            yield from image_names.kept_findings(request, facts, named(disk.dest.datastore, facts), disk.target, disk)


def _checkpoint_findings(facts: Facts, disks: tuple[DiskPlan, ...]) -> Iterable[Finding]:
    if facts.vm.checkpoints and any(disk.source.has_bitmaps for disk in disks):
        yield finding("CHECKPOINTS_VOID", checkpoint_notes.before_move(facts.vm.checkpoints, facts.vm.name))


def _directories(facts: Facts, disks: Iterable[DiskPlan], home: HomePlan | None) -> dict[str, Directory]:
    """What the datastores stand on that the move takes files from and brings files to, as far as that is known."""
    names = {name for disk in disks for name in (disk.dest.datastore, disk.source.datastore)}
    names |= {home.datastore} if home is not None else set()
    return {
        datastore.name: Directory(datastore.path, datastore.id)
        for datastore in facts.datastores
        if datastore.name in names and datastore.path and datastore.id is not None
    }


def _may_hang(request: MoveRequest, facts: Facts) -> str:
    """Why a write of the guest to both sides at once could wait for ever, a clause; "" when it could not."""
    if why := network.why_it_may_hang(request):
        return why
    if facts.storage_problem:
        return f"it cannot be told what the destination does when it hangs ({facts.storage_problem})"
    return next((text for storage in facts.storage.values() if (text := fencing.unbounded(storage))), "")


def _hang_findings(request: MoveRequest, facts: Facts, method: Method, policy: IfNotConverging) -> list[Finding]:
    """A synchronous copy that was asked for by name although nothing bounds what the guest's writes wait."""
    why = _may_hang(request, facts)
    by_name = request.method is Method.MIRROR or request.if_not_converging is IfNotConverging.MIRROR
    synchronous = method is Method.MIRROR or policy is IfNotConverging.MIRROR
    if not (why and by_name and synchronous and facts.vm.state.active):
        return []
    return [finding("HANG_UNBOUNDED", f"The writes of {facts.vm.name} wait as long as its destination does: {why}.")]


def _hang_plan(request: MoveRequest, facts: Facts, method: Method) -> HangPlan | None:
    if not facts.vm.state.active or method is Method.COLD:
        return None
    bounds = [
        fencing.bound(storage, request.hang, synchronous=method is Method.MIRROR) for storage in facts.storage.values()
    ]
    return HangPlan(
        request.hang, "; ".join(dict.fromkeys(bounds)) or f"not known: {facts.storage_problem or 'no facts'}"
    )


def _method(
    request: MoveRequest,
    facts: Facts,
    unsafe: Defect | None,
    *,
    keeps_chain: bool,
    resumes: bool = False,
    cloned: bool = False,
) -> _MethodChoice:
    """Which method, why, and what is done when the guest outruns it. `unsafe`: what forbids synchronous copies here."""
    may_hang = _may_hang(request, facts)
    method, reason = precheck_method.choose(
        request.method,
        facts.vm.state,
        request.bandwidth,
        defect=unsafe,
        may_hang=may_hang,
        keeps_chain=keeps_chain,
        contract=request.contract is not None,
        resumes=resumes,
        cloned=cloned,
    )
    by_overlay = resumes or method in (Method.SNAPSHOT, Method.CLONE)
    policy = precheck_method.if_not_converging(
        request.if_not_converging,
        request.method,
        method,
        request.bandwidth,
        can_be_synchronous=not keeps_chain and unsafe is None and not by_overlay,
        may_hang=bool(may_hang),
    )
    return _MethodChoice(method, reason, policy)
