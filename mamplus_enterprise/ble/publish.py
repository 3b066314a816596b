# SPDX-License-Identifier: Apache-2.0
"""Make the stored entries the next generation, signed and served: layer by layer, only what has changed.

Journey: author, answer -> [publish] -> repository.

The database is the truth, the repository is made from it. One counter for the whole enterprise:
each layer that changes takes the next number, greater than any that was ever served. Rows
are written after the repository, so a crash between them leaves a served generation without a
row, which the next publisher adds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mamplus_enterprise import policy
from mamplus_enterprise.ble import author, harm, repository, shelf
from mamplus_enterprise.ble.compile import Next, compile_layer
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.keys import Signers
from mamplus_enterprise.ble.repository import Published
from mamplus_enterprise.ble.roles import SERVING
from mamplus_enterprise.ble.shelf import LayerChange, LayerState
from mamplus_enterprise.ble.steps import Steps
from mamplus_enterprise.errors import PublishFailed
from mamplus_enterprise.home import Home
from mamplus_enterprise.lock import locked
from mamplus_enterprise.storage.schema import GenerationRow
from mamplus_enterprise.storage.store import Store, note
from mamplus_host.ble.layer import Layer

_REMEMBERED = 1000  # generations whose sizes say whether a device may come from a much larger list
States = dict[Layer, LayerState]


@dataclass(frozen=True, slots=True)
class Request:
    """Who publishes, why, and whether a list that lost most of its entries is meant so."""

    who: str
    why: str
    allow_shrink: bool = False
    layers: Sequence[Layer] = ()  # none: what has changed; the administrators' layer when nothing has
    make_gate: Callable[[], Gate] | None = None  # None: what is new is not asked about
    steps: Steps = field(default_factory=Steps)  # two an entry that waits: asked about, and compiled
    force: str = ""  # why what the gate refuses is published all the same


class _Chosen(NamedTuple):
    layers: Sequence[Layer]
    policy: tuple[int, bytes] | None
    left: tuple[str, ...]  # roles that would change, and cannot be signed for


def publish(home: Home, store: Store, signers: Signers, request: Request) -> Published:
    """Publish what is stored and can be signed for; `left` of the result names the roles that could not.

    A layer that cannot be published as it is written holds up no other: `failed` says why it was left. That of
    a layer that was asked for by name, or of the only one, is raised.
    KeysUnavailable when nothing can be, PublishFailed when the list would be emptied or halved unasked, or
    when this machine's clock is far before the last publication, Harmful when something new blocks what the
    gate knows as good, unforced.
    """
    with locked(home.publish_lock):
        repository.want_clock(home)
        before = repository.layers(home)
        now_s = _moment(store)
        with store.reading() as session:
            chosen = _chosen(home, session, signers, request)
            harmful = _harmful(session, chosen.layers, request)
            changes, failed = _compiled(home, session, before, chosen.layers, request, now_s)
        repository.add(home, signers, changes, policy=chosen.policy)
        _record(store, before, changes, now_s, request)
        _note_forced(store, harmful, request)
        return replace(repository.current(home), left=chosen.left, failed=failed)


def _moment(store: Store) -> float:
    """Return a time such that every change made up to it can be read now, later than that of any generation."""
    with store.writing() as session:
        session.execute(select(1))  # waits for the write lock: changes in flight are done
        return author.moment(session)


def _harmful(session: Session, layers: Sequence[Layer], request: Request) -> list[harm.Harm]:
    found = harm.waiting(session, layers, request.make_gate, request.steps) if request.make_gate is not None else []
    if not request.force:
        harm.refuse(found)
    return found


def _note_forced(store: Store, harmful: Sequence[harm.Harm], request: Request) -> None:
    if harmful:
        with store.writing() as session:
            for one in harmful:
                detail = f"{one.refusal.reason}; {request.force}"
                note(session, who=request.who, what=harm.OVERRULED, subject=one.entry.value, detail=detail)


def _chosen(home: Home, session: Session, signers: Signers, request: Request) -> _Chosen:
    """Return what to publish: a draft whose key lies in a safe does not hold up an emergency."""
    state = repository.read(home)
    repository.want_keys(state, signers, [*SERVING, *(layer.role for layer in request.layers)])
    if request.layers:  # an answer to an alert does not wait for the policy's key, which its server may not have
        return _Chosen(request.layers, None, ())
    target = new_policy(home, state)
    layers = [layer for layer in Layer if author.waiting(session, layer)]
    if not layers and (target is None or repository.is_able(state, Layer.ENTERPRISE.role, signers)):
        layers = [Layer.ENTERPRISE]
    roles = [*(layer.role for layer in layers), *(["policy"] if target else [])]
    left = tuple(role for role in roles if not repository.is_able(state, role, signers))
    if len(left) == len(roles):
        repository.want_keys(state, signers, left)
    return _Chosen([layer for layer in layers if layer.role not in left], None if "policy" in left else target, left)


def new_policy(home: Home, state: repository.State) -> tuple[int, bytes] | None:
    """Return the policy (version, content) that is set and not published, None when there is none."""
    target = policy.target(home)
    return None if target is None or shelf.is_policy(state.delegated["policy"], target[0]) else target


def _compiled(
    home: Home, session: Session, before: States, chosen: Sequence[Layer], request: Request, now_s: float
) -> tuple[list[LayerChange], tuple[str, ...]]:
    newest = session.scalar(select(func.max(GenerationRow.number))) or 0
    number = max(newest, *(state.number for state in before.values()))
    changes, failed = list[LayerChange](), list[PublishFailed]()
    for layer in chosen:
        was = before[layer]
        wanted = Next(
            layer=layer, number=number + len(changes) + 1, now_s=now_s, since=was.number,
            before=was.file(home.targets, layer), largest=max(_largest(session, layer), was.entries),
            steps=request.steps,
        )  # fmt: skip
        try:
            change = compile_layer(session, wanted, home.targets / layer.role)
            if layer is Layer.ENTERPRISE:  # the others empty themselves: what they hold ends, or moves
                _check_shrinking(change, was.entries, request)
        except PublishFailed as error:
            failed.append(error)
        else:
            changes.append(change)
    if failed and (request.layers or not changes):
        raise failed[0]
    return changes, tuple(map(str, failed))


def _largest(session: Session, layer: Layer) -> int:
    """Return how many entries the layer had at most, in the generations that devices may still come from."""
    rows = session.scalars(
        select(GenerationRow.layers).order_by(GenerationRow.number.desc()).limit(_REMEMBERED)
    )  # fmt: skip
    return max((int(row.get(str(int(layer)), {}).get("entries", 0)) for row in rows), default=0)


def _check_shrinking(change: LayerChange, before: int, request: Request) -> None:
    if request.allow_shrink or 2 * change.entries >= before:
        return
    raise PublishFailed(
        f"the list would have {change.entries} entries, the published one has {before}; devices refuse an emptied or"
        " halved list, so say `ble publish --allow-shrink` if it is meant"
    )


def _record(store: Store, before: States, changes: Sequence[LayerChange], now_s: float, request: Request) -> None:
    state = {layer: (was.number, was.entries) for layer, was in before.items()}
    with store.writing() as session:
        last = max(number for number, _ in state.values())
        if session.get(GenerationRow, last) is None:
            session.add(_row(last, state, now_s, "its publisher died before it could say why"))
        for change in changes:
            state[change.layer] = (change.number, change.entries)
            session.add(_row(change.number, state, now_s, request.why))
            subject = f"generation {change.number}, layer {change.layer.name.lower()}"
            note(session, who=request.who, what="published", subject=subject, detail=request.why)


def _row(number: int, state: Mapping[Layer, tuple[int, int]], now_s: float, why: str) -> GenerationRow:
    layers = {str(int(layer)): {"number": one, "entries": entries} for layer, (one, entries) in state.items()}
    total = sum(entries for _, entries in state.values())
    return GenerationRow(number=number, created_at=now_s, entries=total, why=why, layers=layers)
