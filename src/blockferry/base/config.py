"""Configuration: all of it optional, with defaults that need none.

TOML files, the later over the earlier: /etc/blockferry/blockferry.toml, then the user's (or only the one named by
BLOCKFERRY_CONFIG); beside each a config.toml, as it was called first, is read before it. Environment over files:
BLOCKFERRY_HOST or BLOCKFERRY_URI, LIBVIRT_DEFAULT_URI, BLOCKFERRY_JOURNAL, BLOCKFERRY_LOG.

    hosts = ["local", "kvm1", "qemu+ssh://root@kvm2/system"]  # or tables: [hosts.kvm2] with uri = "..."
    # and, for VMs that go there: address = "10.0.0.2" (of its migration network), peer_uri = "qemu+ssh://kvm2/system"
    uri = "qemu+ssh://kvm2/system"
    journal = "sqlite:////var/lib/blockferry/journal.db"   # or "postgresql+psycopg://manager@db/blockferry"
    method = "mirror"                                      # auto, mirror, changed-blocks, snapshot, cold
    bandwidth = "200MiB/s"                                 # with its unit; 0: no limit
    keep_source = "7d"                                     # or true (for ever), false (removed when proven unneeded)
    use_kept = true                                        # write only what differs into a kept old disk
    trim = true                                            # where the guest can; --trim insists
    guest_latency = "20ms"                                 # p99 of the guest's writes; or guest_slowdown = "1.5x"
    if_not_converging = "wait"                             # auto, mirror, throttle, wait, stop
    copy_buffer = "16MiB"                                  # what QEMU copies in one go; left out: 1 MiB (docs/pace.md)
    hang_limit = "5s"                                      # cut a destination off that hangs for longer; or "never"
    fence = "/usr/local/sbin/cut-nfs {mount}"              # how: "auto", "off", or a program; it is also given {device}
    log_file = "/var/log/blockferry/blockferry.log"             # of workers in the background; or "off"
    suspended_start = true                                 # see docs; left out: as the host's QEMU needs it
    tls = "off"                                            # to another host; "auto": where both have certificates
    require_tls = true                                     # refuse to send a guest's memory and disks in plain
"""

from __future__ import annotations

import math
import os
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from blockferry.base import host_entries, units
from blockferry.base.errors import ConfigInvalid, HostNotConfigured, UsageError, nearest
from blockferry.base.host_entries import HostEntry

SYSTEM_FILE = Path("/etc/blockferry/blockferry.toml")
OLD_NAME = "config.toml"
"""What the file was called first. It is read where it is there, before the one of today's name."""

METHODS = ("auto", "mirror", "changed-blocks", "snapshot", "clone", "cold")
"""Values of storage_move.request.Method, which lies above this layer; a test holds them together."""

TLS = ("auto", "off")
"""Whether memory and disks go to another host encrypted: where both have certificates, or never."""

COMPRESSION = ("xbzrle", "zlib", "zstd")
"""Of a guest's memory on its way to another host. libvirt's `mt` is left out: QEMU gave it up as unreliable in 8.2."""

MOST_CHANNELS = 64
"""Connections for the memory; each is a thread of QEMU's on both sides."""

POLICIES = ("auto", "mirror", "throttle", "wait", "stop")
"""The same of storage_move.request.IfNotConverging."""


SYSTEM_JOURNAL = Path("/var/lib/blockferry/journal.db")
"""Root's journal when none is configured."""


def default_journal() -> str:
    """The journal's URL when none is configured: one for the machine as root, one for the user otherwise."""
    if os.geteuid() == 0:
        return f"sqlite:///{SYSTEM_JOURNAL}"
    return f"sqlite:///{platformdirs.user_state_path('blockferry') / 'journal.db'}"


def hidden_journal(journal: str) -> Path | None:
    """Root's journal, when this user may not read it and `journal` (a URL) is only the default of the user's own.

    Its directory belongs to root with mode 0700, so that a user sees the directory and not the file in it.
    """
    if os.geteuid() == 0 or journal != default_journal() or os.access(SYSTEM_JOURNAL, os.R_OK):
        return None
    return SYSTEM_JOURNAL if SYSTEM_JOURNAL.parent.is_dir() else None


