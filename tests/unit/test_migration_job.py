"""Whether a job of libvirt's is a migration, by what libvirt 9.0 was seen to tell."""

from __future__ import annotations

from typing import Any, cast

import libvirt
import pytest

from blockferry.hosts.libvirt import migration

UNBOUNDED = libvirt.VIR_DOMAIN_JOB_UNBOUNDED


class _Domain:
    def __init__(self, found: dict[str, int] | int) -> None:
        self.found = found

    def jobStats(self, _flags: int) -> dict[str, int]:  # noqa: N802
        if isinstance(self.found, dict):
            return self.found
        error = libvirt.libvirtError("refused")
        error.err = (self.found, 0, "refused", 0, "", "", "", 0, 0)
        raise error


@pytest.mark.parametrize(
    ("found", "job", "foreign"),
    [
        ({"type": libvirt.VIR_DOMAIN_JOB_NONE}, False, False),
        ({"type": UNBOUNDED, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT}, True, False),
        ({"type": UNBOUNDED, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN}, True, False),
        ({"type": UNBOUNDED, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP}, True, True),
        ({"type": UNBOUNDED, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE}, True, True),
        ({"type": UNBOUNDED, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_UNKNOWN}, True, False),
        ({"type": UNBOUNDED}, True, False),
        (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, True, False),
    ],
)
def test_what_is_known_to_be_no_migration(found: Any, *, job: bool, foreign: bool) -> None:
    assert migration._job(cast(libvirt.virDomain, _Domain(found))) == (job, foreign)


def test_a_refusal_is_no_answer() -> None:
    with pytest.raises(libvirt.libvirtError):
        migration._job(cast(libvirt.virDomain, _Domain(libvirt.VIR_ERR_OPERATION_TIMEOUT)))
