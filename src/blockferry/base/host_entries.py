"""The hosts that a configuration lists: names, and the URIs that they stand for. Nothing is asked of any host here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

LOCAL_NAME = "local"
LOCAL_URI = "qemu:///system"

_NAME = re.compile(r"\w(?:[\w.-]*\w)?")
_KEYS = ("uri", "address", "peer_uri")
"""Of a host's table in a configuration file."""

_USER_AND_NAME = re.compile(rf"(?:[\w.-]+@)?{_NAME.pattern}")
"""A host as ssh takes it: kvm2, root@kvm2.example.com, 192.0.2.7. An option or a path is none."""


@dataclass(frozen=True, slots=True)
class HostEntry:
    """A host as people call it, and the libvirt URI by which it is reached. Two entries may lead to one host.

    `address`, `peer_uri`: how other hosts reach it when a VM comes from there: the address to which QEMU sends memory
    and disks, and the libvirt URI; "": as the host's own URI says.
    """

    name: str
    uri: str
    address: str = ""
    peer_uri: str = ""


def entry_of(text: str) -> HostEntry:
    """Return the host that one text stands for: "kvm2", "root@kvm2", "local", or a libvirt URI.

    A mere name stands for `qemu+ssh://NAME/system`. Raises ValueError with a sentence.
    """
    text = text.strip()
    if text == LOCAL_NAME:
        return HostEntry(LOCAL_NAME, LOCAL_URI)
    if "://" in text:
        return HostEntry(_name_in(text), text)
    if not _USER_AND_NAME.fullmatch(text):
        raise ValueError(f'{text!r} is no name of a host; write "kvm2", or a URI like "qemu+ssh://root@kvm2/system"')
    return HostEntry(text.rpartition("@")[2], f"qemu+ssh://{text}/system")


def parse_hosts(value: object) -> tuple[HostEntry, ...]:
    """Return what the key `hosts` of a configuration file lists: an array of texts, or a table of tables with `uri`.

    Raises ValueError with a sentence.
    """
    match value:
        case list():
            found = [entry_of(_text(one)) for one in value]
        case dict():
            found = [_of_table(name, table) for name, table in value.items()]
        case _:
            raise ValueError(f'{value!r} is neither a list like ["kvm1", "kvm2"] nor tables like [hosts.kvm2]')
    names = [host_entry.name for host_entry in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f'{twice!r} is there twice; give one of them a name of its own: [hosts.NAME] with uri = "..."')
    return tuple(found)


def find_entry(entries: Iterable[HostEntry], name: str) -> HostEntry | None:
    """Return the entry of this name; None: there is none."""
    return next((entry for entry in entries if entry.name == name), None)


def _name_in(uri: str) -> str:
    """The name of the machine in a URI; a URI that names none leads to this machine."""
    try:
        parts = urlsplit(uri)
        name = parts.hostname
    except ValueError as error:
        raise ValueError(f"{uri!r} is no URI ({error})") from None
    if not parts.scheme:
        raise ValueError(f"{uri!r} is no URI")
    if parts.scheme.partition("+")[2] in ("tls", "tcp"):
        raise ValueError(f"{uri!r} gives no way to the host's files; write qemu+ssh://{name}/system")
    return name or LOCAL_NAME


def _of_table(name: str, table: object) -> HostEntry:
    if not isinstance(table, dict):
        raise ValueError(f'{name}: {table!r} is no table; write [hosts.{name}], and below it uri = "..."')
    unknown = next((key for key in table if key not in _KEYS), None)
    if unknown is not None:
        raise ValueError(f"{name}: unknown key {unknown!r}; a host has {', '.join(_KEYS)}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a host: letters, digits, dots, - and _ only")
    uri = _text(table["uri"]) if "uri" in table else entry_of(name).uri
    if "://" not in uri:
        uri = entry_of(uri).uri
    _name_in(uri)
    address = _text(table["address"]) if "address" in table else ""
    if "/" in address or address.startswith("-"):
        raise ValueError(f"{name}: {address!r} is neither the name nor the IP address of a host")
    peer_uri = _text(table["peer_uri"]) if "peer_uri" in table else ""
    if peer_uri and not urlsplit(peer_uri).hostname:
        raise ValueError(f"{name}: {peer_uri!r} names no host; write it like qemu+ssh://{name}/system")
    return HostEntry(name, uri, address, peer_uri)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a text in quotes")
    return value.strip()
