# SPDX-License-Identifier: Apache-2.0
"""One layer as the database has it, made into the files that devices read: a list, and a delta from the one before.

Journey: author -> [compile] -> publish -> repository.

What a layer's key may not say is refused here already: devices would refuse the whole list.
"""

import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from mamplus_enterprise.ble import author
from mamplus_enterprise.ble.shelf import Delta, LayerChange
from mamplus_enterprise.ble.steps import Steps
from mamplus_enterprise.errors import PublishFailed
from mamplus_host.ble.compile import Compiled, compile_next
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.limits import check_limits
from mamplus_host.errors import BleInvalid

_COMPRESSION = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What is to be compiled."""

    layer: Layer
    number: int
    now_s: float
    since: int  # number of the state before
    before: Path | None  # its list
    largest: int  # how many entries the layer ever had
    steps: Steps = field(default_factory=Steps)


def compile_layer(session: Session, wanted: Next, folder: Path) -> LayerChange:
    """Return the layer's state at `now_s`, its list in `folder`; PublishFailed when it holds what it may not.

    A device may skip the generation that was allowed to shrink, so the flag stays while an earlier
    one was more than twice as large.
    """
    try:
        made = _compiled(session, wanted, folder, may_shrink=False)
        if made.entries == 0 or 2 * made.entries < wanted.largest:
            made = _compiled(session, wanted, folder, may_shrink=True)
        _check(made.full_path, wanted.layer)
    except BleInvalid as error:
        name = wanted.layer.name.lower()
        raise PublishFailed(f"{error}; layer {name} was not published: remove or move what is too much") from None
    return LayerChange(
        layer=wanted.layer, number=wanted.number, entries=made.entries, root=made.root, full=made.full_path,
        delta=_delta(made, wanted.since),
    )  # fmt: skip


def _compiled(session: Session, wanted: Next, folder: Path, *, may_shrink: bool) -> Compiled:
    folder.mkdir(exist_ok=True)
    path = folder / f"{wanted.number}.new"
    since_s = author.published_at(session, wanted.layer, wanted.since)
    created_s = int(min(wanted.now_s, time.time()))  # `now_s` follows the last state where a clock fell behind it
    if wanted.before is None or since_s is None:  # the row of that generation is lost: no delta
        state = wanted.steps.each(author.state_at(session, wanted.layer, wanted.now_s))
        return compile_next(None, state, (), path, number=wanted.number, created_s=created_s, may_shrink=may_shrink)
    upserts, gone = author.changes_since(session, wanted.layer, since_s, wanted.now_s, wanted.steps)
    withdrawn = [(entry.kind, entry.value) for entry in gone]
    return compile_next(
        wanted.before, upserts, withdrawn, path, number=wanted.number, created_s=created_s, may_shrink=may_shrink
    )


def _delta(made: Compiled, since: int) -> Delta | None:
    """Return the delta, unless the list itself is as small."""
    if made.delta_bytes is None:
        return None
    content = zlib.compress(made.delta_bytes, _COMPRESSION)
    if len(content) >= made.full_path.stat().st_size:
        return None
    return Delta(since=since, changes=made.changes, content=content)


def _check(path: Path, layer: Layer) -> None:
    try:
        with Generation.open(path) as made:
            check_limits(made, layer)
    except BleInvalid:
        path.unlink()
        raise
