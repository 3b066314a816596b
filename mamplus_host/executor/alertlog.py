# SPDX-License-Identifier: Apache-2.0
"""What was decided and why, for `mamplus alerts` and `mamplus explain`, in one SQLite file.

Journey: executor -> [alert log]; the journal beside it is the proof, this is the index that
people ask. Bounded: above `max_alerts` the oldest go.
"""

import sqlite3
from collections.abc import Iterable
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


class AlertLog:
    """The alerts of this device. What a full disk keeps out is counted in `lost`; defending goes on."""

    def __init__(self, path: Path, *, max_alerts: int = 10_000) -> None:
        self._max_alerts = max_alerts
        self.lost = 0  # alerts that could not be written, a full disk mostly
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.execute("PRAGMA cache_size=-128")
        self._db.executescript(_SCHEMA)

    def put(self, decision: Decision, escalation: Escalation) -> None:
        """Remember an alert as it was escalated."""
        body = encode_line(escalation)
        row = (decision.id, escalation.at, decision.entry_id, decision.in_kernel, body)
        self._write("INSERT OR REPLACE INTO alerts (id, at, entry_id, in_kernel, body) VALUES (?, ?, ?, ?, ?)", row)
        self._write(
            "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts ORDER BY id DESC LIMIT -1 OFFSET ?)",
            (self._max_alerts,),
        )

    def note(self, escalation: Escalation) -> None:
        """Remember an alert that no event was decided for: it is about the agent or its list."""
        row = (escalation.id, escalation.at, encode_line(escalation))
        self._write("INSERT OR IGNORE INTO alerts (id, at, entry_id, in_kernel, body) VALUES (?, ?, 0, 0, ?)", row)

    def note_repeat(self, alert_id: str) -> None:
        """Count one more of the same."""
        self._write("UPDATE alerts SET repeats = repeats + 1 WHERE id = ?", (alert_id,))

    def note_outcomes(self, outcomes: Iterable[Outcome], *, under: str = "") -> None:
        """Add what was done later (thawed, killed, undone) to the alert it belongs to."""
        for outcome in outcomes:
            row = (under or outcome.decision_id, encode_line(outcome))
            self._write("INSERT INTO outcomes SELECT id, ?2 FROM alerts WHERE id = ?1", row)

    def list(self, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest alerts, newest first."""
        rows = self._db.execute("SELECT * FROM alerts ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
        return [self._view(row) for row in rows]

    def get(self, alert_id: str) -> dict[str, Any]:
        """Return one alert by its id or an unambiguous part of its beginning or end; NotPossible when none fits."""
        rows = self._db.execute(
            "SELECT * FROM alerts WHERE id LIKE ?1 || '%' OR id LIKE '%' || ?1 LIMIT 2", (alert_id.upper(),)
        ).fetchall()
        if len(rows) != 1 or not alert_id:
            count = "no alert has" if not rows or not alert_id else "several alerts have"
            raise NotPossible(f"{count} the id {alert_id!r}; `mamplus alerts` lists them")
        return self._view(rows[0])

    def close(self) -> None:
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

    def _write(self, statement: str, row: tuple[Any, ...]) -> None:
        try:
            self._db.execute(statement, row)
        except sqlite3.OperationalError:
            self.lost += 1
