# SPDX-License-Identifier: Apache-2.0
"""Notify: the person holding the device reads what was done, why, and how to ask for an exception.

Journey: execute -> [notify] -> sessions, bus -> org.freedesktop.Notifications of each session, or its terminal.

A desktop's notification where one answers, else words on the session's terminal, as wall(1) writes them. Who was
reached is kept in `state/notices/ID.json` after each session, so that a start after a crash does not say it twice to
the others. What was said cannot be unsaid: there is no inverse.

Bounded: OFTEN times in WINDOW_NS, and the desktops together get DESKTOPS_S; whose bus answers late gets the words on
the terminal. Else a storm of alerts, or a user's own deaf bus, would hold up whoever acts.
"""

import json
import time
from collections import deque
from pathlib import Path
from typing import Any

from mamplus_host.clock import Clock
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.session import bus
from mamplus_host.executor.session.sessions import Session, say, sessions, terminals
from mamplus_host.executor.shape import Facts, State
from mamplus_host.executor.steps import step
from mamplus_host.files import write_whole
from mamplus_host.verdicts import ActionKind

MAX_TEXT = 600  # characters of a reason that are shown
OFTEN, WINDOW_NS = 6, 600 * 10**9
DESKTOP_S, DESKTOPS_S = 5.0, 10.0  # for one, and for all of them
MAX_NOTICES = 500  # kept; the oldest go
TITLE = "Your device stopped something"
DESKTOP = "org.freedesktop.Notifications"
_CRITICAL = {"urgency": ["y", 2]}


class Notify:
    """The deed. `runtime` is where each user's bus is, `devices` where terminals are."""

    kind = ActionKind.NOTIFY
    has_inverse = False
    is_slow = True

    def __init__(
        self, notices: Path, clock: Clock, *, runtime: Path = Path("/run/user"), devices: Path = Path("/dev")
    ) -> None:
        self._notices, self._clock, self._runtime, self._devices = notices, clock, runtime, devices
        self._said: deque[int] = deque(maxlen=OFTEN)
        self._desktops_until = 0.0

    def prepare(self, action_id: str, target: dict[str, Any]) -> Facts:
        """`target`: `reason`; `message` of the list's entry, `alert` that can be appealed, `uid` for one user alone."""
        words = [str(target.get("message") or ""), str(target.get("reason") or "")]
        text = "\n".join(shown(word) for word in words if word)
        if not text:
            raise ActionFailed("there is nothing to say: no reason was given")
        self._count()
        alert = str(target.get("alert") or "")
        appeal = f"Is this wrong? Ask for an exception: mamplus ask {alert} 'why you need it'" if alert else ""
        return {"id": action_id, "title": TITLE, "text": text, "appeal": appeal, "uid": int(target.get("uid") or 0)}

    def _count(self) -> None:
        now = self._clock.boot_ns()
        if len(self._said) == OFTEN and now - self._said[0] < WINDOW_NS:
            raise ActionFailed(f"nobody is told more than {OFTEN} times in {WINDOW_NS // (60 * 10**9)} minutes")
        self._said.append(now)

    def do(self, facts: Facts) -> str:
        told = self._told(facts["id"])
        people = self._people(facts)
        self._desktops_until = time.monotonic() + DESKTOPS_S
        for one in people:
            if one.id not in told:
                step("notify.session")
                told[one.id] = f"{one.user!r} {self._say(one, facts)}"
                self._keep(facts["id"], told)
        if not told:
            return "nobody is logged in: nobody was told"
        return "told " + ", ".join(sorted(set(told.values())))

    def undo(self, facts: Facts) -> str:
        raise ActionFailed(f"what was said cannot be unsaid: {facts['text']!r}")

    def verify(self, facts: Facts) -> State:
        told = self._told(facts["id"])
        missing = [one for one in self._people(facts) if one.id not in told]
        if not missing:
            return State.DONE
        return State.BETWEEN if told else State.UNDONE

    def _people(self, facts: Facts) -> list[Session]:
        try:
            found = sessions()
        except ActionFailed:
            found = terminals()
        return [one for one in found if facts["uid"] in (0, one.uid)]

    def _say(self, one: Session, facts: Facts) -> str:
        """Tell one session; return how, in words."""
        socket = self._runtime / str(one.uid) / "bus"
        may = one.is_graphical and time.monotonic() < self._desktops_until and socket.exists()
        if may and self._on_desktop(f"unix:path={socket}", one.uid, facts):
            return "on the desktop"
        lines = "\n".join(line for line in (f"*** {facts['title']} ***", facts["text"], facts["appeal"]) if line)
        return "on the terminal" if say(one.tty, lines, root=self._devices) else "could not be reached"

    def _on_desktop(self, address: str, uid: int, facts: Facts) -> bool:
        body = "\n".join(line for line in (facts["text"], facts["appeal"]) if line)
        arguments: tuple[Any, ...] = ("mamplus", 0, "security-high", facts["title"], _inert(body), [], _CRITICAL, 0)
        call = bus.Call(DESKTOP, "/org/freedesktop/Notifications", DESKTOP, "Notify", "susssasa{sv}i", arguments)
        try:
            return not bus.ask([call], address=address, uid=uid, timeout_s=DESKTOP_S)[0].error
        except ActionFailed:
            return False  # its terminal is tried

    def _told(self, action_id: str) -> dict[str, str]:
        try:
            told: dict[str, str] = json.loads((self._notices / f"{action_id}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return told

    def _keep(self, action_id: str, told: dict[str, str]) -> None:
        self._notices.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._notices / f"{action_id}.json", json.dumps(told).encode("ascii"))
        kept = sorted(self._notices.glob("*.json"))  # ids sort by time
        for path in kept[: max(0, len(kept) - MAX_NOTICES)]:
            path.unlink(missing_ok=True)


def shown(text: str) -> str:
    """Return untrusted text as one line that may be shown: bounded, control characters visible."""
    line = "".join(c if c.isprintable() else "?" for c in text.replace("\n", " "))
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def _inert(text: str) -> str:
    """Return text for a body that may be read as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
