"""Long products of the system tests are sampled by the commit."""

from __future__ import annotations

from tests.sampling import LEAST, sample

CASES = [f"test_killed[{point}-{cancel}]" for point in "abcdefghij" for cancel in (True, False)]


def test_a_commit_plays_the_same_cases_each_time_and_a_part_of_them() -> None:
    chosen = sample(CASES, 0.3, "1f2e")
    assert chosen == sample(list(reversed(CASES)), 0.3, "1f2e")
    assert len(chosen) == 6
    assert chosen <= set(CASES)


def test_over_the_commits_all_cases_have_their_turn() -> None:
    played = set[str]().union(*(sample(CASES, 0.3, str(commit)) for commit in range(40)))
    assert played == set(CASES)


def test_a_few_cases_are_all_played() -> None:
    assert sample(CASES[:LEAST], 0.1, "1f2e") == set(CASES[:LEAST])
    assert sample(CASES, 1, "1f2e") == set(CASES)
