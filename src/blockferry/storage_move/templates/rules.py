"""Which lower layer of a chain is not copied, because the same image is at the destination already. Pure.

docs/templates.md says what is done and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blockferry.base.units import format_size
from blockferry.hosts.inventory import Image
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts, TemplateFacts
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.request import ANY_TEMPLATE, NO_TEMPLATE, MoveRequest
from blockferry.storage_move.templates.plan import ReusedLayer

Prints = Mapping[str, str]


def wanted(request: MoveRequest) -> bool:
    """Whether it is to be looked for such images at all."""
    return request.chain.reuses and request.template != NO_TEMPLATE


def named(request: MoveRequest) -> str | None:
    """The image that the user has named, None when one of the layer's own name is looked for."""
    return None if request.template in (ANY_TEMPLATE, NO_TEMPLATE) else request.template


def reusable(request: MoveRequest, facts: Facts, layers: Sequence[Image], store: str) -> ReusedLayer | None:
    """What takes the place of `layers` (from one lower layer on down) when their disk goes to the datastore `store`;
    None when they are copied, or stay."""
    template_facts = facts.templates.get((layers[0].path, store))
    if not wanted(request) or template_facts is None or _why_not(facts, layers, template_facts):
        return None
    return ReusedLayer(
        source=layers[0].path,
        path=template_facts.path,
        format=template_facts.format,
        virtual_size=template_facts.virtual_size,
        saved=sum(image.allocation for image in layers),
        prints=dict(template_facts.prints),
        source_prints=dict(template_facts.source_prints),
        seconds=template_facts.seconds,
        known=template_facts.known,
    )


def _why_not(facts: Facts, layers: Sequence[Image], template_facts: TemplateFacts) -> str:
    """Why an image that was found does not take a layer's place, a clause; "" when it does."""
    if template_facts.problem:
        return template_facts.problem
    below = {image.path for image in layers}
    for snapshot in facts.snapshots:
        if below & set(snapshot.files):
            return f"the snapshot {snapshot.name} names the layer, and going back to it must not touch what others use"
    if template_facts.virtual_size != layers[0].virtual_size:
        return f"it has {template_facts.virtual_size} bytes, the layer {layers[0].virtual_size}"
    return ""


def findings(
    request: MoveRequest, facts: Facts, target: str, chain: Sequence[Image], reused: ReusedLayer | None, store: str
) -> list[Finding]:
    """What is reused and how that is known; and what was looked at and is not."""
    found: list[Finding] = []
    if not wanted(request):
        return found
    for index, image in enumerate(chain[1:], 1):
        if reused is not None and image.path == reused.source:
            text = (
                f"{target}: the layer {image.path} is reused from {reused.path} ({reused.evidence}); "
                f"{format_size(reused.saved)} need not be copied."
            )
            return [*found, finding("TEMPLATE_REUSED", text)]
        if (other := facts.templates.get((image.path, store))) is not None:
            why = _why_not(facts, chain[index:], other)
            found.append(
                finding(
                    "TEMPLATE_NOT_REUSED",
                    f"{target}: {other.path} does not take the place of the layer {image.path}: {why}.",
                )
            )
    return found


def unused(request: MoveRequest, facts: Facts, disks: Sequence[DiskPlan]) -> list[Finding]:
    """The image that was named takes no layer's place."""
    path = named(request)
    if path is None or any(disk.chain.reused is not None for disk in disks):
        return []
    why = next(
        (template.problem for template in facts.templates.values() if template.problem),
        "no layer that is copied is like it",
    )
    text = f"{path} takes the place of no layer of {facts.vm.name}: {why}."
    return [finding("TEMPLATE_UNUSABLE", text)]


def changed(then: Prints, now: Mapping[str, str]) -> str:
    """The first file that is not as it was when it was compared; "" when all are."""
    return next((path for path, one in then.items() if now.get(path) != one), "")
