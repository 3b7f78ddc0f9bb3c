"""The command line against a client in memory: what it prints, how it exits."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import cli_fake
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from blockferry.base import errors
from blockferry.base.errors import HostUnreachable, JournalFailed, LeaseLost, MoveBusy
from blockferry.base.event import Event
from blockferry.base.units import MiB, format_time
from blockferry.cli import display, drive, main
from blockferry.cli.app import App
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.firmware.record import NvramRecord
from blockferry.storage_move.precheck.finding import CATALOGUE, finding
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import ChainPolicy, Method, MoveRequest, Provision, SourcePolicy
from blockferry.storage_move.summary import MoveSummary, Orphan
from blockferry.storage_move.switch.record import SwitchRecord
from blockferry.storage_move.verify.record import BackupExport, ExportRecord

FACTS: dict[str, Any] = {"bool": True, "str": "x", "int": 1, "float": 1.0, "tuple[str, ...]": ("a", "b")}


def call(client: cli_fake.FakeClient, *args: str, **app: Any) -> Result:
    opened = App(opener=lambda _uri, _journal: client, poll_s=0.001, **app)
    return CliRunner().invoke(main.root, list(args), obj=opened)


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def client() -> cli_fake.FakeClient:
    return cli_fake.FakeClient()


@pytest.fixture
def busy() -> cli_fake.FakeClient:
    """One move that another process runs, one that has ended, one that stands still."""
    moves = {
        "3f2a": cli_fake.summary(owner="other pid 7", progress=cli_fake.progress(0.8)),
        "9e01": cli_fake.summary("9e01", "db01", outcome=Outcome.MOVED),
        "77aa": cli_fake.summary("77aa", "web02", parked="the disk is nowhere"),
    }
    return cli_fake.FakeClient(journal=moves, orphaned=cli_fake.orphan_list())


# --- listings


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("hosts", "hosts"),
        ("vms", "vms"),
        ("datastores", "datastores"),
        ("moves", "moves"),
        ("history", "history"),
        ("orphans", "orphans"),
    ],
)
def test_listings_have_one_record_per_line_and_a_json_form(busy: cli_fake.FakeClient, command: str, kind: str) -> None:
    plain = call(busy, command)
    assert plain.exit_code == 0
    assert "\x1b" not in plain.output
    assert plain.output.isascii()
    (document,) = documents(call(busy, command, "--json"))
    assert (document["version"], document["kind"]) == (1, kind)
    listed = document["moves" if kind == "history" else kind]
    records = sum(max(1, len(vm["disks"])) for vm in listed) if command == "vms" else len(listed)
    assert len(plain.stdout.splitlines()) == 1 + records
    assert busy.closed


def test_a_host_that_is_down_is_shown_with_the_age_of_what_is_known(client: cli_fake.FakeClient) -> None:
    result = call(client, "hosts")
    up, down, asked = result.stdout.splitlines()[1:]
    assert up.split()[:5] == ["kvm1", "kvm1", "up", "9.0.0", "7.2.0"]
    assert "old-san, ssd (inactive)" in up
    assert up.split()[-2:] == ["9/12", "now"]
    assert down.split()[:4] == ["kvm2", "kvm2", "down", "9.0.0"]
    assert down.endswith("  2 h 00 min ago")
    assert asked.split() == ["kvm3", "kvm3", "being", "asked", *"-------", "never"]
    assert "kvm2 is down: no route to host" in result.stderr
    assert "kvm1-ip and kvm1 are one host" in result.stderr


def test_vms_of_several_hosts_have_a_column_for_the_host(
    client: cli_fake.FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(client, "vms").stdout.split()[0] == "VM"
    listings = client.vms()
    monkeypatch.setattr(
        client, "vms", lambda: tuple(dataclasses.replace(one, host=f"kvm{at % 2}") for at, one in enumerate(listings))
    )
    lines = call(client, "vms").stdout.splitlines()
    assert lines[0].split()[:2] == ["HOST", "VM"]
    assert [line.split()[:2] for line in lines[1:4]] == [["kvm0", "web01"], ["kvm0", "web01"], ["kvm1", "db01"]]


def test_a_vm_is_named_on_each_of_its_lines(client: cli_fake.FakeClient) -> None:
    lines = call(client, "vms").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["web01", "web01", "db01"]
    assert "moving (3f2a)" in lines[3]
    assert lines[4].endswith(".prod.example.com-vda.qcow2")  # a long path is not folded in a pipe


def test_what_is_not_there_is_said_on_standard_error() -> None:
    empty = cli_fake.FakeClient()
    for command in ("moves", "history", "orphans"):
        result = call(empty, command)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr


def test_global_options_are_taken_before_and_after_the_command(client: cli_fake.FakeClient) -> None:
    asked: list[tuple[str | None, str | None]] = []

    def opener(uri: str | None, journal: str | None) -> cli_fake.FakeClient:
        asked.append((uri, journal))
        return client

    run = CliRunner(env={"BLOCKFERRY_URI": "qemu:///env"}).invoke
    for args in (
        ["vms"],
        ["--uri", "a", "vms"],
        ["vms", "--uri", "b", "--journal", "j"],
        ["--uri", "a", "vms", "--uri", "b"],
    ):
        assert run(main.root, args, obj=App(opener=opener)).exit_code == 0
    assert asked == [("qemu:///env", None), ("a", None), ("b", "j"), ("b", None)]


def test_a_host_is_named_instead_of_a_uri(
    client: cli_fake.FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def opener(uri: str | None, _journal: str | None) -> cli_fake.FakeClient:
        asked.append(uri)
        return client

    def run(*args: str, **env: str) -> Result:
        return CliRunner(env={"BLOCKFERRY_URI": None, **env}).invoke(main.root, args, obj=App(opener=opener))

    file = tmp_path / "blockferry.toml"
    file.write_text('[hosts.kvm2]\nuri = "qemu+ssh://root@10.0.0.2/system"\n')
    monkeypatch.setenv("BLOCKFERRY_CONFIG", str(file))
    for args, env in (
        (("--host", "kvm2", "vms"), {}),
        (("vms", "--host", "kvm2"), {}),
        (("vms", "--host", "kvm2"), {"BLOCKFERRY_URI": "qemu:///env"}),
        (("--host", "kvm2", "vms"), {"BLOCKFERRY_URI": "qemu:///env"}),
        (("vms",), {"BLOCKFERRY_HOST": "kvm2"}),
        (("vms",), {"BLOCKFERRY_HOST": "kvm2", "BLOCKFERRY_URI": "qemu:///env"}),
    ):
        assert run(*args, **env).exit_code == 0
    assert asked == ["qemu+ssh://root@10.0.0.2/system"] * 6
    # What is not configured is a name for ssh, and that is said.
    said = run("--host", "kvm9", "vms")
    assert (said.exit_code, asked[-1]) == (0, "qemu+ssh://kvm9/system")
    assert "kvm9 is no configured host (kvm2)" in said.stderr
    # A URI that was typed goes before the variable; both typed are refused.
    assert run("vms", "--uri", "b", BLOCKFERRY_HOST="kvm2").exit_code == 0
    assert asked[-1] == "b"
    for twice in (("--uri", "b", "vms", "--host", "kvm2"), ("--host", "kvm2", "vms", "--uri", "b")):
        assert run(*twice).exit_code == 2
    assert len(asked) == 8


def test_a_table_for_a_terminal_fits_into_it(client: cli_fake.FakeClient) -> None:
    runner = CliRunner(env={"COLUMNS": "80"})
    result = runner.invoke(main.root, ["vms", "--color", "always"], obj=App(opener=lambda _u, _j: client))
    assert "\x1b[" in result.stdout
    text = Console().render_str(result.stdout, markup=False)
    assert max(len(line.plain) for line in type(text).from_ansi(result.stdout).split("\n")) <= 80


def test_no_color_wins_over_a_terminal(client: cli_fake.FakeClient) -> None:
    assert "\x1b[" not in call(client, "vms", "--color", "never").output


# --- check


def test_check_says_yes_with_the_plan(client: cli_fake.FakeClient) -> None:
    client.findings = (cli_fake.WARNING,)
    result = call(client, "check", "web01", "--to", "ssd")
    assert result.exit_code == 0
    first = result.stdout.splitlines()[0]
    assert first == "web01 can be moved to ssd: 2 disks, 5.0 GiB to copy, about 24.0 s; 1 warning."
    for text in (
        "NVRAM_STAYS",
        "mirror: the guest runs",
        cli_fake.OLD,
        cli_fake.NEW,
        "about 19.3 s",
        "COMMITTED AFTER",
    ):
        assert text in result.stdout


def test_check_says_no_with_status_4(client: cli_fake.FakeClient) -> None:
    client.findings = (cli_fake.WARNING, cli_fake.ERROR)
    result = call(client, "check", "web01", "--to", "ssd")
    assert result.exit_code == 4
    lines = result.stdout.splitlines()
    assert lines[0] == "web01 cannot be moved: 1 reason against it."
    assert lines[1].startswith("error   DESTINATION_FULL")  # errors first
    (document,) = documents(call(client, "check", "web01", "--to", "ssd", "--json"))
    assert document["refused"] is True
    assert [found["code"] for found in document["check"]["findings"]] == ["NVRAM_STAYS", "DESTINATION_FULL"]


def test_options_become_the_request(client: cli_fake.FakeClient) -> None:
    args = "db01 --to ssd --disk vdb=archive --home old --format raw --provision thin --method changed-blocks"
    result = call(client, "check", *args.split(), "--chain", "keep", "--bandwidth", "200MiB/s", "--keep-source", "7d")
    assert result.exit_code == 0
    asked = MoveRequest(
        "db01", "ssd", {"vdb": "archive"}, "old", "raw", Provision.THIN, Method.CHANGED_BLOCKS, ChainPolicy.KEEP,
        200 * MiB, SourcePolicy(False, 604800.0),
    )  # fmt: skip
    assert client.log == [f"check {asked}"]


def test_the_old_disks_are_deleted_unless_asked(client: cli_fake.FakeClient) -> None:
    call(client, "check", "web01", "--disk", "vda=ssd")
    call(client, "check", "web01", "--to", "ssd", "--keep-source", "forever")
    assert client.log[0] == f"check {MoveRequest('web01', None, {'vda': 'ssd'}, source=SourcePolicy(True))}"
    assert client.log[1] == f"check {MoveRequest('web01', 'ssd', source=SourcePolicy(False, None))}"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("move web01", "No destination is named"),
        ("move web01 --to ssd --keep-source 7d --delete-source", "contradict"),
        ("move web01 --to ssd --keep-source soon", "not a duration"),
        ("move web01 --to ssd --disk vdb", "vdb=archive"),
        ("move web01 --disk vdb=a --disk vdb=b", "twice"),
        ("move web01 --to ssd --bandwidth fast", "not a rate"),
        ("move web01 --to ssd --bandwidth 200", "did you mean 200MiB/s?"),
        ("move web01 --to ssd --keep-source 7", "has no unit; write it like 7d"),
        ("move web01 --to ssd --keep-source 0", "has no unit"),
        ("move web01 --to ssd --keep-source 0d", "no time at all"),
        ("move web01 --to ssd --hang-limit 5", "has no unit"),
        ("move web01 --to ssd --guest-latency 20", "did you mean 20ms?"),
        ("speed 3f2a 100", "did you mean 100MiB/s?"),
        ("move web01 --to ssd --method teleport", "teleport"),
        ("speed 3f2a fast", "not a rate"),
        ("nonsense", "nonsense"),
        ("orphans --remove x --remove-all", "contradict"),
        ("orphans --abandoned", "removes nothing by itself"),
    ],
)
def test_what_makes_no_sense_exits_with_2(client: cli_fake.FakeClient, args: str, words: str) -> None:
    result = call(client, *args.split())
    assert result.exit_code == 2
    assert words in result.stderr
    assert client.log == []
    (document,) = documents(call(client, "--json", *args.split()))
    assert (document["code"], document["exit_status"]) == ("USAGE", 2)


# --- move


def test_a_move_shows_lines_and_the_report(client: cli_fake.FakeClient) -> None:
    client.findings = (cli_fake.WARNING,)
    result = call(client, "move", "web01", "--to", "ssd")
    assert result.exit_code == 0
    first, *lines = result.stderr.splitlines()
    assert first == "Looking at the VM and its datastores"  # before anything that may take long
    assert lines[0].startswith("Moving web01 (vda, vdb; 5.0 GiB) to ssd by mirror")
    assert lines[1].startswith("warning: NVRAM_STAYS")
    assert "copy, 0%" in lines[2]
    assert "switch, 100%" in lines[-1]
    assert "2 passes over changed blocks (152 MiB so far)" in lines[-1]
    for text in ("web01 was moved to ssd in 22.4 s.", "suspended for 12 ms", "copy 21.6 s", "was removed."):
        assert text in result.stdout
    assert [entry.split()[0] for entry in client.log] == ["move", "run"]


def test_a_move_as_json_lines(client: cli_fake.FakeClient) -> None:
    result = call(client, "move", "web01", "--to", "ssd", "--json")
    lines = documents(result)
    assert result.stderr == ""
    kinds = [line["kind"] for line in lines]
    assert (kinds[0], kinds[-1]) == ("started", "report")
    assert set(kinds[1:-1]) == {"event", "progress"}
    assert all(line["version"] == 1 for line in lines)
    last = [line for line in lines if line["kind"] == "progress"][-1]
    assert last["progress"]["done"] == last["progress"]["total"] > 0
    assert lines[-1]["move"]["state"] == "moved"
    assert lines[-1]["move"]["report"]["switch_stall_s"] == 0.012


def test_a_refused_move_exits_with_4(client: cli_fake.FakeClient) -> None:
    client.findings = (cli_fake.ERROR,)
    result = call(client, "move", "web01", "--to", "ssd")
    assert result.exit_code == 4
    assert "blockferry: REFUSED: The move of web01 was refused" in result.stderr
    (document,) = documents(call(client, "move", "web01", "--to", "ssd", "--json"))
    assert document["facts"]["codes"] == ["DESTINATION_FULL"]


def test_a_failed_move_exits_with_5_and_its_last_line_is_the_error(client: cli_fake.FakeClient) -> None:
    client.ends = Outcome.FAILED
    result = call(client, "move", "web01", "--to", "ssd", "--json")
    assert result.exit_code == 5
    assert documents(result)[-1]["code"] == "MOVE_FAILED"
    assert "web01 keeps running on old-san." in documents(result)[-1]["message"]


def test_a_detached_move_is_started(client: cli_fake.FakeClient) -> None:
    result = call(client, "move", "web01", "--to", "ssd", "--detach")
    assert result.exit_code == 0
    assert "`blockferry watch 3f2a`" in result.stdout
    assert [entry.split()[0] for entry in client.log] == ["move", "start"]


def test_a_move_that_another_process_took_is_followed(client: cli_fake.FakeClient) -> None:
    client.busy_first = True
    result = call(client, "move", "web01", "--to", "ssd")
    assert result.exit_code == 0
    assert "was moved to ssd" in result.stdout


def test_a_move_that_was_taken_over_is_followed_and_that_is_no_error(client: cli_fake.FakeClient) -> None:
    """Its process could not reach the journal for long, or was frozen: the move is in other hands, and nothing lost."""
    client.run_raises = [LeaseLost("3f2a", "root@kvm1 pid 7")]
    result = call(client, "move", "web01", "--to", "ssd")
    assert result.exit_code == 0, result.stderr
    assert "is now run by root@kvm1 pid 7" in result.stderr
    assert "nothing is lost" in result.stderr
    assert "LEASE_LOST" not in result.stderr
    assert "was moved to ssd" in result.stdout


AWAY = JournalFailed("postgresql://db/journal", "connection refused", passing=True)


def test_a_move_whose_journal_goes_away_at_its_start_is_left_to_a_worker(client: cli_fake.FakeClient) -> None:
    client.run_raises, client.journal_away, client.after_start = [AWAY], True, None
    result = call(client, "move", "web01", "--to", "ssd")
    assert result.exit_code == 130
    assert client.log[1:] == ["run 3f2a", "start 3f2a"]
    assert "goes on in the background as soon as the journal answers" in result.stderr


def test_a_worker_that_cannot_be_started_is_told(client: cli_fake.FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.step_s, client.cannot_start = 0.05, OSError(11, "Resource temporarily unavailable")

    def gone(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(display.Lines, "update", gone)
    result = call(client, "move", "web01", "--to", "ssd")
    assert result.exit_code == 130
    assert "could not be left to the background" in result.stderr
    assert "`blockferry resume 3f2a`" in result.stderr


@pytest.mark.parametrize("away", [[AWAY], [AWAY, AWAY, MoveBusy("web01", "3f2a", "root@kvm1 pid 1")]])
def test_the_worker_waits_for_a_journal_that_is_away(
    client: cli_fake.FakeClient, away: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended at once, and the move was nobody's: it is made when a terminal closes, also in an outage."""
    monkeypatch.setattr(drive, "JOURNAL_S", 0.01)
    client.journal["3f2a"] = cli_fake.summary()
    client.run_raises = list(away)
    assert call(client, "run-move", "3f2a").exit_code == 0
    assert client.log == ["run 3f2a"] * (len(away) + 1)
    assert client.journal["3f2a"].state == "moved"


