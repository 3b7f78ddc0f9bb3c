"""The hosts of a move to another host are found again by their UUIDs, whatever URI the move was planned with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from paper_host import PaperSite
from test_fleet import Away, Fleet, fleet

from blockferry.base.config import Config
from blockferry.base.errors import HostUnreachable, OtherHost
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.moves import host_finding
from blockferry.moves.environment import Environment

__all__ = ["fleet"]

PLANNED = "qemu+ssh://kvm1/system"
UUID = "uuid-of-kvm1"


@pytest.fixture
def env(tmp_path: Path) -> Callable[..., Environment]:
    """An environment whose own host is `site`, with these configured hosts."""

    def make(site: PaperSite, *hosts: ConfiguredHost, uri: str = "qemu:///system") -> Environment:
        made = Environment(Config(uri=uri, journal=f"sqlite:///{tmp_path}/journal.db"))
        site.uri = uri
        made.site, made.hosts = site, hosts
        return made

    return make


def find(env: Environment, planned: str = PLANNED) -> str:
    return host_finding.uri_of(env, "m1", "web01", UUID, "kvm1", planned)


def test_a_planned_uri_that_leads_there_is_used(env: Callable[..., Environment], fleet: Fleet) -> None:
    kvm1, _ = fleet.host("kvm1")
    _, own = fleet.host("desk")
    assert find(env(own, kvm1)) == kvm1.uri == PLANNED


def test_our_own_host_is_not_asked_twice(env: Callable[..., Environment], fleet: Fleet) -> None:
    _, own = fleet.host("desk", UUID)
    assert find(env(own, uri=PLANNED)) == PLANNED


def test_it_is_found_by_another_name(env: Callable[..., Environment], fleet: Fleet) -> None:
    """The planned URI leads to another machine by now, as `qemu:///system` does on each."""
    _, own = fleet.host("desk")
    other, _ = fleet.host("other")
    moved, _ = fleet.host("moved", UUID)
    assert find(env(own, other, moved), "qemu:///system") == moved.uri


def test_our_own_host_may_be_the_one(env: Callable[..., Environment], fleet: Fleet) -> None:
    _, own = fleet.host("desk", UUID)
    strange, _ = fleet.host("kvm1", "uuid-of-a-new-machine")
    assert find(env(own, strange)) == "qemu:///system"


def test_one_that_is_away_is_waited_for_under_the_planned_uri(env: Callable[..., Environment], fleet: Fleet) -> None:
    _, own = fleet.host("desk")
    away = fleet.entry("kvm1", Away())
    assert find(env(own, away)) == PLANNED


def test_one_that_nobody_knows_is_refused_and_the_silent_are_named(
    env: Callable[..., Environment], fleet: Fleet
) -> None:
    _, own = fleet.host("desk")
    away = fleet.entry("kvm9", Away())
    with pytest.raises(OtherHost, match=r"no configured host is; kvm9 does not answer") as caught:
        find(env(own, away), "qemu:///system")
    assert UUID in str(caught.value)
    assert not isinstance(caught.value, HostUnreachable)
