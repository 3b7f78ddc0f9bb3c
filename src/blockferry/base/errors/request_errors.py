"""What was asked for makes no sense or does not exist: words, names, the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.errors.error import BlockferryError, suggest


@dataclass(eq=False, repr=False)
class UsageError(BlockferryError):
    """The request itself makes no sense (an unknown disk, two answers to one question). Nothing was touched."""

    code = "USAGE"
    exit_status = 2
    sentence_form = "{problem}"
    hint_form = "{remedy}"
    problem: str
    remedy: str = ""


@dataclass(eq=False, repr=False)
class ConfigInvalid(BlockferryError):
    """The configuration file cannot be read or holds a value that makes no sense. Nothing was touched."""

    code = "CONFIG_INVALID"
    exit_status = 2
    sentence_form = "The configuration file {path} is not usable: {problem}."
    hint_form = "Correct it, or move it away to go on with the defaults."
    path: str
    problem: str


@dataclass(eq=False, repr=False)
class VmNotFound(BlockferryError):
    """No VM (libvirt domain) of that name or UUID on this host. Nothing was touched."""

    code = "VM_NOT_FOUND"
    exit_status = 3
    sentence_form = "There is no VM named {vm} on {uri}."
    vm: str
    uri: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return suggest(self.nearest) + "`blockferry vms` lists all VMs."


@dataclass(eq=False, repr=False)
class VmAmbiguous(BlockferryError):
    """Several of the configured hosts have a VM of that name. Nothing was touched.

    Say which host is meant with --host. A VM that was migrated may still be defined on the host that it came from.
    """

    code = "VM_AMBIGUOUS"
    exit_status = 3
    sentence_form = "Several hosts have a VM named {vm}."
    vm: str
    hosts: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return f"Say which one is meant: {' or '.join(f'--host {name}' for name in self.hosts)}."


@dataclass(eq=False, repr=False)
class DatastoreNotFound(BlockferryError):
    """No datastore (libvirt storage pool) of that name on this host. Nothing was touched."""

    code = "DATASTORE_NOT_FOUND"
    exit_status = 3
    sentence_form = "There is no datastore (storage pool) named {datastore} on {uri}."
    datastore: str
    uri: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return suggest(self.nearest) + "`blockferry datastores` lists all datastores."


@dataclass(eq=False, repr=False)
class DiskNotFound(BlockferryError):
    """The VM has no disk of that target name (`vda`, `sdb`). Nothing was touched."""

    code = "DISK_NOT_FOUND"
    exit_status = 3
    sentence_form = "VM {vm} has no disk {disk}."
    vm: str
    disk: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return suggest(self.nearest) + "`blockferry vms` shows each VM's disks."


@dataclass(eq=False, repr=False)
class HostNotConfigured(BlockferryError):
    """The configuration lists no host of that name. Nothing was touched.

    Hosts are listed in blockferry.toml: `hosts = ["kvm1", "kvm2"]` (docs/configuration.md).
    """

    code = "HOST_NOT_CONFIGURED"
    exit_status = 3
    sentence_form = "There is no host named {host} in the configuration; it lists: {configured}."
    host: str
    configured: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return suggest(self.nearest) + 'Hosts are listed in blockferry.toml: hosts = ["kvm1", "kvm2"].'


@dataclass(eq=False, repr=False)
class MoveNotFound(BlockferryError):
    """The journal holds no move with that id (or with an id that starts so). Nothing was touched."""

    code = "MOVE_NOT_FOUND"
    exit_status = 3
    sentence_form = "There is no move {move} in the journal {journal}."
    move: str
    journal: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return suggest(self.nearest) + "`blockferry moves` and `blockferry history` list them."


@dataclass(eq=False, repr=False)
class CodeNotFound(BlockferryError):
    """`explain` was asked for a code that does not exist."""

    code = "CODE_NOT_FOUND"
    exit_status = 3
    sentence_form = "There is no code {asked}."
    asked: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return suggest(self.nearest) + "`blockferry explain` without a code lists all."
