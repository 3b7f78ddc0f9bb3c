"""Questions that are asked at the same time (base/question.py)."""

from __future__ import annotations

import threading

import pytest

from blockferry.base.errors import HostUnreachable
from blockferry.base.question import Question


def test_questions_are_asked_at_the_same_time() -> None:
    """Each waits for the other: one after the other they would never be answered."""
    both = threading.Barrier(2, timeout=60)
    questions = [Question(lambda: both.wait(), "ask") for _ in range(2)]
    for _ in range(2):
        assert sorted(question.answer() for question in questions) == [0, 1]


def test_what_was_raised_is_raised_where_it_is_waited_for() -> None:
    def ask() -> int:
        raise HostUnreachable("qemu+ssh://away/system", "no route")

    question = Question(ask, "ask")
    for _ in range(2):
        with pytest.raises(HostUnreachable):
            question.answer()


def test_one_that_is_never_answered_holds_nobody_who_does_not_wait() -> None:
    never = threading.Event()
    Question(never.wait, "never")
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "never"] == [True]
    never.set()
