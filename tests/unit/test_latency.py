"""Estimating quantiles of the guest's writes from counters."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockferry.hosts.disk_counters import Counters
from blockferry.storage_move.pace.latency import Interval, between, quantile_s, slower, summary


def counters_of(latencies: list[float], each: int) -> list[Interval]:
    """Looks at a guest whose writes took so long, `each` of them in a look."""
    found = []
    for start in range(0, len(latencies), each):
        part = latencies[start : start + each]
        found.append(Interval(0.05, len(part), sum(part) / len(part)))
    return found


def exact(latencies: list[float], q: float) -> float:
    return sorted(latencies)[int(len(latencies) * q)]


def test_single_writes_are_known_exactly() -> None:
    chance = random.Random(1)
    latencies = [chance.lognormvariate(-6, 1) for _ in range(2000)]
    assert quantile_s(counters_of(latencies, 1), 0.99) == pytest.approx(exact(latencies, 0.99), rel=0.1)


@pytest.mark.parametrize("each", [3, 10, 50])
def test_means_of_many_show_the_p99_of_an_exponential_spread(each: int) -> None:
    chance = random.Random(2)
    latencies = [chance.expovariate(1000) for _ in range(5000)]
    assert quantile_s(counters_of(latencies, each), 0.99) == pytest.approx(exact(latencies, 0.99), rel=0.3)


@pytest.mark.parametrize("each", [1, 5, 15])
def test_stalls_show(each: int) -> None:
    """2 % of the writes take a hundred times as long: the estimate is that they are slow, and not by which figure."""
    chance = random.Random(3)
    latencies = [0.1 if chance.random() < 0.02 else 0.001 for _ in range(3000)]
    found = counters_of(latencies, each)
    assert 0.01 < quantile_s(found, 0.99) < 0.11
    assert slower(found, 0.020) > 0.01 * len(latencies)


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(1e-6, 10)), min_size=1), st.floats(0.1, 0.999))
def test_quantiles_are_ordered_and_bounded(looks: list[tuple[int, float]], q: float) -> None:
    found = [Interval(0.05, writes, mean if writes else 0.0) for writes, mean in looks]
    one, other = quantile_s(found, q), quantile_s(found, q / 2)
    assert other <= one * 1.02 + 1e-5
    assert slower(found, one) <= sum(writes for writes, _ in looks) * (1 - q) + 1e-9
    assert summary(found, 1.0).writes == sum(writes for writes, _ in looks)


def test_counters_that_begin_anew_say_nothing() -> None:
    assert between(Counters(1.0, 100, 10**9), Counters(1.1, 5, 10**6)) is None
    assert between(Counters(1.0, 100, 10**9), Counters(1.0, 101, 10**9 + 1)) is None
    found = between(Counters(1.0, 100, 10**9), Counters(1.5, 110, 10**9 + 10**8))
    assert found == Interval(0.5, 10, 0.01)
