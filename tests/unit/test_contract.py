"""A latency contract and a convergence policy, from what is typed or configured to the plan's method and policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cli_fake
import msgspec
import pytest
from test_cli import call

from blockferry.base import config
from blockferry.base.config import Config
from blockferry.base.errors import ConfigInvalid
from blockferry.hosts.inventory import PowerState
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move import old_record
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.pace.latency import GuestLatency
from blockferry.storage_move.pace.record import MeasuredRecord, Throttle
from blockferry.storage_move.precheck import method
from blockferry.storage_move.record import MirrorRecord, Record
from blockferry.storage_move.request import IfNotConverging, LatencyContract, Method
from blockferry.storage_move.summary import GuestReport, Progress


@pytest.fixture(autouse=True)
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.toml"
    file.write_text("")
    monkeypatch.setenv("BLOCKFERRY_CONFIG", str(file))
    return file


def asked(*words: str) -> tuple[LatencyContract | None, IfNotConverging]:
    client = cli_fake.FakeClient()
    result = call(client, "move", "web01", "--to", "ssd", *words)
    assert result.exit_code == 0, result.output
    (request,) = client.requests
    return request.contract, request.if_not_converging


def test_what_is_typed() -> None:
    assert asked() == (None, IfNotConverging.AUTO)
    assert asked("--guest-latency", "20ms") == (LatencyContract(latency_s=0.02), IfNotConverging.AUTO)
    assert asked("--guest-slowdown", "1.5x") == (LatencyContract(slowdown=1.5), IfNotConverging.AUTO)
    assert asked("--guest-slowdown", "2", "--if-not-converging", "stop") == (
        LatencyContract(slowdown=2.0),
        IfNotConverging.STOP,
    )


def test_what_is_configured_and_what_is_typed_over_it(configured: Path) -> None:
    configured.write_text('guest_latency = "50ms"\nif_not_converging = "wait"\n')
    assert asked() == (LatencyContract(latency_s=0.05), IfNotConverging.WAIT)
    assert asked("--guest-slowdown", "3x") == (LatencyContract(slowdown=3.0), IfNotConverging.WAIT)
    configured.write_text("guest_slowdown = 1.5\n")
    assert asked() == (LatencyContract(slowdown=1.5), IfNotConverging.AUTO)


@pytest.mark.parametrize(
    "words",
    [
        ("--guest-latency", "20ms", "--guest-slowdown", "2x"),
        ("--guest-latency", "20ms", "--if-not-converging", "throttle"),
        ("--guest-latency", "0"),
        ("--guest-latency", "2h"),
        ("--guest-slowdown", "1"),
        ("--guest-slowdown", "fast"),
        ("--if-not-converging", "pray"),
    ],
)
def test_what_contradicts_itself_is_said(words: tuple[str, ...]) -> None:
    client = cli_fake.FakeClient()
    assert call(client, "move", "web01", "--to", "ssd", *words).exit_code == 2
    assert not client.requests


@pytest.mark.parametrize(
    "line",
    ["guest_latency = 20", 'guest_latency = "0ms"', "guest_slowdown = 0.5", "guest_slowdown = true",
     'if_not_converging = "hope"'],
)  # fmt: skip
def test_a_wrong_configuration_is_named(configured: Path, line: str) -> None:
    configured.write_text(line)
    with pytest.raises(ConfigInvalid, match=line.partition(" ")[0]):
        Config.load()


def test_configuration_and_requests_know_the_same_policies() -> None:
    assert set(config.POLICIES) == {if_not_converging.value for if_not_converging in IfNotConverging}


def test_a_contract_chooses_the_background() -> None:
    found, why = method.choose(Method.AUTO, PowerState.RUNNING, 0, keeps_chain=False, contract=True)
    assert found is Method.CHANGED_BLOCKS
    assert "contract" in why
    assert method.choose(Method.MIRROR, PowerState.RUNNING, 0, keeps_chain=False, contract=True)[0] is Method.MIRROR
    assert method.choose(Method.AUTO, PowerState.OFF, 0, keeps_chain=False, contract=True)[0] is Method.COLD


@pytest.mark.parametrize(
    ("asked_method", "chosen", "can", "policy"),
    [
        (Method.AUTO, Method.CHANGED_BLOCKS, True, IfNotConverging.MIRROR),
        (Method.AUTO, Method.CHANGED_BLOCKS, False, IfNotConverging.WAIT),
        (Method.CHANGED_BLOCKS, Method.CHANGED_BLOCKS, True, IfNotConverging.WAIT),
        (Method.AUTO, Method.MIRROR, True, IfNotConverging.WAIT),
    ],
)
def test_the_policy_is_ours_where_the_method_was(
    asked_method: Method, chosen: Method, can: bool, policy: IfNotConverging
) -> None:
    assert method.if_not_converging(IfNotConverging.AUTO, asked_method, chosen, 0, can_be_synchronous=can) is policy
    assert (
        method.if_not_converging(IfNotConverging.MIRROR, asked_method, chosen, 0, can_be_synchronous=can)
        is IfNotConverging.MIRROR
    ) is can
    assert (
        method.if_not_converging(IfNotConverging.STOP, asked_method, chosen, 0, can_be_synchronous=can)
        is IfNotConverging.STOP
    )
    assert (
        method.if_not_converging(IfNotConverging.AUTO, asked_method, chosen, 1000, can_be_synchronous=can)
        is IfNotConverging.WAIT
    )


def test_records_of_older_versions_are_read_and_new_ones_come_back() -> None:
    old = old_record.read('{"marked": true, "copies": {"vda": {"stage": "clean"}}}')
    assert (old.measured.done, old.mirror.wanted, old.throttled, old.copy("vda").synchronous) == (
        False,
        False,
        {},
        False,
    )
    slowed = msgspec.json.decode(
        b'{"vda": {"bytes_per_s": 9, "incarnation": 3, "before": {}}}', type=dict[str, Throttle]
    )
    assert slowed == {"vda": Throttle(9, 3, {}, ())}
    throttled = {"vda": Throttle(1000, 3, {"write_bytes_sec": 0, "group_name": ""}, (2000, 4000))}
    new = Record(
        disks={target: DiskRecord(throttle=one) for target, one in throttled.items()},
        mirror=MirrorRecord(wanted=True),
        measured=MeasuredRecord(done=True, before=GuestLatency(0.001, 0.01, 100, 3.0)),
    )
    assert msgspec.json.decode(msgspec.json.encode(new), type=Record) == new
    assert msgspec.json.decode(b'{"phase": "copy"}', type=Progress).pace == ""


def test_the_report_tells_how_the_guest_fared() -> None:
    seen = GuestLatency(0.001, 0.004, 3000, 10.0)
    told = replace(cli_fake.report(), guest=GuestReport(0.020, seen, GuestLatency(0.002, 0.012, 2900, 10.0), 0.9973))
    summary = replace(cli_fake.summary("9e01", outcome=Outcome.MOVED), report=told)
    client = cli_fake.FakeClient(journal={"9e01": summary})
    out = " ".join(call(client, "show", "9e01").stdout.split())
    assert "before: 300 writes/s, p50 1 ms, p99 4 ms" in out
    assert "during: 290 writes/s, p50 2 ms, p99 12 ms" in out
    assert "99.7% of the writes kept the limit of 20 ms" in out
