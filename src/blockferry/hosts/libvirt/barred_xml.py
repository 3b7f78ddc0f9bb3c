"""A definition that cannot be started: its disks are given names that no storage has, until the move is further on.

Each disk keeps its kind and all that is said of it; only an ending is put to the name of its file, device, network
image or volume, and taken away again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lxml import etree

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
_NAMES = {"file": "file", "block": "dev", "network": "name", "volume": "volume"}
"""Type of a disk -> the attribute of its <source> that names it (https://libvirt.org/formatdomain.html)."""


def ending(move: str) -> str:
    """Return the ending with which this move bars a disk: nobody else names anything so."""
    return f".{move}.incoming"


def barred(xml: str, wanted: Collection[str], end: str) -> str:
    """Return the definition with an ending put to the names of these disks (targets)."""
    root = etree.fromstring(xml.encode(), _PARSER)
    for target, source, attribute in _named(root):
        if target in wanted and not source.get(attribute, "").endswith(end):
            source.set(attribute, source.get(attribute, "") + end)
    return etree.tostring(root, encoding="unicode")


def free(xml: str, end: str) -> str:
    """Return the definition without these endings."""
    root = etree.fromstring(xml.encode(), _PARSER)
    for _target, source, attribute in _named(root):
        source.set(attribute, source.get(attribute, "").removesuffix(end))
    return etree.tostring(root, encoding="unicode")


def targets(xml: str, end: str) -> tuple[str, ...]:
    """Return the targets of the disks that have such an ending."""
    root = etree.fromstring(xml.encode(), _PARSER)
    return tuple(target for target, source, attribute in _named(root) if source.get(attribute, "").endswith(end))


def _named(root: etree._Element) -> Iterator[tuple[str, etree._Element, str]]:
    """(target, source, attribute that names the storage) of each disk whose source has a name."""
    for disk in root.iterfind("./devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        attribute = _NAMES.get(disk.get("type", ""), "")
        if target is not None and source is not None and source.get(attribute):
            yield target.get("dev", ""), source, attribute
