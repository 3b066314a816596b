# SPDX-License-Identifier: Apache-2.0
"""The way back without a network: pending escalations, signed as they would travel, in one file.

Journey: outbox -> [export] -> USB stick -> enterprise (`alerts import`).

Reads the spool beside a running agent and changes nothing in it: the stick may be lost, so everything stays queued,
and the enterprise stores each (device, number) once, whichever way it comes first.
"""

import base64
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

from mamplus_host.errors import NotPossible
from mamplus_host.outbox.store import Sealed

MAX_BYTES = 200 << 20  # of one export, before it is compressed; the outbox holds far less


@dataclass(frozen=True, slots=True)
class Pending:
    """One escalation that waits."""

    seq: int
    severity: int
    body: bytes  # JSON without device and number

    @property
    def fields(self) -> dict[str, object]:
        decoded: dict[str, object] = msgspec.json.decode(self.body)
        return decoded


class Carried(msgspec.Struct, frozen=True):
    """One alert as POST /v1/alerts has it."""

    seq: int
    body: str
    signature: str


class Export(msgspec.Struct, frozen=True):
    """What is sealed. Only the alerts are signed; the rest is for people."""

    device: str
    exported_at: int  # seconds since the epoch, by the device's clock
    alerts: list[Carried]


def pending(spool: Path) -> Iterator[Pending]:
    """Yield what waits, the most severe first, then the oldest; NotPossible when the spool cannot be read."""
    if not spool.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(spool))}?mode=ro", uri=True, timeout=5.0)) as database:
            rows = database.execute("SELECT seq, severity, body FROM record ORDER BY severity DESC, seq")
            for seq, severity, body in rows:
                yield Pending(seq, severity, body)
    except sqlite3.Error as error:
        raise NotPossible(f"cannot read {str(spool)!r}: {error}; what is queued stays") from None


def export(spool: Path, device: str, sign: Callable[[bytes], bytes], *, now_s: float) -> Export:
    """Return everything that waits in `spool`, signed: the bytes that the network would have carried."""
    chosen, size = [], 0
    for one in pending(spool):
        sealed = one_sealed(one, device, sign)
        size += 2 * len(sealed.body)  # in JSON every quote of it is escaped
        if size > MAX_BYTES:
            break
        signature = base64.b64encode(sealed.signature).decode("ascii")
        chosen.append(Carried(sealed.seq, sealed.body.decode(), signature))
    return Export(device, int(now_s), chosen)


def one_sealed(one: Pending, device: str, sign: Callable[[bytes], bytes]) -> Sealed:
    """Return one record as `Outbox.batch` hands it out: the same bytes, the same signature."""
    body = msgspec.json.encode({**one.fields, "device": device, "seq": one.seq})
    return Sealed(one.seq, body, sign(body))
