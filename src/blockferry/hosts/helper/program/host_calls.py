"""What this host is to others: its clock, its names, its network devices, QEMU's settings and certificates."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

NET = "/sys/class/net"
QEMU_CONF = "/etc/libvirt/qemu.conf"
_LINE = re.compile(r"^\s*([a-z0-9_]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([0-9]+))\s*(?:#.*)?$")

EC_KEY = bytes.fromhex("2a8648ce3d0201")
"""The object identifier of a public key on elliptic curves, id-ecPublicKey (RFC 5480), as it stands in DER."""


def clock() -> float:
    """Seconds since the epoch by this host's clock."""
    return time.time()


def names(peer: str = "") -> dict[str, Any]:
    """This host's name, the addresses that it resolves that to, and those that it resolves `peer` to.

    libvirt tells the source to connect to the destination's own name, and looks that up at the destination first.
    """
    own = socket.gethostname()
    return {"name": own, "own": _resolved(own), "peer": _resolved(peer) if peer else []}


def _resolved(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def links() -> dict[str, str]:
    """Network device -> "bridge", "ovs" (a bridge of Open vSwitch) or "device"."""
    found = {}
    for name in sorted(os.listdir(NET)):
        if os.path.isdir(os.path.join(NET, name, "bridge")):
            found[name] = "bridge"
        elif _type_of(name) == "openvswitch":
            found[name] = "ovs"
        else:
            found[name] = "device"
    return found


def _type_of(name: str) -> str:
    try:
        with open(os.path.join(NET, name, "uevent")) as file:
            kinds = [line[8:].strip() for line in file if line.startswith("DEVTYPE=")]
    except OSError:
        return ""
    return kinds[0] if kinds else ""


def qemu_conf(path: str = QEMU_CONF) -> dict[str, str]:
    """The settings of libvirt's QEMU driver that stand on one line; empty where there is no file."""
    found = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                matched = _LINE.match(line)
                if matched is not None:
                    found[matched[1]] = next(group for group in matched.groups()[1:] if group is not None)
    except FileNotFoundError:
        return {}
    return found


def certificates(paths: list[str]) -> list[dict[str, Any]]:
    """Of each file: `errno` (0: it is there), and of a certificate its names and its time. Private keys are not read.

    `since`, `until`: seconds since the epoch; -1 where the file is no certificate. `curve`: its key is none of RSA's.
    """
    return [_certificate(path) for path in paths]


def _certificate(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {"path": path, "errno": 0, "since": -1.0, "until": -1.0, "names": [], "curve": False}
    try:
        os.stat(path)
        if "key" in os.path.basename(path):
            return found
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read()
        decoded: dict[str, Any] = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
    except ssl.SSLError:
        return found
    except OSError as error:
        found["errno"] = error.errno or 5
        return found
    found["since"] = float(ssl.cert_time_to_seconds(decoded["notBefore"]))
    found["until"] = float(ssl.cert_time_to_seconds(decoded["notAfter"]))
    common = [value for part in decoded.get("subject", ()) for name, value in part if name == "commonName"]
    found["names"] = [str(value) for _, value in decoded.get("subjectAltName", ())] or common
    first = text[text.find("-----BEGIN CERTIFICATE-----") :]
    end = first.find("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----")
    found["curve"] = EC_KEY in ssl.PEM_cert_to_DER_cert(first[:end])
    return found


CALLS: dict[str, Callable[..., Any]] = {
    "clock": clock,
    "names": names,
    "links": links,
    "qemu_conf": qemu_conf,
    "certificates": certificates,
}
