# SPDX-License-Identifier: Apache-2.0
"""What deserves trust of what a source offers: TUF (`trust_chain.py`), then our own rules (`Verify(BLE)`).

Journey: carrier -> [trust] -> store.

The root of trust comes from enrolment. Everything is read from a `Source` into memory or into a
private directory before it is looked at. What the chain learnt is kept in one file,
`state/trust/metadata.json`, and only `remember` changes it: an attempt that fails leaves no trace,
so the old state stays in force.

Time is what the caller makes of the ids of the keys that may say it: `clock.py` keeps a floor for
each, so a clock that fell back does not make an expired list fresh, nor a rotated key a fresh one expired.

Needs 34 MB: this module runs in the helper process of `update.py`, never in the service.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Targets  # type: ignore[attr-defined]  # re-exported in its public documents

from mamplus_host.ble.carrier import Missing, Source
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.trust_chain import Chain, TimeBy
from mamplus_host.ble.trust_layer import Held, LayerOffer, Offering, check_whole
from mamplus_host.ble.trust_memory import Memory
from mamplus_host.errors import BleExpired, BleInvalid, BleRollback, EnrollRefused, MamplusError, UplinkFailed
from mamplus_host.files import no_room

__all__ = ["Held", "LayerOffer", "Offered", "Trust"]
MAX_POLICY_BYTES = 64 << 10
POLICY = "policy/policy.json"
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Offered:
    """What earned trust."""

    number: int  # generation: the greatest number of its layers
    layers: tuple[LayerOffer, ...]
    policy: bytes | None  # None: the enterprise has published none
    signed_at_s: int  # when the enterprise last said that this is its newest state, by its own clock
    time_signers: frozenset[str]  # ids of the keys that signed that
    time_keys: frozenset[str]  # ids of those whose word on the time counts; what others said does no longer
    bytes: int  # that were read for it; on the network what the connections carried, TLS included

    @property
    def is_new(self) -> bool:
        """Whether any layer differs from what is installed."""
        return any(layer.full or layer.deltas for layer in self.layers)

    @property
    def entries(self) -> int:
        return sum(layer.entries for layer in self.layers)


class Trust:
    """What this device believes about its enterprise's repository."""

    def __init__(self, state: Path, *, device_id: str) -> None:
        self._memory = Memory(state / "trust")
        self._root = state / "trust" / "root.json"
        self._device_id = device_id
        self._learnt: Mapping[str, bytes] | None = None

    def verify(
        self, source: Source, work: Path, installed: Mapping[Layer, Held], *, now_s: float | TimeBy,
        lists_only: bool = False,
    ) -> Offered:  # fmt: skip
        """Return what `source` offers, once it is trusted; nothing outside of the new directory `work` changes.

        `installed` is what each layer's number must be newer than. `lists_only`: whole lists, no deltas, for
        one who found that the deltas do not fit. BleRejected (its subclass says why), UplinkFailed when
        the network failed, NotPossible when the disk is full.
        """
        time = _Time(now_s)
        bootstrap = self._bootstrap()
        try:
            work.mkdir()
            remembered = self._memory.read(bootstrap)
            offered = self._verified(source, work, installed, remembered, time, lists_only=lists_only)
            if not offered.is_new and not source.is_network:
                # What is known already was not looked at, but a damaged stick is to be called damaged all the same.
                afresh, learnt = work / "afresh", self._learnt
                afresh.mkdir()
                self._verified(source, afresh, {}, {}, time)
                self._learnt = learnt
        except OSError as error:
            raise no_room(error, work) from None
        return offered

    def remember(self) -> None:
        """Keep what the last successful `verify` learnt, for good."""
        if self._learnt is None:
            raise RuntimeError("verify first")
        self._memory.write(self._bootstrap(), self._learnt)

    def _bootstrap(self) -> bytes:
        try:
            return self._root.read_bytes()
        except FileNotFoundError:
            raise EnrollRefused("this device trusts no enterprise yet; run: mamplus enroll URL --token TOKEN") from None

    def _verified(
        self, source: Source, work: Path, installed: Mapping[Layer, Held], remembered: Mapping[str, bytes],
        time: "_Time", *, lists_only: bool = False,
    ) -> Offered:  # fmt: skip
        reader = _Reader(source)
        try:
            chain = Chain(self._bootstrap(), remembered, reader.metadata, time_by=time)
            chain.refresh(is_network=source.is_network, device_id=self._device_id)
            offering = Offering(chain, reader.target, work, self._device_id, lists_only=lists_only)
            offered = self._offered(chain, reader, offering, installed, remembered)
        except Missing as error:
            raise _missing(error, source) from None
        except (tuf_errors.RepositoryError, tuf_errors.DownloadError) as error:
            raise _translated(error, reader.last, time.now_s) from None
        self._learnt = chain.files
        return offered

    def _offered(
        self, chain: Chain, reader: "_Reader", offering: Offering, installed: Mapping[Layer, Held],
        known: Mapping[str, bytes],
    ) -> Offered:  # fmt: skip
        if chain.signed_at_s > chain.offline_end_s:
            raise BleInvalid("the snapshot is said to be from a time for which the offline keys do not vouch")
        policy = _policy(chain, reader, known)
        layers = tuple(offering.layer(layer, installed.get(layer)) for layer in Layer if offering.has(layer))
        if not layers:
            raise BleInvalid("the repository has no list; want one: publish a generation first")
        check_whole(layers, offering.shrinking)
        number = max(layer.number for layer in layers)
        signed_at_s = chain.signed_at_s or max(layer.created_s for layer in layers)
        return Offered(number, layers, policy, signed_at_s, chain.time_signers, chain.time_keys, reader.source.received)


