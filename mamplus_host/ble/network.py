# SPDX-License-Identifier: Apache-2.0
"""The repository behind an HTTP or HTTPS address: a `Source` (carrier.py) that may be slow, endless or silent.

Journey: enterprise -> [network] -> trust.

Whoever answers, the signatures decide; what is left to an attacker is to waste time and bytes. Sizes
are bounded by `trust`. Time is bounded here: all files together within `total_s` seconds, and no
request may bring less than MIN_BYTES_S in each WINDOW_S, header lines included.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mamplus_host.ble.carrier import MAX_CARRIER_BYTES, Missing, check_name
from mamplus_host.errors import BleInvalid, UplinkFailed
from mamplus_host.pinned import Connection, Endpoint

MIN_BYTES_S = 1024  # slower than any network that a list is loaded over; GPRS brings four times that
WINDOW_S = 15.0


class Network:
    """All files over one connection."""

    is_network = True

    def __init__(
        self, where: Endpoint, prefix: str, *, connect_timeout_s: float, total_s: float, window_s: float | None = None
    ) -> None:
        """`prefix` comes before every name, as `/repo/`; everything together ends after `total_s` seconds."""
        self._connection = Connection(where, connect_timeout_s=connect_timeout_s)
        self._prefix, self._total_s, self._window_s = prefix, total_s, window_s or WINDOW_S
        self._deadline = time.monotonic() + total_s
        self._where = where

    def close(self) -> None:
        self._connection.close()

    @property
    def received(self) -> int:
        return self._connection.carried_bytes

    def read(self, name: str) -> Iterator[bytes]:
        return self._get(self._prefix + check_name(name))

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        try:
            return next(self.read(name), None) is not None
        except Missing:
            return False

    def download(self, path: Path) -> None:
        """Copy what is at the prefix itself, a carrier, to the new file `path`."""
        received = 0
        with path.open("xb") as file:
            for chunk in self._get(self._prefix):
                received += len(chunk)
                if received > MAX_CARRIER_BYTES:
                    raise BleInvalid(f"{self._where.address} sends more than {MAX_CARRIER_BYTES} bytes; want a carrier")
                file.write(chunk)

    def _get(self, path: str) -> Iterator[bytes]:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise UplinkFailed(f"{self._where.address} took more than {self._total_s:g} s in all; try again later")
        with self._not_slower(path), self._connection.stream("GET", path, timeout_s=left_s) as (status, chunks):
            if status in (403, 404):
                next(chunks, b"")  # a short answer is read, so that the connection serves the next file too
                next(chunks, b"")
                raise Missing(path)
            if status != 200:
                raise UplinkFailed(f"{self._where.address} answers {path!r} with status {status}, want 200")
            yield from chunks

    @contextmanager
    def _not_slower(self, path: str) -> Iterator[None]:
        """End a request that brings too little: one byte now and then would hold the update until `total_s`."""
        pace = _Pace(self._connection, self._window_s)
        pace.start()
        try:
            yield
        except UplinkFailed:
            if not pace.was_slow:
                raise
        finally:
            pace.end()
        if pace.was_slow:  # whatever was read until then: a header cut off reads as an empty answer
            raise UplinkFailed(
                f"{self._where.address} sends {path!r} with less than {MIN_BYTES_S} bytes a second; try again"
                " later, or load a carrier"
            )


class _Pace(threading.Thread):
    """Looks once a window at how many bytes came, and interrupts the connection when they are too few."""

    def __init__(self, connection: Connection, window_s: float) -> None:
        super().__init__(name="update-pace", daemon=True)
        self._connection, self._window_s = connection, window_s
        self._ended = threading.Event()
        self.was_slow = False

    def end(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        before = self._connection.carried_bytes
        while not self._ended.wait(self._window_s):
            now = self._connection.carried_bytes
            if now - before < MIN_BYTES_S * self._window_s:
                self.was_slow = True
                self._connection.interrupt()
                return
            before = now
