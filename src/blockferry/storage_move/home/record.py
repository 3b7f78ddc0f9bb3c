"""What a move remembers of the VM's home."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HomeRecord:
    """The files of the home, by their old paths. Fingerprints: hosts/fingerprint.py."""

    copied: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict)  # of the old file, when it was copied
    copy_fingerprints: dict[str, str] = field(default_factory=dict)  # of its copy, when it was made
    left: dict[str, str] = field(default_factory=dict)  # files that stay, against the plan: why, a clause
    kept: dict[str, str] = field(default_factory=dict)  # files that are kept beside a copy in use: why, a clause