class _Time:
    """What time it is, once the root has said whose word on it counts."""

    def __init__(self, said: float | TimeBy) -> None:
        self._said, self.now_s = said, 0.0

    def __call__(self, keys: Collection[str]) -> float:
        self.now_s = self._said(keys) if callable(self._said) else self._said
        return self.now_s


class _Reader:
    """Reads files of a source, each once, bounded."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.last = ""  # name of the file that was asked for last: what an error is about

    def metadata(self, name: str, max_bytes: int) -> bytes:
        return b"".join(self._chunks(f"metadata/{name}", max_bytes))

    def target(self, name: str, length: int, path: Path) -> None:
        """Copy a file of `length` bytes to the new file `path`."""
        with path.open("xb") as file:
            for chunk in self._chunks(f"targets/{name}", length):
                file.write(chunk)

    def small(self, name: str, length: int) -> bytes:
        return b"".join(self._chunks(f"targets/{name}", length))

    def _chunks(self, name: str, max_bytes: int) -> Iterator[bytes]:
        self.last, received = name, 0
        for chunk in self.source.read(name):
            received += len(chunk)
            if received > max_bytes:
                raise BleInvalid(f"{name!r} goes on after the {max_bytes} bytes that it may have; want it shorter")
            yield chunk


def _policy(chain: Chain, reader: _Reader, known: Mapping[str, bytes]) -> bytes | None:
    """Return the policy, from what is remembered where that is still the signed one."""
    role: Targets = chain.role("policy")
    target = role.targets.get(POLICY)
    if target is None:
        return None
    sha256 = target.hashes.get("sha256", "")
    data = known.get(POLICY, b"")
    if hashlib.sha256(data).hexdigest() != sha256:
        if target.length > MAX_POLICY_BYTES:
            raise BleInvalid(f"the policy has {target.length} bytes, want at most {MAX_POLICY_BYTES}")
        data = reader.small(f"policy/{sha256}.policy.json", target.length)
        target.verify_length_and_hashes(data)
    chain.files[POLICY] = data
    return data


def _expired(what: str, now_s: float) -> str:
    return (
        f"{what}, and this device's time is {datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC;"
        " set the clock if it is wrong, else get a list that was published or exported later"
    )


def _missing(error: Missing, source: Source) -> MamplusError:
    text = f"{str(error)!r} is missing; want a whole repository (docs/protocol.md): export it again"
    return UplinkFailed(text) if source.is_network else BleInvalid(text)


def _older(error: Exception, name: str) -> str:
    """Say which version came and which was wanted; python-tuf names the wanted one first, but for timestamps."""
    numbers = _NUMBER.findall(str(error))
    if len(numbers) != 2 or "must be >=" not in str(error):
        return f"{name!r}: {error}"
    came, seen = numbers if str(error).startswith("New timestamp") else reversed(numbers)
    return f"{name!r} has version {came}, want {seen} or newer; export a new carrier, or fetch: mamplus ble refresh"


def _translated(error: Exception, name: str, now_s: float) -> MamplusError:
    """Return our error for python-tuf's; `name` is the file that was read last."""
    if isinstance(error, tuf_errors.ExpiredMetadataError):
        what = str(error).removeprefix("New ").removeprefix("Final ").replace("is expired", "expired")
        return BleExpired(_expired(what, now_s))
    if isinstance(error, tuf_errors.BadVersionNumberError) and name.endswith(("timestamp.json", "snapshot.json")):
        return BleRollback(f"the repository's state is older than the one this device has seen: {_older(error, name)}")
    if isinstance(error, tuf_errors.UnsignedMetadataError):
        return BleInvalid(f"{name!r} is not signed by this device's enterprise: {error}; get the list from there")
    return BleInvalid(f"{name!r} is damaged, or does not belong to the others: {error}")
