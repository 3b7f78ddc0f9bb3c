"""The client where hosts are configured and none was named: a VM is found on whichever host has it.

What is not about a VM or a move goes to the host of the configuration's `uri`, as without configured hosts.
"""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from blockferry.base.config import Config
from blockferry.base.errors import BlockferryError, HostUnreachable, UsageError, VmAmbiguous
from blockferry.client import AnyMove, AnyRequest
from blockferry.fleet import vm_search
from blockferry.fleet.fleet_inventory import FleetInventory
from blockferry.host_move.host_move_options import entry_of
from blockferry.host_move.host_summary import HostCheckResult, HostMoveSummary
from blockferry.hosts import file_identity
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.hosts.tracking_points import Point
from blockferry.leftovers.quarantine_rules import KeptFile, Purged, Restore
from blockferry.local_client import LocalClient
from blockferry.moves import interrupted
from blockferry.moves.environment import Environment
from blockferry.storage_move.summary import CheckResult, DatastoreListing, Orphan, Orphans, VmListing
from blockferry.tracking.rules import Changes, MadePoint, TrackingStatus


def _uris(move_summary: AnyMove) -> tuple[str, ...]:
    """The hosts without which nothing can be done of a move, as its plan names them."""
    if isinstance(move_summary, HostMoveSummary):
        return move_summary.plan.uri, move_summary.plan.dest_uri
    return (move_summary.plan.uri,)


