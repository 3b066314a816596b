# SPDX-License-Identifier: Apache-2.0
"""An administrator's answer becomes an entry and a generation: one function for API, CLI and page.

Journey: administrator -> [answer] -> publish -> every device.

Stored first, published second: when publishing fails the answer stands, and the next
generation carries it. Only a missing key is known before: then nothing is stored.
Every unanswered alert about the same value is answered with it.

The entry goes to the administrators' layer where its key is at hand. Where it is not (a server
that holds online keys only), a block goes to the emergency layer; an allow has to wait for the key.
"""

import time
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from mamplus_enterprise.alerts.intake import parse
from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.author import Draft, add, in_force
from mamplus_enterprise.ble.gate import Gate
from mamplus_enterprise.ble.keys import Signers
from mamplus_enterprise.ble.never import never
from mamplus_enterprise.ble.publish import Request, publish
from mamplus_enterprise.ble.roles import SERVING
from mamplus_enterprise.errors import Answered, Harmful, KeysUnavailable, NoIndicator, PublishFailed, Unknown
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import UNANSWERED, AlertRow
from mamplus_enterprise.storage.store import Store, note
from mamplus_enterprise.times import clock
from mamplus_host.ble.entry import parse_kind
from mamplus_host.ble.layer import Layer
from mamplus_host.errors import MamplusError
from mamplus_host.verdicts import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an administrator says about an alert. `alert` is the device's id of it, or its number here."""

    alert: str
    confirmed: bool
    who: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    generation: int
    entry_id: int
    alerts: int  # answered by this, the named one included
    layer: Layer  # that the entry went to


def answer(home: Home, store: Store, signers: Signers, given: Answer) -> Done:
    """Carry out an answer. PublishFailed: stored, not served.

    Unknown, Answered, NoIndicator, KeysUnavailable, Harmful: nothing changed.
    """
    state = repository.read(home)
    with store.writing() as session:
        alert = find(session, given.alert)
        _check_unanswered(alert)
        layer = _layer(session, alert, given, has_key=repository.is_able(state, Layer.ENTERPRISE.role, signers))
        _want_keys(state, signers, layer)
        _want_harmless(home, alert, given)
        entry_id = _add_entry(session, alert, given, layer)
        same = _unanswered_about(session, alert)
        for one in same:
            _mark(one, given, entry_id)
        what = "alert confirmed" if given.confirmed else "alert dismissed"
        detail = f"entry {entry_id}, {len(same)} alerts; {given.reason}"
        note(session, who=given.who, what=what, subject=f"{alert.alert_id} ({alert.id})", detail=detail)
        why = f"{what}: {alert.indicator_kind} {alert.indicator_value}"
    try:
        done = publish(home, store, signers, Request(given.who, why, layers=(layer,)))
        return Done(done.generation, entry_id, len(same), layer)
    except (OSError, MamplusError) as error:
        raise PublishFailed(
            f"the answer is stored as entry {entry_id} but no generation carries it yet: {error};"
            " when that is mended: mamplus-enterprise ble publish"
        ) from error


def find(session: Session, name: str) -> AlertRow:
    """Return the alert named `name`; Unknown when there is none, or when two devices used that id."""
    if name.isascii() and name.isdigit() and len(name) <= 18:
        wanted = select(AlertRow).where(AlertRow.id == int(name))
    else:
        wanted = select(AlertRow).where(AlertRow.alert_id == name)
    found = session.scalars(wanted.limit(2)).all()
    if not found:
        raise Unknown(f"there is no alert {name[:64]!r}; `alerts --state all` lists them")
    if len(found) > 1:
        raise Unknown(f"two devices sent an alert {name!r}; say its number: {found[0].id} or {found[1].id}")
    return found[0]


def _check_unanswered(alert: AlertRow) -> None:
    if alert.state not in UNANSWERED:
        raise Answered(
            f"alert {alert.alert_id} was {alert.state} by {alert.answered_by} at {clock(alert.answered_at)},"
            f" entry {alert.entry_id}; change that entry instead"
        )


def _want_keys(state: repository.State, signers: Signers, layer: Layer) -> None:
    try:
        repository.want_keys(state, signers, (layer.role, *SERVING))
    except KeysUnavailable as error:
        raise KeysUnavailable(f"the alert is not answered, for no generation could carry it: {error}") from None


def _want_harmless(home: Home, alert: AlertRow, given: Answer) -> None:
    """The never-block set and wide networks; not what is known good elsewhere, of which an administrator knows more."""
    if not given.confirmed or alert.indicator_kind is None or alert.indicator_value is None:
        return
    kind, value = parse_kind(alert.indicator_kind), alert.indicator_value
    if refusal := Gate(never(home), None).ask(kind, value, is_by_hand=True).refusal:
        raise Harmful(f"alert {alert.alert_id} cannot be confirmed: {refusal.reason}; dismiss it")


def _layer(session: Session, alert: AlertRow, given: Answer, *, has_key: bool) -> Layer:
    """Return where the answer's entry goes: not below an `allow` of the administrators, which would outrank it."""
    if has_key or not given.confirmed or alert.indicator_value is None:
        return Layer.ENTERPRISE
    standing = in_force(session, parse_kind(str(alert.indicator_kind)), alert.indicator_value)
    is_allowed = standing is not None and standing.verdict == Verdict.ALLOW
    return Layer.ENTERPRISE if is_allowed else Layer.EMERGENCY


def _add_entry(session: Session, alert: AlertRow, given: Answer, layer: Layer) -> int:
    if alert.indicator_kind is None or alert.indicator_value is None:
        raise NoIndicator(
            f"alert {alert.alert_id} names no value that a list can hold; use `ble add` for one you choose"
        )
    body = parse(alert.body)
    draft = Draft(
        kind=parse_kind(alert.indicator_kind), value=alert.indicator_value, severity=body.severity,
        verdict=Verdict.BLOCK if given.confirmed else Verdict.ALLOW, source=f"alert:{alert.alert_id}",
        reason=given.reason or f"an administrator {'confirmed' if given.confirmed else 'dismissed'} the alert",
        layer=layer,
    )  # fmt: skip
    return add(session, draft, who=given.who)[0].id


def _unanswered_about(session: Session, alert: AlertRow) -> list[AlertRow]:
    wanted = select(AlertRow).where(
        AlertRow.state.in_(UNANSWERED),
        AlertRow.indicator_kind == alert.indicator_kind,
        AlertRow.indicator_value == alert.indicator_value,
    )
    return list(session.scalars(wanted))


def _mark(alert: AlertRow, given: Answer, entry_id: int) -> None:
    alert.state = "confirmed" if given.confirmed else "dismissed"
    alert.answered_at, alert.answered_by = time.time(), given.who[:255]
    alert.answer_reason, alert.entry_id = given.reason, entry_id
