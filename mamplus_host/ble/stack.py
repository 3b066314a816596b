# SPDX-License-Identifier: Apache-2.0
"""What a device holds: per layer a list and the deltas on top of it, asked as if they were one list.

Journey: store -> [stack] -> kernel tables and `Verify(BLE)`.

In a layer the newest part that mentions a value says what stands: a thousand changes to ten
million entries are a small file beside the large one, which stays as it is. Across layers the
greatest verdict that has not ended wins.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mamplus_host.ble import native
from mamplus_host.ble.entry import Entry
from mamplus_host.ble.format import Generation, Section
from mamplus_host.ble.layer import Layer, state_of

FEW = 8  # of 1: an eighth of a stack may be asked again; more, and it is loaded anew
ALWAYS_FEW = 20_000  # keys; so many are always few


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """One layer, open: a whole list, and what changed since, oldest first."""

    layer: Layer
    base: Generation
    deltas: tuple[Generation, ...] = ()

    @property
    def parts(self) -> tuple[Generation, ...]:
        return (self.base, *self.deltas)

    @property
    def newest(self) -> Generation:
        return self.parts[-1]

    @property
    def number(self) -> int:
        """The generation at which this layer changed last."""
        return self.newest.number

    @property
    def count(self) -> int:
        """How many entries stand."""
        return self.newest.total

    @property
    def root(self) -> bytes:
        """The state root of what stands."""
        return self.newest.root

    def standing(self, section: Section, key: bytes) -> Iterator[Entry]:
        """Yield what stands under `key`: mostly one entry, more where texts share a hash."""
        seen = set[str]()
        for part in reversed(self.parts):
            for slot in part.find(section, key):
                _kind, value = part.value(slot)
                if value not in seen and not part.is_withdrawn(slot):
                    yield part.entry(slot)
                seen.add(value)

    def entries(self) -> Iterator[Entry]:
        """Yield everything that stands: the base's in order of the keys, then those of each delta."""
        for number, part in enumerate(self.parts):
            newer = self.parts[number + 1 :]
            for slot in range(part.count):
                if not part.is_withdrawn(slot) and not _is_mentioned(newer, part, slot):
                    yield part.entry(slot)

    def by_id(self, entry_id: int) -> Entry | None:
        """Return what stands under an id, None when nothing does."""
        for number, part in enumerate(self.parts):
            slot = native.find_id(part.buffer, entry_id)
            if slot is not None and not _is_mentioned(self.parts[number + 1 :], part, slot):
                return part.entry(slot)
        return None


def _is_mentioned(newer: Sequence[Generation], part: Generation, slot: int) -> bool:
    """Whether a newer part says something about the value in `slot` of `part`."""
    if not newer:
        return False
    (section, key), value = part.place(slot), part.value(slot)
    return any(one.value(found) == value for one in newer for found in one.find(section, key))


class Stack:
    """The layers of a device, open for reading; absent ones are left out. Close it, or use it as a context manager."""

    def __init__(self, layers: Sequence[LayerFiles]) -> None:
        self.layers = tuple(sorted(layers, key=lambda files: files.layer))

    @classmethod
    def of(cls, generation: Generation, layer: Layer = Layer.ENTERPRISE) -> "Stack":
        """Return a stack of one list."""
        return cls([LayerFiles(layer, generation)])

    def close(self) -> None:
        for part in self.parts():
            part.close()

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def number(self) -> int:
        """The device's generation: that of the layer which changed last; 0: it has none."""
        return max((files.number for files in self.layers), default=0)

    @property
    def count(self) -> int:
        """How many entries stand in all layers; a value may have one in each."""
        return sum(files.count for files in self.layers)

    @property
    def created_s(self) -> int:
        """When the newest part was made, by the enterprise's clock."""
        return max((part.created_s for part in self.parts()), default=0)

    def parts(self) -> Iterator[Generation]:
        """Yield all files, layer by layer, in each the base first."""
        return (part for files in self.layers for part in files.parts)

    def entries_at(self, section: Section, key: bytes) -> list[tuple[Layer, Entry]]:
        """Return what stands under `key` in each layer, ended entries included."""
        return [(files.layer, entry) for files in self.layers for entry in files.standing(section, key)]

    def entries(self) -> Iterator[tuple[Layer, Entry]]:
        """Yield everything that stands."""
        return ((files.layer, entry) for files in self.layers for entry in files.entries())

    def entry_by_id(self, entry_id: int) -> tuple[Layer, Entry] | None:
        """Return what stands under an entry's id, None when nothing does."""
        for files in self.layers:
            if (entry := files.by_id(entry_id)) is not None:
                return files.layer, entry
        return None

    def verdicts(self, part: Generation, section: Section, now_s: float) -> tuple[bytes, bytes]:
        """Return for each value that `part` has in `section`, in order, what all layers say of it together.

        One byte a value, the greatest verdict that has not ended by `now_s` (0: nothing), and four,
        little-endian, when it ends (seconds since the epoch; 0: never). `part` may be of this stack or of another.
        """
        view = part.sections.get(section)
        if view is None:
            return b"", b""
        parts = [(files.layer, one.buffer) for files in self.layers for one in files.parts]
        return native.verdicts(parts, part.buffer, section, view.count, int(now_s))

    def count_ended(self, sections: Iterable[Section], now_s: float) -> int:
        """Return how many entries in `sections` stand, but ended by `now_s`."""
        return sum(
            native.count_ended([part.buffer for part in files.parts], section, int(now_s))
            for files in self.layers for section in sections
        )  # fmt: skip

    @property
    def state(self) -> str:
        """What tells it from every other generation, also from one of the same number."""
        return state_of((files.layer, files.number, files.root.hex()) for files in self.layers)

    def changed_since(self, before: "Stack") -> tuple[Generation, ...] | None:
        """Return files (of both) that mention every key of which `before` may have said something else.

        None when they are so many that loading everything is no more work.
        """
        changed = list[Generation]()
        for layer in Layer:
            old, new = before._marked(layer), self._marked(layer)
            is_longer = list(new)[: len(old)] == list(old)
            changed += list(new.values())[len(old) :] if is_longer else [*old.values(), *new.values()]
        keys = sum(part.count for part in changed)
        return tuple(changed) if keys <= max(ALWAYS_FEW, self.count // FEW) else None

    def _marked(self, layer: Layer) -> dict[tuple[int, int, bytes], Generation]:
        """Return the parts of a layer by what tells them from all others."""
        return {
            (part.from_number, part.number, part.root): part
            for files in self.layers if files.layer is layer for part in files.parts
        }  # fmt: skip
