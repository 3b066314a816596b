# SPDX-License-Identifier: Apache-2.0
"""Which generation deserves trust: TUF by python-tuf, then our own rules (`Verify(BLE)` of the whole list).

Journey: carrier -> [trust] -> store.

The root of trust comes from enrolment. Everything is read from a `Source` into a private
directory before it is looked at. What TUF learnt is kept in one file, `state/trust/metadata.json`,
and only `remember` changes it: an attempt that fails leaves no trace, so the old state stays in force.

Time is the later of the device's clock and the creation time of the installed generation: a
clock that fell back does not make an expired list fresh.

Needs 34 MB: this module runs in the helper process of `update.py`, never in the service.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, TargetFile  # type: ignore[attr-defined]  # re-exported in its public documents
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from mamplus_host.ble.carrier import Missing, Source
from mamplus_host.ble.format import Generation
from mamplus_host.ble.record import Installed
from mamplus_host.errors import (
    BleExpired,
    BleInvalid,
    BleRollback,
    BleShrunk,
    BleWrongDevice,
    EnrollRefused,
    MamplusError,
    UplinkFailed,
)
from mamplus_host.files import no_room, write_whole

TARGET = "ble.mble"
MAX_GENERATION_BYTES = 1 << 30
MAX_METADATA_BYTES = 8 << 20  # of the remembered file
_METADATA, _TARGETS = "ble:/metadata/", "ble:/targets/"  # addresses for python-tuf: nothing is behind them but a Source
_CONFIG = UpdaterConfig(
    max_root_rotations=64, max_delegations=0, root_max_length=1 << 19, timestamp_max_length=1 << 14,
    snapshot_max_length=1 << 16, targets_max_length=1 << 16,
)  # fmt: skip


class _Custom(msgspec.Struct):
    """`custom` of the target, docs/protocol.md."""

    generation: int
    entries: int


@dataclass(frozen=True, slots=True)
class Offered:
    """A generation that earned trust."""

    number: int
    entries: int
    sha256: str
    created_s: int
    path: Path | None  # its checked file in the work directory; None: it is the installed one


class Trust:
    """What this device believes about its enterprise's repository."""

    def __init__(self, state: Path, *, device_id: str) -> None:
        self._folder = state / "trust"
        self._device_id = device_id
        self._learnt: Path | None = None

    def verify(self, source: Source, work: Path, installed: Installed | None, *, now_s: float) -> Offered:
        """Return what `source` offers, once it is trusted; nothing outside of the empty directory `work` changes.

        `installed` is what the enterprise's generation must be newer than. BleRejected (its
        subclass says why), UplinkFailed when the network failed, NotPossible when the disk is full.
        """
        now_s = max(now_s, installed.created_s if installed else 0)
        warm = work / "metadata"
        try:
            self._unpack(warm)
            offered = self._verified(source, warm, work, installed, now_s)
            if offered.path is None and not source.is_network:
                # TUF did not look at what it knows already, but a damaged stick is to be called damaged all the same.
                self._verified(source, work / "afresh", work, None, now_s)
        except OSError as error:
            raise no_room(error, work) from None
        self._learnt = warm
        return offered

    def remember(self) -> None:
        """Keep what the last successful `verify` learnt, for good."""
        if self._learnt is None:
            raise RuntimeError("verify first")
        files = [path for path in self._learnt.rglob("*.json") if not path.is_symlink()]
        learnt = {str(path.relative_to(self._learnt)): path.read_text() for path in files}
        write_whole(self._folder / "metadata.json", msgspec.json.encode(learnt))

    def _unpack(self, folder: Path) -> None:
        """Lay out for TUF what was remembered. A damaged memory is no memory: the root and the number remain."""
        folder.mkdir()
        (folder / "root_history").mkdir()
        try:
            data = (self._folder / "metadata.json").read_bytes()
            learnt = msgspec.json.decode(data, type=dict[str, str]) if len(data) <= MAX_METADATA_BYTES else {}
        except (FileNotFoundError, msgspec.MsgspecError):
            learnt = {}
        for name, text in learnt.items():
            if ".." not in name and not name.startswith("/"):
                (folder / name).write_text(text)

    def _verified(
        self, source: Source, metadata: Path, work: Path, installed: Installed | None, now_s: float
    ) -> Offered:
        metadata.mkdir(exist_ok=True)
        fetcher = _Fetcher(source, work)
        try:
            updater = Updater(str(metadata), _METADATA, str(work), _TARGETS, fetcher, _CONFIG, bootstrap=self._root())
            updater.refresh()
            _check_dates(metadata, now_s)
            target = updater.get_targetinfo(TARGET)
            if target is None:
                raise BleInvalid(f"the repository has no {TARGET!r}; want one: publish a generation first")
            return self._offered(updater, target, installed)
        except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
            raise _translated(error, fetcher, now_s) from None

    def _root(self) -> bytes:
        try:
            return (self._folder / "root.json").read_bytes()
        except FileNotFoundError:
            raise EnrollRefused("this device trusts no enterprise yet; run: mamplus enroll URL --token TOKEN") from None

    def _offered(self, updater: Updater, target: TargetFile, installed: Installed | None) -> Offered:
        try:
            custom = msgspec.convert(target.custom, _Custom)
        except msgspec.ValidationError as error:
            raise BleInvalid(f"the target's custom field is {target.custom!r}: {error}") from None
        sha256 = target.hashes.get("sha256")
        if sha256 is None:
            raise BleInvalid(f"the list is signed with {sorted(target.hashes)}, want sha256: publish it again")
        if installed is not None and sha256 == installed.sha256:
            return Offered(installed.number, installed.entries, sha256, installed.created_s, None)
        if installed is not None and custom.generation <= installed.number:
            raise BleRollback(
                f"generation is {custom.generation}, want newer than {installed.number}, which is installed"
            )
        if target.length > MAX_GENERATION_BYTES:
            raise BleInvalid(f"the list has {target.length} bytes, want at most {MAX_GENERATION_BYTES}")
        path = Path(updater.download_target(target))
        with Generation.open(path) as generation:
            self._check(generation, custom, installed)
            return Offered(generation.number, generation.count, sha256, generation.created_s, path)

    def _check(self, generation: Generation, custom: _Custom, installed: Installed | None) -> None:
        generation.check()
        if (generation.number, generation.count) != (custom.generation, custom.entries):
            raise BleInvalid(
                f"the list says generation {generation.number} with {generation.count} entries,"
                f" its signed description {custom.generation} with {custom.entries}; want the same: publish it again"
            )
        if generation.audience not in ("", self._device_id):
            raise BleWrongDevice(
                f"the list was made for device {generation.audience!r}, this is {self._device_id!r};"
                " get the one for this device"
            )
        check_shrinking(generation.count, installed.entries if installed else 0, may_shrink=generation.may_shrink)


