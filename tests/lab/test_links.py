"""The lab's switch without hosts: a link that is long and loses, and the witness, also behind a cut link."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import bootimage
from lab.network import Network
from lab.process import ProcessId, kill_and_wait, wait_until
from lab.state import ROOT
from lab.witness import Witness

pytestmark = pytest.mark.lab

ANSWER = """
import socket
with socket.create_server(("0.0.0.0", 5000)) as server:
    while True:
        link, _ = server.accept()
        with link:
            while data := link.recv(1 << 16):
                link.sendall(data[-1:])
"""
ASK = """
import socket, sys, time
sys.excepthook = lambda *_: None
with socket.create_connection(("10.213.0.2", 5000)) as link:
    began = time.monotonic()
    link.sendall(b"x")
    link.recv(1)
    print(time.monotonic() - began)
    link.sendall(bytes(4 << 20))
    link.shutdown(socket.SHUT_WR)
    while link.recv(1 << 16):
        pass
"""
SEND = """
import socket, struct, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
link.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
for number in map(int, sys.argv[2:]):
    link.sendto(struct.pack("<IIQQ", 0x314E4342, 7, int(sys.argv[1]), number), ("255.255.255.255", 7001))
"""


class Plug:
    """A network namespace on the switch."""

    def __init__(self, lab: Path, network: Network, name: str) -> None:
        self.name = name
        (lab / "hosts" / name).mkdir(parents=True)
        network.enlist(name, lab / "hosts" / name)
        self.process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo up; exec sleep 600"],
                                        stdout=subprocess.PIPE)  # fmt: skip
        assert self.process.stdout is not None
        self.process.stdout.readline()
        here = ProcessId.of(self.process.pid)
        assert here is not None
        network.plug(name, here)

    def python(self, program: str, *words: str) -> subprocess.Popen[str]:
        enter = ["nsenter", f"--target={self.process.pid}", "--net"]
        return subprocess.Popen([*enter, sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True)

    def run(self, program: str, *words: str) -> str | None:
        """What it printed; None when it failed."""
        process = self.python(program, *words)
        out, _ = process.communicate(timeout=120)
        return out if process.returncode == 0 else None

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def directory() -> Iterator[Path]:
    path = ROOT.parent / "blockferry-links"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def network(directory: Path) -> Iterator[Network]:
    found = Network.create(directory, bootimage.program("reaper"))
    yield found
    init = ProcessId.of(found.pid)
    assert init is not None
    kill_and_wait(init)


@pytest.fixture
def plugs(directory: Path, network: Network) -> Iterator[tuple[Plug, Plug]]:
    found = Plug(directory, network, "one"), Plug(directory, network, "two")
    yield found
    for plug in found:
        network.shorten(plug.name)
        plug.end()


def ask(plug: Plug) -> float:
    """Seconds there and back; afterwards some MiB have gone over the link."""
    said = plug.run(ASK)
    assert said is not None
    return float(said)


def test_a_link_that_is_long(network: Network, plugs: tuple[Plug, Plug]) -> None:
    """Also after a cut; short again when it is over. What is lost on it is TCP's to send again."""
    one, two = plugs
    server = two.python(ANSWER)
    try:
        wait_until(lambda: one.run(ASK) is not None, "the server", timeout=60)
        network.lengthen("two", 60.0)
        assert ask(one) >= 0.12
        network.cut("two")
        network.mend("two")
        assert ask(one) >= 0.12
        network.lengthen("two", 60.0, 0.02)
        assert ask(one) >= 0.12
        network.shorten("two")
        assert min(ask(one) for _ in range(5)) < 0.12
    finally:
        server.kill()
        server.communicate()


def test_the_witness(directory: Path, network: Network, plugs: tuple[Plug, Plug]) -> None:
    """It tells who sent what, hears behind a cut, and counts what two have sent."""
    one, two = plugs
    witness = Witness(directory, network.pid, network.ports())
    try:
        assert one.run(SEND, "99", "1", "2", "3") == ""
        network.cut("two")
        assert two.run(SEND, "99", "4", "5") == ""
        wait_until(lambda: len(witness.heard(99)) == 5, "five datagrams", timeout=30)
        assert [(one.host, one.number) for one in witness.heard(99)] == [
            ("one", 1), ("one", 2), ("one", 3), ("two", 4), ("two", 5),
        ]  # fmt: skip
        assert witness.twice(99) == []
        network.mend("two")
        network.lengthen("two", 5.0)  # what goes along a long link is heard once
        assert two.run(SEND, "97", "1") == ""
        wait_until(lambda: bool(witness.heard(97)), "what came along the long link", timeout=30)
        assert one.run(SEND, "99", "4") == ""
        assert one.run(SEND, "98", "5") == ""
        wait_until(lambda: bool(witness.heard(98)), "another run", timeout=30)
        [(first, second)] = witness.twice(99)
        assert [sighting.host for sighting in witness.heard(97)] == ["two"]
        assert (first.host, second.host, second.number) == ("two", "one", 4)
        assert witness.alive()
    finally:
        witness.stop()
    assert not witness.alive()
