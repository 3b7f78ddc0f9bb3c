"""How the commands tell of each kind of move. One entry for a kind; the commands themselves ask for no kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from rich.text import Text

from blockferry.cli import describe, describe_host
from blockferry.cli.output import Out
from blockferry.client import (
    AnyMove,
    CheckResult,
    DiskEstimate,
    DiskProgress,
    HostCheckResult,
    HostMoveSummary,
    MoveSummary,
    Wanted,
)


class MoveWords(ABC):
    """The words for one kind of move. Arguments are of that kind."""

    @abstractmethod
    def plan(self, out: Out, plan: Any, estimates: tuple[DiskEstimate, ...] = ()) -> None:
        """Print a plan."""

    @abstractmethod
    def report(self, out: Out, summary: Any) -> None:
        """Print the details of a report."""

    @abstractmethod
    def starting(self, summary: Any) -> str:
        """Return what is said when it begins."""

    @abstractmethod
    def progress(self, progress: Any) -> str:
        """Return how far it is, in one line."""

    @abstractmethod
    def rows(self, progress: Any) -> tuple[DiskProgress, ...]:
        """Return the rows of the live table."""

    @abstractmethod
    def below(self, progress: Any) -> list[str]:
        """Return the lines below the live table."""

    @abstractmethod
    def pace(self, progress: Any) -> str:
        """Return why the copy goes at the speed it goes; "" for no reason to tell."""

    @abstractmethod
    def copied(self, report: Any) -> int:
        """Return the bytes that were copied."""

    @abstractmethod
    def cancelling(self, summary: Any) -> str:
        """Return what a wish to cancel leads to."""

    @abstractmethod
    def cancelled(self, summary: Any) -> str:
        """Return what holds after a cancellation."""

    def waits(self, summary: Any) -> str:
        """Return what a move that went through has yet to wait for; "" for nothing."""
        return ""

    def comparing(self, summary: Any) -> bool:
        """Return whether a comparison is being ended by a wish to cancel."""
        return False


class StorageWords(MoveWords):
    def plan(self, out: Out, plan: Any, estimates: tuple[DiskEstimate, ...] = ()) -> None:
        describe.plan(out, plan, estimates)

    def report(self, out: Out, summary: Any) -> None:
        out.details(describe.report_pairs(summary))

    def starting(self, summary: Any) -> str:
        return describe.start_sentence(summary)

    def progress(self, progress: Any) -> str:
        return describe.progress_sentence(progress)

    def rows(self, progress: Any) -> tuple[DiskProgress, ...]:
        return tuple(progress.disks)

    def below(self, progress: Any) -> list[str]:
        return [describe.passes(disk) for disk in progress.disks if disk.passes or disk.changed]

    def pace(self, progress: Any) -> str:
        return str(progress.pace)

    def copied(self, report: Any) -> int:
        return int(report.bulk_bytes + report.changed_bytes)

    def cancelling(self, summary: Any) -> str:
        return describe.cancelling(summary)

    def cancelled(self, summary: Any) -> str:
        return f"{summary.plan.vm} is on its old disks, untouched."

    def waits(self, summary: Any) -> str:
        return describe.FOLLOWS if summary.record.nvram.pending else ""

    def comparing(self, summary: Any) -> bool:
        return bool(summary.record.unverified)


class HostWords(MoveWords):
    def plan(self, out: Out, plan: Any, estimates: tuple[DiskEstimate, ...] = ()) -> None:
        out.details(list(describe_host.plan_pairs(plan, estimates)))

    def report(self, out: Out, summary: Any) -> None:
        out.details(list(describe_host.report_pairs(summary.plan, summary.report)))

    def starting(self, summary: Any) -> str:
        return describe_host.start_sentence(summary)

    def progress(self, progress: Any) -> str:
        return describe_host.progress_sentence(progress)

    def rows(self, progress: Any) -> tuple[DiskProgress, ...]:
        return describe_host.progress_rows(progress)

    def below(self, progress: Any) -> list[str]:
        words = describe_host.memory_words(progress)
        return [words] if words else []

    def pace(self, progress: Any) -> str:
        return ""

    def copied(self, report: Any) -> int:
        return int(report.bulk_bytes + report.memory_bytes)

    def cancelling(self, summary: Any) -> str:
        return describe_host.cancelling(summary)

    def cancelled(self, summary: Any) -> str:
        return f"{summary.plan.vm} is at {summary.plan.host_name}, as before."


_WORDS: dict[str, MoveWords] = {MoveSummary.kind: StorageWords(), HostMoveSummary.kind: HostWords()}


def of(any_move: AnyMove | CheckResult | HostCheckResult) -> MoveWords:
    """Return the words for the kind of this move."""
    return _WORDS[any_move.kind]


def starting(summary: AnyMove) -> str:
    """Return what is said when a move begins, or when its cancellation does."""
    if summary.record.wanted is Wanted.CANCEL:
        return f"Cancelling the move of {summary.plan.vm} to {summary.plan.destination} (move {summary.id})"
    return of(summary).starting(summary)


def report(out: Out, summary: AnyMove) -> None:
    """Print the report of a finished move."""
    if summary.report is not None:
        out.line(describe.headline(summary))
        of(summary).report(out, summary)


def state(summary: AnyMove) -> Text:
    """Return the state, coloured."""
    return Text(summary.state, style=describe.STATE_STYLES.get(summary.state, ""))
