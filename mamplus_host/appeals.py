# SPDX-License-Identifier: Apache-2.0
"""A person asks for an exception: a few words about one alert, on their way to the enterprise. No root is needed.

Journey: person (`mamplus ask`) -> `run/ask.sock` -> [appeals] -> outbox.

Everybody on the device may ask, so what they say is bounded in length, and how often by user and altogether; who asks
is what the kernel says of the connection. The answer tells nothing of the alert.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from mamplus_host.clock import Clock
from mamplus_host.control.protocol import Request
from mamplus_host.control.server import Peer
from mamplus_host.errors import ControlMalformed, NotPossible
from mamplus_host.ids import new_id
from mamplus_host.verdicts import Escalation, Finding, Severity

KIND = RULE = "ask"
MAX_TEXT = 1000  # characters
MIN_ID = 8  # characters of an alert's id: fewer would be guessing
EACH, ALL = 5, 50  # in WINDOW_NS, of one user and of all
WINDOW_NS = 3600 * 10**9
MAX_USERS = 1000  # remembered


class Appeals:
    """Takes what people ask. One thread."""

    def __init__(
        self, clock: Clock, alert_of: Callable[[str], dict[str, Any]], tell: Callable[[Escalation], object]
    ) -> None:
        """`alert_of` returns an alert by its id, or raises NotPossible; `tell` sends to the enterprise."""
        self._clock, self._alert_of, self._tell = clock, alert_of, tell
        self._asked: dict[int, deque[int]] = {}
        self._all: deque[int] = deque(maxlen=ALL)
        self.refused = 0  # too often, or without sense

    def __call__(self, request: Request, peer: Peer) -> str:
        """Answer one request of the socket that everybody may connect to."""
        try:
            if request.command != "ask" or set(request.arguments) != {"alert", "text"}:
                raise ControlMalformed("here one may ask: an alert, and a text")
            return self.ask(peer.uid, str(request.arguments["alert"]), str(request.arguments["text"]))
        except (ControlMalformed, NotPossible):
            self.refused += 1
            raise

    def ask(self, uid: int, alert: str, text: str) -> str:
        """Send the words of user `uid` about an alert; NotPossible says why not."""
        said = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if not said or len(said) > MAX_TEXT:
            raise NotPossible(f"your words have {len(said)} characters, want 1 to {MAX_TEXT}")
        if len(alert) < MIN_ID or not (alert.isascii() and alert.isalnum()):  # a pattern would be guessing, too
            raise NotPossible(f"{alert!r} is no id, or too short for one; copy it from the message that you got")
        self._count(uid)
        about = self._alert_of(alert)
        at_s = self._clock.wall_s()
        self._tell(
            Escalation(
                id=new_id(at_s), kind=KIND, finding=Finding.SUSPECTED, severity=Severity.LOW, at=at_s,
                boot_ns=self._clock.boot_ns(), generation=int(about["generation"]), rule=RULE,
                summary=f"user {uid} asks for an exception to {about['summary']!r}: {said}",
                evidence={"alert": about["id"], "uid": uid, "text": said},
            )
        )  # fmt: skip
        return "your words are on their way to your company; keep the alert's id for questions"

    def _count(self, uid: int) -> None:
        now = self._clock.boot_ns()
        if len(self._asked) > MAX_USERS:
            self._asked.pop(next(iter(self._asked)))
        mine = self._asked.setdefault(uid, deque(maxlen=EACH))
        for asked, most in ((mine, EACH), (self._all, ALL)):
            if len(asked) == most and now - asked[0] < WINDOW_NS:
                left_min = -(-(WINDOW_NS - now + asked[0]) // (60 * 10**9))
                raise NotPossible(f"that was asked {most} times within the hour; try again in {left_min} minutes")
        mine.append(now)
        self._all.append(now)
