# SPDX-License-Identifier: Apache-2.0
"""The next list of a layer out of the one before: changes in, a delta and the whole list out.

Used by the enterprise when it publishes: Python looks at the changes only, C copies the list. A
device merges a long chain of deltas with the same C.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mamplus_host.ble import native
from mamplus_host.ble.encode import encode, encode_delta, withdrawal
from mamplus_host.ble.entry import Entry, Kind
from mamplus_host.ble.format import Generation
from mamplus_host.files import no_room, put_in_place, write_whole


@dataclass(frozen=True, slots=True)
class Compiled:
    """A layer's next generation, as files that nobody signed yet."""

    full_path: Path  # the whole list
    delta_bytes: bytes | None  # from the list before, uncompressed; None: there was none before
    entries: int  # of the whole list
    changes: int  # in the delta
    root: bytes  # state root of the whole list, 32 bytes


def compile_next(
    before: Path | None, upserts: Iterable[Entry], withdrawn: Iterable[tuple[Kind, str]], full_path: Path, *,
    number: int, created_s: int, audience: str = "", may_shrink: bool = False,
) -> Compiled:  # fmt: skip
    """Write the list `number` to `full_path`: `before` (a whole list; None: nothing) with the changes.

    `upserts` are added, or replace what stands under the same value, whatever that said; `withdrawn` are canonical
    values that go. A value in both is an upsert. What changes nothing is left out of the delta, so
    giving too much costs only time. BleInvalid when `before` is damaged, or an entry has no room in the format.
    """
    changes = [*upserts, *(withdrawal(kind, value) for kind, value in withdrawn)]
    if before is None:
        data = encode([entry for entry in changes if entry.id], generation=number, created_s=created_s,
                      audience=audience, may_shrink=may_shrink)  # fmt: skip
        write_whole(full_path, data, mode=0o644)
        made = Generation(data)
        return Compiled(full_path, None, made.count, made.count, made.root)
    with Generation.open(before) as base:
        wordy = encode_delta(changes, [base], generation=number, created_s=created_s, audience=audience,
                             may_shrink=may_shrink)  # fmt: skip
        delta = native.trimmed(base.buffer, wordy)
        merge([base, Generation(delta)], full_path)
    with Generation.open(full_path) as made:
        made.check()  # a list that was damaged here must not be signed
        return Compiled(full_path, delta, made.count, Generation(delta).count, made.root)


def merge(parts: Sequence[Generation], path: Path) -> None:
    """Write the whole list that `parts` make, the base first, then deltas by age, to `path`, for good.

    BleInvalid when they are damaged, NotPossible when there is no room.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("xb") as file:
            native.merge([part.buffer for part in parts], file.fileno())
            os.fsync(file.fileno())
        put_in_place(beside, path)
    except OSError as error:
        raise no_room(error, path) from None
    finally:
        beside.unlink(missing_ok=True)
