"""Trimming first: when it is planned, refused, or only told of; what libvirt says of an agent; what is configured."""

from __future__ import annotations

from pathlib import Path

import cli_fake
import msgspec
import pytest
from test_cli import call

from blockferry.base.config import Config
from blockferry.base.errors import ConfigInvalid
from blockferry.base.units import GiB, MiB
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Vm
from blockferry.hosts.libvirt import domain_xml
from blockferry.storage_move import old_record
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.finding import Severity
from blockferry.storage_move.precheck.rules import precheck
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import MoveRequest, Trim
from blockferry.storage_move.summary import Report
from blockferry.storage_move.trim.record import TrimRecord

STORE = Datastore("ssd", "u", "dir", True, "/ssd", 100 * GiB, 100 * GiB)


def asked(
    trim: Trim,
    *,
    state: PowerState = PowerState.RUNNING,
    agent: str | None = "connected",
    discards: tuple[str | None, ...] = ("unmap",),
) -> tuple[Plan | None, list[tuple[str, Severity, str]]]:
    disks, chains = [], {}
    for number, discard in enumerate(discards):
        target, path = f"vd{'ab'[number]}", f"/san/{number}.raw"
        source = DiskSource("file", path, "raw")
        live = source if state.active else None
        disks.append(Disk(target, "disk", "virtio", live, source, discard=discard))
        chains[target] = (Image(path, "raw", 8 * MiB, 4 * MiB),)
    vm = Vm("web01", "u", state, True, tuple(disks), agent=agent)
    facts = Facts("qemu:///system", vm, (STORE,), (9, 0, 0), (7, 2, 0), chains, available={"ssd": 100 * GiB})
    findings, plan = precheck(MoveRequest("web01", "ssd", trim=trim), facts, "abcd")
    return plan, [(finding.code, finding.severity, finding.text) for finding in findings if "TRIM" in finding.code]


def test_a_guest_with_an_agent_is_trimmed_if_that_is_wanted() -> None:
    for trim, expected in ((Trim.YES, True), (Trim.IF_POSSIBLE, True), (Trim.NO, False)):
        plan, found = asked(trim)
        assert plan is not None
        assert plan.trim is expected
        assert found == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"agent": None}, "no channel for a guest agent"),
        ({"agent": "disconnected"}, "no guest agent answers"),
        ({"state": PowerState.OFF}, "it is off"),
        ({"state": PowerState.PAUSED}, "it is paused"),
        ({"discards": (None,)}, "none of its disks"),
    ],
)
def test_what_is_asked_for_by_name_is_refused_and_what_is_configured_is_told(more: dict[str, object], why: str) -> None:
    plan, [(code, severity, text)] = asked(Trim.YES, **more)  # type: ignore[arg-type]
    assert (plan, code, severity) == (None, "CANNOT_TRIM", Severity.ERROR)
    assert why in text
    plan, [(code, severity, text)] = asked(Trim.IF_POSSIBLE, **more)  # type: ignore[arg-type]
    assert plan is not None
    assert not plan.trim
    assert (code, severity) == ("CANNOT_TRIM", Severity.WARNING)
    assert asked(Trim.NO, **more)[1] == []  # type: ignore[arg-type]


def test_a_disk_that_ignores_discards_is_named() -> None:
    plan, found = asked(Trim.YES, discards=("unmap", None))
    assert plan is not None
    assert plan.trim
    [(code, severity, text)] = found
    assert (code, severity) == ("TRIM_IGNORED", Severity.WARNING)
    assert text.startswith("vdb ")


def test_what_libvirt_says_of_an_agent() -> None:
    def agent(channel: str) -> str | None:
        return domain_xml.parse(f"<domain><name>a</name><devices>{channel}</devices></domain>").agent

    name = "type='virtio' name='org.qemu.guest_agent.0'"
    assert agent("") is None
    assert agent("<channel type='unix'><target type='virtio' name='other' state='connected'/></channel>") is None
    assert agent(f"<channel type='unix'><target {name} state='connected'/></channel>") == "connected"
    assert agent(f"<channel type='unix'><target {name} state='disconnected'/></channel>") == "disconnected"
    assert agent(f"<channel type='unix'><target {name}/></channel>") == "disconnected"


def test_what_is_typed_and_what_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("BLOCKFERRY_CONFIG", str(file))

    def typed(*words: str) -> Trim:
        client = cli_fake.FakeClient()
        assert call(client, "move", "web01", "--to", "ssd", *words).exit_code == 0
        return client.requests[0].trim

    file.write_text("")
    assert (typed(), typed("--trim"), typed("--no-trim")) == (Trim.NO, Trim.YES, Trim.NO)
    file.write_text("trim = true\n")
    assert (typed(), typed("--trim"), typed("--no-trim")) == (Trim.IF_POSSIBLE, Trim.YES, Trim.NO)
    file.write_text('trim = "yes"\n')
    with pytest.raises(ConfigInvalid, match="trim"):
        Config.load()


def test_records_and_reports_of_older_versions_are_read() -> None:
    assert old_record.read('{"marked": true}').trim == TrimRecord()
    assert old_record.read('{"trimmed": {}}').trim == TrimRecord(asked=True, asked_again=False)
    assert old_record.read('{"trimmed": {"vda": 5}, "trimmed_again": {}}').disk("vda").trimmed == 5
    trimmed = Record(trim=TrimRecord(True, True), disks={"vda": DiskRecord(trimmed=5, trimmed_again=6)})
    assert msgspec.json.decode(msgspec.json.encode(trimmed), type=Record) == trimmed
    assert msgspec.json.decode(b'{"outcome": "moved", "seconds": 1}', type=Report).trimmed_bytes is None
    assert msgspec.json.decode(b'{"outcome": "moved", "seconds": 1}', type=Report).trimmed_again_bytes is None
