# SPDX-License-Identifier: Apache-2.0
"""The maintenance window of this device: open or not, and the codes that were used. `state/maintenance.json`.

Journey: code -> [window] -> guard, journal.

A code is marked as used before the window opens. The window is measured in CLOCK_BOOTTIME and ends with the boot.
Whoever is root and can write this file can use a code twice before its date, and only that.
"""

from pathlib import Path

import msgspec

from mamplus_host.ble.trust_memory import maintenance_key
from mamplus_host.clock import DeviceClock
from mamplus_host.enterprise import load_enterprise
from mamplus_host.errors import CodeExpired, CodeForged, CodeUsed, CodeWrongDevice, EnrollRefused, NotPossible
from mamplus_host.files import write_whole
from mamplus_host.maintenance import code as codes
from mamplus_host.maintenance.code import Code

MAX_USED = 1000
_NS = 1_000_000_000


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the file."""

    used: dict[str, int] = {}  # id of a code -> when it would have expired
    since_ns: int = 0  # CLOCK_BOOTTIME of boot `boot_id`
    until_ns: int = 0
    boot_id: str = ""
    code: str = ""  # id of the one that opened it


class Window:
    """The window as the file has it. One writer at a time: the agent, or the command line while there is none."""

    def __init__(self, state: Path, clock: DeviceClock) -> None:
        self._state, self._path, self._clock = state, state / "maintenance.json", clock

    def open(self, text: str) -> Code:
        """Open the window that a code grants and return what it said.

        CodeMalformed, CodeWrongDevice, CodeForged, CodeExpired, CodeUsed; NotPossible when the enterprise has no
        key for such codes.
        """
        code, signature = codes.read(text)
        self._want_genuine(code, signature)
        kept, now_s = self._read(), self._clock.list_s()
        if code.id in kept.used:
            raise CodeUsed(f"code {code.id} was used already; each is good once: ask for another one")
        if now_s >= code.expires_s:
            raise CodeExpired(
                f"code {code.id} had to be entered {(now_s - code.expires_s) / 60:.0f} minutes ago, by this device's"
                " time; ask for another one"
            )
        used = {one: end for one, end in kept.used.items() if end > now_s} | {code.id: code.expires_s}
        if len(used) > MAX_USED:
            raise NotPossible(f"{MAX_USED} codes are in use on this device; wait until some have expired")
        since_ns = self._clock.boot_ns()
        until_ns = since_ns + code.minutes * 60 * _NS
        boot_id = self._clock.boot_id
        self._write(Kept(used=used, since_ns=since_ns, until_ns=until_ns, boot_id=boot_id, code=code.id))
        return code

    def end(self) -> str:
        """Close the window; return the id of the code that had opened it, "" when none was open."""
        kept = self._read()
        if not self._left_ns(kept):
            return ""
        self._write(msgspec.structs.replace(kept, until_ns=self._clock.boot_ns()))
        return kept.code

    def left_s(self) -> float:
        """Return for how long it is open yet; 0: it is not."""
        return self._left_ns(self._read()) / _NS

    def until_ns(self) -> int:
        """Return when it ends, CLOCK_BOOTTIME; 0: it is not open."""
        kept = self._read()
        return kept.until_ns if self._left_ns(kept) else 0

    def covers(self, boot_ns: int) -> bool:
        """Whether a window was open at `boot_ns` of this boot, as far as the newest one goes."""
        kept = self._read()
        return kept.boot_id == self._clock.boot_id and kept.since_ns <= boot_ns < kept.until_ns

    def opened_by(self) -> str:
        """Return the id of the code that opened it, "" when it is not open."""
        kept = self._read()
        return kept.code if self._left_ns(kept) else ""

    def _left_ns(self, kept: Kept) -> int:
        if kept.boot_id != self._clock.boot_id:
            return 0
        return max(0, kept.until_ns - self._clock.boot_ns())

    def _want_genuine(self, code: Code, signature: bytes) -> None:
        from mamplus_host.outbox.identity import verifies  # libcrypto: only who enters a code needs it

        enterprise = load_enterprise(self._state)
        if enterprise is None:
            raise EnrollRefused("this device belongs to no enterprise that could grant a maintenance window")
        if not code.is_for(enterprise.device_id):
            raise CodeWrongDevice(
                f"the code is for the device whose id begins with {code.device.hex()}, this one's begins with"
                f" {enterprise.device_id[:6]}; ask for one for this device"
            )
        key = maintenance_key(self._state)
        if key is None:
            raise NotPossible(
                "this device's enterprise has no key for maintenance codes; make one there, and refresh here:"
                " mamplus-enterprise root rotate --role maintenance"
            )
        if not verifies(key, codes.signed_text(code, enterprise.device_id), signature):
            raise CodeForged("the code is not signed by this device's enterprise; get one from there")

    def _read(self) -> Kept:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Kept)
        except FileNotFoundError:
            return Kept()
        except (OSError, msgspec.MsgspecError) as error:
            raise NotPossible(f"{str(self._path)!r} cannot be read: {error}; remove it: no window is open") from None

    def _write(self, kept: Kept) -> None:
        write_whole(self._path, msgspec.json.encode(kept))
