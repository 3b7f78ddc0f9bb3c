"""An image goes to an NBD server in parts: by the real qemu-img and qemu-nbd, in plain and by TLS; stopped, gone on."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blockferry.base.errors import HostCommandFailed, ImageUnreadable
from blockferry.base.units import MiB
from blockferry.hosts.images import conversion, nbd_tls, network_exports, part_copy
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.images.nbd_tls import TlsClient
from blockferry.hosts.images.part_copy import PartCopy
from blockferry.hosts.runner import LocalRunner
from lab.certificates import Authority
from lab.process import wait_until

pytestmark = pytest.mark.slow

SIZE = 24 * MiB + 512
STEP = 8 * MiB


@pytest.fixture
def runner() -> Iterator[LocalRunner]:
    found = LocalRunner()
    yield found
    found.helper.close()


def image(path: Path, kind: str) -> Path:
    """With data, holes between, and data in the last sector."""
    raw = path.with_suffix(".bytes")
    dice = random.Random(5)
    with raw.open("wb") as file:
        for start, length in ((0, 3 * MiB), (7 * MiB, 2 * MiB), (15 * MiB, MiB), (SIZE - 700, 700)):
            file.seek(start)
            file.write(dice.randbytes(length))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, raw, path], check=True)
    return path


class Server:
    """An empty image, full of other bytes, and a qemu-nbd that takes it in."""

    def __init__(self, folder: Path, kind: str, words: list[str], *, flush_fails: bool = False) -> None:
        self.path, self.kind = folder / "dest", kind
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, self.path, str(SIZE)], check=True)
        write = f"write -P 7 0 {SIZE}"
        subprocess.run(["qemu-io", "-f", kind, "-c", write, self.path], check=True, capture_output=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"nbd://127.0.0.1:{port}/m1"
        argv = ["qemu-nbd", "--persistent", "--shared=4", *words, "-b", "127.0.0.1", "-p", str(port), "-x", "m1"]
        where = ["-f", kind, str(self.path)]
        if flush_fails:
            rules = folder / "rules"
            rules.write_text('[inject-error]\nevent = "none"\niotype = "flush"\nerrno = "5"\n')
            file = f"file.driver=blkdebug,file.config={rules},file.image.driver=file,file.image.filename={self.path}"
            where = ["--image-opts", f"driver={kind},{file}"]
        self.process = subprocess.Popen([*argv, *where])

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()

    def equals(self, source: Path, kind: str) -> bool:
        self.end()
        argv = ["qemu-img", "compare", "-f", kind, "-F", self.kind, str(source), str(self.path)]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, "qcow2", [])
    yield found
    found.end()


def answers(runner: LocalRunner, server: Server, tls: TlsClient | None = None) -> bool:
    try:
        return network_exports.size(runner, server.uri, tls) >= SIZE
    except (ImageUnreadable, HostCommandFailed):
        return False


def order(source: Path, kind: str, server: Server) -> PartCopy:
    return PartCopy(str(source), kind, server.uri, 0, SIZE, STEP)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_stopped_and_gone_on(runner: LocalRunner, server: Server, tmp_path: Path, kind: str) -> None:
    """Stopped after its first part, it goes on with the second; zeros are written over what was there, too."""
    source = image(tmp_path / "source, with a comma", kind)
    wait_until(lambda: answers(runner, server), "the server", timeout=30)
    done: list[int] = []
    shown: list[int] = []
    asked = order(source, kind, server)
    with pytest.raises(ConversionStopped):
        part_copy.copy(runner, asked, done=done.append, progress=shown.append, should_stop=lambda: bool(done))
    first = done[-1]
    assert 0 < first < SIZE
    part_copy.copy(
        runner, replace(asked, start=first), done=done.append, progress=shown.append, should_stop=lambda: False
    )
    assert done == [min(STEP * (number + 1), SIZE) for number in range(4)]
    assert shown == sorted(shown)
    assert server.equals(source, kind)


def test_all_at_once(runner: LocalRunner, server: Server, tmp_path: Path) -> None:
    source = image(tmp_path / "source", "qcow2")
    wait_until(lambda: answers(runner, server), "the server", timeout=30)
    conversion.convert_to_export(runner, str(source), "qcow2", server.uri)
    assert server.equals(source, "qcow2")


def test_the_server_dies(runner: LocalRunner, server: Server, tmp_path: Path) -> None:
    source = image(tmp_path / "source", "raw")
    wait_until(lambda: answers(runner, server), "the server", timeout=30)
    done: list[int] = []

    def note(size: int) -> None:
        done.append(size)
        server.end()

    slow = replace(order(source, "raw", server), rate_limit=4 * MiB)
    with pytest.raises(HostCommandFailed):
        part_copy.copy(runner, slow, done=note, progress=lambda _: None, should_stop=lambda: False)
    assert done
    assert done[-1] < SIZE


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_flush_fails_at_the_server(runner: LocalRunner, tmp_path: Path, kind: str) -> None:
    """qemu-img ends with 0 all the same; no part is taken for done."""
    server = Server(tmp_path, kind, [], flush_fails=True)
    try:
        source = image(tmp_path / "source", "raw")
        wait_until(lambda: answers(runner, server), "the server", timeout=30)
        done: list[int] = []
        asked = order(source, "raw", server)
        with pytest.raises(HostCommandFailed, match="flush"):
            part_copy.copy(runner, asked, done=done.append, progress=lambda _: None, should_stop=lambda: False)
        assert not done
        with pytest.raises(HostCommandFailed, match="qemu-io"):
            conversion.convert_to_export(runner, str(source), "raw", server.uri)
    finally:
        server.end()


def test_with_tls(runner: LocalRunner, tmp_path: Path) -> None:
    """The server takes no client without a certificate of its authority."""
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("kvm2")
    place = tmp_path / "pki"
    place.mkdir()
    os.link(authority.certificate, place / "ca-cert.pem")
    for side in ("server", "client"):
        os.link(certificate, place / f"{side}-cert.pem")
        os.link(key, place / f"{side}-key.pem")
    client = TlsClient(str(place), "kvm2")
    server = Server(tmp_path, "raw", nbd_tls.server_options(str(place)))
    try:
        source = image(tmp_path / "source", "qcow2")
        wait_until(lambda: answers(runner, server, client), "the server", timeout=30)
        assert not answers(runner, server)
        assert not answers(runner, server, replace(client, hostname="kvm3"))
        plain = order(source, "qcow2", server)
        with pytest.raises(HostCommandFailed):
            part_copy.copy(runner, plain, done=lambda _: None, progress=lambda _: None, should_stop=lambda: False)
        part_copy.copy(
            runner, replace(plain, tls=client), done=lambda _: None, progress=lambda _: None, should_stop=lambda: False
        )
        assert server.equals(source, "qcow2")
    finally:
        server.end()
