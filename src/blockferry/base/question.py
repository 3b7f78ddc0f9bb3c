"""A question that is asked in a thread of its own, so that several are answered at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

AnswerT = TypeVar("AnswerT")


class Question(Generic[AnswerT]):
    """Asked at once; `answer` waits for the answer.

    Only for what changes nothing, and never touches the journal: whoever gives up waiting leaves it under way. Its
    thread does not hold the process.
    """

    def __init__(self, ask: Callable[[], AnswerT], name: str) -> None:
        self._ask = ask
        self._answers: list[AnswerT] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answers.append(self._ask())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error

    def answer(self) -> AnswerT:
        """Return what was answered, or raise what was raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._answers[0]
