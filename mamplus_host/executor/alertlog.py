# SPDX-License-Identifier: Apache-2.0
"""What was decided and why, for `mamplus alerts` and `mamplus explain`, in one SQLite file.

Journey: executor -> [alert log]; the journal beside it is the proof, this is the index that
people ask. Bounded: above `max_alerts` the oldest go, and of what was done about repetitions of an alert the first
MAX_OF_REPEATS are kept with it: who is refused a thousand times a second must not fill the disk.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.errors import NotPossible
from mamplus_host.jsonlines import encode_line
from mamplus_host.verdicts import Decision, Escalation, Outcome

_SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts (
    id TEXT PRIMARY KEY, at REAL NOT NULL, repeats INTEGER NOT NULL DEFAULT 0,
    entry_id INTEGER NOT NULL, in_kernel INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    alert_id TEXT NOT NULL REFERENCES alerts(id) ON DELETE CASCADE, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS outcomes_by_alert ON outcomes(alert_id);
"""


_INSERT = "INSERT OR IGNORE INTO alerts (id, at, repeats, entry_id, in_kernel, body) VALUES (?, ?, ?, ?, ?, ?)"
_DROP = "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts ORDER BY id LIMIT ?)"
MAX_OF_REPEATS = 100
_ADD = "INSERT INTO outcomes SELECT id, ?2 FROM alerts WHERE id = ?1"
_ADD_FEW = f"{_ADD} AND (SELECT COUNT(*) FROM outcomes WHERE alert_id = ?1) < {MAX_OF_REPEATS}"
_Row = tuple[str, float, int, int, bool, bytes]


class AlertLog:
    """The alerts of this device. What a full disk keeps out waits in memory and is shown like the others."""

    def __init__(self, path: Path, *, max_alerts: int = 10_000, max_unwritten: int = 256) -> None:
        self._max_alerts, self._max_unwritten = max_alerts, max_unwritten
        self.lost = 0  # alerts, and what was to be added to one, that a full disk kept out for good
        # Repetitions and outcomes that no alert here shows: it has MAX_OF_REPEATS, is gone, or never was (what a person
        # started has none). The journal has them.
        self.unshown = 0
        self._unwritten: dict[str, _Row] = {}  # by id, oldest first
        self._db = _opened(path)
        (self._written,) = self._db.execute("SELECT COUNT(*) FROM alerts").fetchone()

    def put(self, decision: Decision, escalation: Escalation) -> None:
        """Remember an alert as it was escalated; `flush` writes it, with all that were put before."""
        self._remember((decision.id, escalation.at, 0, decision.entry_id, decision.in_kernel, encode_line(escalation)))

    def note(self, escalation: Escalation) -> None:
        """Remember an alert that no event was decided for: it is about the agent or its list."""
        self._remember((escalation.id, escalation.at, 0, 0, False, encode_line(escalation)))
        self.flush()

    def note_repeat(self, alert_id: str) -> None:
        """Count one more of the same."""
        if alert_id in self._unwritten:
            number, at, repeats, entry_id, in_kernel, body = self._unwritten[alert_id]
            self._unwritten[alert_id] = (number, at, repeats + 1, entry_id, in_kernel, body)
        else:
            self._add("UPDATE alerts SET repeats = repeats + 1 WHERE id = ?", (alert_id,))

    def note_outcomes(self, outcomes: Iterable[Outcome], *, under: str = "") -> None:
        """Add what was done later (thawed, killed, undone) to the alert it belongs to."""
        self.flush()
        for outcome in outcomes:
            alert_id = under or outcome.decision_id
            if alert_id in self._unwritten:
                self.lost += 1
            else:
                self._add(_ADD_FEW if under else _ADD, (alert_id, encode_line(outcome)))

    def list(self, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest alerts, newest first."""
        rows = self._db.execute("SELECT * FROM alerts ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
        both = sorted([*rows, *self._unwritten.values()], reverse=True)[:limit]  # an id begins with its time
        return [self._view(row) for row in both]

    def get(self, alert_id: str) -> dict[str, Any]:
        """Return one alert by its id or an unambiguous part of its beginning or end; NotPossible when none fits."""
        part = alert_id.upper()
        rows = self._db.execute(
            "SELECT * FROM alerts WHERE id LIKE ?1 || '%' OR id LIKE '%' || ?1 LIMIT 2", (part,)
        ).fetchall()
        rows += [row for name, row in self._unwritten.items() if name.startswith(part) or name.endswith(part)]
        if len(rows) != 1 or not alert_id:
            count = "no alert has" if not rows or not alert_id else "several alerts have"
            raise NotPossible(f"{count} the id {alert_id!r}; `mamplus alerts` lists them")
        return self._view(rows[0])

    def close(self) -> None:
        self.flush()
        self._db.close()

    def _view(self, row: tuple[Any, ...]) -> dict[str, Any]:
        alert_id, _at, repeats, entry_id, in_kernel, body = row
        later = self._db.execute("SELECT body FROM outcomes WHERE alert_id = ? ORDER BY rowid", (alert_id,)).fetchall()
        return {
            **msgspec.json.decode(body),
            "repeats": repeats,
            "entry_id": entry_id,
            "decided_in": "the kernel" if in_kernel else "user space",
            "later": [msgspec.json.decode(line) for (line,) in later],
        }

    def flush(self) -> None:
        """Write what waits, oldest first: all at once, or as far as there is room."""
        rows = list(self._unwritten.values())
        if not self._write(rows):
            for row in rows:
                if not self._write([row]):
                    return
        if self._written > self._max_alerts:
            with suppress(sqlite3.OperationalError):  # no room: the next time
                self._db.execute(_DROP, (self._written - self._max_alerts,))
                self._written = self._max_alerts

    def _remember(self, row: _Row) -> None:
        """Have an alert wait behind those that still do; the oldest of too many that find no room is lost."""
        self._unwritten[row[0]] = row
        if len(self._unwritten) > self._max_unwritten:
            self.flush()
        if len(self._unwritten) > self._max_unwritten:
            del self._unwritten[next(iter(self._unwritten))]
            self.lost += 1

    def _write(self, rows: Sequence[_Row]) -> bool:
        """Write alerts that wait, all or none; return whether there was room."""
        try:
            self._db.execute("BEGIN")
            with self._db:
                self._written += self._db.executemany(_INSERT, rows).rowcount
        except sqlite3.OperationalError:
            return False
        for row in rows:
            del self._unwritten[row[0]]
        return True

    def _add(self, statement: str, row: tuple[Any, ...]) -> None:
        """Add something to an alert, or count it."""
        try:
            self.unshown += not self._db.execute(statement, row).rowcount
        except sqlite3.OperationalError:
            self.lost += 1


def _opened(path: Path) -> sqlite3.Connection:
    """Return the database at `path`; a damaged one is put aside: this index must not keep the agent from starting."""
    try:
        return _connected(path)
    except sqlite3.OperationalError:
        raise  # locked, or no room: that passes
    except sqlite3.DatabaseError:
        path.replace(path.with_name(path.name + ".damaged"))
        for rest in ("-wal", "-shm"):
            path.with_name(path.name + rest).unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        # No sync an alert: a power cut may take the last ones off this list, not out of the journal or the outbox.
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("PRAGMA foreign_keys=ON")
        database.execute("PRAGMA cache_size=-128")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
