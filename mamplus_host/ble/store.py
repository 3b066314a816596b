# SPDX-License-Identifier: Apache-2.0
"""The generations that this device holds: the installed one, and those before it.

Journey: trust -> [store] -> kernel tables and `Verify(BLE)`.

`state/ble/<layer>-<N>.mble`              a layer's list; has this name only once it was verified
`state/ble/<layer>-<FROM>-<TO>.delta.mble`  what changed since, on top of it
`state/ble/installed.json`                which of them are installed, and the history, newest first

A generation is installed when `installed.json` names it, and not before: after a power cut
there is the old one or the new one. No file that it names is ever written to or replaced. When it
or a part is damaged, the newest intact generation is used and `note` says so. An old
generation never stops being enforced.
"""

import time
from collections.abc import Container, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from mamplus_host.ble import standing
from mamplus_host.ble.apply import DeltaMisfit, Offer, check_deltas, check_list
from mamplus_host.ble.compile import merge
from mamplus_host.ble.entry import Entry
from mamplus_host.ble.format import Generation
from mamplus_host.ble.found import found
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.record import HISTORY, Book, Change, Installed, LayerRecord, Part, look, sha256_of
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.errors import BleInvalid
from mamplus_host.files import sync_directory, sync_file, write_whole

ALWAYS_KEPT = 2  # generations whose files stay, however large
HISTORY_BYTES = 1 << 30  # of files beyond these
MAX_DELTAS = 32  # on one list
SMALL_BYTES = 64 << 10  # of deltas: so much is never too much


