# SPDX-License-Identifier: Apache-2.0
"""Puts a protected file back as it was kept. The inverse: what stood there comes back, and is kept from now on."""

from collections import deque
from pathlib import Path
from typing import Any

from mamplus_host.clock import Clock
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.executor.vault import Vault
from mamplus_host.executor.vault_store import REPLACED, Version
from mamplus_host.verdicts import ActionKind

MAX_RESTORES = 60  # of one path in RESTORE_WINDOW_NS; one more, and it waits for an administrator
RESTORE_WINDOW_NS = 60 * 10**9
_MAX_WATCHED_PATHS = 4096  # of which recent restorations are remembered


class Restore:
    """Target: `path`."""

    kind = ActionKind.RESTORE
    has_inverse = True
    is_passing = True

    def __init__(self, vault: Vault, clock: Clock) -> None:
        self._vault, self._clock = vault, clock
        self._restores: dict[str, deque[int]] = {}

    def prepare(self, _action_id: str, target: dict[str, Any]) -> Facts:
        path = target["path"]
        if self._vault.is_suspended(path):
            raise ActionFailed(f"{path!r} is not restored until an administrator says `mamplus vault restore`")
        newest = max((version.id for version in self._vault.versions(Path(path))), default=0)
        return {"path": path, "version": self._vault.latest(path).id, "newest": newest}

    def do(self, facts: Facts) -> str:
        path = facts["path"]
        self._vault.sweep(path)
        if self._vault.intact(path):
            return f"{path!r} is as it was kept"
        self._count(path)
        step("restore: put back")
        restored = self._vault.put_back(path, facts["version"])
        step("restore: put back and kept")
        return f"put {path!r} back" + (f"; {restored.note}" if restored.note else "")

    def undo(self, facts: Facts) -> str:
        path, replaced = facts["path"], self._replaced(facts)
        if replaced is None:
            raise ActionFailed("nothing of what stood there was kept")
        self._vault.sweep(path)
        step("restore: put back what stood there")
        self._vault.put_back(path, replaced.id)
        step("restore: keep that from now on")
        golden = self._vault.latest(path)
        if (golden.sha256, golden.facts) != (replaced.sha256, replaced.facts):
            self._vault.make_golden(path, replaced.id)
        return f"{path!r} has its changed content again, which is the protected one from now on"

    def verify(self, facts: Facts) -> State:
        path = facts["path"]
        is_intact = self._vault.intact(path)
        if self._vault.latest(path).id == facts["version"]:
            return State.DONE if is_intact else State.UNDONE
        return State.UNDONE if is_intact else State.BETWEEN

    def _replaced(self, facts: Facts) -> Version | None:
        """Return what this restoration found in its place: the first that was kept as replaced since."""
        later = [one for one in self._vault.versions(Path(facts["path"])) if one.id > facts["newest"]]
        return min((one for one in later if one.kind == REPLACED), key=lambda one: one.id, default=None)

    def _count(self, path: str) -> None:
        """Loop guard: raise ActionFailed when `path` was restored too often of late, and suspend it."""
        now = self._clock.boot_ns()
        recent = self._restores.setdefault(path, deque(maxlen=MAX_RESTORES))
        if len(recent) == MAX_RESTORES and now - recent[0] < RESTORE_WINDOW_NS:
            self._vault.suspend(path)
            raise ActionFailed(
                f"{path!r} was restored {MAX_RESTORES} times in {RESTORE_WINDOW_NS // 10**9} s and is damaged again:"
                " something fights for it, so it now waits for an administrator (`mamplus vault restore`)"
            )
        recent.append(now)
        if len(self._restores) > _MAX_WATCHED_PATHS:
            self._restores.pop(next(iter(self._restores)))
