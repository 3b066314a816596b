# SPDX-License-Identifier: Apache-2.0
"""Puts what is protected back as it was kept. The inverse: what stood there comes back, and is kept from now on.

What a power cut left beside a file is kept by the next start, before anything is done again (`Vault.sweep_all`).

A path that ends with a slash means all that is protected below it: what a mass rewrite left. What stood in each place
is found again by the action's id, which the vault keeps with it; so the facts stay small, however many files there are.
"""

from collections import deque
from typing import Any

from mamplus_host.clock import Clock
from mamplus_host.errors import ActionFailed, VaultError
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.executor.vault.store import Version
from mamplus_host.executor.vault.vault import Vault
from mamplus_host.verdicts import ActionKind

MAX_RESTORES = 60  # of one path in RESTORE_WINDOW_NS; one more, and it waits for an administrator
RESTORE_WINDOW_NS = 60 * 10**9
_MAX_WATCHED_PATHS = 4096  # of which recent restorations are remembered


class Restore:
    """Target: `path`; of a directory with all that is protected in it, with a slash at its end."""

    kind = ActionKind.RESTORE
    has_inverse = True
    is_passing = True
    is_found_again = True  # every start looks at all that is protected

    def __init__(self, vault: Vault, clock: Clock) -> None:
        self._vault, self._clock = vault, clock
        self._restores: dict[str, deque[int]] = {}

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        path = target["path"]
        if self._vault.is_suspended(path):
            raise ActionFailed(f"{path!r} is not restored until an administrator says `mamplus vault restore`")
        version = 0 if path.endswith("/") else self._vault.latest(path).id
        return {"path": path, "version": version, "action": action_id}

    def do(self, facts: Facts) -> str:
        path = facts["path"]
        if path.endswith("/"):
            return self._do_all(path, facts["action"])
        if self._vault.intact(path):
            return f"{path!r} is as it was kept"
        self._count(path)
        step("restore: put back")
        note = self._vault.place(path, facts["version"], action=facts["action"])
        step("restore: put back and to be kept")
        return f"put {path!r} back" + (f"; {note}" if note else "")

    def undo(self, facts: Facts) -> str:
        self._vault.settle()
        replaced = self._replaced(facts)
        if not replaced:
            raise ActionFailed("nothing of what stood there was kept")
        for version in replaced:
            step("restore: put back what stood there")
            self._vault.put_back(version.path, version.id)
            step("restore: keep that from now on")
            golden = self._vault.latest(version.path)
            if (golden.sha256, golden.facts) != (version.sha256, version.facts):
                self._vault.make_golden(version.path, version.id)
        what = repr(replaced[0].path) if len(replaced) == 1 else f"{len(replaced)} files below {facts['path']!r}"
        return f"{what}: the changed content is back, and is the protected one from now on"

    def verify(self, facts: Facts) -> State:
        path = facts["path"]
        self._vault.settle()
        if path.endswith("/"):
            return self._verify_all(facts)
        is_intact = self._vault.intact(path)
        if self._vault.latest(path).id == facts["version"]:
            return State.DONE if is_intact else State.UNDONE
        return State.UNDONE if is_intact else State.BETWEEN

    # --- all below a path --------------------------------------------------------------------

    def _do_all(self, root: str, action: str) -> str:
        damaged = [path for path in self._below(root) if not self._vault.intact(path, quick=True)]
        if not damaged:
            return f"all that is protected below {root!r} is as it was kept"
        failed = []
        for path in damaged:
            try:
                if self._vault.is_suspended(path) or self._vault.intact(path):
                    continue
                self._count(path)
                self._vault.place(path, action=action)
            except (ActionFailed, VaultError) as error:
                failed.append(f"{path!r}: {error}")
            step("restore: one of many is back")
        self._vault.settle()
        step("restore: all are back and kept")
        done = f"put {len(damaged) - len(failed)} of {len(damaged)} damaged files below {root!r} back"
        if failed:
            raise ActionFailed(f"{done}; not: {'; '.join(failed[:3])}")
        return done

    def _verify_all(self, facts: Facts) -> State:
        if all(self._vault.intact(path, quick=True) for path in self._below(facts["path"])):
            return State.UNDONE if self._is_undone(facts) else State.DONE
        return State.BETWEEN

    def _is_undone(self, facts: Facts) -> bool:
        """Say whether what stood there is what is protected by now."""
        replaced = self._replaced(facts)
        golden = [self._vault.latest(one.path) for one in replaced]
        alike = [new.sha256 == old.sha256 for new, old in zip(golden, replaced, strict=True)]
        return bool(alike) and all(alike)

    def _below(self, root: str) -> list[str]:
        """Return what is protected at or below `root`, directories before what is in them."""
        return self._vault.paths(root.rstrip("/") or "/")

    def _replaced(self, facts: Facts) -> list[Version]:
        """Return what this restoration found in its places."""
        return self._vault.replaced_by_action(facts["action"])

    def _count(self, path: str) -> None:
        """Loop guard: raise ActionFailed when `path` was restored too often of late, and suspend it.

        By path, also of a tree: who fights for one file must not cost the others their protection.
        """
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