def test_the_worker_leaves_a_move_that_another_process_has_parked_meanwhile(
    client: cli_fake.FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a person has a parked move go on."""
    monkeypatch.setattr(drive, "JOURNAL_S", 0.01)
    client.journal["3f2a"] = dataclasses.replace(cli_fake.summary(), parked="two disks have one name")
    client.run_raises = [AWAY, MoveBusy("web01", "3f2a", "root@kvm1 pid 1")]
    assert call(client, "run-move", "3f2a").exit_code != 0
    assert client.log == ["run 3f2a"]


def test_the_worker_does_not_wait_for_ever_nor_for_what_does_not_pass(
    client: cli_fake.FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.journal["3f2a"] = cli_fake.summary()
    for error in (JournalFailed("j", "the file was removed"), MoveBusy("web01", "3f2a", "root@kvm1 pid 1")):
        client.run_raises = [error]
        assert call(client, "run-move", "3f2a").exit_code == error.exit_status
    monkeypatch.setattr(drive, "JOURNAL_PATIENCE_S", 0.0)
    client.run_raises = [AWAY]
    assert call(client, "run-move", "3f2a").exit_code == AWAY.exit_status
    assert client.log == ["run 3f2a"] * 3


def test_an_error_while_showing_leaves_the_move_to_the_background(
    client: cli_fake.FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.step_s = 0.05

    def gone(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(display.Lines, "update", gone)
    result = call(client, "move", "web01", "--to", "ssd")
    assert result.exit_code == 130
    assert client.log[1:] == ["run 3f2a", "left 3f2a", "start 3f2a"]


# --- moves that exist


def test_interrupted_moves_go_on_with_any_command() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()})
    result = call(client, "datastores", "--json")
    assert "move 3f2a of web01 was interrupted; it goes on in the background (blockferry watch 3f2a)" in result.stderr
    assert documents(result)[0]["kind"] == "datastores"
    assert client.log == ["start 3f2a"]


@pytest.mark.parametrize("args", ["--help", "vms --help", "explain", "completion bash", "--version"])
def test_help_needs_no_service(args: str) -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()}, raises=AssertionError("asked"))
    assert call(client, *args.split()).exit_code == 0
    assert client.log == []


def test_show_tells_plan_story_and_report(busy: cli_fake.FakeClient) -> None:
    text = call(busy, "show", "9e01").stdout
    for part in ("Move 9e01 of db01: moved", "\nPlan\n", "\nStory\n", "root asked for the move", "\nReport\n", "12 ms"):
        assert part in text
    assert "other pid 7" in call(busy, "show", "3f").stdout
    assert "the disk is nowhere" in call(busy, "show", "77").stdout
    (document,) = documents(call(busy, "show", "9e01", "--json"))
    assert document["move"]["state"] == "moved"
    assert document["events"][0] == {"at": cli_fake.AT, "kind": "user", "text": "root asked for the move"}


def test_a_move_that_does_not_exist(busy: cli_fake.FakeClient) -> None:
    for command in ("show", "watch", "cancel"):
        result = call(busy, command, "9e02")
        assert result.exit_code == 3
        assert "Did you mean 9e01?" in result.stderr


def test_until_when_old_disks_are_kept_is_said(client: cli_fake.FakeClient) -> None:
    """And who deletes them then: nothing leaves the quarantine by itself."""
    before = time.time()
    result = call(client, "check", "web01", "--to", "ssd", "--keep-source", "7d")
    dates = {format_time(at + 7 * 86400) for at in (before, time.time())}
    said = " ".join(result.stdout.split())
    after = "at the earliest; `blockferry quarantine purge` deletes them after that"
    assert any(f"old disks kept for 7 d 0 h, until {date} {after}" in said for date in dates), result.stdout
    said = " ".join(call(client, "check", "web01", "--to", "ssd", "--keep-source", "forever").stdout.split())
    assert "old disks kept until `blockferry quarantine purge --now` deletes them" in said


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.MOVED, 0), (Outcome.FAILED, 5), (Outcome.CANCELLED, 6), (None, 9)]
)
def test_watch_exits_as_move_would_have(outcome: Outcome | None, status: int) -> None:
    parked = None if outcome else "something changed"
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary(outcome=outcome, parked=parked)})
    result = call(client, "watch", "3f2a")
    assert result.exit_code == status
    assert call(client, "watch", "3f2a", "--json").exit_code == status


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.MOVED, 0), (Outcome.FAILED, 5), (Outcome.CANCELLED, 6)])
@pytest.mark.parametrize("word", ["3f2a", "web01"])
def test_resume_of_a_move_that_has_ended_exits_as_it_would_have(outcome: Outcome, status: int, word: str) -> None:
    """It may have ended just now; nothing is run again."""
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary(outcome=outcome)})
    result = call(client, "resume", word)
    assert result.exit_code == status
    assert "Move 3f2a of web01 has ended already." in result.stderr
    assert "was moved to ssd" in result.stdout if status == 0 else "was moved to ssd" not in result.stdout
    as_json = call(client, "resume", word, "--json")
    assert as_json.exit_code == status
    assert documents(as_json)[-1]["kind"] == ("report" if status == 0 else "error")
    assert client.log == []


def test_a_move_that_waits_for_a_power_off_has_gone_well() -> None:
    """Its disks are moved and its report is there; only the UEFI variables are left."""
    waiting = cli_fake.summary(record=Record(nvram=NvramRecord(pending=True)), report=cli_fake.report(Outcome.MOVED))
    client = cli_fake.FakeClient(journal={"3f2a": waiting})
    watched = call(client, "watch", "3f2a")
    assert watched.exit_code == 0
    assert "its UEFI variables follow once it has been powered off" in watched.stdout
    assert client.log == [], "there is nothing to be run yet"
    listed = call(client, "moves")
    assert "waiting" in listed.stdout
    assert "3f2a waits" in listed.stderr
    assert "waits" in call(client, "show", "3f2a").stdout
    (document,) = documents(call(client, "show", "3f2a", "--json"))
    assert document["move"]["state"] == "waiting"


def test_watching_a_move_that_nobody_runs_starts_it() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()})
    result = call(client, "watch", "3f2a")
    assert result.exit_code == 0
    assert client.log == ["start 3f2a"]
    assert "was moved" in result.stdout


def test_cancel_waits_for_the_one_who_runs_it(busy: cli_fake.FakeClient) -> None:
    result = call(busy, "cancel", "3f2a")
    assert result.exit_code == 0
    assert "web01 is on its old disks" in result.stdout
    assert busy.log == ["cancel 3f2a"]


def test_cancel_runs_a_move_that_nobody_runs_to_its_end() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()})
    result = call(client, "cancel", "3f2a", "--json")
    assert result.exit_code == 0
    assert documents(result)[-1]["kind"] == "cancel"
    assert documents(result)[-1]["move"]["state"] == "cancelled"
    assert client.log == ["cancel 3f2a", "run 3f2a"]


def test_cancel_without_waiting_starts_a_move_that_nobody_runs() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()}, after_start=None)
    assert call(client, "cancel", "3f2a", "--no-wait").exit_code == 0
    assert client.log == ["cancel 3f2a", "start 3f2a"]


def test_cancel_too_late_says_so(busy: cli_fake.FakeClient) -> None:
    result = call(busy, "cancel", "9e01")
    assert result.exit_code == 4
    assert "TOO_LATE: Move 9e01 cannot be cancelled any more: db01 uses its disks on ssd already" in result.stderr
    assert busy.log == []


def test_cancel_after_the_switch_says_so_at_once(busy: cli_fake.FakeClient) -> None:
    """The move still runs (it cleans up); nobody waits for its end to hear that the wish came too late."""
    busy.journal["3f2a"] = dataclasses.replace(busy.journal["3f2a"], record=Record(switch=SwitchRecord(done=True)))
    result = call(busy, "--json", "cancel", "web01")
    assert (documents(result)[0]["code"], result.exit_code) == ("TOO_LATE", 4)
    assert busy.journal["3f2a"].finished is None


def test_cancel_after_the_switch_of_a_move_that_nobody_runs_has_it_go_on() -> None:
    switched = dataclasses.replace(cli_fake.summary(), record=Record(switch=SwitchRecord(done=True)))
    client = cli_fake.FakeClient(journal={"3f2a": switched})
    assert call(client, "cancel", "web01").exit_code == 4
    assert client.log == ["cancel 3f2a", "start 3f2a"]


def test_the_users_word_that_a_move_was_planned_here_is_passed_on() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()}, after_start=None)
    assert call(client, "cancel", "3f2a", "--here", "--no-wait").exit_code == 0
    assert client.log == ["cancel 3f2a here", "start 3f2a"]


def test_cancel_whose_move_switches_meanwhile_does_not_wait_for_its_end(busy: cli_fake.FakeClient) -> None:
    class Switches(cli_fake.FakeClient):
        def cancel(self, move: str, here: bool = False) -> MoveSummary:
            now = self.show(move)[0]
            self.journal[now.id] = dataclasses.replace(now, record=Record(switch=SwitchRecord(done=True)))
            return now

    result = call(Switches(journal=busy.journal), "cancel", "3f2a")
    assert (result.exit_code, "TOO_LATE" in result.stderr) == (4, True)


def test_cancel_while_the_disks_are_compared_ends_the_comparison(busy: cli_fake.FakeClient) -> None:
    """After the switch, but not too late: what is left to do is the comparison, and the old disks stay."""
    running = busy.journal["3f2a"]
    plan = dataclasses.replace(running.plan, verify=True)
    busy.journal["3f2a"] = dataclasses.replace(
        running, plan=plan, record=Record(switch=SwitchRecord(done=True), export=ExportRecord(state=BackupExport.READY))
    )

    class Ends(cli_fake.FakeClient):
        def cancel(self, move: str, *, here: bool = False) -> MoveSummary:
            now = super().cancel(move, here=here)
            record = Record(
                switch=SwitchRecord(done=True),
                export=ExportRecord(state=BackupExport.ENDED),
                disks={"vda": DiskRecord(unverified="it was cancelled")},
            )
            self.journal[now.id] = dataclasses.replace(now, record=record)
            return now

        def show(self, move: str) -> tuple[MoveSummary, tuple[Event, ...]]:
            now, events = super().show(move)
            if now.record.export.state is BackupExport.ENDED and now.record.outcome is None:
                record = dataclasses.replace(now.record, outcome=Outcome.MOVED)
                self.journal[now.id] = dataclasses.replace(now, record=record, finished=1.0)
            return now, events

    result = call(Ends(journal=busy.journal), "--json", "cancel", "web01")
    assert documents(result)[-1]["code"] == "NOT_VERIFIED"
    assert "it was cancelled" in documents(result)[-1]["message"]


def test_a_move_is_named_by_its_vm(busy: cli_fake.FakeClient) -> None:
    assert "Move 3f2a of web01" in call(busy, "show", "web01").stdout
    assert "db01 was moved" in call(busy, "watch", "db01").stdout
    assert "Move 3f2a was cancelled" in call(busy, "cancel", "web01").stdout


def test_no_name_means_the_only_move(client: cli_fake.FakeClient) -> None:
    none = call(client, "cancel")
    assert (none.exit_code, "No move is under way" in none.stderr) == (2, True)
    client.journal = {"3f2a": cli_fake.summary(owner="other pid 7")}
    assert "at most 50.0 MiB/s" in call(client, "speed", "50MiB/s").stdout
    assert "web01" in call(client, "show").stdout
    assert call(client, "cancel").exit_code == 0
    assert call(client, "speed", "a", "b", "1MiB/s").exit_code == 2


def test_a_move_of_what_is_there_already_is_no_error(client: cli_fake.FakeClient) -> None:
    client.findings = (finding("NOTHING_TO_MOVE", "All disks are there."),)
    for command in ("move", "check"):
        result = call(client, command, "web01", "--to", "ssd")
        assert (result.exit_code, result.stdout) == (0, "web01 is there already: nothing to do.\n")
        (document,) = documents(call(client, "--json", command, "web01", "--to", "ssd"))
        assert document["changed"] is False
    client.findings = (*client.findings, cli_fake.ERROR)
    assert call(client, "move", "web01", "--to", "ssd").exit_code == 4


def test_speed(busy: cli_fake.FakeClient) -> None:
    assert "at most 50.0 MiB/s" in call(busy, "speed", "3f2a", "50MiB/s").stdout
    assert "as fast as it can" in call(busy, "speed", "3f2a", "0").stdout
    assert busy.log == [f"speed 3f2a {50 * MiB}", "speed 3f2a 0"]
    ended = call(busy, "speed", "9e01", "0")
    assert ended.exit_code == 2
    assert "has ended" in ended.stderr


def test_resume_runs_one_here_and_several_in_the_background() -> None:
    one = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()})
    assert "was moved" in call(one, "resume").stdout
    assert one.log == ["resume None", "run 3f2a"]
    two = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary(), "9e01": cli_fake.summary("9e01", "db01")})
    assert call(two, "resume").exit_code == 0
    assert two.log == ["resume None", "start 3f2a", "start 9e01"]
    assert call(cli_fake.FakeClient(), "resume").stdout == "No interrupted moves.\n"


def test_the_background_worker_says_nothing() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()})
    result = call(client, "run-move", "3f2a")
    assert (result.exit_code, result.output) == (0, "")
    assert client.log == ["run 3f2a"]


# --- orphans


def test_remove_all_leaves_what_is_used_or_kept_on_purpose(busy: cli_fake.FakeClient) -> None:
    result = call(busy, "orphans", "--remove-all", "--yes")
    assert result.stdout == f"{cli_fake.NEW}/half.qcow2 was removed.\n"
    assert busy.log == [f"remove {cli_fake.NEW}/half.qcow2"]


def test_remove_by_name(busy: cli_fake.FakeClient) -> None:
    (document,) = documents(call(busy, "orphans", "--remove", f"{cli_fake.NEW}/half.qcow2", "--yes", "--json"))
    assert document["removed"][0]["path"] == f"{cli_fake.NEW}/half.qcow2"
    for path, words in (
        (f"{cli_fake.OLD}/kept.qcow2", "quarantine purge"),
        (f"{cli_fake.OLD}/used.qcow2", "VM web02 uses it."),
        (f"{cli_fake.OLD}/usd.qcow2", "Nothing was removed."),
    ):
        result = call(busy, "orphans", "--remove", path, "--yes")
        assert result.exit_code == 2
        assert words in result.stderr
        assert "Did you mean" not in result.stderr  # what is merely alike may be a file that somebody needs


def test_a_broken_copy_that_is_to_be_gone_on_with_goes_by_its_name_only(busy: cli_fake.FakeClient) -> None:
    path = f"{cli_fake.NEW}/broken.qcow2"
    busy.orphaned.append(Orphan(path, "partial", "3e6f", "web02", "ssd", 7, "95 % of it is copied.", True))
    assert path not in call(busy, "orphans", "--remove-all", "--yes").stdout
    assert f"{path} was removed." in call(busy, "orphans", "--remove", path, "--yes").stdout


def test_one_that_has_to_stay_keeps_no_other_from_going(busy: cli_fake.FakeClient) -> None:
    first, second = (f"{cli_fake.NEW}/{name}.qcow2" for name in ("half", "other"))
    busy.orphaned.append(Orphan(second, "copy", "1b4c", "web01", "ssd", 1, "Half-made by move 1b4c.", True))
    busy.in_use.add(first)
    result = call(busy, "orphans", "--remove-all", "--yes", "--json")
    (document,) = documents(result)
    assert [(one["path"], one["gone"]) for one in document["removed"]] == [(first, False), (second, True)]
    assert "VM web03 uses it" in document["removed"][0]["text"]
    assert result.exit_code == errors.StillInUse.exit_status


def test_where_could_not_be_looked_is_said(busy: cli_fake.FakeClient) -> None:
    busy.orphaned.clear()
    busy.unsearched = ("The datastore ssd could not be searched.",)
    result = call(busy, "orphans")
    assert "warning: The datastore ssd could not be searched." in result.stderr
    assert "Nothing is left of earlier moves where could be looked." in result.stderr
    (document,) = documents(call(busy, "orphans", "--json"))
    assert document["unsearched"] == list(busy.unsearched)


def test_without_a_terminal_nothing_is_removed_unasked(busy: cli_fake.FakeClient) -> None:
    result = call(busy, "orphans", "--remove-all")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert busy.log == []


# --- errors


def instances() -> list[errors.BlockferryError]:
    """Each kind of error with facts of the right types."""
    return [
        kind(**{field.name: FACTS[str(field.type)] for field in dataclasses.fields(kind)})
        for kind in errors.all_errors()
    ]


@pytest.mark.parametrize("error", instances(), ids=lambda error: error.code)
def test_every_error_is_a_sentence_and_a_status(error: errors.BlockferryError) -> None:
    client = cli_fake.FakeClient(raises=error)
    result = call(client, "vms")
    assert result.exit_code == error.exit_status != 0
    assert result.stderr.startswith(f"blockferry: {error.code}: ")
    assert result.stdout == ""
    (document,) = documents(call(client, "vms", "--json"))
    assert (document["kind"], document["code"], document["message"]) == ("error", error.code, error.sentence)
    assert document["exit_status"] == error.exit_status
    assert set(document["facts"]) == set(error.facts)
    assert call(client, "explain", error.code).exit_code == 0


def test_a_service_that_cannot_be_opened_is_an_error_like_others() -> None:
    def opener(uri: str | None, _journal: str | None) -> cli_fake.FakeClient:
        raise HostUnreachable(uri or "default", "no route")

    result = CliRunner().invoke(main.root, ["vms", "--uri", "qemu+ssh://kvm9/system"], obj=App(opener=opener))
    assert result.exit_code == 7
    assert "libvirt at qemu+ssh://kvm9/system cannot be reached: no route." in result.stderr


def test_a_bug_is_a_sentence_and_a_traceback_only_when_asked() -> None:
    client = cli_fake.FakeClient(raises=ZeroDivisionError("division by zero"))
    result = call(client, "vms")
    assert result.exit_code == 1
    assert "blockferry: BUG: ZeroDivisionError: division by zero" in result.stderr
    assert "This is a bug in blockferry" in result.stderr
    assert "Traceback" not in result.output
    assert "Traceback" in call(client, "-v", "vms").stderr
    (document,) = documents(call(client, "vms", "--json"))
    assert document["code"] == "BUG"


def test_explain_lists_and_explains_all() -> None:
    listed = call(cli_fake.FakeClient(), "explain").stdout
    for code in (*CATALOGUE, *(kind.code for kind in errors.all_errors())):
        assert f"{code} " in listed
    both = call(cli_fake.FakeClient(), "explain", "image-unreadable").stdout
    assert "of the pre-check" in both
    assert "exit status 7" in both
    unknown = call(cli_fake.FakeClient(), "explain", "DESTINATION_FUL")
    assert unknown.exit_code == 3
    assert "DESTINATION_FULL" in unknown.stderr


# --- the live view


@pytest.mark.parametrize("width", [80, 160])
def test_the_live_view_fits(width: int) -> None:
    console = Console(width=width, record=True)
    with console.capture() as capture:
        console.print(display.view(cli_fake.summary(progress=cli_fake.progress(0.8)), width))
    lines = capture.get().splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["vda", "vdb", "in"]
    assert lines[1].rstrip().endswith("left")
    assert "passes over changed blocks: 2 (120 MiB, 32.0 MiB)" in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= width
