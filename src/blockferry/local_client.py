"""The client against a libvirt host and a journal of its own: every use case in this process, without a server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blockferry.base import lazy
from blockferry.base.config import Config
from blockferry.base.event import Event
from blockferry.client import AnyMove, AnyRequest, Client
from blockferry.fleet import host_table, known_hosts
from blockferry.fleet.host_listing import HostListing
from blockferry.host_move.host_move_options import entry_of
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.host_move.host_summary import HostCheckResult
from blockferry.hosts.tracking_points import Point
from blockferry.jobs import slow_calls
from blockferry.moves.environment import Environment, acting_user
from blockferry.storage_move.summary import CheckResult, DatastoreListing, Orphan, Orphans, VmListing

if TYPE_CHECKING:
    from blockferry.doctor import effects as doctor_effects
    from blockferry.doctor.preparation_rules import HostPreparation
    from blockferry.doctor.rules import Diagnosis
    from blockferry.leftovers import orphans as leftovers_orphans
    from blockferry.leftovers import quarantine
    from blockferry.leftovers.quarantine_rules import KeptFile, Purged, Restore
    from blockferry.moves import (
        background,
        host_planning,
        host_preparing,
        interrupted,
        kinds,
        listings,
        move_control,
        name_lists,
        storage_planning,
    )
    from blockferry.tracking import effects as tracking_effects
    from blockferry.tracking.rules import Changes, MadePoint, TrackingStatus
else:  # each room when a command asks for something of it: together they take half a second of CPU
    doctor_effects = lazy.module("blockferry.doctor.effects")
    leftovers_orphans = lazy.module("blockferry.leftovers.orphans")
    quarantine = lazy.module("blockferry.leftovers.quarantine")
    background = lazy.module("blockferry.moves.background")
    host_planning = lazy.module("blockferry.moves.host_planning")
    host_preparing = lazy.module("blockferry.moves.host_preparing")
    interrupted = lazy.module("blockferry.moves.interrupted")
    kinds = lazy.module("blockferry.moves.kinds")
    listings = lazy.module("blockferry.moves.listings")
    move_control = lazy.module("blockferry.moves.move_control")
    name_lists = lazy.module("blockferry.moves.name_lists")
    storage_planning = lazy.module("blockferry.moves.storage_planning")
    tracking_effects = lazy.module("blockferry.tracking.effects")


class LocalClient(Client):
    """What `blockferry.client.connect` returns. Each method hands over to the module of its subject."""

    def __init__(self, config: Config, env: Environment | None = None) -> None:
        """Opens nothing yet. `env`: one that is there already. Raises UsageError for a URI that cannot be used."""
        self._env = env or Environment(config)
        self._others: dict[str, LocalClient] = {}

    @property
    def uri(self) -> str:
        return self._env.uri

    @property
    def config(self) -> Config:
        return self._env.config

    @property
    def missing_journal(self) -> str | None:
        journal = self._env.journal
        return journal.name if journal.missing else None

    def listen(self, say: Callable[[str], None]) -> None:
        self._env.say = say

    def close(self) -> None:
        for client in self._others.values():
            client.close()
        self._env.close()

    def _at_host(self, name: str) -> LocalClient:
        uri = entry_of(self._env.config, name).uri
        if uri == self._env.uri:
            return self
        if uri not in self._others:
            env = Environment(replace(self._env.config, uri=uri), self._env)
            env.say = self._env.say
            self._others[uri] = LocalClient(env.config, env)
        return self._others[uri]

    def _asking(self) -> contextlib.AbstractContextManager[None]:
        """Begin to reach the host; while it is open, whoever listens is told what libvirt is waited for."""
        self._env.site.prepare()
        return slow_calls.telling(self._env.site.slowest_call, self._env.say)

    # ------------------------------------------------------------ looking

    def hosts(self) -> tuple[HostListing, ...]:
        return host_table.hosts(self._env.hosts or (self._env.own,), known_hosts.default_file())

    def vms(self) -> tuple[VmListing, ...]:
        with self._asking():
            return listings.vms(self._env)

    def datastores(self) -> tuple[DatastoreListing, ...]:
        with self._asking():
            return listings.datastores(self._env)

    def vm_names(self) -> tuple[str, ...]:
        return name_lists.vm_names(self._env)

    def datastore_names(self) -> tuple[str, ...]:
        return name_lists.datastore_names(self._env)

    def disk_names(self, vm: str) -> tuple[str, ...]:
        return name_lists.disk_names(self._env, vm)

    def diagnose(self) -> Diagnosis:
        self._env.site.runner.prepare()  # while libvirt is connected to
        return doctor_effects.diagnose(self._env.site, lambda: self._env.journal)

    def prepare_host(self, name: str) -> HostPreparation:
        return host_preparing.prepare(self._env, name)

    # ------------------------------------------------------------ moving

    def _check(self, request: AnyRequest) -> CheckResult | HostCheckResult:
        with self._asking():
            if isinstance(request, HostMoveRequest):
                return host_planning.check(self._env, request)
            return storage_planning.check(self._env, request)

    def _plan(self, request: AnyRequest) -> AnyMove:
        with self._asking():
            if isinstance(request, HostMoveRequest):
                return host_planning.move(self._env, request)
            # What the move is written into and run with, while the host is looked at.
            lazy.preload("blockferry.storage_move.move_journal", "blockferry.moves.run_storage_move")
            return storage_planning.move(self._env, request)

    def _find(self, name: str | None) -> AnyMove:
        return self._env.readable_moves.find(name)

    def moves(self) -> tuple[AnyMove, ...]:
        return self._env.readable_moves.unfinished()

    def history(self, limit: int = 20) -> tuple[AnyMove, ...]:
        return self._env.readable_moves.finished(limit)

    def show(self, move: str) -> tuple[AnyMove, tuple[Event, ...]]:
        summary = self._env.every_move.get(move)
        return summary, self._env.journal.events(summary.id)

    def start(self, move: str) -> bool:
        return background.start(self._env, move)

    def run(self, move: str, on_change: Callable[[Any], None], stop: threading.Event | None = None) -> AnyMove:
        # What Ctrl-C and a closed terminal need: hours later there may be the files of an upgrade in its place.
        lazy.preload("blockferry.moves.background", "blockferry.moves.move_control")
        move_summary = self._env.every_move.get(move)
        return kinds.of(move_summary).run(self._env, move_summary, on_change, stop or threading.Event())

    def cancel(self, move: str, *, here: bool = False) -> AnyMove:
        return move_control.cancel(self._env, move, here=here)

    def _set_speed(self, move: str, bandwidth: int) -> AnyMove:
        return move_control.set_speed(self._env, move, bandwidth)

    def interrupted(self) -> tuple[AnyMove, ...]:
        with slow_calls.telling(self._env.site.slowest_call, self._env.say):
            return interrupted.interrupted_moves(self._env)

    def resumable(self, move: str | None = None) -> tuple[AnyMove, ...]:
        return interrupted.resumable(self._env, move)

    # ------------------------------------------------------------ leftovers

    def orphans(self) -> Orphans:
        return leftovers_orphans.find(self._env.site, self._env.journal)

    def remove_orphan(self, orphan_: Orphan, *, abandoned: bool = False) -> str:
        return leftovers_orphans.remove(self._env.site, self._env.journal, orphan_, abandoned=abandoned)

    def quarantine(self) -> tuple[KeptFile, ...]:
        return quarantine.listing(self._env.site, self._env.journal)

    def purge(self, paths: Sequence[str] = (), *, now: bool = False) -> tuple[Purged, ...]:
        return quarantine.purge(self._env.site, self._env.journal, paths, now=now)

    def restorable(self, vm_or_path: str, *, compare: bool | None = None) -> Restore:
        return quarantine.restorable(self._env.site, self._env.journal, vm_or_path, compare=compare)

    def restore(self, agreed: Restore) -> tuple[str, ...]:
        return quarantine.restore(self._env.site, self._env.journal, agreed, acting_user())

    # ------------------------------------------------------------ changed blocks

    def tracking(self, vm: str) -> TrackingStatus:
        return tracking_effects.status(self._env.site, vm)

    def enable_tracking(self, vm: str, disks: Sequence[str] = ()) -> MadePoint:
        return tracking_effects.enable(self._env.site, vm, disks, storage_planning.move_under_way(self._env, vm))

    def make_point(
        self, vm: str, disks: Sequence[str] = (), *, name: str | None = None, keep: int | None = None
    ) -> Point:
        return tracking_effects.make(
            self._env.site, vm, disks, name, keep, storage_planning.move_under_way(self._env, vm)
        )

    def drop_points(self, vm: str, ids: Sequence[str] = (), *, everything: bool = False) -> tuple[str, ...]:
        return tracking_effects.drop(
            self._env.site, vm, ids, everything=everything, moving=storage_planning.move_under_way(self._env, vm)
        )

    def changes(
        self,
        vm: str,
        since: str,
        disks: Sequence[str] = (),
        *,
        mark: str | None = None,
        keep: int | None = None,
        accept_power_cycles: bool = False,
    ) -> Changes:
        return tracking_effects.ask(
            self._env.site,
            vm,
            since,
            disks,
            mark=mark,
            keep=keep,
            power_cycles=accept_power_cycles,
            moving=storage_planning.move_under_way(self._env, vm),
        )
