"""The public Python API: its options, the handle of a move, its data as JSON, and that its document is true."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Unpack, get_type_hints

import cli_fake
import pytest
from click.testing import CliRunner
from journal_support import make_plan

import blockferry
from blockferry import client as api
from blockferry.base.errors import JournalFailed
from blockferry.base.units import MiB
from blockferry.cli import main
from blockferry.client import (
    AnyMoveOptions,
    ChainPolicy,
    CheckResult,
    Client,
    Config,
    Datastore,
    LatencyContract,
    Method,
    Move,
    MoveCancelled,
    MoveFailed,
    MoveOptions,
    MoveParked,
    MoveRequest,
    Outcome,
    Progress,
    Provision,
    Refused,
    SourcePolicy,
    UsageError,
    VmListing,
    VmNotFound,
    WaitTimedOut,
    connect,
    from_json,
    move_request,
    to_json,
)
from blockferry.hosts.fencing import Fencing
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Trim

PAGE = (Path(__file__).parents[2] / "docs" / "python-api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def request(config: Config | None = None, **options: Unpack[MoveOptions]) -> MoveRequest:
    return move_request("web01", options, config or Config())


# --- the module


def test_importing_it_loads_neither_libvirt_nor_a_database() -> None:
    program = "import sys, blockferry.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert not {"libvirt", "sqlalchemy", "alembic", "lxml", "click", "rich"} & set(loaded)
    heavy = ("blockferry.moves", "blockferry.local", "blockferry.cli.", "blockferry.store.journal")
    assert not [name for name in loaded if name.startswith(heavy)]
    # Nor a room of which most programs use nothing; its names are taken from it when they are asked for.
    rooms = ("blockferry.doctor.rules", "blockferry.tracking.rules", "blockferry.leftovers.quarantine_rules")
    assert not {*rooms, "blockferry.storage_move.actions", "blockferry.storage_move.facts"} & set(loaded)


@pytest.mark.parametrize("name", api.__all__)
def test_every_public_name_is_there_and_its_data_are_frozen(name: str) -> None:
    value = getattr(api, name)
    if not inspect.isclass(value) or issubclass(value, Exception):
        return
    if dataclasses.is_dataclass(value):
        parameters: Any = value.__dataclass_params__  # type: ignore[attr-defined]
        assert parameters.frozen


@pytest.mark.parametrize("kind", [Client, Move])
def test_every_public_method_is_described(kind: type) -> None:
    for name, value in vars(kind).items():
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(value), name


def test_the_command_says_the_version_of_the_package() -> None:
    assert CliRunner().invoke(main.root, ["--version"]).output == f"blockferry {blockferry.__version__}\n"


def test_a_client_opens_nothing_before_it_is_needed(tmp_path: Path) -> None:
    place = tmp_path / "journal.db"
    with connect("qemu:///system", journal=str(place), config=Config()) as client:
        assert (client.uri, client.moves(), client.history()) == ("qemu:///system", (), ())
        assert client.missing_journal is not None
        with pytest.raises(UsageError):
            client.find()
    assert not place.exists()


def test_a_second_client_sees_the_moves_of_the_first(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    with closing(MoveJournal.open(url)) as journal:
        journal.add(make_plan("m1"), Record(), "{}", "admin")
    with connect("qemu:///system", journal=url) as client:
        move = client.find("m1")
        assert [move_summary.id for move_summary in client.moves()] == ["m1"] == [client.find().id]
        assert move.set_speed("50MiB/s").record.bandwidth == 50 * MiB
        assert [event.kind for event in move.events()][-1] == "user"
        with connect("qemu:///system", journal=url) as second:
            assert second.find(move.vm).summary().record.bandwidth == 50 * MiB


# --- options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bandwidth": "100MiB/s"}, {"bandwidth": 100 * MiB}),
        ({"bandwidth": 5_000_000}, {"bandwidth": 5_000_000}),
        ({"method": "mirror"}, {"method": Method.MIRROR}),
        ({"method": Method.MIRROR, "chain": ChainPolicy.KEEP}, {"method": Method.MIRROR, "chain": ChainPolicy.KEEP}),
        ({"provision": "thick", "preallocation": "falloc"}, {"provision": Provision.THICK}),
        ({"cluster_size": "128KiB"}, {"cluster_size": 131072}),
        ({"cluster_size": 65536}, {"cluster_size": 65536}),
        ({"keep_source": "7d"}, {"source": SourcePolicy(delete=False, keep_s=7 * 86400.0)}),
        ({"keep_source": timedelta(days=7)}, {"source": SourcePolicy(delete=False, keep_s=7 * 86400.0)}),
        ({"keep_source": "forever"}, {"source": SourcePolicy(delete=False)}),
        ({"keep_source": True}, {"source": SourcePolicy(delete=False)}),
        ({"keep_source": False}, {"source": SourcePolicy(delete=True, explicit=True)}),
        ({}, {"source": SourcePolicy(), "verify": False, "trim": Trim.NO, "hang": Fencing()}),
        ({"verify": True, "trim": True}, {"verify": True, "trim": Trim.YES}),
        ({"guest_latency": timedelta(milliseconds=20)}, {"contract": LatencyContract(latency_s=0.02)}),
        ({"guest_slowdown": 1.5}, {"contract": LatencyContract(slowdown=1.5)}),
        ({"hang_limit": "never"}, {"hang": Fencing(limit_s=None)}),
        ({"disks": {"vdb": "nbd://host:10809/x"}}, {"disks": {"vdb": "nbd://host:10809/x"}}),
        ({"bandwidth": None, "method": None}, {"bandwidth": 0, "method": Method.AUTO}),
    ],
)
def test_options_carry_their_units(options: MoveOptions, expected: dict[str, object]) -> None:
    made = move_request("web01", {"to": "ssd", **options}, Config())
    assert {name: getattr(made, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": None}, "No destination"),
        ({"to": ""}, "--to: '' is not a text"),
        ({"bandwidth": "100"}, "did you mean 100MiB/s?"),
        ({"bandwidth": -1}, "not a rate"),
        ({"bandwidth": True}, "not a text"),
        ({"guest_latency": 0.02}, "has no unit"),
        ({"keep_source": 7}, "has no unit"),
        ({"keep_source": timedelta(0)}, "no time at all"),
        ({"method": "miror"}, "did you mean 'mirror'"),
        ({"verify": "no"}, "neither True nor False"),
        ({"cluster_size": 1000}, "no power of two"),
        ({"template": "golden.qcow2"}, "no absolute path"),
        ({"template": "/srv/golden.qcow2"}, "--chain keep"),
        ({"disks": [("vda", "ssd")]}, "write it like {'vdb': 'archive'}"),
        ({"disks": {"vdb": "nbd://"}}, "--disk"),
        ({"guest_latency": "20ms", "guest_slowdown": "2x"}, "contradict"),
        ({"guest_latency": "20ms", "if_not_converging": "throttle"}, "forbids"),
        ({"provision": "thin", "preallocation": "full"}, "contradict"),
        ({"use_kept": True, "from_scratch": True}, "contradict"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_code(options: MoveOptions, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        move_request("web01", {"to": "ssd", **options}, Config())
    assert refused.value.code == "USAGE"


def test_an_option_that_does_not_exist_is_an_error_of_the_program() -> None:
    with pytest.raises(TypeError, match="did you mean 'bandwidth'"):
        request(to="ssd", bandwith="100MiB/s")  # type: ignore[call-arg]


def test_what_is_left_out_is_as_configured() -> None:
    config = Config(method="mirror", bandwidth=7, keep_source_s=60.0, verify=True, trim=True, guest_slowdown=2.0)
    made = request(config, to="ssd")
    assert (made.method, made.bandwidth, made.verify, made.trim) == (Method.MIRROR, 7, True, Trim.IF_POSSIBLE)
    assert (made.source, made.contract) == (SourcePolicy(delete=False, keep_s=60.0), LatencyContract(slowdown=2.0))
    old = Config(use_kept=True)
    assert request(old, to="ssd").use_kept
    assert not request(old, to="ssd", use_kept=False).use_kept
    assert not request(old, to="ssd", from_scratch=True).use_kept
    made = request(config, to="ssd", bandwidth=0, verify=False, trim=False, keep_source=False)
    assert (made.bandwidth, made.verify, made.trim, made.source.delete) == (0, False, Trim.NO, True)


def test_the_command_line_has_the_same_options() -> None:
    move = main.root.load_all()["move"]
    other = {"vm", "detach", "delete_source", "json", "uri", "host", "journal", "color", "verbose", "help"}
    other |= {"dry_run", "all_on", "parallel", "skip_refused"}
    names = {str(param.name).rstrip("_") for param in move.params} - other
    assert names == set(get_type_hints(AnyMoveOptions))


def test_a_request_made_once_is_checked_and_moved_alike() -> None:
    client = cli_fake.FakeClient()
    asked = request(to="ssd", method="mirror")
    assert client.check(asked).plan is not None
    assert client.plan_move(asked).vm == "web01"
    assert client.requests == [asked]
    with pytest.raises(TypeError):
        client.check(asked, to="ssd")


# --- a move


def test_a_move_is_started_and_waited_for() -> None:
    client = cli_fake.FakeClient()
    move = client.move("web01", to="ssd")
    assert client.log[-1] == f"start {move.id}"
    seen: list[Progress] = []
    done = move.wait(seen.append)
    assert (done.state, done.report is not None, move.latest, move.status) == ("moved", True, done, "moved")
    assert seen == [done.progress]


def test_a_refused_move_is_not_begun() -> None:
    client = cli_fake.FakeClient(findings=(cli_fake.ERROR,))
    with pytest.raises(Refused) as refused:
        client.move("web01", to="ssd")
    assert refused.value.codes == ("DESTINATION_FULL",)
    assert not client.journal


@pytest.mark.parametrize(("ends", "error"), [(Outcome.CANCELLED, MoveCancelled), (Outcome.FAILED, MoveFailed)])
def test_waiting_raises_what_a_move_ended_with(ends: Outcome, error: type[Exception]) -> None:
    client = cli_fake.FakeClient(after_start=ends)
    with pytest.raises(error):
        client.move("web01", to="ssd").wait()


def test_waiting_ends_with_its_timeout_and_the_move_goes_on() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary(owner="another pid 7")})
    client.poll_s = 0.001
    move = client.find("web01")
    for timeout in (0, 0.01, "5ms", timedelta(milliseconds=5)):
        with pytest.raises(WaitTimedOut) as error:
            move.wait(timeout=timeout)
        assert error.value.code == "WAIT_TIMED_OUT"
    assert move.status == "running"
    with pytest.raises(UsageError, match="has no unit"):
        move.wait(timeout="5")


def test_a_move_that_stands_still_is_not_waited_for() -> None:
    client = cli_fake.FakeClient(journal={"77aa": cli_fake.summary("77aa", parked="the disk is nowhere")})
    with pytest.raises(MoveParked, match="nowhere"):
        client.find("77").wait()
    assert client.log == []


def test_a_move_that_nobody_runs_is_started_once_by_whoever_waits() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()})
    updates = list(client.find().updates())
    assert [update.started for update in updates] == [False, True, False]
    assert client.log == ["start 3f2a"]


def test_a_journal_that_is_away_is_waited_for() -> None:
    class Away(cli_fake.FakeClient):
        looks = 0

        def show(self, move: str) -> Any:
            self.looks += 1
            if 2 < self.looks < 5:
                raise JournalFailed("db", "no answer", passing=True)
            if self.looks == 6:
                self.journal[move] = self._ended(move, Outcome.MOVED)
            return super().show(move)

    client = Away(journal={"3f2a": cli_fake.summary(owner="another pid 7")})
    client.poll_s = 0.001
    updates = list(client.handle("3f2a").updates())
    assert [bool(update.away) for update in updates] == [False, True, True, False, False]
    assert updates[-1].summary.state == "moved"
    assert client.log == []


def test_a_cancelled_move_that_nobody_runs_is_started_for_that() -> None:
    client = cli_fake.FakeClient(journal={"3f2a": cli_fake.summary()}, after_start=Outcome.CANCELLED)
    move = client.find("web01")
    move.cancel()
    assert client.log == ["cancel 3f2a", "start 3f2a"]
    with pytest.raises(MoveCancelled):
        move.wait()


def test_resume_starts_what_nobody_runs_and_says_what() -> None:
    moves = {"3f2a": cli_fake.summary(), "77aa": cli_fake.summary("77aa", "web02", parked="the disk is nowhere")}
    client = cli_fake.FakeClient(journal=moves)
    assert [one.id for one in client.resume()] == ["3f2a"]
    assert [one.id for one in client.resume("web02")] == ["77aa"]
    assert [one for one in client.log if one.startswith("start")] == ["start 3f2a", "start 77aa"]


# --- JSON


def data() -> list[object]:
    client = cli_fake.FakeClient(findings=(cli_fake.WARNING,), orphaned=cli_fake.orphan_list())
    return [
        *client.vms(),
        *client.datastores(),
        client.check("web01", to="ssd"),
        cli_fake.summary(),
        cli_fake.summary(outcome=Outcome.MOVED),
        cli_fake.progress(0.8),
        client.orphans(),
        client.diagnose(),
        client.tracking("web01"),
        client.make_point("web01"),
        client.enable_tracking("web01"),
        client.changes("web01", "bf-1"),
        request(to="ssd", guest_latency="20ms", keep_source="7d"),
    ]


@pytest.mark.parametrize("value", data(), ids=lambda value: type(value).__name__)
def test_data_cross_as_json(value: object) -> None:
    text = json.dumps(to_json(value))
    assert from_json(type(value), json.loads(text)) == value


def test_what_is_no_such_data_is_refused() -> None:
    with pytest.raises(ValueError, match="no VmListing"):
        from_json(VmListing, {"vm": 1})


# --- docs/python-api.md


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(heading: str) -> list[list[str]]:
    """The rows of the table with this first title."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [cells(line) for line in table]


