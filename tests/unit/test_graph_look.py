"""QEMU may be slow to tell its block graph: it is asked again before that is a doubt, and an alarm counts later."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

import pytest
from decide_support import make_plan
from test_block_graph import graph

from blockferry.base.errors import LibvirtFailed
from blockferry.hosts.block_graph import BlockGraph
from blockferry.hosts.libvirt.domain import Control
from blockferry.storage_move.switch import graph_look, graph_proof
from blockferry.storage_move.switch.graph_look import GraphLook
from blockferry.storage_move.switch.graph_proof import GraphView

BUSY = LibvirtFailed("look at the disks of VM web01", "no lock", "VIR_ERR_OPERATION_TIMEOUT")
REFUSED = LibvirtFailed("look at the disks of VM web01", "no such call", "VIR_ERR_NO_SUPPORT")
WRONG = GraphView(wrong={"vda": "/a/vda"})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATIENCE_S", "BESIDE_S"):
        monkeypatch.setattr(graph_look, name, 0.05)
    monkeypatch.setattr(graph_proof, "judge", lambda *_words: WRONG)


@pytest.mark.usefixtures("quick")
def test_a_slow_answer_is_waited_for_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def slow() -> BlockGraph:
        answers.wait(60)
        return graph("plain")

    control = cast(Control, SimpleNamespace(connection=object(), block_graph=slow))
    look = GraphLook(make_plan(1))
    assert not look.pending
    assert look.look(control, {}, 1) is None
    # libvirt makes a second question to QEMU wait for 30 s and refuses it then: nothing else is asked meanwhile.
    assert look.pending
    monkeypatch.setattr(graph_look, "LIMIT_S", 0.0)
    doubt = look.look(control, {}, 1)
    assert doubt is not None
    assert "has not answered" in doubt.doubt
    answers.set()
    monkeypatch.setattr(graph_look, "BESIDE_S", 60.0)
    assert look.look(control, {}, 1, beside=True) == WRONG, "the alarm comes later, too"
    assert not look.pending


@pytest.mark.usefixtures("quick")
def test_a_busy_libvirt_is_asked_again_and_another_qemu_anew() -> None:
    said: list[BlockGraph | LibvirtFailed] = [BUSY, BUSY, graph("plain"), REFUSED]

    def block_graph() -> BlockGraph:
        found = said.pop(0)
        if isinstance(found, LibvirtFailed):
            raise found
        return found

    control = cast(Control, SimpleNamespace(connection=object(), block_graph=block_graph))
    look = GraphLook(make_plan(1))
    graph_look.PATIENCE_S = 60.0
    assert look.look(control, {}, 1) is None
    assert look.look(control, {}, 1) is None
    assert look.look(control, {}, 2) == WRONG
    refused = look.look(control, {}, 2)
    assert refused is not None
    assert "could not be asked" in refused.doubt