def check_shrinking(entries: int, installed: int, *, may_shrink: bool) -> None:
    """Raise BleShrunk when a list is empty or lost more than half of its entries, and nobody signed that as meant."""
    if may_shrink or (entries > 0 and 2 * entries >= installed):
        return
    raise BleShrunk(
        f"the list has {entries} entries, the installed one {installed}; an empty list, or one with less than half,"
        " is taken only when it was published as meant to shrink"
    )


class _Fetcher(FetcherInterface):
    """What python-tuf asks for its files: a Source, copied into our own directory first."""

    def __init__(self, source: Source, work: Path) -> None:
        self.source = source
        self.last = ""  # name of the file that was asked for last: what an error is about
        self._work = work

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.last = url.removeprefix("ble:/")
        try:
            yield from self.source.read(self.last)
        except Missing:
            raise tuf_errors.DownloadHTTPError(f"{self.last!r} is not there", 404) from None

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """Copy at most `max_length` bytes into an unnamed file beside our work (/tmp may be small)."""
        received = 0
        with tempfile.TemporaryFile(dir=self._work) as file:
            for chunk in self.fetch(url):
                received += len(chunk)
                if received > max_length:
                    raise BleInvalid(
                        f"{self.last!r} goes on after the {max_length} bytes that it may have; want it shorter"
                    )
                file.write(chunk)
            file.seek(0)
            yield file


def _check_dates(metadata: Path, now_s: float) -> None:
    """Raise BleExpired by our own time; python-tuf asked the system's clock, which may have fallen back."""
    now = datetime.fromtimestamp(now_s, UTC)
    for name in ("root", "timestamp", "snapshot", "targets"):
        expires = Metadata.from_file(str(metadata / f"{name}.json")).signed.expires
        if now >= expires:
            raise BleExpired(_expired(f"{name}.json expired on {expires:%Y-%m-%d %H:%M} UTC", now_s))


def _expired(what: str, now_s: float) -> str:
    return (
        f"{what}, and this device's time is {datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC;"
        " set the clock if it is wrong, else get a list that was published or exported later"
    )


def _translated(error: Exception, fetcher: _Fetcher, now_s: float) -> MamplusError:
    """Return our error for python-tuf's. `fetcher.last` tells which file it stumbled over."""
    name = fetcher.last
    if isinstance(error, tuf_errors.ExpiredMetadataError):
        return BleExpired(_expired(str(error).removeprefix("New ").replace("is expired", "expired"), now_s))
    if isinstance(error, tuf_errors.BadVersionNumberError) and name.endswith(("timestamp.json", "snapshot.json")):
        return BleRollback(f"the repository's state is older than the one this device has seen: {name!r}: {error}")
    if isinstance(error, tuf_errors.UnsignedMetadataError):
        return BleInvalid(f"{name!r} is not signed by this device's enterprise: {error}; get the list from there")
    if isinstance(error, tuf_errors.DownloadHTTPError):
        text = f"{name!r} is missing; want a whole repository (docs/protocol.md): export it again"
        return UplinkFailed(text) if fetcher.source.is_network else BleInvalid(text)
    if isinstance(error, tuf_errors.DownloadError):
        return UplinkFailed(f"cannot fetch {name!r}: {error}") if fetcher.source.is_network else BleInvalid(str(error))
    return BleInvalid(f"{name!r} is damaged, or does not belong to the others: {error}")
