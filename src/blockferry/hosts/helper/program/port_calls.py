"""Ports of this host: listening for a moment, connecting to another host, by errno and never by words.

A listener sends its token to whoever connects. The other side compares it: so a connection proves not only that no
firewall is in the way, but that the address leads to this very host.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

MOST_PORTS = 16
MOST_SECONDS = 60.0
TOKEN_BYTES = 16

_held: dict[str, tuple[threading.Event, threading.Thread]] = {}
"""Token -> what ends its listener, and the thread that serves it."""


def _listener(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(4)
    except BaseException:
        made.close()
        raise
    return made


def _every_address(port: int) -> list[socket.socket]:
    """Listeners at all addresses, as QEMU listens. Raises OSError when it is taken at IPv4."""
    made = [_listener("0.0.0.0", port)]
    with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
        six = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        undo.callback(six.close)
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        six.bind(("::", port))
        six.listen(4)
        undo.pop_all()
        made.append(six)
    return made


def _serve(listeners: list[socket.socket], token: str, seconds: float, ended: threading.Event) -> None:
    until = time.monotonic() + seconds
    looks = selectors.PollSelector()  # select(2) takes no descriptor above 1,023
    for listener in listeners:
        looks.register(listener, selectors.EVENT_READ, listener)
    try:
        while not ended.is_set() and time.monotonic() < until:
            for key, _ in looks.select(0.1):
                with contextlib.suppress(OSError):
                    connection, _ = key.data.accept()
                    with connection:
                        connection.sendall(token.encode())
    finally:
        looks.close()
        for listener in listeners:
            listener.close()
        _held.pop(token, None)


def listen(first: int, last: int, count: int, seconds: float) -> dict[str, Any]:
    """Listen on `count` ports of a range, for so many seconds or until `close`.

    `ports`: those that are listened on, from the range's beginning, and its last free one. `refused`: the errno of each
    that could not be had on the way.
    """
    listeners: list[socket.socket] = []
    ports: list[int] = []
    refused: dict[str, int] = {}
    order = [*range(first, min(last + 1, first + 8 * MOST_PORTS))]
    if len(order) > 1:  # the end of the range, too: a firewall may let through the beginning only
        order = [*order[: max(1, count - 1)], last, *order[max(1, count - 1) :]]
    for port in dict.fromkeys(order):
        if len(ports) >= min(count, MOST_PORTS):
            break
        try:
            listeners += _every_address(port)
            ports.append(port)
        except OSError as error:
            refused[str(port)] = error.errno or errno.EIO
    token, ended = os.urandom(TOKEN_BYTES).hex(), threading.Event()
    if listeners:
        wait = min(seconds, MOST_SECONDS)
        thread = threading.Thread(target=_serve, args=(listeners, token, wait, ended), daemon=True)
        _held[token] = ended, thread
        thread.start()
    return {"token": token, "ports": sorted(ports), "refused": refused}


def close(token: str) -> bool:
    """End a listener and wait until its ports are free; whether it was there."""
    held = _held.get(token)
    if held is None:
        return False
    ended, thread = held
    ended.set()
    thread.join()
    return True


def _read_token(connection: socket.socket, size: int) -> str:
    found = b""
    while len(found) < size and (part := connection.recv(size - len(found))):
        found += part
    return found.decode("ascii", "replace")


def connect(host: str, ports: list[int], token: str, seconds: float) -> dict[str, Any]:
    """Connect to each port: `address` that the name stands for, `ports`: port -> errno, 0 when the token came back.

    `name`: the EAI number when the name cannot be resolved, else 0. A connection to somebody else is EREMCHG. Without
    a token it is enough that somebody listens.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return {"name": error.errno or socket.EAI_FAIL, "address": "", "ports": {}}
    answers: dict[str, int] = {}
    used = ""
    for port in ports[:MOST_PORTS]:
        answers[str(port)] = errno.EHOSTUNREACH
        for family, _, _, _, where in found:
            address = str(where[0])
            answers[str(port)] = _one(family, (address, port, *where[2:]), token, seconds)
            if answers[str(port)] == 0:
                used = address
                break
    return {"name": 0, "address": used or str(found[0][4][0]), "ports": answers}


def _one(family: int, where: tuple[Any, ...], token: str, seconds: float) -> int:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(where)
            if token and _read_token(connection, len(token)) != token:
                return errno.EREMCHG
    except socket.timeout:  # noqa: UP041 - another class than TimeoutError before Python 3.10
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def bindable(wanted: list[list[Any]]) -> list[int]:
    """Of each (address, port; 0: any port) the errno of binding a socket to it; 0 when that can be done."""
    found = []
    for address, port in wanted:
        try:
            _listener(address, port).close()
            found.append(0)
        except socket.gaierror:
            found.append(errno.EADDRNOTAVAIL)
        except OSError as error:
            found.append(error.errno or errno.EIO)
    return found


CALLS: dict[str, Callable[..., Any]] = {"listen": listen, "close": close, "connect": connect, "bindable": bindable}
