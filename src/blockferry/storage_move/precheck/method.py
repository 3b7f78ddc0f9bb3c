"""Which method, and why in one sentence. Pure."""

from __future__ import annotations

from blockferry.hosts.defects import Case, Defect, Version, Versions, starts_suspended
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move.request import IfNotConverging, Method

SYNCHRONOUS_SINCE = (8, 0, 0)


def choose(
    asked: Method,
    state: PowerState,
    bandwidth: int,
    *,
    keeps_chain: bool,
    defect: Defect | None = None,
    contract: bool = False,
    resumes: bool = False,
    cloned: bool = False,
    may_hang: str = "",
) -> tuple[Method, str]:
    """(method, reason). The user's wish wins; whether it fits power state and host is the pre-check's business.

    `defect`: what forbids synchronous copies on this host (defects.against_synchronous). `cloned`: whether all disks
    can be cloned by their file system. `may_hang`: why the guest's writes could wait for ever at the destination, a
    clause (fencing.unbounded). Why not mirror, without any of these reasons: docs/design/default-method.md.
    """
    if asked is not Method.AUTO:
        return asked, "as asked"
    shared = "source and destination are on one file system that shares blocks"
    if not state.active:
        return Method.COLD, f"the VM is off; {shared}, which clones" if cloned else "the VM is off"
    if cloned:
        return Method.CLONE, f"{shared}: cloned instead of copied"
    if resumes:
        return Method.CHANGED_BLOCKS, "a copy that broke is gone on with, which is done in the background"
    if keeps_chain:
        return Method.CHANGED_BLOCKS, "a backing chain that is kept as a chain can only be copied in the background"
    if contract:
        return (
            Method.CHANGED_BLOCKS,
            "the guest's writes have a latency contract, and in the background none of them waits for the destination",
        )
    if bandwidth:
        return (
            Method.CHANGED_BLOCKS,
            "a bandwidth limit would also slow the guest's writes if they went to both sides at once",
        )
    if defect is not None:
        return Method.CHANGED_BLOCKS, f"mirror cannot be trusted with this {defect.component.value}: {defect.title}"
    if may_hang:
        return Method.CHANGED_BLOCKS, f"{may_hang}; in the background none of the guest's writes waits for it"
    return Method.CHANGED_BLOCKS, "a running VM; none of the guest's writes waits for the copy"


def race_possible(qemu: Version, source_format: str, *, shallow: bool) -> bool:
    """Whether a background copy must be started in a suspension, as the table of known defects has it."""
    case = Case(live=True, synchronous=False, shallow=shallow, source_format=source_format)
    return starts_suspended(Versions(SYNCHRONOUS_SINCE, qemu), case)


def if_not_converging(
    asked: IfNotConverging,
    method_asked: Method,
    method: Method,
    bandwidth: int,
    *,
    can_be_synchronous: bool,
    may_hang: bool = False,
) -> IfNotConverging:
    """What is done when a copy in the background is outrun by the guest. AUTO is resolved here.

    A mirror gets in step by construction; its price is that the guest's writes wait for the destination, too. Who
    asked for changed-blocks by name did not want that, and who set a limit can raise it while the copy runs: there
    it is not done without being asked for.
    """
    if asked is IfNotConverging.MIRROR and not can_be_synchronous:
        return IfNotConverging.WAIT  # the pre-check has said why
    if asked is not IfNotConverging.AUTO:
        return asked
    ours = method_asked is Method.AUTO and method is Method.CHANGED_BLOCKS
    fits = can_be_synchronous and not bandwidth and not may_hang
    return IfNotConverging.MIRROR if ours and fits else IfNotConverging.WAIT


def granularity(source_format: str, dest_format: str) -> int:
    """Bytes per tracked region, 0 for QEMU's default of a cluster (64 KiB).

    Raw to raw in steps of 4 KiB keeps a scattered thin image thin (measured: 13.9 x the source's allocation with
    64 KiB, 1.00 x with 4 KiB, and not slower). Never below a qcow2 destination's cluster: 52 x.
    """
    return 4096 if source_format == dest_format == "raw" else 0
