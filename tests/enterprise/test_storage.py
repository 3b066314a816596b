# SPDX-License-Identifier: Apache-2.0
"""The database: made by migrations, as the tables say, safe against power cuts."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from mamplus_enterprise.errors import Busy
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage import store
from mamplus_enterprise.storage.schema import Base
from mamplus_enterprise.storage.store import Store
from tests.enterprise.company import Company


def test_the_migrations_make_the_tables_of_the_schema(quiet: Company) -> None:
    opened = Store(Home.open(quiet.dir))
    with opened.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    opened.close()


def test_a_commit_reaches_the_disk_and_keys_are_checked(quiet: Company) -> None:
    opened = Store(Home.open(quiet.dir))
    with opened.engine.connect() as connection:
        answers = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    opened.close()

    assert answers == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_who_waits_too_long_for_another_writer_is_told_so(quiet: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BUSY_MS", 1)
    one, two = (Store(Home.open(quiet.dir)) for _ in range(2))
    try:
        with one.writing() as session:
            session.execute(text("SELECT 1"))
            with pytest.raises(Busy, match=r"another command.*try again"), two.writing() as other:
                other.execute(text("SELECT 1"))
        with two.writing() as other:
            assert other.scalar(text("SELECT 1")) == 1
    finally:
        one.close()
        two.close()


def test_every_change_of_an_administrator_leaves_a_line(quiet: Company) -> None:
    from sqlalchemy import select

    from mamplus_enterprise.storage.schema import Audit

    quiet.run("ble", "add", "ip", "203.0.113.7", "--verdict", "block")
    quiet.run("ble", "remove", "1")
    quiet.run("ble", "publish", "--why", "spring cleaning")
    quiet.run("token", "new")

    opened = Store(Home.open(quiet.dir))
    with opened.reading() as session:
        lines = [(line.what, line.subject) for line in session.scalars(select(Audit).order_by(Audit.id))]
        who = {line.who for line in session.scalars(select(Audit).where(Audit.what != "founded"))}
    opened.close()
    assert [what for what, _ in lines] == ["founded", "entry added", "entry removed", "published", "token made"]
    assert lines[3][1] == "generation 2, layer enterprise"
    assert len(who) == 1
    assert who.pop().endswith("(command line)")
