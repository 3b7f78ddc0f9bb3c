"""Whom a VM's QEMU runs as, and what that user could not open at a destination. Looks and tries, leaves nothing."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from blockferry.base.errors import BlockferryError
from blockferry.hosts import qemu_process
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import ownership
from blockferry.hosts.host import Host
from blockferry.hosts.inventory import Datastore
from blockferry.hosts.libvirt import security_model
from blockferry.hosts.qemu_user import QemuUser
from blockferry.hosts.runner import Runner
from blockferry.storage_move.destination import placement


def qemu_user(site: Host, name: str, uuid: str) -> QemuUser | None:
    """Who opens the images of a VM: its process's user if it runs, else whom its XML or libvirt names.

    None when it is not known, and for root, whom no directory stops.
    """
    qemu_user = qemu_process.user_of(site.runner, site.uri, name, uuid)
    qemu_user = (
        qemu_user or security_model.vm_user(site.connection, name) or security_model.default_user(site.connection)
    )
    return qemu_user if qemu_user is not None and qemu_user.uid != 0 else None


def out_of_reach(
    runner: Runner, user: QemuUser | None, stores: Iterable[Datastore], vm: str, home: str | None
) -> dict[str, str]:
    """Datastore -> the directory on the way to the VM's new files there that this user cannot pass.

    A new home is made like the old one: so that counts, too. Nothing is said when it cannot be tried.
    """
    usable = [store for store in stores if store.active and store.is_directory and store.path]
    ways = {store.name: (store.path or "", placement.home_directory(store, vm)) for store in usable}
    try:
        tried = [path for paths in ways.values() for path in paths] + ([home] if home else [])
        stopped = ownership.unreachable(runner, user, tried) if user is not None and ways else {}
    except BlockferryError:
        return {}
    found = {}
    for name, paths in ways.items():
        there = next((stopped[path] for path in paths if path in stopped), None)
        if there is None and home in stopped and stopped[home] == home:
            there = home
        if there is not None:
            found[name] = there
    return found


def not_held(runner: Runner, stores: Iterable[Datastore], images: Iterable[str]) -> dict[str, str]:
    """Datastore -> what a file there could not be given of one of these images, a clause."""
    files = [path for path in images if not is_export(path) and posixpath.isabs(path)]
    found = {}
    for store in stores:
        if store.active and store.is_directory and store.path:
            try:
                left = [not_given for path in files for not_given in ownership.cannot_hold(runner, store.path, path)]
            except BlockferryError:
                continue  # other findings say what is wrong with it
            if left:
                found[store.name] = ", ".join(dict.fromkeys(map(str, left)))
    return found
