# SPDX-License-Identifier: Apache-2.0
"""The list as it was at any moment, and what changed between two: what publishing is made from."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from mamplus_enterprise.ble import author
from mamplus_enterprise.home import Home, Settings
from mamplus_enterprise.storage import migrate
from mamplus_enterprise.storage.schema import EntryRow, GenerationRow
from mamplus_enterprise.storage.store import Store
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.layer import Layer
from mamplus_host.verdicts import Verdict

FIRST, SECOND = 1_000.0, 2_000.0
Clock = list[float]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Home(tmp_path, Settings("id", "Test Ltd")))
    migrate.upgrade(made.engine)
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time; moved by hand."""
    at = [FIRST]
    monkeypatch.setattr("time.time", lambda: at[0])
    return at


def add(session: Session, value: str, layer: Layer = Layer.ENTERPRISE, *, until: int = 0) -> EntryRow:
    draft = author.Draft(kind=Kind.DOMAIN, value=value, verdict=Verdict.BLOCK, valid_until=until, layer=layer)
    return author.add(session, draft, who="test")[0]


def values(entries: "Iterator[Entry] | list[Entry]") -> list[str]:
    return [entry.value for entry in entries]


def test_a_value_has_one_entry_in_each_layer(store: Store) -> None:
    with store.writing() as session:
        for layer in Layer:
            add(session, "bad.example", layer)
        assert [len(list(author.state_at(session, layer, FIRST * 1e9))) for layer in Layer] == [1, 1, 1]
        replaced = author.add(
            session, author.Draft(kind=Kind.DOMAIN, value="bad.example", verdict=Verdict.ALLOW), who="test"
        )[1]
        assert replaced is not None
        assert replaced.layer == Layer.ENTERPRISE


def test_the_state_of_any_moment_can_be_read(store: Store, clock: Clock) -> None:
    with store.writing() as session:
        gone = add(session, "gone.example")
        add(session, "short.example", until=1_500)
        add(session, "kept.example")
        clock[0] = SECOND
        author.remove(session, gone.id, who="test")
        add(session, "new.example")

        assert values(author.state_at(session, Layer.ENTERPRISE, FIRST)) == [
            "gone.example", "short.example", "kept.example",
        ]  # fmt: skip
        assert values(author.state_at(session, Layer.ENTERPRISE, 1_600.0)) == ["gone.example", "kept.example"]
        assert values(author.state_at(session, Layer.ENTERPRISE, SECOND)) == ["kept.example", "new.example"]
        assert values(author.state_at(session, Layer.FEEDS, SECOND)) == []


def test_changes_since_make_the_later_state_out_of_the_earlier(store: Store, clock: Clock) -> None:
    with store.writing() as session:
        gone, changed = add(session, "gone.example"), add(session, "changed.example")
        add(session, "ends.example", until=1_500)
        add(session, "kept.example")
        clock[0] = 1_700.0
        add(session, "fleeting.example", until=1_800)
        clock[0] = SECOND
        author.remove(session, gone.id, who="test")
        newer = add(session, changed.value, until=9_000)

        upserts, withdrawn = author.changes_since(session, Layer.ENTERPRISE, FIRST, SECOND)

        assert [(one.id, one.value) for one in upserts] == [(newer.id, "changed.example")]
        assert values(withdrawn) == ["gone.example", "ends.example"]
        before = {one.value: one for one in author.state_at(session, Layer.ENTERPRISE, FIRST)}
        for one in withdrawn:
            del before[one.value]
        after = before | {one.value: one for one in upserts}
        assert after == {one.value: one for one in author.state_at(session, Layer.ENTERPRISE, SECOND)}
        assert author.changes_since(session, Layer.ENTERPRISE, SECOND, SECOND) == ([], [])


def test_changes_are_found_by_index(store: Store) -> None:
    with store.reading() as session:
        plans: list[str] = []
        real = session.execute

        def explained(statement: object, *rest: object) -> object:
            compiled = statement.compile(store.engine, compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]
            plans.extend(row[3] for row in real(text(f"EXPLAIN QUERY PLAN {compiled}")))
            return real(statement, *rest)  # type: ignore[call-overload]

        session.execute = explained  # type: ignore[method-assign, assignment]
        author.changes_since(session, Layer.FEEDS, FIRST, SECOND)

    searches = [plan for plan in plans if "entries" in plan]
    assert [plan.split(" INDEX ")[1].split()[0] for plan in searches] == [
        "entries_by_added", "entries_by_removed", "entries_by_end",
    ]  # fmt: skip


@pytest.mark.usefixtures("clock")
def test_a_change_after_the_clock_was_set_back_is_later_than_the_last_publication(store: Store) -> None:
    with store.writing() as session:
        session.add(GenerationRow(number=2, created_at=5_000.0, entries=0, why=""))
        add(session, "bad.example")

        assert values(author.changes_since(session, Layer.ENTERPRISE, 5_000.0, 6_000.0)[0]) == ["bad.example"]


def test_a_layer_that_a_generation_left_alone_has_the_moment_of_an_earlier_one(store: Store) -> None:
    with store.writing() as session:
        session.add(GenerationRow(number=1, created_at=FIRST, entries=0, why=""))
        session.add(
            GenerationRow(number=2, created_at=SECOND, entries=0, why="", layers={"3": {"number": 1, "entries": 0}})
        )
        session.flush()

        assert author.published_at(session, Layer.FEEDS, 2) == FIRST
        assert author.published_at(session, Layer.EMERGENCY, 2) == SECOND
        assert author.published_at(session, Layer.FEEDS, 9) is None


def test_a_value_may_be_as_long_as_a_rule(store: Store) -> None:
    with store.writing() as session:
        add(session, "x" * 60_000)
    with store.reading() as session:
        assert len(next(author.state_at(session, Layer.ENTERPRISE, FIRST * 1e9)).value) == 60_000


def test_a_database_of_the_first_release_keeps_its_entries_and_what_refers_to_them(tmp_path: Path) -> None:
    store = Store(Home(tmp_path, Settings("id", "Test Ltd")))
    migrate.upgrade(store.engine, "0001")
    with sqlite3.connect(tmp_path / "database.sqlite") as old:
        old.execute("INSERT INTO devices VALUES ('d', x'00', 'van', '{}', '{}', 0, 1, 1, NULL)")
        old.execute("INSERT INTO entries VALUES (7, 4, 'bad.example', 2, 4, 100, 0, 'a', 'b', 'c', '', 10.0, NULL)")
        old.execute(
            "INSERT INTO alerts VALUES (1, 'd', 1, 'A', 1.0, '{}', x'00', 'domain', 'bad.example', 'confirmed', 2.0,"
            " 'me', 'so', 7)"
        )
    old.close()

    migrate.upgrade(store.engine)

    migrate.check(store.engine)
    with store.writing() as session:
        (kept,) = author.state_at(session, Layer.ENTERPRISE, 20.0)
        assert (kept.id, kept.value, kept.source) == (7, "bad.example", "a")
        assert session.scalar(text("SELECT entry_id FROM alerts")) == 7
        assert add(session, "more.example").id == 8  # ids are not given again: still AUTOINCREMENT
        with pytest.raises(Exception, match="FOREIGN KEY"):
            session.execute(text("DELETE FROM entries WHERE id = 7"))
        session.rollback()
    store.close()
