"""Whether two domain XMLs are equal but for paths, and which path became which."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field

from zoo.facts import PoolFacts, volume_path


@dataclass(slots=True)
class Compared:
    """`pairs`: new path by old path, also where they are the same. `differences`: all that is no path."""

    pairs: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def compare(old: str, new: str, pools: dict[str, PoolFacts], *, paths_may_differ: bool) -> Compared:
    """Compare two inactive XMLs. Disks are matched by target, as libvirt may show them in another order."""
    found = Compared()
    _elements(ElementTree.fromstring(old), ElementTree.fromstring(new), "", pools, free=paths_may_differ, found=found)
    return found


def _elements(
    old: ElementTree.Element,
    new: ElementTree.Element,
    at: str,
    pools: dict[str, PoolFacts],
    *,
    free: bool,
    found: Compared,
) -> None:
    target = old.find("target") if old.tag == "disk" else None
    at = f"{at}/{old.tag}" if target is None else f"{at}/disk[{target.get('dev')}]"
    if old.tag == "emulator":
        return
    if old.tag == "disk":
        _disk_kind(old, new, at, found)
    if old.tag == "source" and volume_path(old, pools) is not None and new.get("file"):
        # A volume may be named as the file that it is.
        _path(str(volume_path(old, pools)), new.attrib["file"], at, free=free, found=found)
    elif old.tag == "source" and old.get("dev") and new.get("file"):
        # A block device becomes an image.
        _path(old.attrib["dev"], new.attrib["file"], at, free=free, found=found)
    else:
        for name in sorted(old.attrib.keys() | new.attrib.keys()):
            if old.tag == "disk" and name == "type":
                continue
            _text(old.get(name), new.get(name), f"{at}@{name}", free=free, found=found)
    _text((old.text or "").strip(), (new.text or "").strip(), at, free=free, found=found)
    _children(old, new, at, pools, free=free, found=found)


def _disk_kind(old: ElementTree.Element, new: ElementTree.Element, at: str, found: Compared) -> None:
    if old.get("type") != new.get("type") and new.get("type") not in ("file", "block"):
        found.differences.append(f"{at}@type was {old.get('type')} and is {new.get('type')}")


def _children(
    old: ElementTree.Element,
    new: ElementTree.Element,
    at: str,
    pools: dict[str, PoolFacts],
    *,
    free: bool,
    found: Compared,
) -> None:
    ours, theirs = _keyed(old), _keyed(new)
    for key in ours.keys() | theirs.keys():
        if key not in theirs:
            found.differences.append(f"{at}/{key} is gone")
        elif key not in ours:
            found.differences.append(
                f"{at}/{key} was added: {ElementTree.tostring(theirs[key], 'unicode').strip()[:200]}"
            )
        else:
            _elements(ours[key], theirs[key], at, pools, free=free, found=found)


def _keyed(parent: ElementTree.Element) -> dict[str, ElementTree.Element]:
    found: dict[str, ElementTree.Element] = {}
    for child in parent:
        target = child.find("target") if child.tag == "disk" else None
        key = f"disk[{target.get('dev')}]" if target is not None else child.tag
        number = 2
        while key in found:
            key = f"{child.tag}[{number}]"
            number += 1
        found[key] = child
    return found


def _text(old: str | None, new: str | None, at: str, *, free: bool, found: Compared) -> None:
    if old is not None and new is not None and old.startswith("/") and new.startswith("/"):
        _path(old, new, at, free=free, found=found)
    elif old != new:
        found.differences.append(f"{at} was {old!r} and is {new!r}")


def _path(old: str, new: str, at: str, *, free: bool, found: Compared) -> None:
    found.pairs[old] = new
    if old != new and not free:
        found.differences.append(f"{at} was {old} and is {new}")
