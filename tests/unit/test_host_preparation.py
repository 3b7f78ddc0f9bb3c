"""`hosts prepare`: what is said of a host and of the ways to it, and the commands that mend it."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import cli_fake
import pytest
from test_cli import call

from blockferry.doctor import preparation_rules as rules
from blockferry.doctor.preparation_rules import HostPreparation, NamedHost, WayTried
from blockferry.doctor.rules import Level
from blockferry.host_move.precheck.catalogue import CATALOGUE, finding
from blockferry.host_move.precheck.host_move_facts import TlsSeen
from blockferry.hosts.neighbour_facts import Certificate

ONE = NamedHost("kvm1", "kvm1.lan", "root@kvm1")
TWO = NamedHost("kvm2", "kvm2.lan", "root@kvm2")
HERE = NamedHost("local", "desk")
GOOD = Certificate("/etc/pki/qemu/server-cert.pem", 0, 1000.0, 9000.0, ("kvm2",))


def way(*codes: str) -> WayTried:
    findings = tuple(finding(code, f"{code} happened.") for code in codes)
    return WayTried(ONE, TWO, findings, "kvm2", "qemu+ssh://root@kvm2/system", "All was reached.")


def test_a_way_that_works_is_one_line_and_needs_no_commands() -> None:
    [check] = rules.way(way())
    assert (check.level, check.area, check.text) == (Level.OK, "kvm1 to kvm2", "All was reached.")
    assert rules.commands([way()], {TWO: ()}, []) == ()


def test_each_reason_is_a_line_and_a_warning_alone_does_not_hide_that_the_way_works() -> None:
    checks = rules.way(way("PEER_UNREACHABLE", "CLOCKS_APART"))
    assert [check.level for check in checks] == [Level.ERROR, Level.WARNING]
    assert [check.level for check in rules.way(way("CLOCKS_APART"))] == [Level.WARNING, Level.OK]


def test_the_way_of_libvirt_is_mended_with_keys_of_both_hosts() -> None:
    lines = rules.commands([way("PEER_UNREACHABLE"), way("PEER_UNREACHABLE")], {}, [])
    assert lines == (
        "# root on kvm1 logs in to kvm2 without a password",
        "ssh root@kvm1 'test -e ~/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N \"\" -f ~/.ssh/id_ed25519'",
        "ssh root@kvm1 'cat ~/.ssh/id_ed25519.pub' | ssh root@kvm2 'cat >> ~/.ssh/authorized_keys'",
        "ssh root@kvm1 'ssh-keyscan kvm2 >> ~/.ssh/known_hosts'",
    )


def test_the_port_of_a_host_is_that_of_every_command() -> None:
    far = replace(TWO, port=2222)
    tried = replace(way("PEER_UNREACHABLE"), destination=far, peer="qemu+ssh://root@kvm2:2200/system")
    lines = rules.commands([tried], {far: ("qemu-nbd",)}, [far])
    assert "ssh root@kvm1 'ssh-keyscan -p 2200 kvm2 >> ~/.ssh/known_hosts'" in lines
    assert any("| ssh -p 2222 root@kvm2 'cat >> " in line for line in lines)
    assert any(line.startswith("scp -P 2222 ca-cert.pem root@kvm2:/etc/pki/qemu/ca-cert.pem && ") for line in lines)
    assert not [line for line in lines if "ssh root@kvm2" in line or "scp ca" in line]
    six = replace(TWO, ssh="root@fd00::2")
    assert six.copied("a", "/b") == "scp a root@[fd00::2]:/b"


def test_a_name_is_entered_with_the_number_of_its_address() -> None:
    """A name in its place would be no line of /etc/hosts."""
    reached = replace(way("OWN_NAME_UNKNOWN"), connected="192.0.2.7")
    assert "ssh root@kvm2 'echo '\"'\"'192.0.2.7 kvm2.lan'\"'\"' >> /etc/hosts'" in rules.commands([reached], {}, [])
    lines = rules.commands([way("OWN_NAME_UNKNOWN")], {}, [])
    assert "put its address in the place of ADDRESS" in lines[0]
    assert "ADDRESS kvm2.lan" in lines[1]


def test_commands_are_printed_as_they_are_pasted() -> None:
    command = "ssh root@kvm2 '" + "echo nothing; " * 30 + "true'"

    class Prepared(cli_fake.FakeClient):
        def prepare_host(self, name: str) -> HostPreparation:
            return replace(super().prepare_host(name), commands=(command,))

    result = call(Prepared(), "--color", "always", "hosts", "prepare", "kvm2")
    assert command in result.stdout.splitlines()


def test_a_way_by_tls_is_not_mended_with_keys_of_ssh() -> None:
    assert rules.commands([replace(way("PEER_UNREACHABLE"), peer="qemu+tls://kvm2/system")], {}, []) == ()


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("PORT_CLOSED", "ssh root@kvm2 'firewall-cmd --permanent --add-port=49152-49215/tcp"),
        ("CLOCKS_APART", "ssh root@kvm1 'timedatectl set-ntp true'"),
        ("OWN_NAME_UNKNOWN", "kvm2.lan"),
        ("ADDRESS_UNKNOWN", "ADDRESS kvm2"),
    ],
)
def test_every_fault_that_commands_can_mend(code: str, part: str) -> None:
    assert code in CATALOGUE
    lines = rules.commands([way(code)], {}, [])
    assert any(part in line for line in lines), lines


def test_every_command_is_one_that_a_shell_reads(tmp_path: Path) -> None:
    every = way("PEER_UNREACHABLE", "PORT_CLOSED", "CLOCKS_APART", "OWN_NAME_UNKNOWN", "ADDRESS_UNKNOWN")
    script = tmp_path / "commands.sh"
    script.write_text("\n".join(rules.commands([every], {TWO: ("qemu-nbd",)}, [TWO, HERE])))
    subprocess.run(["sh", "-n", script], check=True)
    for line in script.read_text().splitlines():
        if line.startswith("ssh ") and "|" not in shlex.split(line):
            subprocess.run(["sh", "-n", "-c", shlex.split(line)[2]], check=True)


def test_the_commands_for_tls_make_certificates_that_the_authority_has_signed(tmp_path: Path) -> None:
    """Those for openssl are run as they are printed."""
    lines = [line for line in rules.commands([], {}, [TWO]) if "openssl" in line]
    assert len(lines) == 3
    for line in lines:
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["openssl", "verify", "-CAfile", "ca-cert.pem", "kvm2-cert.pem"], cwd=tmp_path, check=True)


def test_certificates() -> None:
    missing = replace(GOOD, path="/etc/pki/qemu/server-key.pem", errno=2)
    assert not rules.has_certificates(TlsSeen((missing,), (missing,)))
    assert rules.has_certificates(TlsSeen((missing,), (GOOD,)))
    assert [check.level for check in rules.tls_of(TWO, [GOOD, missing], 2000.0)] == [Level.OK, Level.ERROR]
    assert "for kvm2" in rules.tls_of(TWO, [GOOD], 2000.0)[0].text
    assert rules.tls_of(TWO, [GOOD], 9999.0) == []  # the way says that it has expired
    [bare] = rules.tls_of(TWO, [missing], 2000.0)
    assert (bare.level, "unencrypted" in bare.text) == (Level.WARNING, True)


def test_authorities() -> None:
    assert rules.authorities({"kvm1": "a"}) == []
    assert rules.authorities({"kvm1": "a", "kvm2": "a"})[0].level is Level.OK
    assert rules.authorities({"kvm1": "a", "kvm2": "b"})[0].level is Level.ERROR


def test_uuids_that_are_there_twice() -> None:
    assert rules.same_uuids("u1", TWO, [(ONE, "u2")]) == []
    assert rules.same_uuids("u1", TWO, [(ONE, "u1")])[0].level is Level.ERROR
    assert rules.vms_twice(TWO, {"1": "web01"}, ONE, {"2": "web01"}) == []
    assert "web01" in rules.vms_twice(TWO, {"1": "web01"}, ONE, {"1": "old"})[0].text


def test_the_verdict() -> None:
    checks = tuple(rules.way(way("PEER_UNREACHABLE")))
    assert not HostPreparation("kvm2", "qemu+ssh://kvm2/system", checks).healthy
    assert HostPreparation("kvm2", "qemu+ssh://kvm2/system", tuple(rules.way(way("CLOCKS_APART")))).healthy
