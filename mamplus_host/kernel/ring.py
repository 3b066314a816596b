# SPDX-License-Identifier: Apache-2.0
"""The events ring, as seen by the agent.

Journey: probe -> [ring] -> past -> decode.

C notes every record in what `feed` names, and copies out those that are wanted, sorted by kind, so that Python
meets a run and not a record. When to look
is agreed with the kernel (kernel_probes/native/ring_reader.c): wait as `arm` says or until
`fileno` is readable, then `drain`. An idle device is never woken.
"""

import os
from typing import TYPE_CHECKING, NamedTuple

from mamplus_host.errors import KernelRefused
from mamplus_host.kernel._native import ffi, lib
from mamplus_host.kernel.bpf import Fd, checked

if TYPE_CHECKING:
    from mamplus_host.collector.past import Past

BATCH_BYTES = 128 << 10  # one drain: 300 starts; what is left comes with the next
BATCH_RECORDS = 2048

Run = tuple[int, int, bytes]  # kind (layout.KIND_), how many records, the records one after the other


class Batch(NamedTuple):
    """What was drained at once; `collector.decode.decode_batch` puts it back into its order."""

    runs: list[Run]  # one a kind
    order: bytes  # the kind of each record, as they came


class EventRing:
    """The one reader of a ring. `waiting` is the map in which it says that it sleeps; None: never."""

    def __init__(self, ring: Fd, waiting: Fd | None) -> None:
        error = ffi.new("int *")
        self._ring = lib.mamplus_ring_open(ring.number, -1 if waiting is None else waiting.number, error)
        if self._ring == ffi.NULL:
            raise KernelRefused(f"open the events ring: {os.strerror(-error[0])}", errno=-error[0])
        self._out = ffi.new("unsigned char[]", BATCH_BYTES)
        self._order = ffi.new("unsigned char[]", BATCH_RECORDS)
        self._runs = ffi.new("struct mamplus_run[]", lib.MAMPLUS_KINDS)
        self._past: Past | None = None

    def feed(self, past: "Past") -> None:
        """From here on have `past` note every record, and `drain` return only those that it wants."""
        self._past = past  # C holds it, too
        lib.mamplus_ring_feed(self._ring, past.handle)

    def fileno(self) -> int:
        """Return a descriptor that is readable when the kernel sent a wake-up; `drain` takes it back."""
        return int(lib.mamplus_ring_fd(self._ring))

    def drain(self) -> Batch | None:
        """Return what lies in the ring, at most BATCH_BYTES of it; None: nothing lay there. Never waits."""
        left = lib.mamplus_ring_drain(self._ring, self._out, BATCH_BYTES, self._order, BATCH_RECORDS, self._runs)
        if left <= 0:
            return None if left else Batch([], b"")
        batch, at = Batch([], bytes(ffi.buffer(self._order, left))), 0
        for run in self._runs:
            batch.runs.append((int(run.kind), int(run.count), bytes(ffi.buffer(self._out + at, run.bytes))))
            at += run.bytes
            left -= run.count
            if not left:
                break
        return batch

    def arm(self) -> float | None:
        """Return after how many seconds to drain again though nothing woke us; None: sleep until woken.

        To be called between a drain and the wait. 0.0: there is more, do not wait.
        """
        wait_ms = lib.mamplus_ring_arm(self._ring)
        return None if wait_ms < 0 else wait_ms / 1000

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until a drain is worth it (True), or until `timeout_s` is over (False)."""
        timeout_ms = -1 if timeout_s is None else int(timeout_s * 1000)
        return bool(checked(lib.mamplus_ring_wait(self._ring, timeout_ms), "wait for the events ring"))

    def close(self) -> None:
        if self._ring != ffi.NULL:
            lib.mamplus_ring_close(self._ring)
            self._ring = ffi.NULL
