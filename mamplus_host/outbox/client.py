# SPDX-License-Identifier: Apache-2.0
"""The signed requests of docs/protocol.md: wait, alerts, report.

Journey: outbox -> [client] -> enterprise, and back "generation N exists" (`Request_Update_BLE`).

One client holds one connection and belongs to one thread; `interrupt` may come from another.
It neither retries nor waits: `uplink.py` does, by `schedule.py`.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from mamplus_host.errors import UplinkFailed, UplinkRefused
from mamplus_host.outbox.identity import Identity
from mamplus_host.outbox.store import Sealed
from mamplus_host.pinned import Answer, Connection

MAX_ANSWER_BYTES = 1 << 18
REQUEST_TIMEOUT_S = 30.0  # of everything but the long poll: 1 MiB at 35 kB/s
POLL_GRACE_S = 10.0  # that a long poll may last beyond what it asked for


_T = TypeVar("_T")


class Waited(msgspec.Struct, frozen=True):
    """What a long poll brought."""

    generation: int  # the newest there is
    orders: tuple[str, ...] = ()  # as maintenance/order.py reads them


class _Acknowledged(msgspec.Struct):
    acknowledged: list[int]


class _Unfit(msgspec.Struct):
    detail: str
    seq: int


class AlertRefused(UplinkRefused):
    """The enterprise will never take this one record; the others of the request are stored."""

    def __init__(self, seq: int, detail: str) -> None:
        super().__init__(f"the enterprise does not take alert {seq}: {detail!r}", status=422)
        self.seq = seq
        self.detail = detail


class Client:
    """The enterprise, as seen from one thread of this device."""

    def __init__(self, identity: Identity, *, connect_timeout_s: float, wall_s: Callable[[], float]) -> None:
        self._identity = identity
        self._wall_s = wall_s
        self._connection = Connection(identity.enterprise.endpoint, connect_timeout_s=connect_timeout_s)

    @property
    def opened_ns(self) -> int:
        """When the connection in use was made, CLOCK_BOOTTIME in nanoseconds; 0: none was."""
        return self._connection.opened_ns

    def wait(self, generation: int, poll_s: int, *, known: int = 0) -> Waited:
        """Return the newest generation there is, at once when newer than what is known, else within `poll_s` seconds.

        Orders for this device end the wait, too.

        `generation` is enforced here; `known` (when greater) is installed too, and kept out.
        """
        path = f"/v1/wait?generation={generation}&poll_s={poll_s}" + (f"&known={known}" if known > generation else "")
        answer = self._ask("GET", path, b"", timeout_s=poll_s + POLL_GRACE_S)
        return _decode(answer, Waited)

    def send_alerts(self, records: Sequence[Sealed]) -> list[int]:
        """Hand over `records` (`Send_alert`); return the sequence numbers that are stored for good.

        AlertRefused when one of them does not fit, as the enterprise sees it.
        """
        body = b'{"alerts":[' + b",".join(map(_wire, records)) + b"]}"
        answer = self._ask("POST", "/v1/alerts", body, timeout_s=REQUEST_TIMEOUT_S, tolerated=422)
        if answer.status == 422:
            unfit = _decode(answer, _Unfit)
            raise AlertRefused(unfit.seq, unfit.detail)
        return _decode(answer, _Acknowledged).acknowledged

    def report(self, report: Mapping[str, Any]) -> None:
        """Tell what this device enforces: generation, at, losses, controls, what came of trying them."""
        self._ask("POST", "/v1/report", msgspec.json.encode(report), timeout_s=REQUEST_TIMEOUT_S)

    def interrupt(self) -> None:
        """End the running request at once, and refuse further ones."""
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes, *, timeout_s: float, tolerated: int = 200) -> Answer:
        headers = self._identity.headers(method, path, body, now_s=int(self._wall_s()))
        if body:
            headers["Content-Type"] = "application/json"
        answer = self._connection.request(method, path, body, headers, timeout_s=timeout_s, max_bytes=MAX_ANSWER_BYTES)
        if answer.status in (200, tolerated):
            return answer
        detail = f"the enterprise answers {path.split('?')[0]!r} with status {answer.status}: {answer.body[:200]!r}"
        if 400 <= answer.status < 500:
            raise UplinkRefused(detail, status=answer.status)
        raise UplinkFailed(detail)


def _wire(record: Sealed) -> bytes:
    return msgspec.json.encode(
        {
            "seq": record.seq,
            "body": record.body.decode(),
            "signature": base64.b64encode(record.signature).decode("ascii"),
        }
    )


def _decode(answer: Answer, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except msgspec.MsgspecError as error:
        raise UplinkFailed(f"the enterprise's answer is not as agreed: {error}: {answer.body[:200]!r}") from None