class FleetClient(LocalClient):
    """What `blockferry.client.connect` returns where the configuration lists hosts and nobody named one."""

    def __init__(self, config: Config) -> None:
        """Opens nothing yet. Raises UsageError for a URI that cannot be used."""
        super().__init__(config)
        self._clients: dict[str, LocalClient] = {}
        self._clients_lock = threading.Lock()
        self._planned: dict[str, LocalClient] = {}
        self._restoring: tuple[Restore, LocalClient] | None = None

    def listen(self, say: Callable[[str], None]) -> None:
        """See Client."""
        super().listen(say)
        for client in self._made():
            client.listen(say)

    def close(self) -> None:
        """See Client."""
        for client in self._made():
            client.close()
        super().close()

    # ------------------------------------------------------------ which host

    def _made(self) -> tuple[LocalClient, ...]:
        with self._clients_lock:
            return tuple(self._clients.values())

    def _here(self) -> LocalClient:
        """The client of the configuration's own `uri`."""
        return LocalClient(self._env.config, self._env)

    def _listed(self, uri: str) -> ConfiguredHost | None:
        return next((host for host in self._env.hosts if host.uri == uri), None)

    def _own(self) -> tuple[ConfiguredHost, ...]:
        """The host of the configuration's own `uri`, which a user need not list; () when it is listed."""
        return (self._env.own,) if self._listed(self._env.uri) is None else ()

    def _client_at(self, configured_host: ConfiguredHost) -> LocalClient:
        """The client of one host, made once. Raises HostUnreachable, UsageError."""
        if configured_host.uri == self._env.uri:
            return self._here()
        with self._clients_lock:
            if configured_host.uri not in self._clients:
                env = Environment(replace(self._env.config, uri=configured_host.uri), self._env)
                env.say = self._env.say
                self._clients[configured_host.uri] = LocalClient(env.config, env)
            return self._clients[configured_host.uri]

    def _at_host(self, name: str) -> LocalClient:
        uri = entry_of(self._env.config, name).uri
        configured_host = self._listed(uri)
        if configured_host is not None:
            return self._client_at(configured_host)
        return self._here() if uri == self._env.uri else super()._at_host(name)

    def _of_vm(self, vm: str) -> LocalClient:
        """The client of the host that has this VM. Raises VmNotFound, VmAmbiguous, HostUnreachable."""
        try:
            return self._client_at(vm_search.host_of(self._env.hosts, vm, self._env.say, self._own()))
        except VmAmbiguous as error:
            source = self._source_of(vm, error.hosts)
            if source is None:
                raise
            return self._client_at(source)

    def _source_of(self, vm: str, names: Sequence[str]) -> ConfiguredHost | None:
        """The source of the move that leads this VM from one of these hosts to the other; None when there is none.

        A VM that travels is on both while its memory goes.
        """
        if self._env.nothing_under_way():
            return None
        hosts = {host.connected().connection.host_id(): host for host in self._every() if host.name in names}
        for move_summary in self._env.every_move.unfinished():
            if not isinstance(move_summary, HostMoveSummary):
                continue
            if vm != move_summary.plan.vm and vm.lower() != move_summary.plan.uuid.lower():
                continue
            if set(hosts) == {move_summary.plan.host, move_summary.plan.dest_host}:
                return hosts[move_summary.plan.host]
        return None

    def _of_plan(self, summary: AnyMove) -> LocalClient:
        """The client of the host that a move belongs to, as far as its URI tells; who runs it asks for the UUID."""
        configured_host = self._listed(summary.plan.uri)
        return self._here() if configured_host is None else self._client_at(configured_host)

    def _of_move(self, move: str) -> LocalClient:
        """The client of the host of a move; of one that was planned here also while the journal is away."""
        return self._planned.get(move) or self._of_plan(self._env.every_move.get(move))

    # ------------------------------------------------------------ looking

    def vms(self) -> tuple[VmListing, ...]:
        """See Client. A host that does not answer is told to whoever listens."""
        answers = vm_search.ask_all(self._every(), lambda host, _site: self._client_at(host).vms())
        self._tell_silent(answers, "the VMs of host {host} are not shown")
        return tuple(replace(vm, host=answer.one.name) for answer in answers for vm in answer.value or ())

    def datastores(self) -> tuple[DatastoreListing, ...]:
        """See Client. One that several hosts have is told by each; a host that does not answer, to whoever listens."""
        answers = vm_search.ask_all(self._every(), lambda host, _site: self._client_at(host).datastores())
        self._tell_silent(answers, "the datastores of host {host} are not shown")
        return tuple(replace(store, host=answer.one.name) for answer in answers for store in answer.value or ())

    def _fleet_inventory(self) -> FleetInventory:
        def ask(host: ConfiguredHost, site: Host) -> tuple[tuple[VmListing, ...], tuple[str, ...]]:
            return self._client_at(host).vms(), pools.names(site.connection)

        answers = vm_search.ask_all(self._every(), ask)
        silent = self._silent(answers)
        told = [(answer.one.name, *answer.value) for answer in answers if answer.value is not None]
        return FleetInventory(
            tuple(replace(vm, host=name) for name, vms, _ in told for vm in vms),
            tuple(dict.fromkeys(store for _, _, stores in told for store in stores)),
            "the hosts " + ", ".join(name for name, _, _ in told),
            tuple((host.name, error) for host, error in silent),
        )

    def _every(self) -> tuple[ConfiguredHost, ...]:
        return (*self._env.hosts, *self._own())

    def _tell_silent(self, answers: Sequence[vm_search.Answer[Any]], what: str) -> None:
        """Tell whoever listens which hosts have not answered. Raises what the first has met when none has answered."""
        for host, error in self._silent(answers):
            self._env.say(f"{what.format(host=host.name)}: {error.sentence}")

    def _silent(self, answers: Sequence[vm_search.Answer[Any]]) -> list[tuple[ConfiguredHost, BlockferryError]]:
        """The listed hosts that have not answered, and why. Raises what the first has met when none has answered."""
        errors = [(answer.one, answer.error) for answer in answers if answer.error is not None]
        if errors and len(errors) == len(answers):
            raise errors[0][1]
        # One that is not listed is only the default, and there is no libvirt here.
        return [(host, error) for host, error in errors if host in self._env.hosts]

    def vm_names(self) -> tuple[str, ...]:
        """See Client."""
        answers = vm_search.ask_all(self._every(), lambda _host, site: domain_list.names(site.connection))
        return tuple(dict.fromkeys(name for answer in answers for name in answer.value or ()))

    def datastore_names(self) -> tuple[str, ...]:
        """See Client."""
        answers = vm_search.ask_all(self._every(), lambda _host, site: pools.names(site.connection))
        return tuple(dict.fromkeys(name for answer in answers for name in answer.value or ()))

    def disk_names(self, vm: str) -> tuple[str, ...]:
        """See Client."""
        return self._of_vm(vm).disk_names(vm)

    # ------------------------------------------------------------ moving

    def _check(self, request: AnyRequest) -> CheckResult | HostCheckResult:
        return self._of_vm(request.vm)._check(request)

    def _plan(self, request: AnyRequest) -> AnyMove:
        client = self._of_vm(request.vm)
        summary = client._plan(request)
        self._planned[summary.id] = client
        return summary

    def start(self, move: str) -> bool:
        """See Client."""
        return self._of_move(move).start(move)

    def run(self, move: str, on_change: Callable[[Any], None], stop: threading.Event | None = None) -> AnyMove:
        """See Client."""
        return self._of_move(move).run(move, on_change, stop)

    def cancel(self, move: str, *, here: bool = False) -> AnyMove:
        """See Client."""
        return self._of_move(move).cancel(move, here=here)

    def interrupted(self) -> tuple[AnyMove, ...]:
        """See Client. Of all configured hosts; only those with a move that nobody runs are asked."""
        return self._each_host(lambda client: client.interrupted())[0]

    def resumable(self, move: str | None = None) -> tuple[AnyMove, ...]:
        """See Client. Moves whose host does not answer are told to whoever listens.

        Raises what their host has met when there are no others.
        """
        if move is not None:
            return self._of_move(move).resumable(move)
        summaries, waiting = self._each_host(lambda client: interrupted.left_here(client._env))
        for move_summary, host, error in waiting:
            interrupted.tell_waiting(self._env, move_summary, host.name, error)
        if waiting and not summaries:
            raise waiting[0][2]
        return summaries

    def _each_host(
        self, ask: Callable[[LocalClient], Sequence[AnyMove]]
    ) -> tuple[tuple[AnyMove, ...], list[tuple[AnyMove, ConfiguredHost, BlockferryError]]]:
        """Moves that nobody runs, each told by its own host; and those whose host does not answer, with its error."""
        if self._env.nothing_under_way():  # each command asks: most need no journal for it
            return (), []
        left = [move_summary for move_summary in self._env.every_move.unfinished() if not move_summary.owner_alive]
        silent: dict[str, tuple[ConfiguredHost, BlockferryError]] = {}
        for uri in dict.fromkeys(uri for move_summary in left for uri in _uris(move_summary)):
            host = self._listed(uri)
            if host is not None:
                try:
                    host.connected()
                except BlockferryError as error:
                    silent[uri] = (host, error)
        waits = {move_summary.id: silent[uri] for move_summary in left for uri in _uris(move_summary) if uri in silent}
        told: dict[str, AnyMove] = {}
        for uri in dict.fromkeys(move_summary.plan.uri for move_summary in left if move_summary.id not in waits):
            host = self._listed(uri)
            client = self._here() if host is None else self._client_at(host)
            told.update({one.id: one for one in ask(client) if one.id not in waits})
        waiting = [
            (move_summary, *waits[move_summary.id])
            for move_summary in left
            if move_summary.id in waits and move_summary.parked is None
        ]
        return tuple(sorted(told.values(), key=lambda move_summary: (move_summary.created, move_summary.id))), waiting

    # ------------------------------------------------------------ leftovers, changed blocks

    def orphans(self) -> Orphans:
        """See Client: of all configured hosts, each with the name of its host; a file that several have, once."""

        def ask(host: ConfiguredHost, site: Host) -> tuple[Orphans, dict[str, FileId]]:
            found = self._client_at(host).orphans()
            paths = [orphan.path for orphan in found.left if orphan.path.startswith("/")]
            return found, file_identity.files_at(site.runner, site.connection.host_id(), paths)

        answers = vm_search.ask_all(self._every(), ask)
        unsearched = [
            f"Host {host.name} was not searched for what moves left: {error.sentence}"
            for host, error in self._silent(answers)
        ]
        left: dict[tuple[str, FileId | str], Orphan] = {}
        for answer in answers:
            if answer.value is None:
                continue
            found, files = answer.value
            unsearched += [f"{answer.one.name}: {sentence}" for sentence in found.unsearched]
            for orphan in found.left:
                file = files.get(orphan.path)
                shared = file is not None and file.shared
                key = ("", file) if file is not None and shared else (answer.one.name, orphan.path)
                before = left.get(key)
                if before is None or (before.removable and not orphan.removable):  # what one host doubts stays
                    left[key] = replace(orphan, host=answer.one.name)
        return Orphans(tuple(left.values()), tuple(unsearched))

    def remove_orphan(self, orphan_: Orphan, *, abandoned: bool = False) -> str:
        """See Client: on the host on which it was found."""
        if not orphan_.host:
            return self._here().remove_orphan(orphan_, abandoned=abandoned)
        host = next((host for host in self._every() if host.name == orphan_.host), None)
        if host is None:
            raise UsageError(f"No configured host is named {orphan_.host}. Nothing was removed.")
        return self._client_at(host).remove_orphan(orphan_, abandoned=abandoned)

    def quarantine(self) -> tuple[KeptFile, ...]:
        """See Client: of all configured hosts, each with the name of its host."""
        answers = vm_search.ask_all(self._every(), lambda host, _site: self._client_at(host).quarantine())
        self._tell_silent(answers, "what is kept on host {host} is not shown")
        return tuple(replace(file, host=answer.one.name) for answer in answers for file in answer.value or ())

    def purge(self, paths: Sequence[str] = (), *, now: bool = False) -> tuple[Purged, ...]:
        """See Client. A path goes on the host that keeps it; one that several keep is refused."""
        answers = vm_search.ask_all(self._every(), lambda _host, _site: None)
        self._tell_silent(answers, "what is kept on host {host} stays")
        clients = {answer.uuid: self._client_at(answer.one) for answer in answers if answer.error is None}
        if not paths:
            return tuple(purged for client in clients.values() for purged in client.purge((), now=now))
        keeping: dict[str, set[str]] = {}
        for row in self._env.journal.kept_sources():
            keeping.setdefault(posixpath.normpath(row.path), set()).add(row.host)
        chosen: dict[str, list[str]] = {}
        for path in dict.fromkeys(paths):
            hosts = keeping.get(posixpath.normpath(path), set())
            if len(hosts) > 1:
                raise UsageError(
                    f"Several hosts keep {path}.", "Name the host: `blockferry --host HOST quarantine ...`."
                )
            uuid = next(iter(hosts), "")
            if uuid and uuid not in clients:
                raise HostUnreachable(uuid, f"it keeps {path}, and no configured host that answers is it")
            chosen.setdefault(uuid, []).append(path)
        done: list[Purged] = []
        for uuid, of_host in chosen.items():
            done += (clients[uuid] if uuid else self._here()).purge(of_host, now=now)
        return tuple(done)

    def restorable(self, vm_or_path: str, *, compare: bool | None = None) -> Restore:
        """See Client. A path is one of the host of the configuration's `uri`."""
        client = self._here() if "/" in vm_or_path else self._of_vm(vm_or_path)
        agreed = client.restorable(vm_or_path, compare=compare)
        self._restoring = (agreed, client)
        return agreed

    def restore(self, agreed: Restore) -> tuple[str, ...]:
        """See Client."""
        if self._restoring is not None and self._restoring[0] is agreed:
            return self._restoring[1].restore(agreed)
        return super().restore(agreed)

    def tracking(self, vm: str) -> TrackingStatus:
        """See Client."""
        return self._of_vm(vm).tracking(vm)

    def enable_tracking(self, vm: str, disks: Sequence[str] = ()) -> MadePoint:
        """See Client."""
        return self._of_vm(vm).enable_tracking(vm, disks)

    def make_point(
        self, vm: str, disks: Sequence[str] = (), *, name: str | None = None, keep: int | None = None
    ) -> Point:
        """See Client."""
        return self._of_vm(vm).make_point(vm, disks, name=name, keep=keep)

    def drop_points(self, vm: str, ids: Sequence[str] = (), *, everything: bool = False) -> tuple[str, ...]:
        """See Client."""
        return self._of_vm(vm).drop_points(vm, ids, everything=everything)

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
        """See Client."""
        return self._of_vm(vm).changes(vm, since, disks, mark=mark, keep=keep, accept_power_cycles=accept_power_cycles)