def journal_url(text: str) -> str:
    """A journal as people write it, as a URL that means the same from any directory: a plain path is SQLite's."""
    scheme, separator, rest = text.partition(":///")
    if not separator and "://" not in text:
        scheme, rest = "sqlite", text
    if scheme.partition("+")[0] != "sqlite" or not rest or rest.startswith((":", "file:")):
        return text
    return f"{scheme}:///{Path(rest).expanduser().absolute()}"


@dataclass(frozen=True, slots=True)
class Config:
    """What can be configured. `method`, `bandwidth` and `keep_source_s` are what a request leaves out."""

    uri: str = "qemu:///system"
    hosts: tuple[HostEntry, ...] = ()  # every host that may reach the same datastores
    journal: str = ""  # URL; empty: default_journal()
    method: str = "auto"  # one of METHODS
    bandwidth: int = 0  # bytes/s over all disks of a move, 0 unlimited
    keep_source_s: float | None = None  # seconds; infinite: for ever; None: removed once it is proven unneeded
    use_kept: bool = False  # old disks in quarantine at the destination become the copies
    verify: bool = False  # compare both sides as they were at the switch before the source is given up
    trim: bool = False  # have the guest give back what it does not use before it is copied
    guest_latency_s: float | None = None
    guest_slowdown: float | None = None
    if_not_converging: str = "auto"  # one of POLICIES
    copy_buffer: int | None = None  # bytes: what QEMU copies in one go
    hang_limit_s: float = 5.0  # infinite: never
    fence: tuple[str, ...] = ("auto",)  # or ("off",), or the words of a program
    log_file: str = ""  # where workers in the background log; empty: log.default_file(); "off": nowhere
    suspended_start: bool | None = None  # start copies with the VM suspended: always, never, or as QEMU needs it
    tls: str = "auto"  # one of TLS
    require_tls: bool = False

    def __post_init__(self) -> None:
        # Also for a value from the command line: a worker in the background starts in another directory.
        if self.journal:
            object.__setattr__(self, "journal", journal_url(self.journal))

    @classmethod
    def load(cls) -> Config:
        """By files and environment. Raises ConfigInvalid naming file, key and the nearest known key."""
        config = cls()
        named = os.environ.get("BLOCKFERRY_CONFIG")
        user = platformdirs.user_config_path("blockferry") / SYSTEM_FILE.name
        both = [one for path in (SYSTEM_FILE, user) for one in (path.with_name(OLD_NAME), path)]
        for path in [Path(named)] if named else both:
            config = replace(config, **_read(path, must_exist=named is not None))
        uri = os.environ.get("BLOCKFERRY_URI") or os.environ.get("LIBVIRT_DEFAULT_URI") or config.uri
        host = os.environ.get("BLOCKFERRY_HOST")
        if host:
            uri = config.address(host).uri
        journal = os.environ.get("BLOCKFERRY_JOURNAL") or config.journal or default_journal()
        log_file = os.environ.get("BLOCKFERRY_LOG") or config.log_file
        return replace(config, uri=uri, journal=journal, log_file=log_file)

    def host_entry(self, name: str) -> HostEntry:
        """Return the configured host of this name. Raises HostNotConfigured with the names that look like it."""
        host_entry = host_entries.find_entry(self.hosts, name)
        if host_entry is None:
            names = [host.name for host in self.hosts]
            raise HostNotConfigured(name, ", ".join(names) or "none", nearest(name, names))
        return host_entry

    def address(self, name: str) -> HostEntry:
        """Return the host that a person means by a name: a configured one, or else one that ssh reaches by it.

        Raises UsageError for what can be no name of a host.
        """
        host_entry = host_entries.find_entry(self.hosts, name)
        if host_entry is not None:
            return host_entry
        try:
            return host_entries.entry_of(name)
        except ValueError as error:
            raise UsageError(f"{error}.") from None


