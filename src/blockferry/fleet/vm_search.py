"""Finding a VM on whichever configured host has it: all are asked at the same time, none for longer than a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from blockferry.base.errors import BlockferryError, HostUnreachable, VmAmbiguous, VmNotFound
from blockferry.hosts.configured_hosts import CONNECT_S, ConfiguredHost
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt import domain_list

ANSWER_S = 30.0
"""A host that is connected has so long to answer."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What one host answered, or why it did not."""

    one: ConfiguredHost
    uuid: str = ""
    value: T | None = None
    error: BlockferryError | None = None


@dataclass(slots=True)
class _Question(Generic[T]):
    """One host, asked in a thread of its own."""

    one: ConfiguredHost
    ask: Callable[[ConfiguredHost, Host], T]
    answer: Answer[T] | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._work, name=f"ask-{self.one.name}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            site = self.one.connected()
            self.answer = Answer(self.one, site.connection.host_id(), self.ask(self.one, site))
        except BlockferryError as error:
            self.answer = Answer(self.one, error=error)


def ask_all(hosts: Sequence[ConfiguredHost], ask: Callable[[ConfiguredHost, Host], T]) -> list[Answer[T]]:
    """Return what each host answers, in the given order; of two that are one host (by libvirt's UUID) only the first.

    A host that does not answer is in the list with its error.
    """
    questions = [_Question(host, ask) for host in hosts]
    until = time.monotonic() + CONNECT_S + ANSWER_S
    found: list[Answer[T]] = []
    for question in questions:
        question.thread.join(max(0.0, until - time.monotonic()))
        late = HostUnreachable(question.one.uri, f"it has not answered for {CONNECT_S + ANSWER_S:g} s")
        answer = question.answer or Answer(question.one, error=late)
        if not answer.uuid or all(answer.uuid != one.uuid for one in found):
            found.append(answer)
    return found


def host_of(
    hosts: Sequence[ConfiguredHost], vm: str, say: Callable[[str], None], also: Sequence[ConfiguredHost] = ()
) -> ConfiguredHost:
    """Return the host that has this VM, by name or UUID.

    `say`: hears, in words for people, which hosts could not be asked. `also`: hosts that nobody has listed; that one of
    them does not answer is not told: there need not be a libvirt on the machine where one types.
    Raises VmNotFound if all have answered, VmAmbiguous; what the first silent one met, if no other has it.
    """
    answers = ask_all([*hosts, *also], lambda _one, site: domain_list.vm(site.connection, vm).name)
    having = [answer.one for answer in answers if answer.error is None]
    silent = [answer for answer in answers if answer.error is not None and not isinstance(answer.error, VmNotFound)]
    if len(having) > 1:
        raise VmAmbiguous(vm, tuple(configured_host.name for configured_host in having))
    for answer in silent:
        if answer.error is not None and answer.one not in also:
            say(f"host {answer.one.name} could not be asked for {vm}: {answer.error.sentence}")
    if having:
        return having[0]
    lost = next((answer.error for answer in silent if answer.one not in also or len(silent) == len(answers)), None)
    if lost is not None:
        raise lost  # it may have it: that is no "not found"
    near = [name for answer in answers if isinstance(answer.error, VmNotFound) for name in answer.error.nearest]
    asked = ", ".join(answer.one.name for answer in answers if answer not in silent)
    raise VmNotFound(vm, f"the hosts {asked}", tuple(dict.fromkeys(near))[:3])
