"""Many hosts: what is shown of each, what is remembered, and on which of them a VM is."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from journal_support import make_plan
from paper_host import HOST, PaperSite
from test_host_move_decide import PLAN

from blockferry.base.config import Config
from blockferry.base.errors import HostUnreachable, VmAmbiguous, VmNotFound
from blockferry.base.host_entries import HostEntry
from blockferry.client import connect
from blockferry.fleet import host_listing, host_table, known_hosts, vm_search
from blockferry.fleet.host_listing import HostFigures, HostListing, HostState
from blockferry.fleet_client import FleetClient
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts import configured_hosts
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.runner import LocalRunner
from blockferry.local_client import LocalClient
from blockferry.moves.environment import Environment
from blockferry.storage_move.destination.effects import write_marker
from blockferry.storage_move.record import Record

FIGURES = HostFigures("u-1", "kvm1.lan", "9.0.0", "7.2.0", 4, 8, 2, 0.5, 3, 1)


class Away(PaperSite):
    """A host that cannot be reached, or, with `until`, does not answer before that is set."""

    def __init__(self, until: threading.Event | None = None) -> None:
        self.uri = "qemu+ssh://away/system"
        self.runner = LocalRunner(self.uri)
        self._until = until

    @property
    def connection(self) -> NoReturn:
        if self._until is not None:
            self._until.wait(60)
        raise HostUnreachable(self.uri, "no route to host")


class Fleet:
    """Hosts on paper by their names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: list[PaperSite] = []

    def host(self, name: str, uuid: str = "") -> tuple[ConfiguredHost, PaperSite]:
        directory = self.directory / name
        directory.mkdir()
        site = PaperSite(directory)
        site.connection._host_id = uuid or f"uuid-of-{name}"
        self.made.append(site)
        return self.entry(name, site), site

    @staticmethod
    def entry(name: str, site: PaperSite) -> ConfiguredHost:
        return ConfiguredHost(HostEntry(name, f"qemu+ssh://{name}/system"), lambda _uri: site)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(tmp_path)
    yield found
    for site in found.made:
        site.close()


# ------------------------------------------------------------ the table


