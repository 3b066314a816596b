# SPDX-License-Identifier: Apache-2.0
"""What a vault that was put aside had: the enterprise is told of each one, once.

Journey: vault/store (puts it aside) -> [vault/lost] -> service -> outbox.

Nothing protects what such a vault protected until somebody protects it again, and what the policy guards is kept as it
is by now: whoever damaged the vault may have changed it before. So people have to look.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.errors import NotPossible
from mamplus_host.files import write_whole
from mamplus_host.ids import new_id
from mamplus_host.verdicts import Escalation, Finding, Severity

_NAMED = 50  # paths in the alert; all are counted


class _Told(msgspec.Struct, frozen=True):
    """`told.json` in the directory that was put aside: written before it is told, so twice told is the same alert."""

    id: str
    is_told: bool = False


def untold(state: Path, clock: Clock) -> Iterator[tuple[Path, Escalation]]:
    """Yield each vault that was put aside and not told of, with what is to be told."""
    for directory in sorted(state.glob("vault.damaged*")):
        with suppress(NotPossible):  # no room: with the next start
            known = _read(directory) or _note(directory, _Told(new_id(clock.wall_s())))
            if not known.is_told:
                yield directory, _escalation(directory, known.id, clock)


def note_told(directory: Path) -> None:
    """Note that the alert about a vault is in the outbox."""
    known = _read(directory)
    if known is not None:
        _note(directory, _Told(known.id, is_told=True))


def _escalation(directory: Path, alert_id: str, clock: Clock) -> Escalation:
    lost = _lost(directory)
    named = f"{lost['protected']} protected paths" if lost["protected"] else "which paths it protected is not known"
    return Escalation(
        id=alert_id, kind="file", finding=Finding.CONFIRMED, severity=Severity.HIGH, at=clock.wall_s(),
        boot_ns=clock.boot_ns(), generation=0, rule="vault-damaged",
        summary=f"the vault was damaged, an empty one was begun: {named}; {lost['contents']} contents are kept aside",
        evidence={"kept_as": str(directory), **lost},
    )  # fmt: skip


def _lost(directory: Path) -> dict[str, Any]:
    """Return what a damaged vault had, as far as its index can still be read."""
    paths: list[str] = []
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{directory.as_uri()}/index.sqlite?mode=ro", uri=True)) as index,
    ):
        for (path,) in index.execute("SELECT path FROM protected ORDER BY rowid"):
            paths.append(bytes(path).decode(errors="backslashreplace"))
    contents = [one.stat().st_size for one in (directory / "objects").glob("*")]
    return {"protected": len(paths), "paths": paths[:_NAMED], "contents": len(contents), "bytes": sum(contents)}


def _read(directory: Path) -> _Told | None:
    try:
        return msgspec.json.decode((directory / "told.json").read_bytes(), type=_Told)
    except (OSError, msgspec.MsgspecError):
        return None


def _note(directory: Path, told: _Told) -> _Told:
    write_whole(directory / "told.json", msgspec.json.encode(told))
    return told
