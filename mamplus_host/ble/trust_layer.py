# SPDX-License-Identifier: Apache-2.0
"""One layer of what is offered: is it newer, which files bring it here with the fewest bytes, may it say that?

Journey: chain -> [layer] -> trust.

A layer's number never falls, except when its role's key was rotated: then what the old key said,
also its number, counts no longer.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # re-exported in its public documents

from mamplus_host.ble.carrier import Missing
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.limits import check_limits
from mamplus_host.ble.trust_chain import Chain, file_name
from mamplus_host.errors import BleInvalid, BleRollback, BleShrunk, BleWrongDevice

LIST = "list.mble"
MAX_LIST_BYTES = 1 << 30
MAX_DELTA_BYTES = 1 << 28  # of one delta, unpacked
MAX_DELTAS = 32  # in one update: docs/protocol.md
FUTURE_S = 86_400  # a list may be that much younger than the timestamp: another machine's clock made it
_DELTA = re.compile(r"([0-9]{1,19})-([0-9]{1,19})\.delta")
_CHUNK = 1 << 16
Download = Callable[[str, int, Path], None]  # name below targets/, length, new file


class _Custom(msgspec.Struct):
    """`custom` of a list, docs/protocol.md."""

    generation: int
    entries: int
    root: str

    @property
    def state_root(self) -> bytes:
        return bytes.fromhex(self.root)


@dataclass(frozen=True, slots=True)
class Held:
    """What is installed of a layer."""

    number: int
    entries: int
    root: bytes  # state root
    created_s: int


@dataclass(frozen=True, slots=True)
class LayerOffer:
    """What earned trust of a layer. Neither `full` nor `deltas`: it is as installed."""

    layer: Layer
    number: int
    entries: int
    root: bytes  # state root after it: what the installed layer must come to
    created_s: int
    full: Path | None = None  # its checked list in the work directory
    deltas: tuple[Path, ...] = ()  # or what makes it out of the installed one, oldest first, unpacked


class Offering:
    """The layers that a chain offers."""

    def __init__(
        self, chain: Chain, download: Download, work: Path, device_id: str, *, lists_only: bool = False
    ) -> None:
        self._chain, self._download, self._work, self._device_id = chain, download, work, device_id
        self._lists_only = lists_only
        self.shrinking: set[Layer] = set()  # layers that say that they are meant to be empty or much smaller

    def has(self, layer: Layer) -> bool:
        return f"{layer.role}/{LIST}" in self._chain.role(layer.role).targets

    def layer(self, layer: Layer, held: Held | None) -> LayerOffer:
        """Return what is offered of `layer`, fetched and checked; BleRejected when it does not deserve it."""
        targets = self._chain.role(layer.role).targets
        listed = targets[f"{layer.role}/{LIST}"]
        custom = _custom(listed)
        # What a rotated key said counts no longer, also its number; how many entries there were still does.
        was = None if held is not None and self._chain.was_rotated(layer.role) else held
        if was is not None and (custom.generation, custom.state_root) == (was.number, was.root):
            return LayerOffer(layer, was.number, was.entries, was.root, was.created_s)
        if was is not None and custom.generation <= was.number:
            raise BleRollback(
                f"generation is {custom.generation} of {layer.role}, want newer than {was.number}, which is installed"
            )
        if listed.length > MAX_LIST_BYTES:  # deltas are compared with it, so this bounds them, too
            raise BleInvalid(f"the list has {listed.length} bytes, want at most {MAX_LIST_BYTES}")
        chain = [] if was is None or self._lists_only else _cheapest(layer, targets, was, custom.generation)
        if chain and sum(delta.length for delta in chain) < listed.length:
            with suppress(Missing):  # what a cache or a stick may lack; the list must be there
                return self._by_deltas(layer, chain, custom, held)
        return self._by_list(layer, listed, custom, held)

    def _by_list(self, layer: Layer, listed: TargetFile, custom: _Custom, held: Held | None) -> LayerOffer:
        path = self._fetch(listed, self._work / f"{layer.role}.mble")
        with Generation.open(path) as made:
            made.check()
            said, signed = (made.number, made.count), (custom.generation, custom.entries)
            if made.is_delta or said != signed or made.root != custom.state_root:
                raise BleInvalid(
                    f"the list says generation {made.number} with {made.count} entries and root {made.root.hex()},"
                    f" its signed description {custom.generation} with {custom.entries} and {custom.root};"
                    " want the same: publish it again"
                )
            self._check(made, layer)
            check_shrinking(layer, custom.entries, held, may_shrink=made.may_shrink)
            return LayerOffer(layer, made.number, made.count, custom.state_root, made.created_s, full=path)

    def _by_deltas(self, layer: Layer, chain: Sequence[TargetFile], custom: _Custom, held: Held | None) -> LayerOffer:
        paths, may_shrink, created_s, came_to = list[Path](), False, 0, (b"", 0)
        for delta in chain:
            since, number = _numbers(delta)
            packed = self._fetch(delta, self._work / f"{layer.role}-{since}-{number}.delta")
            path = unpack(packed, packed.with_suffix(".delta.mble"))
            with Generation.open(path) as made:
                made.check()
                if not made.is_delta or (made.from_number, made.number) != (since, number):
                    raise BleInvalid(
                        f"the delta says {made.from_number} to {made.number}, its signed name {since} to {number};"
                        " want the same: publish it again"
                    )
                self._check(made, layer)
                may_shrink, created_s = may_shrink or made.may_shrink, made.created_s
                came_to = made.root, made.total
            paths.append(path)
        if came_to != (custom.state_root, custom.entries):
            raise BleInvalid("the last delta does not say what the list says; want the same: publish it again")
        check_shrinking(layer, custom.entries, held, may_shrink=may_shrink)
        return LayerOffer(
            layer, custom.generation, custom.entries, custom.state_root, created_s, deltas=tuple(paths)
        )  # fmt: skip

    def _fetch(self, target: TargetFile, path: Path) -> Path:
        if "sha256" not in target.hashes:
            raise BleInvalid(f"{target.path!r} is signed with {sorted(target.hashes)}, want sha256: publish it again")
        self._download(file_name(target), target.length, path)
        with path.open("rb") as file:
            target.verify_length_and_hashes(file)
        return path

    def _check(self, made: Generation, layer: Layer) -> None:
        """Raise BleRejected when a list or delta is not for this device, not of this layer, or from a time to come."""
        if made.audience not in ("", self._device_id):
            raise BleWrongDevice(
                f"the list was made for device {made.audience!r}, this is {self._device_id!r};"
                " get the one for this device"
            )
        latest = min(self._chain.offline_end_s, (self._chain.signed_at_s or self._chain.offline_end_s) + FUTURE_S)
        if made.created_s > latest:
            raise BleInvalid(f"the list of {layer.role} is said to be made at {made.created_s}, want at most {latest}")
        check_limits(made, layer)
        if made.may_shrink:
            self.shrinking.add(layer)


def check_shrinking(layer: Layer, entries: int, held: Held | None, *, may_shrink: bool) -> None:
    """Raise BleShrunk when a layer lost more than half of its entries, and nobody signed that as meant."""
    before = held.entries if held is not None else 0
    if may_shrink or 2 * entries >= before:
        return
    raise BleShrunk(
        f"the list has {entries} entries, the installed one {before} ({layer.role}); an empty list, or one with less"
        " than half, is taken only when it was published as meant to shrink"
    )


def check_whole(layers: Sequence[LayerOffer], shrinking: set[Layer]) -> None:
    """Raise BleShrunk when all layers together are empty, and not each of them says that this is meant."""
    if any(layer.entries for layer in layers):
        return
    fresh = {layer.layer for layer in layers if layer.full or layer.deltas}
    if not fresh <= shrinking:
        raise BleShrunk(
            "the list has 0 entries, all layers together; an empty list is taken only when it was published as meant"
            " to shrink"
        )


def unpack(packed: Path, path: Path) -> Path:
    """Write what is zlib-compressed in `packed` to the new file `path`; BleInvalid when it is damaged or too large."""
    unzip, size = zlib.decompressobj(), 0
    with packed.open("rb") as source, path.open("xb") as out:
        while not unzip.eof:
            data = unzip.unconsumed_tail or source.read(_CHUNK)
            try:
                part = unzip.decompress(data, _CHUNK)
            except zlib.error as error:
                raise BleInvalid(f"the delta cannot be unpacked: {error}; want zlib: publish it again") from None
            size += len(part)
            if (not data and not part) or size > MAX_DELTA_BYTES:
                raise BleInvalid(f"the delta is cut off, or unpacks to more than {MAX_DELTA_BYTES} bytes")
            out.write(part)
        if unzip.unused_data or source.read(1):
            raise BleInvalid("the delta goes on after its end; want one stream: publish it again")
    packed.unlink()
    return path


def _cheapest(layer: Layer, targets: Mapping[str, TargetFile], held: Held, number: int) -> list[TargetFile]:
    """Return the chain of deltas from what is installed to `number` with the fewest bytes; none: there is no chain."""
    steps = [(*_numbers(target), target) for name, target in targets.items() if _is_delta(layer, name)]
    best: dict[int, tuple[int, list[TargetFile]]] = {held.number: (0, [])}
    for since, to, target in sorted(steps, key=lambda step: step[:2]):
        if since in best and since < to <= number and len(best[since][1]) < MAX_DELTAS:
            cost = best[since][0] + target.length
            if to not in best or cost < best[to][0]:
                best[to] = (cost, [*best[since][1], target])
    return best[number][1] if number in best else []


def _is_delta(layer: Layer, name: str) -> bool:
    return name.startswith(f"{layer.role}/") and _DELTA.fullmatch(name.rpartition("/")[2]) is not None


def _numbers(target: TargetFile) -> tuple[int, int]:
    match = _DELTA.fullmatch(target.path.rpartition("/")[2])
    assert match is not None  # the caller chose by it
    return int(match[1]), int(match[2])


def _custom(target: TargetFile) -> _Custom:
    try:
        custom = msgspec.convert(target.custom, _Custom)
        if len(custom.state_root) == 32:
            return custom
        raise ValueError("root has no 32 bytes")
    except (msgspec.ValidationError, ValueError) as error:
        raise BleInvalid(f"the target's custom field is {target.custom!r}: {error}") from None
