"""Numbers that are no sizes, rates or times, or not the ones that were meant."""

from __future__ import annotations

import pytest

from blockferry.base import units


@pytest.mark.parametrize("text", ["100Mbps", "1Gb/s", "100Mbit/s", "100MBit", "100mb/s", "8b"])
def test_a_rate_in_bits_is_refused(text: str) -> None:
    """It was taken for bytes: eight times as much."""
    with pytest.raises(ValueError, match="reads like bits"):
        units.parse_rate(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100MB/s", 100_000_000), ("100MBps", 100_000_000), ("1MiB/s", 2**20), ("1mib", 2**20), ("5M", 5 * 2**20)],
)
def test_a_rate_in_bytes(text: str, rate: int) -> None:
    assert units.parse_rate(text) == rate


def test_a_latency_needs_its_unit() -> None:
    with pytest.raises(ValueError, match="no unit"):
        units.parse_latency_s("20")
    assert units.parse_latency_s("20ms") == 0.02


@pytest.mark.parametrize("text", ["9999999d", "9" * 400 + "s"])
def test_a_time_that_no_calendar_has(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 100 years"):
        units.parse_duration_s(text)
    assert units.parse_duration_s("3650d") == 3650 * 86400


def test_a_size_that_no_disk_has() -> None:
    with pytest.raises(ValueError, match="more than any disk"):
        units.parse_size("9" * 400)


def test_a_date_of_an_old_journal_that_no_calendar_has_breaks_no_list() -> None:
    assert units.format_time(9999999 * 86400.0) == "after the year 9999"
