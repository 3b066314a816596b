# SPDX-License-Identifier: Apache-2.0
"""The clocks, behind small types so that tests can move time by hand; and what a wrong one may do.

A device's clock may be wrong by years in both directions. What is sure: it is not earlier than the greatest time that
the enterprise has signed, plus the time that has passed since (CLOCK_BOOTTIME, which nobody sets). That is the
floor, `state/clock.json`; only signed times raise it, so a clock that is ahead cannot. It is kept for each key that
signed: when a key was stolen, signed a time to come, and was rotated, what it said of the time goes with it.

    accept_s   the later of clock and floor: what accepting is strict by (metadata past its date)
    list_s     the same, but at most `ahead_s` after the floor: what entries end by, and a list ages by

So a clock ten years back revives no entry that has ended, and one ten years ahead ends at most what would end within
`ahead_s` of the last proof. A device that was switched off for longer than that keeps its dated entries a
while too long, until the enterprise's next signature. docs/decisions/0014 says why.
"""

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from mamplus_host.files import write_whole

KEEP_EVERY_S = 3600.0  # of running time that a power cut may take off the floor; one small write an hour
UNNAMED = ""  # the key of a time that came without one
_NS = 1_000_000_000


class Clock(Protocol):
    """What the stages ask of time."""

    def boot_ns(self) -> int:
        """Return CLOCK_BOOTTIME in nanoseconds: never steps, counts suspend, starts anew at boot."""

    def wall_s(self) -> float:
        """Return seconds since the epoch: may be wrong by years and may step."""


class ListClock(Clock, Protocol):
    """What those ask who judge by the list."""

    def list_s(self) -> float:
        """Return the time by which entries of the list end, seconds since the epoch."""


class SystemClock:
    """The kernel's clocks."""

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_s(self) -> float:
        return time.time()

    def list_s(self) -> float:
        return self.wall_s()  # nothing signed is known that would bound it


class Floor(msgspec.Struct, frozen=True):
    """The least that time can be: `floor_s` when CLOCK_BOOTTIME of boot `boot_id` was `boot_ns`, and later since."""

    signed_s: float = 0.0  # the greatest time that the enterprise has signed; 0: none was ever seen
    floor_s: float = 0.0
    boot_ns: int = 0
    boot_id: str = ""


Floors = dict[str, Floor]  # by the id of the key that signed the time


def least_s(floor: Floor, boot_ns: int, boot_id: str) -> float:
    """Return the least that time can be now; 0 while nothing signed was ever seen."""
    if not floor.signed_s:
        return 0.0
    passed_ns = boot_ns - floor.boot_ns if boot_id == floor.boot_id else boot_ns  # another boot: it lasts that long
    return floor.floor_s + max(0, passed_ns) / _NS


def raised(floor: Floor, signed_s: float, boot_ns: int, boot_id: str) -> Floor:
    """Return `floor` as it stands now, and not below `signed_s`."""
    now_s = max(least_s(floor, boot_ns, boot_id), signed_s)
    return Floor(max(floor.signed_s, signed_s), now_s, boot_ns, boot_id)


def bounded_s(wall_s: float, least: float, ahead_s: float) -> float:
    """Return the time by which entries end: the clock's, but neither before `least` nor `ahead_s` after it."""
    return min(max(wall_s, least), least + ahead_s) if least else wall_s


class DeviceClock(SystemClock):
    """This device's clock with its floor. One thread; other processes may raise the same floor."""

    def __init__(self, state: Path, *, boot_id: Callable[[], str] | None = None) -> None:
        self._path = state / "clock.json"
        self.boot_id = (boot_id or _boot_id)()
        self.ahead_s = 7 * 86_400.0  # Policy.clock_ahead_s, once that is read
        self._floors = _read(self._path)
        self._kept_ns = self.boot_ns()

    @property
    def signed_s(self) -> float:
        """The greatest time that the enterprise has signed; 0: none was ever seen."""
        return max((floor.signed_s for floor in self._floors.values()), default=0.0)

    def accept_s(self, keys: Collection[str] | None = None) -> float:
        """Return the time that accepting goes by; `keys`: the only ones whose word on it counts, None: all."""
        return max(self.wall_s(), self._least_s(keys))

    def list_s(self) -> float:
        return bounded_s(self.wall_s(), self._least_s(), self.ahead_s)

    def age_s(self) -> float:
        """Return how long ago the enterprise last proved what its newest list is; 0 when it never did."""
        return max(0.0, self.list_s() - self.signed_s) if self.signed_s else 0.0

    def ahead_of_proof_s(self) -> float:
        """Return how far the clock is beyond what is believed of it, 0 when it is not."""
        return max(0.0, self.wall_s() - self.list_s())

    def reload(self) -> None:
        """Take in what another process has raised, and forgotten."""
        now_ns = self.boot_ns()
        self._floors = {
            key: _later(self._floors.get(key, floor), floor, now_ns, self.boot_id)
            for key, floor in _read(self._path).items()
        }

    def confirm(
        self, signed_s: float, signers: Collection[str] = (UNNAMED,), *, trusted: Collection[str] | None = None
    ) -> None:
        """Raise the floor to a time that `signers`, ids of keys, have signed; what is not later changes nothing.

        `trusted`: the keys whose word on the time still counts, None: all. What others said is forgotten.
        """
        is_later = any(signed_s > self._floors.get(key, Floor()).signed_s for key in signers)
        if is_later or (trusted is not None and not self._floors.keys() <= set(trusted)):
            self._keep(signed_s, signers, trusted)

    def tick(self) -> None:
        """Write the floor down, seldom: a reboot must not lose more than KEEP_EVERY_S of running time."""
        if self.signed_s and self.boot_ns() - self._kept_ns >= KEEP_EVERY_S * _NS:
            self._keep()

    def close(self) -> None:
        """Write the floor down."""
        if self.signed_s:
            self._keep()

    def _least_s(self, keys: Collection[str] | None = None) -> float:
        now_ns = self.boot_ns()
        counting = (floor for key, floor in self._floors.items() if keys is None or key in keys)
        return max((least_s(floor, now_ns, self.boot_id) for floor in counting), default=0.0)

    def _keep(
        self, signed_s: float = 0.0, signers: Collection[str] = (), trusted: Collection[str] | None = None
    ) -> None:
        with _locked(self._path):
            self.reload()
            known = {**dict.fromkeys(signers, Floor()), **self._floors}
            self._kept_ns = now_ns = self.boot_ns()
            self._floors = {
                key: raised(floor, signed_s if key in signers else 0.0, now_ns, self.boot_id)
                for key, floor in known.items()
                if trusted is None or key in trusted
            }
            write_whole(self._path, msgspec.json.encode(self._floors))


def _later(one: Floor, two: Floor, boot_ns: int, boot_id: str) -> Floor:
    """Return what is known from both: the later floor and the later signature."""
    later = max(one, two, key=lambda floor: least_s(floor, boot_ns, boot_id))
    return msgspec.structs.replace(later, signed_s=max(one.signed_s, two.signed_s))


def forget(state: Path) -> None:
    """Forget every signed time: another enterprise, or a new enrolment, says what time it is."""
    with _locked(state / "clock.json"):
        (state / "clock.json").unlink(missing_ok=True)


def _read(path: Path) -> Floors:
    """Return the kept floors; damaged ones are none: the next signature makes them anew."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Floors)
    except (OSError, msgspec.MsgspecError):
        return {}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, of the agent, an update and the command line."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.with_name("clock.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