def test_what_is_known_of_hosts_and_how_old_it_is(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "hosts.json"
    kvm1, site = fleet.host("kvm1")
    site.define("web01", {"vda": tmp_path / "a.qcow2"})
    [one] = host_table.hosts([kvm1], file)
    assert (one.name, one.state, one.problem) == ("kvm1", HostState.UP, "")
    assert one.figures is not None
    assert (one.figures.uuid, one.figures.vms, one.figures.running) == ("uuid-of-kvm1", 1, 0)
    assert one.figures.memory > 0
    assert one.figures.load is not None
    assert one.addresses == ("qemu+ssh://kvm1/system",)
    # It is off: what was known is shown, with its age; also by a process that has never seen it.
    gone = fleet.entry("kvm1", Away())
    never = fleet.entry("kvm2", Away())
    down, unknown = host_table.hosts([gone, never], file)
    assert (down.state, down.figures, down.seen) == (HostState.DOWN, one.figures, one.seen)
    assert "no route to host" in down.problem
    assert (unknown.state, unknown.figures, unknown.seen) == (HostState.DOWN, None, None)
    # Reached by another address it is the same host, by its UUID.
    moved = ConfiguredHost(HostEntry("kvm1", "qemu+ssh://10.0.0.1/system"), lambda _uri: site)
    [again] = host_table.hosts([moved], file)
    assert again.addresses == ("qemu+ssh://10.0.0.1/system", "qemu+ssh://kvm1/system")


def test_a_host_that_hangs_is_waited_for_no_longer_than_the_limit(fleet: Fleet, tmp_path: Path) -> None:
    until = threading.Event()
    [hangs] = host_table.hosts([fleet.entry("kvm2", Away(until))], tmp_path / "hosts.json", limit_s=0.5)
    assert hangs.state is HostState.DOWN
    assert "it did not answer within 0.5 s" in hangs.problem
    until.set()


def test_a_host_that_was_named_is_waited_for_longer(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has just been started, and answers late; whoever waits is told so."""
    monkeypatch.setattr(configured_hosts, "TOLD_FIRST_S", 0.1)
    monkeypatch.setattr(configured_hosts, "TOLD_EVERY_S", 0.1)
    answers = threading.Event()

    class Late(PaperSite):
        @property
        def connection(self) -> Any:
            answers.wait(60)
            return super().connection

    site = Late(tmp_path)
    fleet.made.append(site)
    late = fleet.entry("kvm2", site)
    with pytest.raises(HostUnreachable):
        late.connected(0.2)
    told: list[float] = []

    def tell(seconds: float) -> None:
        told.append(seconds)
        if len(told) == 3:
            answers.set()

    assert late.awaited(tell) is site
    assert len(told) >= 3
    assert told == sorted(told)


def test_a_host_that_refuses_or_stays_silent(fleet: Fleet) -> None:
    told: list[float] = []
    with pytest.raises(HostUnreachable, match="no route to host"):
        fleet.entry("kvm2", Away()).awaited(told.append)
    until = threading.Event()
    silent = fleet.entry("kvm3", Away(until))
    for _ in range(2):  # the second time it is not waited for once more
        with pytest.raises(HostUnreachable, match=r"within 0\.3 s"):
            silent.awaited(told.append, 0.3)
    assert told == []
    until.set()


def test_two_names_of_one_host_are_one_line(fleet: Fleet, tmp_path: Path) -> None:
    first, _ = fleet.host("kvm1", "same")
    second, _ = fleet.host("again", "same")
    other, _ = fleet.host("kvm2")
    found = host_table.hosts([first, second, other], tmp_path / "hosts.json")
    assert [(one.name, one.also) for one in found] == [("kvm1", ("again",)), ("kvm2", ())]
    assert found[0].addresses == ("qemu+ssh://kvm1/system", "qemu+ssh://again/system")


def test_a_cache_that_is_no_cache_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "hosts.json"
    assert known_hosts.read(file) == ()
    listing = HostListing("kvm1", "u", HostState.UP, "", FIGURES, 7.0, ("u",))
    known_hosts.write(file, [listing])
    assert known_hosts.read(file) == (listing,)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["hosts.json"]
    for text in ("", "{", '{"version": 1, "hosts": 7}', '{"version": 2, "hosts": []}'):
        file.write_text(text)
        assert known_hosts.read(file) == ()
    known_hosts.write(Path("/proc/nowhere/hosts.json"), [listing])  # hurts nobody


def test_a_host_that_was_never_seen_takes_over_no_others_figures() -> None:
    known = HostListing("kvm1", "qemu+ssh://kvm1/system", HostState.UP, "", FIGURES, 7.0)
    down = HostListing("kvm2", "qemu+ssh://kvm2/system", HostState.DOWN, "away")
    assert host_listing.with_known(down, [known]) == down
    elsewhere = replace(down, name="kvm1")  # the name leads to another address now
    assert host_listing.with_known(elsewhere, [known]) == elsewhere


def test_a_host_that_was_not_seen_for_long_is_forgotten(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "hosts.json"
    old = HostListing("old", "u", HostState.UP, "", FIGURES, time.time() - 100 * 86400)
    known_hosts.write(file, [old, replace(old, name="recent", seen=time.time() - 86400)])
    host_table.hosts([fleet.host("kvm1")[0]], file)
    assert [one.name for one in known_hosts.read(file)] == ["kvm1", "recent"]


# ------------------------------------------------------------ finding a VM


def test_a_vm_is_found_on_the_host_that_has_it(fleet: Fleet, tmp_path: Path) -> None:
    said: list[str] = []
    (kvm1, one), (kvm2, two) = fleet.host("kvm1"), fleet.host("kvm2")
    one.define("web01", {"vda": tmp_path / "a"})
    two.define("db01", {"vda": tmp_path / "b"})
    hosts = [kvm1, kvm2]
    assert vm_search.host_of(hosts, "web01", said.append) is kvm1
    assert vm_search.host_of(hosts, two.uuid("db01"), said.append) is kvm2
    assert said == []
    with pytest.raises(VmNotFound) as nobody:
        vm_search.host_of(hosts, "web02", said.append)
    assert nobody.value.uri == "the hosts kvm1, kvm2"
    assert "web01" in nobody.value.nearest
    two.define("web01", {"vda": tmp_path / "c"})
    with pytest.raises(VmAmbiguous) as both:
        vm_search.host_of(hosts, "web01", said.append)
    assert both.value.hosts == ("kvm1", "kvm2")
    assert "--host kvm1 or --host kvm2" in both.value.hint


def test_a_host_that_does_not_answer_is_named_and_holds_up_nothing(fleet: Fleet, tmp_path: Path) -> None:
    said: list[str] = []
    kvm1, one = fleet.host("kvm1")
    one.define("web01", {"vda": tmp_path / "a"})
    away = fleet.entry("kvm2", Away())
    assert vm_search.host_of([away, kvm1], "web01", said.append) is kvm1
    assert said == ["host kvm2 could not be asked for web01: libvirt at qemu+ssh://away/system cannot be reached: "
                    "no route to host."]  # fmt: skip
    assert vm_search.host_of([kvm1], "web01", said.append, [away]) is kvm1
    assert len(said) == 1, "nobody has listed it"
    with pytest.raises(HostUnreachable):  # it may have it
        vm_search.host_of([away, kvm1], "nobody", said.append)
    with pytest.raises(VmNotFound) as nobody:
        vm_search.host_of([kvm1], "nobody", said.append, [away])
    assert nobody.value.uri == "the hosts kvm1"
    with pytest.raises(HostUnreachable):
        vm_search.host_of([away], "web01", said.append)


def test_a_host_that_is_listed_twice_makes_no_name_ambiguous(fleet: Fleet, tmp_path: Path) -> None:
    (kvm1, one), (again, two) = fleet.host("kvm1", HOST), fleet.host("again", HOST)
    for site in (one, two):
        site.define("web01", {"vda": tmp_path / "a"})
    assert vm_search.host_of([kvm1, again], "web01", lambda _: None) is kvm1


def test_a_client_searches_only_where_hosts_are_configured_and_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BLOCKFERRY_URI", "BLOCKFERRY_HOST"):
        monkeypatch.delenv(name, raising=False)
    journal = str(tmp_path / "j.db")
    config = Config(hosts=(HostEntry("kvm1", "qemu+ssh://kvm1/system"),), journal=journal)
    assert type(connect(config=config)) is FleetClient
    assert type(connect(config=Config(journal=journal))) is LocalClient
    assert type(connect("qemu:///system", config=config)) is LocalClient
    named = connect(host="kvm1", config=config)
    assert (type(named), named.uri) == (LocalClient, "qemu+ssh://kvm1/system")
    monkeypatch.setenv("BLOCKFERRY_HOST", "kvm1")
    assert type(connect(config=config)) is LocalClient


def test_the_hosts_of_one_client_have_one_journal(tmp_path: Path) -> None:
    """One made by a move on any host is the one in which the client then looks."""
    config = Config(journal=str(tmp_path / "j.db"))
    base = Environment(config)
    other = Environment(replace(config, uri="qemu+ssh://kvm1/system"), base)
    assert base.journal.missing
    made = other.made_journal()
    assert base.journal is other.journal is made
    assert not base.journal.missing
    assert other.uris is base.uris
    other.close()
    assert base.journal.unfinished() == ()
    base.close()


def fleet_client(tmp_path: Path, here: tuple[ConfiguredHost, PaperSite], *others: ConfiguredHost) -> FleetClient:
    """A client whose own host is the first; the others answer from paper, or not at all."""
    client = FleetClient(Config(uri=here[0].uri, journal=str(tmp_path / "j.db")))
    client._env.site.close()
    client._env.site, client._env.hosts = here[1], (here[0], *others)
    return client


def test_the_inventory_of_all_hosts_names_those_that_have_not_answered(fleet: Fleet, tmp_path: Path) -> None:
    kvm1, site = fleet.host("kvm1")
    site.define("web01", {"vda": tmp_path / "a"})
    site.pool("old-san", tmp_path / "old-san")
    client = fleet_client(tmp_path, (kvm1, site), fleet.entry("kvm2", Away()))
    inventory = client._fleet_inventory()
    assert [(vm.host, vm.vm.name) for vm in inventory.vms] == [("kvm1", "web01")]
    assert [(name, type(error)) for name, error in inventory.silent] == [("kvm2", HostUnreachable)]
    assert inventory.place == "the hosts kvm1"
    assert inventory.datastores == client.datastore_names() == ("old-san",)


def test_datastores_and_orphans_of_all_hosts(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    (kvm1, one), (kvm2, two) = fleet.host("kvm1"), fleet.host("kvm2")
    client = fleet_client(tmp_path, (kvm1, one), kvm2, fleet.entry("kvm3", Away()))
    client.listen(said.append)
    monkeypatch.setattr(client._client_at(kvm2)._env, "site", two)
    client._env.made_journal()
    for site, name in ((one, "a"), (two, "b")):
        site.pool(f"pool-{name}", tmp_path / name)
        image = tmp_path / name / "web01.qcow2"
        image.write_bytes(b"x")
        write_marker(
            site.runner, str(image), move="m1", vm="web01", journal=client._env.journal.identity(),
            host=f"uuid-of-kvm{1 if name == 'a' else 2}", made=str(image),
        )  # fmt: skip
    assert [(listing.host, listing.datastore.name) for listing in client.datastores()] == [
        ("kvm1", "pool-a"), ("kvm2", "pool-b"),
    ]  # fmt: skip
    assert [line.partition(":")[0] for line in said] == ["the datastores of host kvm3 are not shown"]
    found = client.orphans()
    assert [(orphan.host, orphan.path) for orphan in found.left] == [
        ("kvm1", f"{tmp_path}/a/web01.qcow2"), ("kvm2", f"{tmp_path}/b/web01.qcow2"),
    ]  # fmt: skip
    assert [sentence.partition(" was")[0] for sentence in found.unsearched] == ["Host kvm3"]
    stays, goes = found.left
    client.remove_orphan(goes, abandoned=True)
    assert not Path(goes.path).exists()
    assert Path(stays.path).exists()


def test_a_vm_that_travels_is_that_of_its_source(fleet: Fleet, tmp_path: Path) -> None:
    (kvm1, one), (kvm2, two), (kvm3, three) = fleet.host("kvm1"), fleet.host("kvm2"), fleet.host("kvm3")
    for site in (one, two):
        site.define("web01", {"vda": tmp_path / "a"})
    client = fleet_client(tmp_path, (kvm1, one), kvm2, kvm3)
    with pytest.raises(VmAmbiguous):
        client._of_vm("web01")
    plan = replace(PLAN, host="uuid-of-kvm2", dest_host="uuid-of-kvm1", uuid=one.uuid("web01"))
    client._env.made_journal()
    client._env.host_moves.add(plan, HostMoveRecord(), "{}", "alice")
    assert client._of_vm("web01").uri == kvm2.uri
    three.define("web01", {"vda": tmp_path / "b"})
    with pytest.raises(VmAmbiguous):  # another VM of that name
        client._of_vm("web01")


def test_whoever_resumes_hears_which_moves_wait_for_a_host(fleet: Fleet, tmp_path: Path) -> None:
    said: list[str] = []
    client = fleet_client(tmp_path, fleet.host("kvm1"), fleet.entry("kvm2", Away()))
    client.listen(said.append)
    assert client.resumable() == ()
    client._env.made_journal()
    away = replace(make_plan("m1", "u1"), vm="web01", uri="qemu+ssh://kvm2/system", host="uuid-of-kvm2")
    client._env.journal.add(away, Record(), "{}", "alice")
    assert client.interrupted() == ()
    assert said == [], "each command asks that"
    with pytest.raises(HostUnreachable):
        client.resumable()
    assert len(said) == 1
    assert said[0].startswith("move m1 of web01 waits for host kvm2: ")
    here = replace(PLAN, move="m2", vm="db01", uuid="u2", disks=(), dest_uri="qemu+ssh://kvm3/system")
    client._env.host_moves.add(here, HostMoveRecord(), "{}", "alice")
    assert [move_summary.id for move_summary in client.resumable()] == ["m2"]
    assert len(said) == 2


@pytest.mark.parametrize("silent", ["source", "destination"])
def test_a_move_between_hosts_waits_for_both(fleet: Fleet, tmp_path: Path, silent: str) -> None:
    """It is not taken up by way of any other host, where it could only wait."""
    said: list[str] = []
    kvm1, site = fleet.host("kvm1")
    kvm3, _ = fleet.host("kvm3")
    client = fleet_client(tmp_path, (kvm1, site), fleet.entry("kvm2", Away()), kvm3)
    client.listen(said.append)
    client._env.made_journal()
    uris = ("qemu+ssh://kvm2/system", kvm1.uri) if silent == "source" else (kvm1.uri, "qemu+ssh://kvm2/system")
    waits = replace(PLAN, vm="web01", uuid="u1", disks=(), state_files=(), uri=uris[0], dest_uri=uris[1])
    goes = replace(PLAN, move="m2", vm="db01", uuid="u2", disks=(), state_files=(), uri=kvm1.uri, dest_uri=kvm3.uri)
    client._env.host_moves.add(waits, HostMoveRecord(), "{}", "alice")
    with pytest.raises(HostUnreachable):
        client.resumable()
    client._env.host_moves.add(goes, HostMoveRecord(), "{}", "alice")
    assert [move_summary.id for move_summary in client.resumable()] == ["m2"]
    assert [line.partition(": ")[0] for line in said] == ["move m1 of web01 waits for host kvm2"] * 2
    named = client._client_at(kvm1)
    assert [move_summary.id for move_summary in named.resumable()] == ["m2"]
    assert client._client_at(kvm3).resumable() == named.resumable()
