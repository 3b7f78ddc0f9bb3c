"""A glance at the journal without SQLAlchemy: only what is sure counts."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from journal_support import make_plan
from test_journal import finish

from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.record import Record
from blockferry.store import glance


def _url(path: Path) -> str:
    return f"sqlite:///{path}"


def test_where_there_is_no_journal_nothing_is_under_way_and_none_is_made(tmp_path: Path) -> None:
    assert glance.nothing_under_way(_url(tmp_path / "journal.db"))
    assert not list(tmp_path.iterdir())


def test_it_sees_what_the_journal_sees(tmp_path: Path) -> None:
    url = _url(tmp_path / "a journal%.db")
    journal = MoveJournal.open(url)
    assert glance.nothing_under_way(url)
    journal.add(make_plan("a1"), Record(), "{}", "root")
    assert not glance.nothing_under_way(url)
    finish(journal, "a1")
    assert glance.nothing_under_way(url)
    journal.close()


@pytest.mark.parametrize("url", ["postgresql+psycopg://db/blockferry", "sqlite://", "sqlite:////x.db?mode=ro"])
def test_of_another_database_it_is_never_sure(url: str) -> None:
    assert not glance.nothing_under_way(url)


def test_of_another_schema_it_is_never_sure(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    MoveJournal.open(_url(path)).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0002'")
    raw.close()
    assert not glance.nothing_under_way(_url(path))


def test_of_what_is_no_journal_it_is_never_sure(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_text("no database")
    assert not glance.nothing_under_way(_url(path))
    path.write_text("")
    assert not glance.nothing_under_way(_url(path))
    assert path.read_text() == ""
    assert not glance.nothing_under_way(_url(tmp_path))


def test_on_a_network_file_system_it_is_never_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal refuses to be opened there; a look that opened it all the same hid that."""
    path = tmp_path / "journal.db"
    MoveJournal.open(_url(path)).close()
    assert glance.nothing_under_way(_url(path))
    monkeypatch.setattr(glance, "filesystem_of", lambda directory: {tmp_path: "nfs4"}[directory])
    assert not glance.nothing_under_way(_url(path))
