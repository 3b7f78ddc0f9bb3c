"""The limits that slow a guest, beside those of its owner."""

from __future__ import annotations

import pytest

from blockferry.engine.throttle import limited

NONE: dict[str, int | str] = {
    "total_bytes_sec": 0, "read_bytes_sec": 0, "write_bytes_sec": 0, "total_iops_sec": 0, "write_iops_sec": 0,
    "total_bytes_sec_max": 0, "write_bytes_sec_max": 0, "write_bytes_sec_max_length": 0, "group_name": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"write_bytes_sec": 1000}),
        ({"write_bytes_sec": 5000}, {"write_bytes_sec": 1000}),
        ({"write_bytes_sec": 300}, {"write_bytes_sec": 300}),
        ({"read_bytes_sec": 70, "write_bytes_sec": 5000}, {"read_bytes_sec": 70, "write_bytes_sec": 1000}),
        ({"total_bytes_sec": 9000}, {"read_bytes_sec": 9000, "write_bytes_sec": 1000}),
        ({"total_bytes_sec": 200}, {"read_bytes_sec": 200, "write_bytes_sec": 200}),
        ({"write_bytes_sec": 5000, "write_bytes_sec_max": 9000}, {"write_bytes_sec": 1000}),
        ({"total_iops_sec": 40}, {"total_iops_sec": 40, "write_bytes_sec": 1000}),
    ],
)
def test_never_more_than_the_owner_allows_and_nothing_that_libvirt_refuses(
    own: dict[str, int | str], expected: dict[str, int | str]
) -> None:
    found = limited({**NONE, **own}, 1000)
    assert {name: value for name, value in found.items() if value} == expected
