"""What belongs to the image of a disk in its XML and must follow when the disk gets another image.

libvirt keeps these with the image, not with the disk: on a copy or an overlay it starts without them, live and then in
the persistent XML too (measured on 9.0: <metadata_cache> and the <seclabel> of a <source> were gone after a pivot).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from lxml import etree

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


@dataclass(frozen=True, slots=True)
class CarriedElements:
    """Elements of a disk as it is, each as XML."""

    labels: tuple[str, ...] = ()  # <seclabel> of its <source>
    cache: str | None = None  # <metadata_cache> of its <driver>
    cache_below: str | None = None  # and of the image below it: of the disk's own image while an overlay is above that

    def add_labels(self, source: etree._Element) -> None:
        """Put the labels into the `<source>` of another image."""
        for label in self.labels:
            source.append(etree.fromstring(label, _PARSER))

    def add_cache(self, driver: etree._Element) -> None:
        """Put the cache's sizes into the `<driver>` of another qcow2."""
        if self.cache is not None:
            driver.append(etree.fromstring(self.cache, _PARSER))

    def add_cache_below(self, format: etree._Element) -> None:
        """Put the cache's sizes into the `<format>` of a qcow2 that another image is to stand on."""
        if self.cache_below is not None:
            format.append(etree.fromstring(self.cache_below, _PARSER))


@dataclass(frozen=True, slots=True)
class DiskBeforeMove:
    """A `<disk>` of the persistent XML as it was before a move.

    `names`: old path -> new path of the images below, where the chain is kept; None: it was made one image.
    `overlay`: it is to be on an overlay of the move, whose own header tells what is below.
    """

    xml: str
    names: Mapping[str, str] | None = None
    overlay: bool = False

    def restore(self, disk: etree._Element) -> None:
        """Give a `<disk>` what belongs to its image as it was. Where the image lies is for the caller to say.

        What belongs to the device (limits, serial number, cache mode ...) is left alone: if it differs, its owner has
        changed it during the move.
        """
        old = etree.fromstring(self.xml.encode(), _PARSER)
        _replace(disk, old, "source", before="target")
        for name in ("auth", "encryption"):  # of the disk instead of its source, the old way of writing it
            if old.find(name) is not None and disk.find(name) is None:
                _replace(disk, old, name, before=None)
        driver, old_cache = disk.find("driver"), old.find("./driver/metadata_cache")
        if driver is not None and old_cache is not None and driver.find("metadata_cache") is None:
            driver.append(copy.deepcopy(old_cache))
        _replace(disk, old, "backingStore", before="target")
        below = disk.find("backingStore")
        if below is None or (below.find(".//source") is None and not self.overlay):
            return
        if self.names is None or self.overlay:
            disk.remove(below)
            return
        for source in below.iter("source"):
            for attribute in ("file", "dev"):
                if (path := source.get(attribute)) in self.names:
                    source.set(attribute, self.names[str(path)])


def _replace(disk: etree._Element, old: etree._Element, name: str, before: str | None) -> None:
    """Put `old`'s element of that name in the place of the disk's; before that other one where the disk has none."""
    for element in disk.findall(name):
        disk.remove(element)
    wanted = old.find(name)
    if wanted is None:
        return
    anchor = None if before is None else disk.find(before)
    if anchor is None:
        disk.append(copy.deepcopy(wanted))
    else:
        anchor.addprevious(copy.deepcopy(wanted))


def find(root: etree._Element, target: str) -> etree._Element | None:
    """The `<disk>` of that target in a domain's XML."""
    for disk in root.iterfind("./devices/disk"):
        element = disk.find("target")
        if element is not None and element.get("dev") == target:
            return disk
    return None


def carried(xml: str, target: str) -> CarriedElements:
    """What is to be carried over of a disk, by the domain's XML."""
    disk = find(etree.fromstring(xml.encode(), _PARSER), target)
    if disk is None:
        return CarriedElements()
    cache, below = disk.find("./driver/metadata_cache"), disk.find("./backingStore/format/metadata_cache")
    labels = tuple(_text(label) for label in disk.iterfind("./source/seclabel"))
    return CarriedElements(labels, None if cache is None else _text(cache), None if below is None else _text(below))


def _text(element: etree._Element) -> str:
    alone = copy.deepcopy(element)
    alone.tail = None
    return etree.tostring(alone, encoding="unicode")


def disks(xml: str, targets: tuple[str, ...]) -> dict[str, str]:
    """Target -> its `<disk>` in a domain's XML, of those that it has."""
    root = etree.fromstring(xml.encode(), _PARSER)
    return {target: _text(disk) for target in targets if (disk := find(root, target)) is not None}
