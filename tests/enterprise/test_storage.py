# SPDX-License-Identifier: Apache-2.0
"""The database: made by migrations, as the tables say, safe against power cuts."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import Base
from mamplus_enterprise.storage.store import Store
from tests.enterprise.company import Company


def test_the_migrations_make_the_tables_of_the_schema(quiet: Company) -> None:
    store = Store(Home.open(quiet.dir))
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    store.close()


def test_a_commit_reaches_the_disk_and_keys_are_checked(quiet: Company) -> None:
    store = Store(Home.open(quiet.dir))
    with store.engine.connect() as connection:
        answers = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    store.close()

    assert answers == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_every_change_of_an_administrator_leaves_a_line(quiet: Company) -> None:
    from sqlalchemy import select

    from mamplus_enterprise.storage.schema import Audit

    quiet.run("ble", "add", "ip", "203.0.113.7", "--verdict", "block")
    quiet.run("ble", "remove", "1")
    quiet.run("ble", "publish", "--why", "spring cleaning")
    quiet.run("token", "new")

    store = Store(Home.open(quiet.dir))
    with store.reading() as session:
        lines = [(line.what, line.subject) for line in session.scalars(select(Audit).order_by(Audit.id))]
        who = {line.who for line in session.scalars(select(Audit).where(Audit.what != "founded"))}
    store.close()
    assert [what for what, _ in lines] == ["founded", "entry added", "entry removed", "published", "token made"]
    assert lines[3][1] == "generation 2, layer enterprise"
    assert len(who) == 1
    assert who.pop().endswith("(command line)")
