# SPDX-License-Identifier: Apache-2.0
"""Lock: the screens of all graphical sessions, through logind; the person goes on with their own password.

Journey: execute -> [lock] -> sessions, bus -> org.freedesktop.login1 -> the sessions' lockers.

There is no inverse. logind offers UnlockSession, but a dismissed alert must not open a device that lies on a table by
then, and nothing of ours keeps it locked. A text session has no locker: it is named, and stays open.
"""

import time
from typing import Any

import msgspec

from mamplus_host.errors import ActionFailed
from mamplus_host.executor.session import bus
from mamplus_host.executor.session.sessions import LOGIN, MANAGER, Session, sessions
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.verdicts import ActionKind

SHOWN_S = 3.0  # until a locker says that it locked


class Lock:
    """The deed."""

    kind = ActionKind.LOCK
    has_inverse = False
    is_slow = True

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """`target`: `uid` for one user's sessions alone."""
        wanted = [one for one in sessions() if int(target.get("uid") or one.uid) == one.uid]
        if not any(one.is_graphical for one in wanted):
            raise ActionFailed(f"there is no session that could be locked: {_words(wanted) or 'nobody is logged in'}")
        return {"id": action_id, "sessions": [msgspec.to_builtins(one) for one in wanted]}

    def do(self, facts: Facts) -> str:
        wanted = [one for one in _kept(facts) if one.is_graphical]
        for one in wanted:
            step("lock.session")
            call = bus.Call(LOGIN, MANAGER, "org.freedesktop.login1.Manager", "LockSession", "s", (one.id,))
            answer = bus.ask([call])[0]
            if answer.error and not answer.error.endswith("NoSuchSession"):
                raise ActionFailed(f"logind does not lock session {one.id}: {answer.error} {answer.text}")
        end = time.monotonic() + SHOWN_S
        while (opened := self._open(facts)) and time.monotonic() < end:
            time.sleep(0.1)
        without = _words([one for one in _kept(facts) if not one.is_graphical])
        return "; ".join(
            [f"asked the locker of {_words(wanted)}"]
            + ([f"{_words(opened)} has not said that it is locked"] if opened else [])
            + ([f"{without} has none"] if without else [])
        )

    def undo(self, facts: Facts) -> str:
        raise ActionFailed(
            f"{_words(_kept(facts))}: whoever knows the password opens it; nothing of ours keeps it locked"
        )

    def verify(self, facts: Facts) -> State:
        wanted = [one for one in _kept(facts) if one.is_graphical]
        opened = self._open(facts)
        if not opened:
            return State.DONE
        return State.UNDONE if len(opened) == len(wanted) else State.BETWEEN

    def _open(self, facts: Facts) -> list[Session]:
        """Return the sessions of `facts` that are there and not locked."""
        ours = {one.id for one in _kept(facts) if one.is_graphical}
        return [one for one in sessions() if one.id in ours and not one.is_locked]


def _kept(facts: Facts) -> list[Session]:
    return msgspec.convert(facts["sessions"], list[Session])


def _words(found: list[Session]) -> str:
    return ", ".join(f"session {one.id} of {one.user!r} ({one.type})" for one in found)
