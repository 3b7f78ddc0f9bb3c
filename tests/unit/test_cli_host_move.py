"""Moves to another host on the command line: their options, and how plans, progress and reports are told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import cli_fake
import pytest
from rich.console import Console
from test_cli import call
from test_host_move_decide import DISKS, PLAN

from blockferry.base.config import Config
from blockferry.base.errors import UsageError
from blockferry.base.host_entries import HostEntry, parse_hosts
from blockferry.cli import check, display, words
from blockferry.cli.request_options import to_options
from blockferry.client import (
    AnyMoveOptions,
    HostMoveProgress,
    HostMoveReport,
    HostMoveRequest,
    HostMoveSummary,
    MoveSummary,
    Outcome,
    any_request,
    to_json,
)
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.migrating import MigrationStats
from blockferry.storage_move.request import SourcePolicy

GIB = 1 << 30
STATS = MigrationStats(
    disk_total=2 * GIB, disk_done=2 * GIB, memory_total=2 * GIB, memory_done=GIB, memory_left=GIB // 2,
    rate=100 << 20, passes=3, memory_rate=100 << 20, dirty_rate=10 << 20,
)  # fmt: skip
OUTRUN = replace(STATS, dirty_rate=200 << 20, throttle=20)
DISK = replace(DISKS[0], allocation=GIB, required=2 * GIB)
HOSTS = Config(hosts=(HostEntry("kvm2", "qemu+ssh://root@kvm2.lan/system", "10.0.0.2", "qemu+ssh://kvm2/system"),))


def summary(stats: MigrationStats | None = STATS, **changes: Any) -> HostMoveSummary:
    plan = replace(PLAN, disks=(DISK,), staying=("vdb",), memory=2 * GIB, bandwidth=100 << 20, downtime_ms=300)
    progress = HostMoveProgress("migrate", 0.0, "memory, pass 3", stats)
    at = cli_fake.AT
    made = HostMoveSummary(
        "3f2a", plan, HostMoveRecord(bandwidth=100 << 20), progress, at, None, "root@desk pid 1", True
    )
    return replace(made, **changes)


def moved() -> HostMoveSummary:
    report = HostMoveReport(
        Outcome.MOVED, 22.4, {"prepare": 1.2, "migrate": 20.0}, 2 * GIB, 3 * GIB, 4, 0.085, 61,
        sources=("/old/vda.qcow2 (1.0 GiB): removed; nothing used it any more",),
        verified=("kvm1 had neither a QEMU nor a definition of web01 before it could run again.",),
    )  # fmt: skip
    done = summary(record=HostMoveRecord(outcome=Outcome.MOVED), report=report, finished=cli_fake.AT + 22.4)
    return replace(done, owner=None, owner_alive=False)


def client(*summaries: HostMoveSummary) -> cli_fake.FakeClient:
    moves = {one.id: cast(MoveSummary, one) for one in summaries}
    return cli_fake.FakeClient(journal=moves)


def request(config: Config = HOSTS, **options: Any) -> HostMoveRequest:
    made = any_request("web01", cast(AnyMoveOptions, {"to_host": "kvm2", **options}), config)
    assert isinstance(made, HostMoveRequest)
    return made


def test_a_vm_that_was_handed_over_is_not_taken_back() -> None:
    handed = summary(record=HostMoveRecord(handed=True))
    result = call(client(handed), "cancel", "3f2a")
    assert result.exit_code == 4
    assert f"cannot be cancelled any more: web01 was handed over to {PLAN.destination}." in result.stderr


# ------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "channels", "compression"),
    [
        ({}, 0, ""),
        ({"channels": 1}, 0, ""),
        ({"channels": 8}, 8, ""),
        ({"compress": "zlib"}, 2, "zlib"),
        ({"compress": "xbzrle", "channels": 1}, 0, "xbzrle"),
    ],
)
def test_compression_and_channels_go_together(options: dict[str, Any], channels: int, compression: str) -> None:
    made = request(**options)
    assert (made.channels, made.compression) == (channels, compression)


def test_what_is_left_out_is_as_configured() -> None:
    made = request(replace(HOSTS, bandwidth=7, keep_source_s=60.0))
    assert (made.to_host, made.to, made.bandwidth, made.downtime_ms, made.thick) == ("kvm2", "", 7, 0, False)
    assert (made.address, made.peer) == ("10.0.0.2", "qemu+ssh://kvm2/system")
    assert made.source == SourcePolicy(delete=False, keep_s=60.0)


def test_no_and_none_are_answers_and_take_the_place_of_what_is_configured() -> None:
    made = request(replace(HOSTS, bandwidth=7, keep_source_s=60.0), keep_source=False, bandwidth=0, auto_converge=False)
    assert (made.source, made.bandwidth) == (SourcePolicy(delete=True, explicit=True), 0)
    words_ = ["web01", "--to-host", "kvm2", "--delete-source", "--bandwidth", "0"]
    given = check.check.make_context("check", words_).params
    del given["vm"]
    made = request(replace(HOSTS, bandwidth=7, keep_source_s=60.0), **to_options(**given))
    assert (made.source, made.bandwidth) == (SourcePolicy(delete=True, explicit=True), 0)


@pytest.mark.parametrize("options", [{"use_kept": False, "from_scratch": False}, {"verify": False, "trim": False}])
def test_what_it_does_not_do_anyway_may_be_ruled_out(options: dict[str, Any]) -> None:
    assert request(**options) == request()


def test_options_carry_their_units() -> None:
    made = request(
        to="ssd", disks={"vdb": "archive"}, bandwidth="1MiB/s", downtime="300ms", auto_converge=True, provision="thick",
        keep_source="7d", address="192.0.2.9", peer_uri="qemu+ssh://other/system", channels=4, compress="zstd",
    )  # fmt: skip
    assert (made.channels, made.compression) == (4, "zstd")
    assert (made.to, made.disks, made.bandwidth, made.downtime_ms) == ("ssd", {"vdb": "archive"}, 1 << 20, 300)
    assert (made.auto_converge, made.thick, made.address, made.peer) == (
        True, True, "192.0.2.9", "qemu+ssh://other/system",
    )  # fmt: skip
    assert made.source.keep_s == 7 * 86400


@pytest.mark.parametrize(
    ("options", "words_"),
    [
        ({"method": "mirror"}, "--method does not go with --to-host"),
        ({"verify": True}, "--verify does not go with --to-host"),
        ({"home": "ssd"}, "--home does not go with --to-host"),
        ({"downtime": "0.1ms"}, "--downtime: '0.1ms' is no time"),
        ({"downtime": 5}, "--downtime: 5 has no unit"),
        ({"disks": {"vda": "nbd://store1/x"}}, "cannot go to an export"),
        ({"channels": 0}, "--channels: 0 is no number from 1 to 64"),
        ({"channels": "4"}, "--channels: '4' is no number"),
        ({"compress": "mt"}, "--compress: 'mt' is no method"),
        ({"compress": "zstd", "channels": 1}, "needs more than one channel"),
        ({"compress": "xbzrle", "channels": 2}, "goes with one channel only"),
        ({"to_host": "/etc/passwd"}, "is no name of a host"),
        ({"to_host": "-oProxyCommand=x"}, "is no name of a host"),
        ({"to_host": "qemu+tls://kvm2/system"}, "gives no way to the host's files"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words_: str) -> None:
    with pytest.raises(UsageError, match=words_):
        request(**options)


@pytest.mark.parametrize(
    "option",
    [
        "--downtime=300ms",
        "--auto-converge",
        "--channels=4",
        "--compress=zstd",
        "--address=kvm2",
        "--peer-uri=qemu+ssh://b/system",
    ],
)
def test_options_of_another_host_need_one(option: str) -> None:
    result = call(client(), "check", "web01", "--to", "ssd", option)
    assert result.exit_code == 2
    assert "goes only with --to-host" in result.output


def test_a_hosts_table_has_the_ways_to_it() -> None:
    [entry] = parse_hosts({"kvm2": {"address": "10.0.0.2", "peer_uri": "qemu+ssh://kvm2.lan/system"}})
    assert entry == HostEntry("kvm2", "qemu+ssh://kvm2/system", "10.0.0.2", "qemu+ssh://kvm2.lan/system")
    for key, value in (("address", "-x"), ("address", "tcp://10.0.0.2"), ("peer_uri", "qemu:///system"), ("port", "1")):
        with pytest.raises(ValueError, match="kvm2"):
            parse_hosts({"kvm2": {key: value}})


def test_a_dry_run_says_what_check_says() -> None:
    fake = client()
    for words_ in (["--to", "ssd"], ["--to-host", "kvm2", "--to", "ssd"]):
        checked, dry = call(fake, "check", "web01", *words_), call(fake, "move", "web01", *words_, "--dry-run")
        assert (dry.stdout, dry.exit_code) == (checked.stdout, checked.exit_code), words_
    assert not fake.requests
    assert not fake.journal


# ------------------------------------------------------------ on the screen


def test_it_is_listed_beside_storage_moves() -> None:
    both = client(summary())
    both.journal["9e01"] = cli_fake.summary("9e01", "db01", owner="other pid 7")
    listed = call(both, "moves").stdout
    assert "kvm2 (ssd)" in listed
    assert [move["kind"] for move in json.loads(call(both, "moves", "--json").stdout)["moves"]] == [
        "host-move", "storage-move",
    ]  # fmt: skip


def test_its_story_has_plan_progress_and_report() -> None:
    shown = call(client(summary()), "show", "3f2a").stdout
    for part in ("kvm1 (qemu+ssh://kvm1/system)", "kvm2 (qemu+ssh://kvm2/system)", "1.0 GiB to copy of 1.0 GiB",
                 "2.0 GiB, while the VM runs", "at most 300 ms", "vdb: both hosts have the storage",
                 "the guest changes 10.0 MiB/s of its memory", "memory, pass 3"):  # fmt: skip
        assert part in shown, shown
    ended = call(client(moved()), "show", "3f2a").stdout
    for part in ("web01 was moved to kvm2 (ssd) in 22.4 s.", "2.0 GiB of disks and 3.0 GiB of memory (4 passes)",
                 "the VM stood still for 85 ms (QEMU counts 61 ms)", "neither a QEMU nor a definition"):  # fmt: skip
        assert part in ended, ended
    assert "5.0 GiB" in call(client(moved()), "history").stdout


def test_a_vm_that_is_off_or_paused() -> None:
    off = summary(None)
    off = replace(off, plan=replace(off.plan, cold=True, was_running=False, memory=0))
    off = replace(off, progress=HostMoveProgress("copy", 0.0, "", None, {"vda": 0.25}, {"vda": GIB}))
    assert "while it is off" in words.starting(off)
    assert "25%, 256 MiB of 1.0 GiB" in words.of(off).progress(off.progress)
    paused = replace(summary(), plan=replace(PLAN, was_running=False))
    assert "while it is paused" in words.starting(paused)
    assert "none: the VM is off" in call(client(off), "show", "3f2a").stdout


def test_the_live_table_has_a_row_for_disks_and_one_for_memory() -> None:
    def lines(stats: MigrationStats) -> list[str]:
        console = Console(width=110)
        with console.capture() as captured:
            console.print(display.view(summary(stats), 110))
        return captured.get().splitlines()

    _, disks, memory, together, changes = lines(STATS)
    assert disks.split()[:3] == ["disks", "in", "step"]
    assert memory.split()[:3] == ["memory", "pass", "3"]
    assert memory.rstrip().endswith("5 s left"), memory
    assert together.startswith("in all")
    assert changes.strip() == "the guest changes 10.0 MiB/s of its memory"
    outrun = lines(OUTRUN)
    assert not any("left" in line for line in outrun), "nobody knows when a guest ends that outruns its migration"
    assert outrun[-1].strip() == "the guest changes 200 MiB/s of its memory, slowed by 20 %"


def test_what_is_said_of_a_cancellation() -> None:
    said = call(client(summary()), "cancel", "3f2a", "--no-wait").output
    assert "web01 stays at kvm1" in said
    cancelled = summary(record=HostMoveRecord(outcome=Outcome.CANCELLED), finished=cli_fake.AT + 1.0)
    assert "web01 is at kvm1, as before" in call(client(cancelled), "cancel", "3f2a").output


def test_json_has_the_sums() -> None:
    found = to_json(summary())
    assert (found["kind"], found["state"]) == ("host-move", "running")
    assert found["progress"]["total"] == 2 * GIB + GIB + GIB // 2
    assert found["progress"]["done"] == 3 * GIB
    assert found["progress"]["seconds_left"] == pytest.approx(GIB / 2 / (100 << 20))
    assert to_json(summary(OUTRUN))["progress"]["seconds_left"] is None
