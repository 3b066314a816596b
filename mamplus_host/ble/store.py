# SPDX-License-Identifier: Apache-2.0
"""The generations that this device holds: the installed one, and those before it.

Journey: trust -> [store] -> kernel tables and `Verify(BLE)`.

`state/ble/gen-<N>.mble`    a generation's file; has this name only once it was verified
`state/ble/installed.json`  which one is installed, and the history, newest first

A generation is installed when `installed.json` names it, and not before: after a power cut
there is the old one or the new one. When that file or the generation is damaged, the newest
intact one is used and `note` says so. An old generation never stops being enforced.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mamplus_host.ble.entry import Entry
from mamplus_host.ble.format import Generation
from mamplus_host.errors import BleInvalid
from mamplus_host.files import put_in_place, sync_file, write_whole

HISTORY = 10
_FILE = re.compile(r"gen-([0-9]{1,19})\.mble")


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the history."""

    number: int
    sha256: str  # of the file
    entries: int
    created_s: int  # by the enterprise's clock, signed
    installed_at: int  # by the device's clock
    source: str  # network, or the path or address it was loaded from; "found": the record was lost
    enterprise_id: str  # "" when it was found


class _Book(msgspec.Struct, frozen=True):
    history: list[Installed]  # newest first; the first is installed


class BleStore:
    """The generations below `state/ble`."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "ble"
        self.note = ""  # what was damaged, and what is used instead; "": nothing was
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, number: int) -> Path:
        return self.folder / f"gen-{number}.mble"

    def records(self) -> list[Installed]:
        """Return the history, newest first; made up from the files when `installed.json` is damaged."""
        path = self.folder / "installed.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Book).history
        except FileNotFoundError:
            return list(self._found())
        except msgspec.MsgspecError as error:
            self.note = f"{str(path)!r} is damaged ({error}); using the newest intact generation"
            return list(self._found())

    def installed(self) -> Installed | None:
        """Return the record of the generation that `current` would open."""
        return next((record for record in self.records() if self._is_intact(record)), None)

    def current(self) -> Generation | None:
        """Open the installed generation, or the newest intact one before it; None when there is none."""
        record = self.installed()
        return Generation.open(self.path(record.number)) if record else None

    def open_number(self, number: int) -> Generation | None:
        """Open one generation of the history, the installed one or before; None when it is not there and intact."""
        record = next((one for one in self.records() if one.number == number and self._is_intact(one)), None)
        return Generation.open(self.path(number)) if record else None

    def entry(self, generation: int, entry_id: int) -> Entry | None:
        """Return an entry of a generation that is still in the history, else None: why something was decided."""
        try:
            with Generation.open(self.path(generation)) as opened:
                return next((entry for entry in opened.entries() if entry.id == entry_id), None)
        except (OSError, BleInvalid):
            return None

    def place(self, staged: Path, number: int) -> Path:
        """Give a verified file in the same file system its name here, for good; it is not installed yet."""
        sync_file(staged)
        put_in_place(staged, self.path(number))
        return self.path(number)

    def install(self, record: Installed) -> None:
        """Make the placed generation of `record` the installed one, and forget what is older than the history."""
        before = [known for known in self.records() if known.number != record.number]
        kept = [record, *before][:HISTORY]
        write_whole(self.folder / "installed.json", msgspec.json.encode(_Book(kept)))
        names = {self.path(known.number).name for known in kept}
        for path in self.folder.glob("gen-*.mble"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _is_intact(self, record: Installed) -> bool:
        path = self.path(record.number)
        try:
            if _sha256(path) != record.sha256:
                raise BleInvalid("its SHA-256 is not the one that was verified")
            with Generation.open(path) as generation:
                return generation.number == record.number
        except (OSError, BleInvalid) as error:
            self.note = f"generation {record.number} is damaged ({error}); using the newest intact one before it"
            return False

    def _found(self) -> Iterator[Installed]:
        """Yield a record for every whole generation, newest first, by its file alone."""
        numbers = [int(match[1]) for path in self.folder.iterdir() if (match := _FILE.fullmatch(path.name))]
        for path in (self.path(number) for number in sorted(numbers, reverse=True)):
            try:
                with Generation.open(path) as generation:
                    generation.check()
                    yield Installed(
                        number=generation.number, sha256=_sha256(path), entries=generation.count,
                        created_s=generation.created_s, installed_at=int(path.stat().st_mtime),
                        source="found", enterprise_id="",
                    )  # fmt: skip
            except (OSError, BleInvalid):
                self.note = f"{str(path)!r} is damaged; using the newest intact generation"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