class BleStore:
    """The generations below `state/ble`."""

    def __init__(self, state: Path, *, is_thorough: bool = False) -> None:
        """`is_thorough`: read every file once, also where nothing was written to it since it was verified."""
        self.folder = state / "ble"
        self.note = ""  # what was damaged, and what is used instead; "": nothing was
        self._is_thorough = is_thorough
        self._read = set[tuple[str, tuple[int, ...]]]()  # files that this object has read through
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    # --- what is there ---------------------------------------------------------------------------

    def records(self) -> list[Installed]:
        """Return the history, newest first; made up from the files when `installed.json` is damaged."""
        path = self.folder / "installed.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Book).history
        except FileNotFoundError:
            return self._found()
        except msgspec.MsgspecError as error:
            self.note = f"{str(path)!r} is damaged ({error}); using the newest intact generation"
            return self._found()

    def installed(self) -> Installed | None:
        """Return the record of the generation that `current` would open."""
        return next((record for record in self.records() if self._is_intact(record)), None)

    def current(self) -> Stack | None:
        """Open the installed generation, or the newest intact one before it; None when there is none."""
        record = self.installed()
        return self.open(record) if record else None

    def open_number(self, number: int) -> Stack | None:
        """Open one generation of the history; None when it is not there and intact."""
        record = next((one for one in self.records() if one.number == number and self._is_intact(one)), None)
        return self.open(record) if record else None

    def open_state(self, state: str) -> Stack | None:
        """Open the generation that is told from others by `state`; None when it is not there and intact."""
        record = next((one for one in self.records() if one.state == state and self._is_intact(one)), None)
        return self.open(record) if record else None

    def open(self, record: Installed) -> Stack:
        """Open what `record` names; OSError or BleInvalid when it is damaged."""
        with ExitStack() as undo:
            layers = [self._opened(layer, undo) for layer in record.layers]
            undo.pop_all()
            return Stack(layers)

    def entry(self, generation: int, entry_id: int) -> Entry | None:
        """Return an entry of a generation that is still in the history, else None: why something was decided."""
        for record in self.records():
            if record.number == generation and (entry := self._entry_of(record, entry_id)) is not None:
                return entry
        return None

    # --- what comes ------------------------------------------------------------------------------

    def prepare(
        self, offers: Iterable[Offer], before: Installed | None, *, source: str, enterprise_id: str
    ) -> Installed:
        """Check what earned trust, give its files their names here, and return the record to `install`.

        `before` is what deltas build on and what stays of layers that did not change; None: nothing.
        BleInvalid (DeltaMisfit for deltas) when a layer does not come to the signed state root,
        NotPossible without room; what was installed stays in force then.
        """
        layers = {layer.which: layer for layer in before.layers} if before else {}
        fresh = [offer for offer in offers if offer.full or offer.deltas]
        changed = tuple(self._checked(offer, layers.get(offer.layer)) for offer in fresh)
        for offer in fresh:
            layers[offer.layer] = self._placed(offer, layers.get(offer.layer))
        sync_directory(self.folder)  # once for all: the record that names them comes after it
        return Installed(
            number=max((layer.number for layer in layers.values()), default=0),
            entries=sum(layer.entries for layer in layers.values()),
            created_s=max((layer.created_s for layer in layers.values()), default=0),
            installed_at=int(time.time()), source=source, enterprise_id=enterprise_id,
            layers=tuple(layers[layer] for layer in sorted(layers)), changed=changed,
        )  # fmt: skip

    def install(self, record: Installed) -> None:
        """Make what was prepared the installed generation, and forget what is older than the history.

        What is in force stays: newer generations may be held for long (`standing.py`).
        """
        needed = standing.needed(self.folder.parent)
        known = [record, *(known for known in self.records() if known.state != record.state)]
        kept = [one for age, one in enumerate(known) if age < HISTORY or one.state in needed]
        write_whole(self.folder / "installed.json", msgspec.json.encode(Book(kept)))
        names = _kept_names(kept, needed)
        for path in self.folder.glob("*.mble"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def discard(self, names: Iterable[str]) -> None:
        """Take away files that were prepared and are not to be installed; those that are in use stay."""
        used = {part.name for record in self.records() for part in record.parts}
        for name in set(names) - used:
            (self.folder / name).unlink(missing_ok=True)

    def compact(self) -> bool:
        """Merge each layer that has too many deltas into one list; False when none has.

        The generation stays what it is. BleInvalid when a part is damaged, NotPossible without room.
        """
        record = self.installed()
        if record is None or not any(is_long(layer) for layer in record.layers):
            return False
        layers = tuple(self._merged(layer) if is_long(layer) else layer for layer in record.layers)
        self.install(msgspec.structs.replace(record, layers=layers))
        return True

    # --- parts of these --------------------------------------------------------------------------

    def _opened(self, layer: LayerRecord, undo: ExitStack) -> LayerFiles:
        parts = [undo.enter_context(Generation.open(self.folder / part.name)) for part in layer.parts]
        if not parts or parts[-1].number != layer.number or parts[-1].root.hex() != layer.root:
            raise BleInvalid(f"layer {layer.layer} is not the generation {layer.number} that the record names")
        return LayerFiles(layer.which, parts[0], tuple(parts[1:]))

    def _entry_of(self, record: Installed, entry_id: int) -> Entry | None:
        try:
            with self.open(record) as stack:
                there = stack.entry_by_id(entry_id)
                return there[1] if there else None
        except (OSError, BleInvalid):
            return None

    def _checked(self, offer: Offer, held: LayerRecord | None) -> Change:
        """Return what `offer` changes; BleInvalid unless it comes to what was signed."""
        change = Change(
            layer=offer.layer.word, before=held.number if held else 0, number=offer.number,
            entries_before=held.entries if held else 0, entries=offer.entries,
        )  # fmt: skip
        if offer.full:
            check_list(offer, offer.full)
            return change
        if held is None:
            raise DeltaMisfit(f"deltas of layer {offer.layer.word} came, and there is no list that they change")
        try:
            with ExitStack() as opened:
                changes = check_deltas(offer, self._opened(held, opened))
        except (OSError, BleInvalid) as error:  # the deltas were checked: it is what they change that is damaged
            raise DeltaMisfit(str(error)) from None
        return msgspec.structs.replace(change, changes=changes, is_delta=True)

    def _placed(self, offer: Offer, held: LayerRecord | None) -> LayerRecord:
        """Give the files of `offer` their names here, for good; nothing is installed yet."""
        if offer.full:
            parts = [self._place(offer.full, f"{offer.layer.word}-{offer.number}.mble")]
        else:
            kept = held.parts if held else ()
            parts = [*kept, *(self._place(path, _delta_name(offer.layer, path)) for path in offer.deltas)]
        return LayerRecord(
            layer=offer.layer.word, number=offer.number, entries=offer.entries, root=offer.root.hex(),
            created_s=offer.created_s, parts=tuple(parts),
        )  # fmt: skip

    def _place(self, staged: Path, name: str) -> Part:
        path = self._free(name)
        sync_file(staged)
        staged.replace(path)
        return Part.of(path)

    def _free(self, name: str) -> Path:
        """Return a path that no file has: what is installed is never written over, not even by its like."""
        stem, dot, rest = name.partition(".")
        names = (name, *(f"{stem}.{again}{dot}{rest}" for again in range(1, 1000)))
        return next(self.folder / one for one in names if not (self.folder / one).exists())

    def _merged(self, layer: LayerRecord) -> LayerRecord:
        path = self._free(f"{layer.layer}-{layer.number}.mble")
        with ExitStack() as opened:
            merge(self._opened(layer, opened).parts, path)
        with Generation.open(path) as made:
            made.check()
        return msgspec.structs.replace(layer, parts=(Part.of(path),))

    def _is_intact(self, record: Installed) -> bool:
        try:
            for part in record.parts:
                self._verify(part)
            with self.open(record) as stack:
                return stack.number == record.number
        except (OSError, BleInvalid) as error:
            self.note = f"generation {record.number} is damaged ({error}); using the newest intact one before it"
            return False

    def _verify(self, part: Part) -> None:
        """Raise BleInvalid or OSError unless the file is the one that was verified."""
        path = self.folder / part.name
        seen = look(path)
        is_untouched = seen == part.seen and not self._is_thorough
        if is_untouched or (part.name, seen) in self._read:
            return
        if sha256_of(path) != part.sha256:
            raise BleInvalid(f"{part.name!r}: its SHA-256 is not the one that was verified")
        self._read.add((part.name, seen))

    def _found(self) -> list[Installed]:
        record, damaged = found(self.folder)
        if damaged:
            self.note = f"{damaged!r} is damaged; using the newest intact generation"
        return [record] if record else []


def is_long(layer: LayerRecord) -> bool:
    """Whether so many deltas lie on the list that merging them is worth writing it anew."""
    sizes = [part.seen[1] for part in layer.parts]
    return len(sizes) > MAX_DELTAS + 1 or sum(sizes[1:]) > max(sizes[0] // 8, SMALL_BYTES)


def _delta_name(layer: Layer, path: Path) -> str:
    with Generation.open(path) as delta:
        return f"{layer.word}-{delta.from_number}-{delta.number}.delta.mble"


def _kept_names(records: Sequence[Installed], needed: Container[str]) -> set[str]:
    """Return the files that stay: of the newest generations all, of older ones as long as there is room."""
    sizes = dict[str, int]()
    has_room = True
    for age, record in enumerate(records):
        more = {part.name: part.seen[1] for part in record.parts}
        has_room = has_room and (age < ALWAYS_KEPT or sum({**sizes, **more}.values()) <= HISTORY_BYTES)
        if has_room or record.state in needed:
            sizes |= more
    return set(sizes)
