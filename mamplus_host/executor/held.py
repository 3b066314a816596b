# SPDX-License-Identifier: Apache-2.0
"""What is held right now: `state/held.json`, the one place of truth about it.

Journey: execute -> [held], read again by the next agent when this one was killed.

An entry is on the disk before the freezing begins, and is taken away after the thawing or
killing ended; so whatever stands still because of us can be found and let go. The journal
tells the story, this file the state. Entries of an earlier boot are dropped at opening: their
processes ended with it.
"""

import json
from pathlib import Path

import msgspec

from mamplus_host.errors import ActionFailed, NotPossible
from mamplus_host.executor.process import Hold
from mamplus_host.files import write_whole
from mamplus_host.verdicts import Indicator

MAX_HELD = 1024


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One suspected program that waits for an answer."""

    decision_id: str
    indicator: Indicator | None  # what the answer will be about
    hold: Hold
    deadline_ns: int  # CLOCK_BOOTTIME


class _File(msgspec.Struct, frozen=True, kw_only=True):
    boot_id: str
    held: list[Held]


class HeldStore:
    """The entries, in memory and in the file alike."""

    def __init__(self, path: Path, *, boot_id: str) -> None:
        """Read `path`. One that cannot be read is kept beside as `.damaged`, and `was_damaged` says so."""
        self._path, self._boot_id = path, boot_id
        self._held: dict[str, Held] = {}
        self.was_damaged = False
        try:
            kept = msgspec.convert(json.loads(path.read_bytes()), _File)
        except FileNotFoundError:
            return
        except (msgspec.ValidationError, ValueError):
            path.replace(path.with_name(path.name + ".damaged"))
            self.was_damaged = True
            return
        if kept.boot_id == boot_id:
            self._held = {held.decision_id: held for held in kept.held}

    def put(self, held: Held) -> None:
        """Note `held` for good; ActionFailed when there is no room, and then nothing may be frozen."""
        if len(self._held) >= MAX_HELD and held.decision_id not in self._held:
            raise ActionFailed(f"{MAX_HELD} programs are held already; answer some of them first")
        self._write({**self._held, held.decision_id: held})

    def drop(self, decision_id: str) -> None:
        self._write({key: held for key, held in self._held.items() if key != decision_id})

    def get(self, decision_id: str) -> Held | None:
        return self._held.get(decision_id)

    def all(self) -> list[Held]:
        return list(self._held.values())

    def sharing(self, cgroup: str) -> list[Held]:
        """Return the entries that hold this cgroup: the last of them lets it go."""
        return [held for held in self._held.values() if held.hold.cgroup == cgroup]

    def _write(self, held: dict[str, Held]) -> None:
        content = _File(boot_id=self._boot_id, held=list(held.values()))
        try:
            # A cgroup's name need not be UTF-8: json writes its surrogates as escapes, msgspec refuses them.
            write_whole(self._path, json.dumps(msgspec.to_builtins(content), ensure_ascii=True).encode())
        except (OSError, NotPossible) as error:
            raise ActionFailed(f"cannot note what is held in {str(self._path)!r}: {error}") from None
        self._held = held
