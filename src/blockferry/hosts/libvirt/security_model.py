"""Whom libvirt runs QEMU as, by its own word: the DAC security model. https://libvirt.org/formatcaps.html"""

from __future__ import annotations

import re

import libvirt
from lxml import etree

from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.qemu_user import QemuUser

_LABEL = re.compile(r"\+(\d+):\+(\d+)")


def default_user(connection: Connection) -> QemuUser | None:
    """The user of every QEMU whose VM does not say otherwise; None when libvirt does not tell (a user's session)."""
    with connection.doing("tell its capabilities"):
        root = etree.fromstring(connection.raw.getCapabilities().encode())
    return _user(base_label(root))


def base_label(capabilities: etree._Element) -> str:
    """The DAC model's label of every QEMU whose VM does not say otherwise, of a host's capabilities; "" without one."""
    for model in capabilities.iterfind("./host/secmodel"):
        if model.findtext("model") == "dac":
            labels = {label.get("type"): label.text for label in model.iterfind("baselabel")}
            return labels.get("kvm") or labels.get("qemu") or ""
    return ""


def vm_user(connection: Connection, name: str) -> QemuUser | None:
    """The user that a VM's XML names, the live one if it runs; None when it names none, or not by number."""
    with connection.doing(f"describe VM {name}"):
        domain = connection.raw.lookupByName(name)
        xml = domain.XMLDesc(0 if domain.isActive() else libvirt.VIR_DOMAIN_XML_INACTIVE)
    for label in etree.fromstring(xml.encode(), etree.XMLParser(huge_tree=True)).iterfind("./seclabel[@model='dac']"):
        if (qemu_user := _user(label.findtext("label"))) is not None:
            return qemu_user
    return None


def _user(label: str | None) -> QemuUser | None:
    match = _LABEL.fullmatch((label or "").strip())
    return None if match is None else QemuUser(int(match[1]), int(match[2]))
