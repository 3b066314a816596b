# SPDX-License-Identifier: Apache-2.0
"""The maintenance window of this device: open or not, and the codes that were used. `state/maintenance.json`.

Journey: code -> [window] -> guard, journal.

A code is marked as used before the window opens. The window is measured in CLOCK_BOOTTIME and ends with the boot.
The file is believed no more than the code in it: its signature is checked whenever a process reads it first, and
no window outlasts what its code could have granted at the last moment. A code that is entered while a window is open
makes it longer, or is refused and stays good. So whoever is root and writes this file,
damages or removes it can use a genuine code twice before its date, and only that.
"""

from pathlib import Path

import msgspec

from mamplus_host.ble.trust_memory import maintenance_key
from mamplus_host.clock import DeviceClock
from mamplus_host.enterprise import load_enterprise
from mamplus_host.errors import (
    CodeExpired,
    CodeForged,
    CodeUsed,
    CodeWrongDevice,
    EnrollRefused,
    MamplusError,
    NotPossible,
)
from mamplus_host.files import write_whole
from mamplus_host.maintenance import code as codes
from mamplus_host.maintenance.code import Code

MAX_USED = 1000
_NS = 1_000_000_000


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the file."""

    used: dict[str, int] = {}  # id of a code -> when it would have expired
    since_ns: int = 0  # CLOCK_BOOTTIME of boot `boot_id`
    ended_ns: int = 0  # closed before its time; 0: it was not
    boot_id: str = ""
    text: str = ""  # the code that opened it, as it was entered


class Window:
    """The window as the file has it. One writer at a time: the agent, or the command line while there is none."""

    def __init__(self, state: Path, clock: DeviceClock) -> None:
        self._state, self._path, self._clock = state, state / "maintenance.json", clock
        self._genuine: dict[str, Code] = {}  # the code in the file, once its signature was checked
        self._unbroken_ns = 0  # when the first of several windows began that followed each other without a gap

    def open(self, text: str) -> Code:
        """Open the window that a code grants and return what it said.

        CodeMalformed, CodeWrongDevice, CodeForged, CodeExpired, CodeUsed; NotPossible when the enterprise has no
        key for such codes, or when the window that is open lasts longer.
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
        since_ns = self._clock.boot_ns()
        self._want_longer(code, since_ns)
        used = {one: end for one, end in kept.used.items() if end > now_s} | {code.id: code.expires_s}
        if len(used) > MAX_USED:
            raise NotPossible(f"{MAX_USED} codes are in use on this device; wait until some have expired")
        unbroken_ns = self._began_ns(kept) if self.until_ns() else since_ns
        text = codes.spell(code, signature)
        self._write(Kept(used=used, since_ns=since_ns, boot_id=self._clock.boot_id, text=text))
        self._unbroken_ns = unbroken_ns
        return code

    def end(self) -> str:
        """Close the window; return the id of the code that had opened it, "" when none was open."""
        kept = self._read()
        code = self.opened_by()
        if code:
            self._write(msgspec.structs.replace(kept, ended_ns=self._clock.boot_ns()))
        return code

    def left_s(self) -> float:
        """Return for how long it is open yet; 0: it is not."""
        return max(0, self.until_ns() - self._clock.boot_ns()) / _NS

    def until_ns(self) -> int:
        """Return when it ends, CLOCK_BOOTTIME; 0: it is not open."""
        until_ns = self._end_ns(self._read())
        return until_ns if until_ns > self._clock.boot_ns() else 0

    def covers(self, boot_ns: int) -> bool:
        """Whether a window was open at `boot_ns` of this boot, as far as the newest one goes."""
        kept = self._read()
        return self._began_ns(kept) <= boot_ns < self._end_ns(kept)

    def opened_by(self) -> str:
        """Return the id of the code that opened it, "" when it is not open."""
        code = self._code(self._read())
        return code.id if code is not None and self.until_ns() else ""

    def _began_ns(self, kept: Kept) -> int:
        """Return when the newest window began, or the first of those that it made longer."""
        return min(self._unbroken_ns, kept.since_ns) if self._unbroken_ns else kept.since_ns

    def _want_longer(self, code: Code, now_ns: int) -> None:
        until_ns = self.until_ns()
        if now_ns + code.minutes * 60 * _NS <= until_ns:
            raise NotPossible(
                f"a window is open for {(until_ns - now_ns) / _NS / 60:.0f} minutes yet (code {self.opened_by()}),"
                f" which is more than the {code.minutes} of code {code.id}; enter it later, or end that window first"
            )

    def _end_ns(self, kept: Kept) -> int:
        """Return when the newest window ends or ended, CLOCK_BOOTTIME; 0: this boot saw none."""
        code = self._code(kept)
        if code is None or kept.boot_id != self._clock.boot_id:
            return 0
        if not 0 <= kept.since_ns <= self._clock.boot_ns():
            return 0  # it did not begin yet: no window of ours
        if self._clock.list_s() >= code.expires_s + code.minutes * 60:
            return 0
        end_ns = kept.since_ns + code.minutes * 60 * _NS
        return min(end_ns, kept.ended_ns) if kept.ended_ns else end_ns

    def _code(self, kept: Kept) -> Code | None:
        """Return the code that opened the window, None when there is none, or somebody wrote one that is none."""
        if not kept.text:
            return None
        if kept.text not in self._genuine:
            try:
                code, signature = codes.read(kept.text)
                self._want_genuine(code, signature)
            except MamplusError:
                return None
            self._genuine = {kept.text: code}
        return self._genuine[kept.text]

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
        """Return what is kept; a damaged file is as good as none, and must neither stop the agent nor its alerts."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError):
            return Kept()

    def _write(self, kept: Kept) -> None:
        write_whole(self._path, msgspec.json.encode(kept))
