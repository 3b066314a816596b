# SPDX-License-Identifier: Apache-2.0
"""`Update_BLE()`: fetch what is offered, verify it, install it; the old generation until then.

Journey: enterprise or USB stick -> [update] -> installed generation -> kernel tables.

The work is done by `update_helper.py` in a process of its own, so that python-tuf's memory is
gone with it. The kernel tables are the service's business.
"""

import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

import mamplus_host
from mamplus_host import errors
from mamplus_host.ble.record import Installed
from mamplus_host.errors import MamplusError, NotPossible, UplinkFailed

TOTAL_S = 600.0  # one update, everything included
HELPER = "mamplus_host.ble.update_helper"
_GRACE_S = 5.0  # between the helper's own bound and its end by force
_T = TypeVar("_T")


class FetchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What is installed now."""

    generation: int
    entries: int
    new: bool  # False: it was installed before
    took_s: float
    note: str = ""  # what was found damaged on the way, or did not fit, for people
    bytes: int = 0  # that it cost on the network, metadata included; of a carrier, what was read
    layers: dict[str, int] = {}  # number of each layer
    patched: list[str] = []  # the delta files that came on top of what was installed, when nothing else changed
    verified_ns: int = 0  # CLOCK_MONOTONIC, when what is installed had earned trust
    is_long: bool = False  # so many deltas lie on a list that `compact` has work


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified and could be installed."""

    record: Installed
    new: bool  # False: it is installed
    fresh: list[str] = []  # files in the store that only this record names: `BleStore.discard` them
    bytes: int = 0
    note: str = ""


class _Failed(msgspec.Struct, frozen=True):
    error: str
    kind: str


class _Compacted(msgspec.Struct, frozen=True):
    merged: bool


def update(state: Path, *, source: str | None = None, total_s: float = TOTAL_S) -> FetchResult:
    """Update from the enterprise, or from `source` (carrier file, directory, address); returns when installed.

    Raises what the helper met: a subclass of BleRejected, UplinkFailed, EnrollRefused, or
    NotPossible. The generation that was installed stays in force then. Takes at most `total_s` seconds.
    """
    where = ["--network"] if source is None else ["--source", source]
    return _ask([*where, "--total-s", str(total_s)], state, total_s, FetchResult)


def prepare(state: Path, *, source: str | None = None, total_s: float = TOTAL_S) -> Prepared:
    """Do what `update` does up to the installation, for a dry run: nothing is remembered. Raises as `update`."""
    where = ["--network"] if source is None else ["--source", source]
    return _ask([*where, "--prepare", "--total-s", str(total_s)], state, total_s, Prepared)


def compact(state: Path, *, total_s: float = TOTAL_S) -> bool:
    """Merge long chains of deltas into lists; the generation stays what it is. False when there is none.

    Worth a call when `FetchResult.is_long`, once the new generation is enforced. Raises as `update`.
    """
    return _ask(["--compact"], state, total_s, _Compacted).merged


def _ask(arguments: list[str], state: Path, total_s: float, answer: type[_T]) -> _T:
    command = [sys.executable, "-P", "-m", HELPER, "--state", str(state), *arguments, "--json"]
    package_root = str(Path(mamplus_host.__file__).parent.parent)
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=total_s + _GRACE_S, check=False, stdin=subprocess.DEVNULL,
            env={"PYTHONPATH": package_root, "LANG": "C.UTF-8"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UplinkFailed(f"the update took more than {total_s:g} s and was ended; try again later") from None
    return _read(done.stdout, done.stderr, done.returncode, answer)


def _read(out: bytes, remarks: bytes, code: int, answer: type[_T]) -> _T:
    try:
        if code != 0:
            failed = msgspec.json.decode(out, type=_Failed)
            raise _error(failed.kind, failed.error)
        return msgspec.json.decode(out, type=answer)
    except msgspec.MsgspecError:
        last = remarks.decode(errors="replace").strip().rpartition("\n")[2]
        raise NotPossible(f"the update ended with status {code} and said {last[:300]!r}; try again") from None


def _error(kind: str, message: str) -> MamplusError:
    """Return the error of that name; the helper raises only what takes one message."""
    known = getattr(errors, kind, NotPossible)
    return known(message) if issubclass(known, MamplusError) else NotPossible(message)
