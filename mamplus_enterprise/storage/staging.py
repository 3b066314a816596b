# SPDX-License-Identifier: Apache-2.0
"""An import's rows beside the list, and their way into it: a few statements for a million rows.

Rows are gathered in a temporary table while nobody waits; only `merge` holds the database's write lock.
Each row gets a fate there, so that the report can say what became of it. The statements are SQL as SQLite
and PostgreSQL speak it.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

from sqlalchemy import Connection, text

from mamplus_enterprise.storage.claims import Claims


class Fate(IntEnum):
    """What became of a staged row."""

    NEW = 0
    DUPLICATE = 1  # an earlier row of the same import is about the value
    DECIDED = 2  # an administrator's entry is about the value
    UNCHANGED = 3  # the layer has it, long enough still
    RENEWED = 4  # the layer has it; this takes its place
    EXCEPTED = 5  # the feed takes it out of itself


_COLUMNS = (
    "line", "kind", "value", "verdict", "severity", "confidence", "valid_until", "is_said", "reason", "message", "link",
    "is_exception",
)  # fmt: skip
_SAME = "e.kind = staged.kind AND e.value = staged.value AND e.removed_at IS NULL"
_LIVE = "(e.valid_until = 0 OR e.valid_until > :now)"


class Staging:
    """The temporary table of one connection. `connection` is in a transaction whenever it is used."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE staged (number INTEGER PRIMARY KEY, line INTEGER, kind INTEGER, value TEXT,"
            " verdict INTEGER, severity INTEGER, confidence INTEGER, valid_until BIGINT, is_said BOOLEAN, reason TEXT,"
            " message TEXT, link TEXT, is_exception BOOLEAN, fate INTEGER DEFAULT 0, entry_id BIGINT,"
            " is_kept INTEGER DEFAULT 0)"
        )

    def add(self, rows: "Sequence[tuple[Any, ...]]") -> None:
        """Add rows with the columns of `_COLUMNS`."""
        if rows:
            marks = ", ".join("?" * len(_COLUMNS))
            statement = f"INSERT INTO staged ({', '.join(_COLUMNS)}) VALUES ({marks})"
            self._connection.exec_driver_sql(statement, rows)

    def settle(self) -> None:
        """Find what the import says twice, and what it takes out of itself. Needs no lock on the list."""
        self._run("CREATE INDEX temp.staged_by_value ON staged (kind, value)")
        self._run(
            "UPDATE staged SET fate = 5 WHERE is_exception = 1 OR (kind, value) IN"
            " (SELECT kind, value FROM staged WHERE is_exception = 1)"
        )
        self._run(
            "UPDATE staged SET fate = 1 WHERE fate = 0 AND EXISTS (SELECT 1 FROM staged AS t WHERE t.kind = staged.kind"
            " AND t.value = staged.value AND t.number < staged.number AND t.fate = 0)"
        )

    def merge(self, place: Mapping[str, Any]) -> None:
        """Bring the rows into the list. `place`: layer, feed, source and now, the moment of the change."""
        self._decided(place)
        self._known(place)
        self._kept(place)
        Claims(self._connection).note(place)
        self._run(
            "UPDATE entries SET removed_at = :now WHERE id IN (SELECT entry_id FROM staged WHERE fate = 4)", place
        )
        # By value: the pages of the largest index are then filled one after the other.
        self._run(
            "INSERT INTO entries (layer, kind, value, verdict, severity, confidence, valid_until, source, reason,"
            " message, link, feed_id, added_at) SELECT :layer, s.kind, s.value, coalesce(e.verdict, s.verdict),"
            " coalesce(e.severity, s.severity), coalesce(e.confidence, s.confidence), s.valid_until,"
            " coalesce(e.source, :source), coalesce(e.reason, s.reason), coalesce(e.message, s.message),"
            " coalesce(e.link, s.link), CASE WHEN e.id IS NULL THEN :feed ELSE e.feed_id END, :now"
            " FROM staged s LEFT JOIN entries e ON e.id = s.entry_id AND s.is_kept = 1"
            " WHERE s.fate IN (0, 4) ORDER BY s.kind, s.value",
            place,
        )

    def _decided(self, place: Mapping[str, Any]) -> None:
        """What people decided stays; what the feed itself put into the enterprise's layer is its own to renew."""
        others = "(:layer <> 1 OR e.feed_id IS NULL OR e.feed_id <> :feed)"
        self._find(f"e.layer = 1 AND {_SAME} AND {_LIVE} AND {others}", place)
        self._run("UPDATE staged SET fate = 2 WHERE entry_id IS NOT NULL")

    def _known(self, place: Mapping[str, Any]) -> None:
        """A row is renewed when half of its time is over, not at every import: each renewal goes to every device."""
        self._find(f"e.layer = :layer AND {_SAME}", place)
        self._run(
            "UPDATE staged SET fate = CASE WHEN EXISTS (SELECT 1 FROM entries e WHERE e.id = staged.entry_id AND ("
            f" NOT {_LIVE} OR (e.valid_until > 0 AND (staged.valid_until = 0"
            " OR 2 * (e.valid_until - :now) < staged.valid_until - :now)) OR staged.verdict > e.verdict OR (e.feed_id ="
            " :feed AND (staged.verdict <> e.verdict OR staged.severity <> e.severity"
            " OR staged.confidence <> e.confidence OR (staged.is_said AND staged.valid_until <> e.valid_until AND NOT"
            " EXISTS (SELECT 1 FROM feed_claims c WHERE c.kind = e.kind AND c.value = e.value AND c.feed_id <> :feed"
            " AND c.valid_until = e.valid_until))))))"
            " THEN 4 ELSE 3 END WHERE fate = 0 AND entry_id IS NOT NULL",
            place,
        )

    def _kept(self, place: Mapping[str, Any]) -> None:
        """Another feed's entry is given more time and stays its own, unless it has ended or this one says more."""
        self._run(
            "UPDATE staged SET is_kept = 1 WHERE fate = 4 AND EXISTS (SELECT 1 FROM entries e WHERE"
            f" e.id = staged.entry_id AND coalesce(e.feed_id, 0) <> :feed AND {_LIVE} AND staged.verdict <= e.verdict)",
            place,
        )

    def _find(self, wanted: str, place: Mapping[str, Any]) -> None:
        """Note the entry of the list that is `wanted` for each row; rows without one are not written."""
        found = f"SELECT e.id FROM entries e WHERE {wanted}"
        self._run(f"UPDATE staged SET entry_id = ({found}) WHERE fate = 0 AND EXISTS ({found})", place)

    def missing(self, feed: int) -> tuple[int, int]:
        """Return (how many entries the feed has in force, how many of them the import does not name)."""
        named = "SELECT min(number) AS number, kind, value FROM staged WHERE fate <> 5 GROUP BY kind, value"
        counts = self._connection.execute(
            text(
                f"SELECT count(*), count(*) - count(s.number) FROM entries e LEFT JOIN ({named}) AS s"
                " ON s.kind = e.kind AND s.value = e.value WHERE e.feed_id = :feed AND e.removed_at IS NULL"
            ),
            {"feed": feed},
        ).one()
        return counts[0], counts[1]

    def withdraw(self, place: Mapping[str, Any]) -> tuple[int, int]:
        """Remove what the feed put on the list and names no more; return (how many left, how many another feed has)."""
        removed = self._run(
            "UPDATE entries SET removed_at = :now WHERE feed_id = :feed AND removed_at IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM staged s WHERE s.kind = entries.kind AND s.value = entries.value AND s.fate <> 5)",
            place,
        )
        kept = Claims(self._connection).hand_over(place)
        return removed - kept, kept

    def counts(self) -> dict[Fate, int]:
        """Return how many rows have each fate."""
        rows = self._connection.execute(text("SELECT fate, count(*) FROM staged GROUP BY fate"))
        return dict.fromkeys(Fate, 0) | {Fate(fate): count for fate, count in rows}

    def stayed_out(self) -> "Iterator[tuple[int, str, Fate, int | None, int]]":
        """Yield (line, value, fate, id of the entry that was there, its verdict) of rows that became no entry."""
        rows = self._connection.execute(
            text(
                "SELECT s.line, s.value, s.fate, s.entry_id, coalesce(e.verdict, s.verdict) FROM staged s"
                " LEFT JOIN entries e ON e.id = s.entry_id WHERE s.fate IN (1, 2, 5) ORDER BY s.number"
            )
        )
        return ((line, value, Fate(fate), entry, verdict) for line, value, fate, entry, verdict in rows)

    def _run(self, statement: str, values: Mapping[str, Any] | None = None) -> int:
        return self._connection.execute(text(statement), dict(values or {})).rowcount