def _read(path: Path, *, must_exist: bool) -> dict[str, Any]:
    """Fields of Config and their values, from one file."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise ConfigInvalid(str(path), "there is no such file") from None
        return {}
    except OSError as error:
        raise ConfigInvalid(str(path), error.strerror or str(error)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(str(path), str(error)) from error
    found = {}
    for key, value in values.items():
        if key not in _KEYS:
            guess = nearest(key, _KEYS, limit=1)
            raise ConfigInvalid(str(path), f"unknown key {key!r}" + (f" (did you mean {guess[0]!r}?)" if guess else ""))
        name, understand = _KEYS[key]
        try:
            found[name] = understand(value)
        except ValueError as error:
            raise ConfigInvalid(str(path), f"{key}: {error}") from error
    return found


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a text in quotes")
    return value.strip()


def _method(value: object) -> str:
    if value not in METHODS:
        guess = nearest(str(value), METHODS, limit=1)
        hint = f"did you mean {guess[0]!r}" if guess else f"known are {', '.join(METHODS)}"
        raise ValueError(f"{value!r} is no method ({hint})")
    return str(value)


def _policy(value: object) -> str:
    if value not in POLICIES:
        raise ValueError(f"{value!r} is none of {', '.join(POLICIES)}")
    return str(value)


def _tls(value: object) -> str:
    if value not in TLS:
        raise ValueError(f"{value!r} is none of {', '.join(TLS)}")
    return str(value)


def _latency(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is not a duration; write it like "20ms"')
    return units.parse_latency_s(value)


def _slowdown(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f'{value!r} is not a factor; write it like 1.5 or "1.5x"')
    return units.parse_factor(str(value))


def _bandwidth(value: object) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value != 0:
            raise ValueError(f'{value!r} has no unit; write it like "200MiB/s", or 0 for no limit')
        return 0
    return units.parse_rate(_text(value))


def _copy_buffer(value: object) -> int:
    size = units.parse_size(_text(value))
    if not units.MiB <= size <= units.GiB:
        raise ValueError(f"{value!r} is no size from 1MiB to 1GiB")
    return size


def _keep_source(value: object) -> float | None:
    if isinstance(value, bool):
        return math.inf if value else None
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is none of true, false and a duration like "7d"')
    return math.inf if value.strip().lower() == "forever" else units.parse_duration_s(value)


def _hang_limit(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is neither a duration like "5s" nor "never"')
    return units.parse_limit_s(value)


def _fence(value: object) -> tuple[str, ...]:
    """Never a shell: words are split as a shell would, and nothing else is done to them."""
    words = tuple(shlex.split(value)) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f'{value!r} is none of "auto", "off" and a program with its words')
    if words not in (("auto",), ("off",)) and not words[0].startswith("/"):
        raise ValueError(f"{words[0]!r} is not the absolute path of a program")
    return words


def _log_file(value: object) -> str:
    path = _text(value)
    if path != "off" and not path.startswith("/"):
        raise ValueError(f'{path!r} is neither an absolute path nor "off"')
    return path


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


_KEYS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "uri": ("uri", _text),
    "hosts": ("hosts", host_entries.parse_hosts),
    "journal": ("journal", _text),
    "method": ("method", _method),
    "bandwidth": ("bandwidth", _bandwidth),
    "keep_source": ("keep_source_s", _keep_source),
    "use_kept": ("use_kept", _yes_or_no),
    "verify": ("verify", _yes_or_no),
    "trim": ("trim", _yes_or_no),
    "guest_latency": ("guest_latency_s", _latency),
    "guest_slowdown": ("guest_slowdown", _slowdown),
    "if_not_converging": ("if_not_converging", _policy),
    "copy_buffer": ("copy_buffer", _copy_buffer),
    "hang_limit": ("hang_limit_s", _hang_limit),
    "fence": ("fence", _fence),
    "log_file": ("log_file", _log_file),
    "suspended_start": ("suspended_start", _yes_or_no),
    "tls": ("tls", _tls),
    "require_tls": ("require_tls", _yes_or_no),
}
"""Key in the file -> field of Config, and what its value means. Raises ValueError with a sentence."""
