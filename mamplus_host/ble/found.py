# SPDX-License-Identifier: Apache-2.0
"""The newest generation that the files alone make, when `installed.json` is lost.

Every file in `state/ble` was verified before it got its name, so what is whole may be used. Deltas
are put onto lists as far as their numbers and state roots fit.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from mamplus_host.ble import native
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.record import Installed, LayerRecord, Part
from mamplus_host.errors import BleInvalid

_NAME = re.compile(r"(?P<layer>enterprise|emergency|feeds)-[0-9]{1,19}(-[0-9]{1,19})?(\.[0-9]{1,3})?(\.delta)?\.mble")


def found(folder: Path) -> tuple[Installed | None, str]:
    """Return the record of the newest intact generation in `folder`, and the name of a damaged file, "" for none."""
    damaged, layers = "", list[LayerRecord]()
    for layer in Layer:
        with ExitStack() as opened:
            files = dict[Path, Generation]()
            for path in sorted(folder.glob(f"{layer.word}-*.mble")):
                try:
                    files[path] = _whole(path, opened)
                except (OSError, BleInvalid):
                    damaged = path.name
            record = _newest(layer, files)
            layers += [record] if record else []
    if not layers:
        return None, damaged
    newest = max(layers, key=lambda one: one.number)
    return Installed(
        number=newest.number, entries=sum(one.entries for one in layers), created_s=newest.created_s,
        installed_at=max(part.seen[2] for one in layers for part in one.parts) // 10**9, source="found",
        enterprise_id="", layers=tuple(layers),
    ), damaged  # fmt: skip


def _whole(path: Path, opened: ExitStack) -> Generation:
    if not _NAME.fullmatch(path.name):
        raise BleInvalid(f"{path.name!r} is no name of a list")
    made = opened.enter_context(Generation.open(path))
    made.check()
    return made


def _newest(layer: Layer, files: dict[Path, Generation]) -> LayerRecord | None:
    """Return the layer whose deltas lead to the greatest number; of equals the one with fewer parts."""
    lists = [path for path, made in files.items() if not made.is_delta]
    chains = [_extended([path], files) for path in lists]
    if not chains:
        return None
    best = max(chains, key=lambda chain: (files[chain[-1]].number, -len(chain)))
    last = files[best[-1]]
    return LayerRecord(
        layer=layer.word, number=last.number, entries=last.total, root=last.root.hex(), created_s=last.created_s,
        parts=tuple(Part.of(path) for path in best),
    )  # fmt: skip


def _extended(chain: list[Path], files: dict[Path, Generation]) -> list[Path]:
    """Return `chain` with every delta that fits on its end, the longest steps first."""
    while (after := next(_fitting(chain, files), None)) is not None:
        chain = [*chain, after]
    return chain


def _fitting(chain: list[Path], files: dict[Path, Generation]) -> Iterator[Path]:
    last, parts = files[chain[-1]], [files[path].buffer for path in chain]
    steps = [(path, made) for path, made in files.items() if made.is_delta and made.from_number == last.number]
    for path, delta in sorted(steps, key=lambda step: -step[1].number):
        if native.after(parts, last.root, last.total, delta.buffer) == (delta.root, delta.total):
            yield path
