"""Running a move in this process: the engine in a thread of its own, the main thread for people and signals.

However this process leaves before the move is over (a signal, a closed terminal, an error of ours), the move is
handed to a background process: closing a window never stops a move.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from blockferry.base.errors import BlockferryError, Interrupted, JournalFailed, LeaseLost, MoveBusy
from blockferry.cli import display, watch_move, words
from blockferry.cli.app import App
from blockferry.client import AnyMove, Client

TICK_S = 0.1
STOP_S = 15.0  # how long a stopping engine may take before we leave without it
JOURNAL_S = 2.0
"""Seconds between two attempts of the background worker to reach a journal that is away."""

JOURNAL_PATIENCE_S = 24 * 3600.0
"""For so long the background worker waits for it. Then any command takes the move up, once the journal is back."""

BUSY_S = 60.0
"""So long after an outage a move may still seem to be run by the process that left it: it could not say so."""

log = logging.getLogger(__name__)

QUESTION = "[c]ancel the move, [d]etach (go on in the background), [Enter] go on: "


class Worker(threading.Thread):
    """`client.run` in a thread; a daemon, so that a call that hangs in libvirt cannot hold the process."""

    def __init__(self, client: Client, move: str) -> None:
        super().__init__(name=f"move-{move}", daemon=True)
        self._client = client
        self._move = move
        self.stop = threading.Event()
        self.seen: queue.SimpleQueue[AnyMove | None] = queue.SimpleQueue()
        """The newest state; None at the end, so that nobody waits for more."""
        self._result: AnyMove | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._client.run(self._move, self.seen.put, self.stop)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread by result()
            self._error = error
        finally:
            self.seen.put(None)

    @property
    def left_in_place(self) -> bool:
        """Whether the move is not at its end: the engine obeyed `stop`, has not answered, or the journal is away."""
        return self.is_alive() or isinstance(self._error, Interrupted) or _is_away(self._error)

    @property
    def error(self) -> BaseException | None:
        """What `client.run` raised; the thread has ended."""
        return self._error

    def result(self) -> AnyMove:
        """What `client.run` returned or raised; the thread has ended."""
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


def _is_away(error: BaseException | None) -> bool:
    """Whether this is a journal that may be back by itself."""
    return isinstance(error, JournalFailed) and error.passing


@dataclass
class Signals:
    """What has arrived: `interrupts` counts SIGINT, `leave` names SIGTERM or SIGHUP."""

    interrupts: int = 0
    leave: str | None = None

    def on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupts += 1

    def on_leave(self, number: int, _frame: FrameType | None) -> None:
        # systemd sends both to a session that it ends: SIGTERM says more, and stays.
        if self.leave != "SIGTERM":
            self.leave = signal.Signals(number).name


@contextlib.contextmanager
def signals_caught() -> Iterator[Signals]:
    """Signals become flags while the block runs."""
    got = Signals()
    handlers = {signal.SIGINT: got.on_interrupt, signal.SIGTERM: got.on_leave, signal.SIGHUP: got.on_leave}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def drive(app: App, client: Client, summary: AnyMove, show: display.Display) -> AnyMove:
    """Run the move to its end, shown on `show`; its finished summary.

    Raises what `client.run` raises, and Interrupted when it was handed to the background.
    """
    with signals_caught() as signals:
        worker = Worker(client, summary.id)
        worker.start()
        try:
            _attend(app, client, summary, show, worker, signals)
        except _Detach as detach:
            show.close()
            return _hand_over(client, summary, worker, str(detach))
        except OSError:  # the terminal is gone
            show.close()
            return _hand_over(client, summary, worker, "The terminal is gone.")
        except BaseException:
            show.close()
            with contextlib.suppress(Interrupted):
                _hand_over(client, summary, worker, "")
            raise
    show.close()
    try:
        if _is_away(worker.error):  # before the move was begun; later the engine waits for it
            return _hand_over(client, summary, worker, str(worker.error))
        return worker.result()
    except LeaseLost as lost:
        # We were frozen, or the journal was away for long: another process runs it now, and this one follows it.
        show.say(lost.sentence)
        return watch_move.watch(app, client, summary.id, show)
    except MoveBusy as busy:
        # Another blockferry command saw the move before we had begun, took it for an interrupted one and runs it.
        if busy.move != summary.id:
            raise
        return watch_move.watch(app, client, summary.id, show)


class _Detach(Exception):
    """Leave the move to the background; the text says why."""


def _attend(
    app: App,
    client: Client,
    summary: AnyMove,
    show: display.Display,
    worker: Worker,
    signals: Signals,
) -> None:
    """Show progress and obey signals until the worker has ended."""
    story = watch_move.Story(client, summary.id, show)
    heard = 0
    while worker.is_alive() or not worker.seen.empty():
        if signals.leave:
            raise _Detach(f"{signals.leave} was received.")
        if signals.interrupts > heard:
            before, heard = heard, signals.interrupts
            _interrupted(app, client, summary, show, worker, again=before > 0)
        try:
            latest = worker.seen.get(timeout=TICK_S)
        except queue.Empty:
            continue
        if latest is None:
            worker.join(STOP_S)
            continue
        with contextlib.suppress(JournalFailed):  # the worker waits for it, and its summary says so
            story.tell(latest)
        show.update(latest)
    with contextlib.suppress(BlockferryError):  # the worker has its own word on a journal that is gone
        story.tell_new(client.show(summary.id)[1])


def _interrupted(
    app: App, client: Client, summary: AnyMove, show: display.Display, worker: Worker, *, again: bool
) -> None:
    """Ctrl-C: ask a person; for a program the first one cancels and the second one detaches."""
    if not app.interactive:
        if again:
            raise _Detach("SIGINT was received twice.")
        if _cancel(client, summary, show):
            show.say(f"SIGINT: cancelling move {summary.id}")
        return
    with show.aside():
        answer = ask(worker.is_alive)
    if answer == "c":
        if (cancelled := _cancel(client, summary, show)) is not None:
            show.say(words.of(cancelled).cancelling(cancelled))
    elif answer == "d":
        raise _Detach("")


def _cancel(client: Client, summary: AnyMove, show: display.Display) -> AnyMove | None:
    """Write the wish down; the move as it is then.

    None: it could not be written down, or comes too late, which is no reason to leave the move.
    """
    try:
        return client.cancel(summary.id)
    except JournalFailed as error:
        show.say(f"{error.sentence} Ask again when it is back.")
    except BlockferryError as error:
        show.say(error.sentence)
    return None


def ask(goes_on: Callable[[], bool], question: str = QUESTION) -> str:
    """`c`, `d`, or nothing to go on; a second Ctrl-C or the end of input is `d`; nothing once the move is over."""
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.stderr.write(question)
        sys.stderr.flush()
        terminal = select.poll()
        terminal.register(sys.stdin, select.POLLIN)
        while goes_on():
            if terminal.poll(TICK_S * 1000):
                line = sys.stdin.readline()
                return line.strip().lower()[:1] if line else "d"
        sys.stderr.write("\n")
        return ""
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return "d"
    finally:
        signal.signal(signal.SIGINT, ours)


def _hand_over(client: Client, summary: AnyMove, worker: Worker, why: str) -> AnyMove:
    """Stop the engine here and let a background process go on; if it ended meanwhile, its result stands."""
    worker.stop.set()
    worker.join(STOP_S)
    if not worker.left_in_place:
        return worker.result()
    move = f"Move {summary.id} of {summary.plan.vm}"
    try:
        answers = client.start(summary.id)
    except (BlockferryError, OSError) as error:
        text = (
            f"{move} could not be left to the background ({error}). Nothing is lost: `blockferry resume {summary.id}`"
        )
        raise Interrupted(f"{why} {text} goes on with it.".strip()) from error
    when = "" if answers else " as soon as the journal answers; a copy that runs in QEMU goes on meanwhile"
    raise Interrupted(
        f"{why} {move} goes on in the background{when}; `blockferry watch {summary.id}` follows it.".strip()
    )


@dataclass
class _Patience:
    """How long the background worker waits for a journal that is away."""

    began_s: float = field(default_factory=time.monotonic)
    away_s: float | None = None  # monotonic seconds: when the journal did not answer last

    def again(self, error: BaseException | None) -> bool:
        """Whether to try again after the engine has ended so."""
        now_s = time.monotonic()
        if _is_away(error):
            if self.away_s is None:
                log.warning("%s It is waited for", error)
            self.away_s = now_s
            return now_s - self.began_s < JOURNAL_PATIENCE_S
        return isinstance(error, MoveBusy) and self.away_s is not None and now_s - self.away_s < BUSY_S


def run_in_background(client: Client, move: str) -> None:
    """The background worker: no terminal, nobody to ask; SIGTERM leaves the move for the next one to resume.

    A journal that is away is waited for: whoever started this worker has left the move to it.
    """
    with signals_caught() as signals:
        patience = _Patience()
        while True:
            worker = Worker(client, move)
            worker.start()
            _work(worker, signals, move)
            if not patience.again(worker.error) or not _pause(signals) or _is_parked(client, move):
                break
    worker.result()


def _is_parked(client: Client, move: str) -> bool:
    """Whether another process has parked the move meanwhile: only a person has it go on then (`blockferry resume`)."""
    try:
        return client.show(move)[0].parked is not None
    except BlockferryError:
        return False  # the journal is away still: the next try tells


def _work(worker: Worker, signals: Signals, move: str) -> None:
    """Wait until the engine has ended; on SIGTERM have it leave the move."""
    leaving_since: float | None = None
    while worker.is_alive():
        if signals.leave == "SIGTERM" and leaving_since is None:
            leaving_since = time.monotonic()
            worker.stop.set()
        if leaving_since is not None and time.monotonic() - leaving_since > STOP_S:
            raise Interrupted(f"Move {move} waits for `blockferry resume`.")
        worker.join(TICK_S)


def _pause(signals: Signals) -> bool:
    """Wait before the next attempt; whether there is to be one."""
    until = time.monotonic() + JOURNAL_S
    while time.monotonic() < until and signals.leave != "SIGTERM":
        time.sleep(TICK_S)
    return signals.leave != "SIGTERM"
