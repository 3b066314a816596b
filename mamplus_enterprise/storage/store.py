# SPDX-License-Identifier: Apache-2.0
"""Transactions on the database. The only module that knows it is SQLite.

`writing` commits before it returns, with synchronous=FULL: what was acknowledged to a
device or an administrator survives a power cut. Readers never wait for writers (WAL).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from mamplus_enterprise.errors import Busy, NotAnEnterprise
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import Audit

_STAGING_CACHE_KIB = 64 << 10
_BUSY_MS = 30_000  # how long a writer waits for another one, as an import of a million lines


def _on_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself
    for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    # A writer takes its lock at once: upgrading a reader's snapshot fails without waiting.
    writes = connection.get_execution_options().get("mamplus_writes", False)
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    except OperationalError as error:
        if "locked" not in str(error.orig):
            raise
        raise Busy(
            f"another command, as an import, has been writing to the database for more than {_BUSY_MS / 1000:g} s;"
            " nothing was changed: try again when it has ended"
        ) from None


def make_engine(home: Home) -> Engine:
    """Return an engine for the enterprise's database; the file is made when it is missing."""
    engine = create_engine(f"sqlite:///{home.database}")
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


@contextmanager
def rebuilding(engine: Engine) -> Iterator[Connection]:
    """Yield a connection whose transaction may replace tables that others refer to; all references fit at its end.

    SQLite changes a column by copying its table, and dropping the old one would break every reference to it.
    """
    with engine.execution_options(mamplus_writes=True).connect() as connection:
        raw = connection.connection.cursor()
        raw.execute("PRAGMA foreign_keys=OFF")  # has no effect within a transaction
        try:
            with connection.begin():
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
                if broken:
                    raise NotAnEnterprise(f"{len(broken)} rows refer to rows that are missing; restore a backup")
        finally:
            raw.execute("PRAGMA foreign_keys=ON")
            raw.close()


class Store:
    """Sessions for reading and writing. Objects stay readable after their session ended."""

    def __init__(self, home: Home) -> None:
        self.engine = make_engine(home)
        self._writer = self.engine.execution_options(mamplus_writes=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def staging(self) -> Iterator[Connection]:
        """Yield a connection for two transactions: one fills temporary tables, one (see `for_writing`) uses them."""
        with self.engine.connect() as connection:
            connection.detach()  # its temporary tables end with it
            _enlarge(connection)
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def _enlarge(connection: Connection) -> None:
    """A million rows with their indexes need more than SQLite's usual 2 MB of cache: each page would be read often."""
    cursor = connection.connection.cursor()
    for schema in ("main", "temp"):
        cursor.execute(f"PRAGMA {schema}.cache_size = -{_STAGING_CACHE_KIB}")
    cursor.close()


def for_writing(connection: Connection) -> Connection:
    """Return `connection`, whose next transaction takes the write lock as it begins."""
    return connection.execution_options(mamplus_writes=True)


def note(session: Session, *, who: str, what: str, subject: str, detail: str = "") -> None:
    """Add a line to the audit log, in the transaction of what it tells about."""
    session.add(Audit(at=time.time(), who=who[:255], what=what, subject=subject[:600], detail=detail))
