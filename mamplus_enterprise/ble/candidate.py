# SPDX-License-Identifier: Apache-2.0
"""The next generation before it is one: what would change, how large it is, what it would hit. Nothing is signed.

Journey: author -> [candidate] -> an administrator, who then says `ble publish` or does not.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from mamplus_enterprise.ble import harm, publish, repository, states
from mamplus_enterprise.ble.compile import Next, compile_layer
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.shelf import LayerChange, LayerState
from mamplus_enterprise.home import Home
from mamplus_enterprise.lock import locked
from mamplus_enterprise.storage.schema import AlertRow
from mamplus_enterprise.storage.store import Store
from mamplus_host.analyzer.verify import verify
from mamplus_host.ble.entry import canonical, parse_kind
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.stack import LayerFiles, Stack
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict

RECENT_S = 30 * 86_400
MAX_ALERTS = 2000  # the newest
MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What publishing one layer would do."""

    layer: str
    number: int  # the generation it would be
    entries: int
    added: int
    changed: int
    removed: int
    full_bytes: int
    delta_bytes: int  # 0: there is no delta, or none that is smaller


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that the candidate would newly refuse, and the published list does not."""

    what: str  # an alert's state, or "gate"
    kind: str
    value: str
    why: str


@dataclass(slots=True)
class Candidate:
    layers: list[LayerPlan] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    hit_count: int = 0
    policy: int = 0  # the version that would be published; 0: it is not another
    harmful: int = 0  # of the hits, those for which `ble publish` wants --force

    def hit(self, one: Hit) -> None:
        self.hit_count += 1
        if len(self.hits) < MAX_SHOWN:
            self.hits.append(one)


def candidate(home: Home, store: Store, gate: Gate, layers: Sequence[Layer] = ()) -> Candidate:
    """Return what `ble publish` would publish now; PublishFailed when a layer holds what its key may not say."""
    made = Candidate()
    with (
        locked(home.publish_lock),
        tempfile.TemporaryDirectory(prefix="mamplus-candidate-") as folder,
        store.reading() as session,
        ExitStack() as closing,
    ):
        before = repository.layers(home)
        number, now, then = states.newest(session), list[LayerFiles](), list[LayerFiles]()
        for layer in Layer:
            was = before[layer].file(home.targets, layer)
            old = LayerFiles(layer, closing.enter_context(Generation.open(was))) if was else None
            then += [old] if old else []
            differs = states.difference(session, layer, str(states.newest(session)), states.WORKING)
            if not len(differs) or (layers and layer not in layers):
                now += [old] if old else []
                continue
            number += 1
            change = _compiled(home, session, layer, number, before[layer], Path(folder))
            made.layers.append(_plan(differs, change))
            assert isinstance(change.full, Path)
            now.append(LayerFiles(layer, closing.enter_context(Generation.open(change.full))))
            if layer is not Layer.FEEDS:  # as publishing: those were asked about at their import
                for one in harm.harms(session, gate, [*differs.added, *(new for _, new in differs.changed)]):
                    made.harmful += 1
                    made.hit(_gated(one))
        target = None if layers else publish.new_policy(home, repository.read(home))
        made.policy = target[0] if target else 0
        for hit in _alerts(session, Stack(then), Stack(now)):
            made.hit(hit)
    return made


def _compiled(
    home: Home, session: Session, layer: Layer, number: int, was: LayerState, folder: Path
) -> LayerChange:  # fmt: skip
    wanted = Next(
        layer=layer, number=number, now_s=time.time(), since=was.number, before=was.file(home.targets, layer),
        largest=was.entries,
    )  # fmt: skip
    return compile_layer(session, wanted, folder / layer.role)


def _plan(differs: states.Difference, change: LayerChange) -> LayerPlan:
    delta = change.delta.content if change.delta else b""
    assert isinstance(change.full, Path)
    assert isinstance(delta, bytes)
    return LayerPlan(
        differs.layer.name.lower(), change.number, change.entries, len(differs.added), len(differs.changed),
        len(differs.removed), change.full.stat().st_size, len(delta),
    )  # fmt: skip


def _gated(one: harm.Harm) -> Hit:
    return Hit("gate", one.entry.kind.name.lower(), one.entry.value, one.refusal.reason)


def _alerts(session: Session, then: Stack, now: Stack) -> Iterator[Hit]:
    """What devices asked about in the last weeks: a dismissed alert that would be refused now is a mistake."""
    wanted = (
        select(AlertRow.indicator_kind, AlertRow.indicator_value, AlertRow.state)
        .where(AlertRow.indicator_value.is_not(None), AlertRow.received_at > time.time() - RECENT_S)
        .order_by(AlertRow.id.desc())
        .limit(MAX_ALERTS)
    )
    for kind_name, text, state in dict.fromkeys(tuple(row) for row in session.execute(wanted)):
        assert kind_name is not None
        assert text is not None
        try:
            kind = parse_kind(kind_name)
            value = canonical(kind, text)
        except ConfigInvalid:
            continue
        was, would = (verify(stack, kind, value, now_s=time.time()) for stack in (then, now))
        if would.verdict is Verdict.BLOCK and was.verdict is not Verdict.BLOCK and would.entry is not None:
            yield Hit(f"{state} alert", kind_name, value, f"entry {would.entry.id}: {would.entry.value}")
