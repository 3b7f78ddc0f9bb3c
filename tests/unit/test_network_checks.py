"""Ports, names, clocks and certificates, by the real helper program on this machine."""

from __future__ import annotations

import errno
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockferry.hosts.helper import neighbours
from blockferry.hosts.helper.program import host_calls
from blockferry.hosts.runner import LocalRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runner() -> Iterator[LocalRunner]:
    local_runner = LocalRunner()
    yield local_runner
    local_runner.helper.close()


def free_span(count: int) -> tuple[int, int]:
    """Ports in a row that nobody has just now."""
    for first in range(23000, 32000, 100):
        try:
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("0.0.0.0", port))
        except OSError:
            continue
        return first, first + count - 1
    raise AssertionError("no free ports")


def test_open_ports_answer_and_are_let_go(runner: LocalRunner) -> None:
    first, last = free_span(10)
    trial = neighbours.try_ports(runner, runner, "127.0.0.1", (first, last))
    assert trial.ports == {first: 0, first + 1: 0, last: 0}
    assert (trial.address, trial.name_error, trial.busy) == ("127.0.0.1", 0, {})
    for port in (first, first + 1, last):
        assert neighbours.reached(runner, "127.0.0.1", port) == errno.ECONNREFUSED


def test_a_port_that_is_taken_is_left_out(runner: LocalRunner) -> None:
    first, last = free_span(6)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", first))
        taken.listen()
        trial = neighbours.try_ports(runner, runner, "127.0.0.1", (first, last))
        assert trial.busy == {first: errno.EADDRINUSE}
        assert trial.ports == {first + 1: 0, first + 2: 0, last: 0}
        alone = neighbours.try_ports(runner, runner, "127.0.0.1", (first, first))
        assert (alone.ports, alone.busy) == ({}, {first: errno.EADDRINUSE})


def test_an_address_of_nobody_and_a_name_of_nobody(runner: LocalRunner) -> None:
    first, last = free_span(3)
    trial = neighbours.try_ports(runner, runner, "name.invalid", (first, last))
    assert trial.name_error != 0
    assert trial.ports == {}
    assert neighbours.reached(runner, "127.0.0.1", first) == errno.ECONNREFUSED


def test_somebody_else_who_answers_is_not_the_destination(runner: LocalRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 and more of it than a token has")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        said = runner.call("ports.connect", host="127.0.0.1", ports=[port], token="ab" * 16, seconds=5)
        thread.join()
    assert said["ports"] == {str(port): errno.EREMCHG}


def test_whoever_accepts_and_says_nothing_is_waited_for_no_longer_than_asked(runner: LocalRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = runner.call("ports.connect", host="127.0.0.1", ports=[port], token="ab" * 16, seconds=0.2)
    assert said["ports"] == {str(port): errno.ETIMEDOUT}


def test_addresses_of_this_host(runner: LocalRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        wanted = [("127.0.0.1", 0), ("192.0.2.1", 0), ("127.0.0.1", port), ("name.invalid", 0)]
        answers = neighbours.bindable(runner, wanted)
    assert answers == (0, errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EADDRNOTAVAIL)
    assert neighbours.bindable(runner, []) == ()


def test_clock_names_and_devices(runner: LocalRunner) -> None:
    clock = neighbours.clock(runner)
    assert abs(clock.ahead) <= clock.doubt + 0.05
    assert neighbours.names(runner, "localhost").peer
    assert neighbours.names(runner, "name.invalid").peer == ()
    assert neighbours.names(runner).name == socket.gethostname()
    assert neighbours.links(runner)["lo"] == "device"


def test_settings_of_qemu(tmp_path: Path) -> None:
    conf = tmp_path / "qemu.conf"
    conf.write_text('#migration_port_min = 1\nmigration_port_min = 50000\n user = "root" # who\nnamespaces = []\n')
    assert host_calls.qemu_conf(str(conf)) == {"migration_port_min": "50000", "user": "root"}
    assert host_calls.qemu_conf(str(tmp_path / "absent")) == {}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the commands of docs/host-tls.md."""
    where = tmp_path_factory.mktemp("tls")
    commands = re.findall(r"^openssl .*$", (ROOT / "docs/host-tls.md").read_text(), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        subprocess.run(command.replace("rsa:3072", "rsa:2048").split(), cwd=where, check=True, capture_output=True)
    return where


def test_certificates_by_the_documented_commands(runner: LocalRunner, certificates: Path) -> None:
    files = [str(certificates / name) for name in ("ca-cert.pem", "kvm2-cert.pem", "kvm2-key.pem", "absent.pem")]
    authority, host, key, absent = neighbours.certificates(runner, files)
    assert [certificate.errno for certificate in (authority, host, key, absent)] == [0, 0, 0, errno.ENOENT]
    assert host.names == ("kvm2",)
    assert host.since <= time.time() + 86400
    assert host.until - host.since == pytest.approx(825 * 86400, abs=86400)
    assert authority.until > host.until
    assert not host.curve
    assert key.until == -1


def test_a_key_on_a_curve_and_a_file_that_is_no_certificate(runner: LocalRunner, tmp_path: Path) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=kvm2 -keyout k -out c"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "text").write_text("no certificate")
    curved, text = neighbours.certificates(runner, [str(tmp_path / "c"), str(tmp_path / "text")])
    assert (curved.curve, curved.names) == (True, ("kvm2",))
    assert (text.errno, text.until) == (0, -1.0)
