"""Looking over a host that is to take VMs, among the configured ones."""

from __future__ import annotations

from blockferry.base import host_entries
from blockferry.base.host_entries import HostEntry
from blockferry.doctor import preparation
from blockferry.doctor.preparation_rules import HostPreparation
from blockferry.host_move.host_move_options import entry_of
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.host import Host
from blockferry.moves.environment import Environment


def prepare(env: Environment, name: str) -> HostPreparation:
    """Look over the host `name` and the ways between it and every configured host; without any, our own.

    Raises UsageError for what can be no host.
    """
    entry = entry_of(env.config, name)
    others = [other for other in env.config.hosts if other.uri != entry.uri]
    if not others and env.uri != entry.uri:
        others = [host_entries.entry_of(env.uri)]
    opened: dict[str, ConfiguredHost] = {host.uri: host for host in env.hosts}
    extra: list[ConfiguredHost] = []

    def connect(wanted: HostEntry) -> Host:
        if wanted.uri not in opened:
            opened[wanted.uri] = ConfiguredHost(wanted, Host)
            extra.append(opened[wanted.uri])
        return opened[wanted.uri].connected()

    try:
        return preparation.prepare(entry, connect, others, require_tls=env.config.require_tls)
    finally:
        for host in extra:
            host.close()
