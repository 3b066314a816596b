# SPDX-License-Identifier: Apache-2.0
"""Values that several feeds name. One feed has the entry, the others keep claims: what one withdraws, the next holds.

A claim is what its feed said at its last import. It is written and read with the temporary table of that import
(`staging`), under the list's write lock.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text

_SAID = "verdict, severity, confidence, valid_until, reason, message, link"
_COLUMNS = f"kind, value, feed_id, layer, {_SAID}"
_OPEN = "(valid_until = 0 OR valid_until > :now)"
_NAMED = "(SELECT 1 FROM staged s WHERE s.kind = feed_claims.kind AND s.value = feed_claims.value AND s.fate <> 5)"


def _of(alias: str, columns: str) -> str:
    return ", ".join(f"{alias}.{name}" for name in columns.split(", "))


class Claims:
    """The claims as one import changes them. `place` holds layer, feed, source and now, as in `Staging.merge`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def note(self, place: Mapping[str, Any]) -> None:
        """Write down anew what the import names and another feed has, and what it displaces of another."""
        self._run("DELETE FROM feed_claims WHERE valid_until > 0 AND valid_until <= :now", place)
        self._run(f"DELETE FROM feed_claims WHERE feed_id = :feed AND EXISTS {_NAMED}", place)
        others = "e.id = s.entry_id AND e.feed_id IS NOT NULL AND e.feed_id <> :feed"
        self._run(
            f"INSERT INTO feed_claims ({_COLUMNS}) SELECT s.kind, s.value, :feed, :layer, {_of('s', _SAID)}"
            f" FROM staged s JOIN entries e ON {others} WHERE s.fate IN (2, 3) OR s.is_kept = 1",
            place,
        )
        self._run(
            f"INSERT INTO feed_claims ({_COLUMNS}) SELECT e.kind, e.value, e.feed_id, e.layer, {_of('e', _SAID)}"
            f" FROM staged s JOIN entries e ON {others} WHERE s.fate = 4 AND s.is_kept = 0"
            " AND (e.valid_until = 0 OR e.valid_until > :now) ON CONFLICT DO NOTHING",
            place,
        )

    def hand_over(self, place: Mapping[str, Any]) -> int:
        """Give what the feed has just withdrawn to the feed that says most of it; return how many were given."""
        self._run(f"DELETE FROM feed_claims WHERE feed_id = :feed AND NOT EXISTS {_NAMED}", place)
        given = self._run(
            f"INSERT INTO entries (layer, kind, value, source, feed_id, added_at, {_SAID}) SELECT c.layer, c.kind,"
            f" c.value, f.name, c.feed_id, :now, {_of('c', _SAID)} FROM entries w"
            " JOIN feed_claims c ON c.kind = w.kind AND c.value = w.value JOIN feeds f ON f.id = c.feed_id"
            f" WHERE w.feed_id = :feed AND w.removed_at = :now AND {_OPEN.replace('valid', 'c.valid')} AND NOT EXISTS"
            " (SELECT 1 FROM entries e WHERE e.layer = c.layer AND e.kind = c.kind AND e.value = c.value"
            " AND e.removed_at IS NULL) AND NOT EXISTS (SELECT 1 FROM feed_claims b WHERE b.kind = c.kind"
            f" AND b.value = c.value AND b.layer = c.layer AND {_OPEN.replace('valid', 'b.valid')}"
            " AND (b.verdict > c.verdict OR (b.verdict = c.verdict AND b.feed_id < c.feed_id)))",
            place,
        )
        self._run(
            "DELETE FROM feed_claims WHERE EXISTS (SELECT 1 FROM entries e WHERE e.kind = feed_claims.kind AND"
            " e.value = feed_claims.value AND e.layer = feed_claims.layer AND e.removed_at IS NULL"
            " AND e.feed_id = feed_claims.feed_id AND e.added_at = :now)",
            place,
        )
        return given

    def _run(self, statement: str, place: Mapping[str, Any]) -> int:
        return self._connection.execute(text(statement), dict(place)).rowcount