PROMISED = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in rows("class")}


@pytest.mark.parametrize("name", PROMISED)
def test_promised_fields_exist(name: str) -> None:
    kind = getattr(api, name)
    own = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    known = own | set(dir(kind))
    assert set(PROMISED[name]) <= known


def test_promised_methods_and_their_parameters_exist_and_are_all() -> None:
    told: dict[str, list[str]] = {}
    for call, _command in rows("method of the client"):
        for name, parameters in re.findall(r"`(\w+)\((.*?)\)`", call):
            told[name] = [one.strip().lstrip("*") for one in parameters.split(",") if one.strip()]
    for name, parameters in told.items():
        assert parameters == list(inspect.signature(getattr(Client, name)).parameters)[1:], name
    public = {name for name, value in vars(Client).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert public - {"listen", "close"} == set(told)


def test_every_option_is_told() -> None:
    told = {name for row in rows("option") for name in re.findall(r"`(\w+)`", row[0])}
    assert told == set(get_type_hints(AnyMoveOptions))


class Example(cli_fake.FakeClient):
    """The host of the page's examples: it knows no VM "nobody"."""

    def _check(self, request: api.AnyRequest) -> CheckResult | api.HostCheckResult:
        if request.vm == "nobody":
            raise VmNotFound(request.vm, self.uri)
        return super()._check(request)


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    client = Example(orphaned=cli_fake.orphan_list())
    monkeypatch.setattr(api, "connect", lambda *_args, **_more: client)
    names: dict[str, Any] = {}
    for number, text in enumerate(EXAMPLES):
        exec(compile(text, f"docs/python-api.md, example {number + 1}", "exec"), names)
    said = capsys.readouterr().out
    for words in ("web01 running", "mirror 24.0", "moved\n22.4", "VM_NOT_FOUND", "vda"):
        assert words in said
    assert names["again"] == client.history(1)[0]


def test_values_of_public_data_are_plain() -> None:
    """What JSON has no word for would not cross: no bytes, sets or callables in public data."""
    assert to_json(Datastore("a", "u", "dir", True, "/a"))["active"] is True
    for kind in (getattr(api, name) for name in api.__all__):
        if inspect.isclass(kind) and issubclass(kind, enum.Enum):
            assert all(isinstance(one.value, str) for one in kind)
