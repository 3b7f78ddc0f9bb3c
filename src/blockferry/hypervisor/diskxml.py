"""What belongs to the image of a disk in its XML and must follow when the disk gets another image.

libvirt keeps these with the image, not with the disk: on a copy or an overlay it starts without them, live and then in
the persistent XML too (measured on 9.0: <metadata_cache> and the <seclabel> of a <source> were gone after a pivot).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from lxml import etree

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


@dataclass(frozen=True, slots=True)
class Carried:
    """Elements of a disk as it is, each as XML."""

    labels: tuple[str, ...] = ()  # <seclabel> of its <source>
    cache: str | None = None  # <metadata_cache> of its <driver>

    def add_labels(self, source: etree._Element) -> None:
        """Put the labels into the `<source>` of another image."""
        for label in self.labels:
            source.append(etree.fromstring(label, _PARSER))

    def add_cache(self, driver: etree._Element) -> None:
        """Put the cache's sizes into the `<driver>` of another qcow2."""
        if self.cache is not None:
            driver.append(etree.fromstring(self.cache, _PARSER))


def find(root: etree._Element, target: str) -> etree._Element | None:
    """The `<disk>` of that target in a domain's XML."""
    for disk in root.iterfind("./devices/disk"):
        element = disk.find("target")
        if element is not None and element.get("dev") == target:
            return disk
    return None


def carried(xml: str, target: str) -> Carried:
    """What is to be carried over of a disk, by the domain's XML."""
    disk = find(etree.fromstring(xml.encode(), _PARSER), target)
    if disk is None:
        return Carried()
    cache = disk.find("./driver/metadata_cache")
    labels = tuple(_text(label) for label in disk.iterfind("./source/seclabel"))
    return Carried(labels, None if cache is None else _text(cache))


def _text(element: etree._Element) -> str:
    alone = copy.deepcopy(element)
    alone.tail = None
    return etree.tostring(alone, encoding="unicode")
