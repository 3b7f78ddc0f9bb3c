"""How an error of libvirt at the opening of a connection is told: by its codes, never by its words."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import libvirt
import pytest

from blockferry.base.errors import BlockferryError, HostUnreachable, PermissionRefused
from blockferry.hosts import host as host_module
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt.connection import Connection

URI = "qemu:///system"
RPC = libvirt.VIR_FROM_RPC


def libvirt_error(code: int, domain: int, number: int = 0) -> libvirt.libvirtError:
    """As libvirt would raise it on a host that speaks German. `number`: errno of a system error (`int1`)."""
    error = libvirt.libvirtError("Verbindung fehlgeschlagen")
    error.err = (code, domain, "Verbindung fehlgeschlagen", libvirt.VIR_ERR_ERROR, None, None, None, number, 0)
    return error


def refusal(monkeypatch: pytest.MonkeyPatch, error: libvirt.libvirtError) -> BlockferryError:
    def refuse(uri: str) -> object:
        assert uri == URI
        raise error

    monkeypatch.setattr(libvirt, "open", refuse)
    with pytest.raises(HostUnreachable) as raised:
        Connection(URI)
    return raised.value


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.EACCES),
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.EPERM),
        (libvirt.VIR_ERR_AUTH_FAILED, 0),
        (libvirt.VIR_ERR_AUTH_CANCELLED, 0),
        (libvirt.VIR_ERR_AUTH_UNAVAILABLE, 0),
        (libvirt.VIR_ERR_ACCESS_DENIED, 0),
    ],
)
def test_who_is_not_let_in_is_told_who_would_be(monkeypatch: pytest.MonkeyPatch, code: int, number: int) -> None:
    error = refusal(monkeypatch, libvirt_error(code, RPC, number))
    assert isinstance(error, PermissionRefused)
    assert (error.code, error.exit_status) == ("PERMISSION_REFUSED", HostUnreachable.exit_status)
    assert error.sentence == f"libvirt at {URI} does not let you in: Verbindung fehlgeschlagen."
    assert "Run as root, or join the group libvirt" in error.hint
    assert "libvirtd runs" not in error.hint


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.ENOENT),
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.ECONNREFUSED),
        (libvirt.VIR_ERR_INTERNAL_ERROR, errno.EACCES),  # `int1` is an errno of system errors only
        (libvirt.VIR_ERR_NO_CONNECT, 0),
    ],
)
def test_a_daemon_that_does_not_run_is_no_refusal(monkeypatch: pytest.MonkeyPatch, code: int, number: int) -> None:
    error = refusal(monkeypatch, libvirt_error(code, RPC, number))
    assert type(error) is HostUnreachable
    assert "join the group libvirt" not in error.hint


_AS_NOBODY = """
import os, sys
from blockferry.base.errors import BlockferryError
from blockferry.hosts.libvirt.connection import Connection
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    Connection("qemu+unix:///system?socket=" + sys.argv[1])
except BlockferryError as error:
    print(error.code)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
def test_a_socket_that_may_not_be_opened_and_one_that_is_not_there() -> None:
    """libvirt itself: these are the codes that it gives."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
        os.chmod(name, 0o755)
        path = Path(name) / "libvirt-sock"
        server.bind(str(path))
        server.listen()
        path.chmod(0o600)
        for tried, code in ((path, "PERMISSION_REFUSED"), (Path(name) / "absent", "HOST_UNREACHABLE")):
            done = subprocess.run(
                [sys.executable, "-c", _AS_NOBODY, str(tried)], capture_output=True, text=True, timeout=120, check=True
            )
            assert done.stdout == f"{code}\n", done.stderr


def test_a_prepared_host_tells_its_refusal_once_to_who_asks_first(tmp_path: Path) -> None:
    """`prepare` raises nothing; a host that cannot be reached is not tried twice by one command."""
    site = Host(f"qemu:///system?socket={tmp_path}/none")
    site.prepare()
    with pytest.raises(HostUnreachable) as first:
        _ = site.connection
    with pytest.raises(HostUnreachable) as second:
        _ = site.connection
    assert first.value is not second.value
    site.close()


def test_what_a_prepared_host_met_is_forgotten_once_it_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had asked; the next one to ask was told of an outage that was over."""
    site = Host(f"qemu:///system?socket={tmp_path}/none")
    site.prepare()
    with site._lock:  # it has tried
        pass
    made = cast(Connection, SimpleNamespace(alive=True, close=lambda: None, prepare_host_id=lambda: None))
    monkeypatch.setattr(site, "_made", lambda: made)
    site.prepare()
    assert site.connection is made
    site.close()


def test_a_connection_that_comes_after_the_host_was_closed_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "CLOSE_S", 0.05)
    site = Host(f"qemu:///system?socket={tmp_path}/none")
    goes_on, closed = threading.Event(), threading.Event()

    def slow() -> SimpleNamespace:
        goes_on.wait(60)
        return SimpleNamespace(alive=True, close=closed.set)

    monkeypatch.setattr(site, "_made", slow)
    site.prepare()
    site.close()
    goes_on.set()
    assert closed.wait(60)
    assert site._connection is None
