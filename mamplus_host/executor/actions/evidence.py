# SPDX-License-Identifier: Apache-2.0
"""Evidence: a snapshot of a process, its family and its files, sealed for the enterprise; undone, it is deleted.

Journey: execute -> [evidence] -> snapshot, seal_helper -> `state/evidence/ID.sealed`.

The device itself cannot read it again. Above `max_bytes` the oldest go. `mamplus evidence export` carries it to the
enterprise, `mamplus-enterprise unseal` opens it there.
"""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mamplus_host.clock import Clock
from mamplus_host.errors import ActionFailed
from mamplus_host.executor import helper
from mamplus_host.executor.evidence import snapshot
from mamplus_host.executor.processes.tasks import task
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.files import put_in_place, sync_directory
from mamplus_host.verdicts import ActionKind

HELPER_S = 30.0
OFTEN, WINDOW_NS = 12, 600 * 10**9  # a snapshot takes seconds that a storm of alerts does not have
MAX_PATHS = 8
MAGIC = b"MAMPSEAL"  # as sealed.py has it, which imports the cryptography package


class Evidence:
    """The deed. Its snapshots are files of `directory`."""

    kind = ActionKind.EVIDENCE
    has_inverse = True
    is_slow = True
    is_passing = True  # it holds nothing, and a time limit must not delete it

    def __init__(
        self, directory: Path, *, max_bytes: int, clock: Clock, key: Callable[[], bytes | None],
        limits: snapshot.Limits = snapshot.DEFAULT,
    ) -> None:  # fmt: skip
        """`key` returns the enterprise's public key to seal for, None while there is none."""
        self._directory, self._max_bytes, self._clock, self._key = directory, max_bytes, clock, key
        self._limits = limits
        self._taken: deque[int] = deque(maxlen=OFTEN)

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """`target`: `tgid`, `path` or `paths`, at least one of them; `alert` and `reason` go along."""
        if self._key() is None:
            raise ActionFailed("there is no key of the enterprise to seal for: enroll, or get a newer list")
        tgid = int(target.get("tgid") or 0)
        paths = [str(path) for path in (target.get("path"), *(target.get("paths") or ())) if path][:MAX_PATHS]
        known = task(tgid) if tgid else None
        if known is None and not paths:
            raise ActionFailed(f"process {tgid} has ended, and no file was named: there is nothing to look at")
        self._count()
        about = {name: str(target.get(name) or "") for name in ("alert", "reason")}
        return {"id": action_id, "tgid": tgid, "start_ns": known.start_ns if known else 0, "paths": paths, **about}

    def _count(self) -> None:
        now = self._clock.boot_ns()
        if len(self._taken) == OFTEN and now - self._taken[0] < WINDOW_NS:
            raise ActionFailed(f"no more than {OFTEN} snapshots are taken in {WINDOW_NS // (60 * 10**9)} minutes")
        self._taken.append(now)

    def do(self, facts: Facts) -> str:
        place = self.place(facts["id"])
        if not place.exists():
            known = task(facts["tgid"]) if facts["tgid"] else None
            is_it = known is not None and known.start_ns == facts["start_ns"]
            taken = snapshot.take(facts["tgid"] if is_it else 0, tuple(facts["paths"]), self._limits)
            step("evidence.seal")
            self._seal(facts["id"], {**facts, "at": self._clock.wall_s(), **taken})
        size = place.stat().st_size
        return f"a snapshot of {size} bytes is sealed; `mamplus evidence export {facts['id']} OUT` carries it on"

    def undo(self, facts: Facts) -> str:
        step("evidence.delete")
        self.place(facts["id"]).unlink(missing_ok=True)
        if self._directory.exists():
            sync_directory(self._directory)
        return "the snapshot is deleted"

    def verify(self, facts: Facts) -> State:
        try:
            with self.place(facts["id"]).open("rb") as file:
                return State.DONE if file.read(len(MAGIC)) == MAGIC else State.BETWEEN
        except FileNotFoundError:
            return State.UNDONE

    def place(self, action_id: str) -> Path:
        return self._directory / f"{action_id}.sealed"

    def _seal(self, action_id: str, content: dict[str, Any]) -> None:
        key = self._key()
        if key is None:
            raise ActionFailed("there is no key of the enterprise any more to seal for")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._directory / f".{action_id}.new"
        target = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            seal_into(target, msgspec.json.encode(content), key)
            self._make_room(os.fstat(target).st_size)
            step("evidence.place")
            put_in_place(beside, self.place(action_id))
        finally:
            os.close(target)
            beside.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        kept = list[tuple[Path, int]]()
        for path in sorted(self._directory.glob("*.sealed")):  # ids sort by time
            with suppress(FileNotFoundError):  # another thread makes room, too, or undoes
                kept.append((path, path.stat().st_size))
        used = sum(bytes_ for _path, bytes_ in kept)
        for path, bytes_ in kept:
            if used + size <= self._max_bytes:
                return
            used -= bytes_
            path.unlink(missing_ok=True)


def seal_into(target: int, content: bytes, key: bytes) -> None:
    """Write `content`, sealed for `key`, to descriptor `target`; ActionFailed when that does not go."""
    late = f"nothing was sealed within {HELPER_S:g} s; is the disk broken?"
    helper.run(
        "evidence.seal_helper", key.hex(), str(target), within_s=HELPER_S, late=late, what="cannot seal: ",
        told=content, keeps=(target,),
    )  # fmt: skip
