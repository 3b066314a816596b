# SPDX-License-Identifier: Apache-2.0
"""Feeds become entries: what passes the gate is added or renewed, what does not is dropped and said.

Journey: feed's file -> reading -> judge (parser, gate) -> staging -> the list's working state.

An import never replaces what a person decided. The same feed imported again renews what it still
names; with `replace`, what neither it nor another feed names is withdrawn. All of it happens, or nothing. Memory does
not grow with the file, but for documents (STIX, MISP), which are read whole.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

from mamplus_enterprise.ble.author import moment
from mamplus_enterprise.ble.feeds.auto import guess
from mamplus_enterprise.ble.feeds.formats import AUTO, Format, format_of
from mamplus_enterprise.ble.feeds.found import Context
from mamplus_enterprise.ble.gate import Gate, Widest
from mamplus_enterprise.ble.import_report import Report
from mamplus_enterprise.ble.judge import FEED_KINDS, FEED_LIFE_S, Judge, Judged, Wish
from mamplus_enterprise.ble.never import never
from mamplus_enterprise.ble.reading import Progress, chunks_of, document_of, head_of
from mamplus_enterprise.ble.warninglists import compiled
from mamplus_enterprise.ble.workers import Many, judged_by
from mamplus_enterprise.errors import PublishFailed
from mamplus_enterprise.home import Home
from mamplus_enterprise.storage.schema import EntryRow, FeedRow
from mamplus_enterprise.storage.staging import Fate, Staging
from mamplus_enterprise.storage.store import Store, for_writing, note
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.limits import FEED_DAYS
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import Verdict

DEFAULT_TTL_DAYS = 30
DAY_S = 86_400
_ELSEWHERE = "for longer say --layer enterprise"
_PERSONAL = frozenset({"csv"})  # written by administrators, not by feeds: no end unless one is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an administrator asks for. None: as the feed was imported last, or as is usual for its format."""

    path: Path
    format: str
    feed: str
    who: str
    wish: Wish
    layer: Layer | None = None
    ttl_days: int | None = None
    confidence: int | None = None
    replace: bool = False
    allow_shrink: bool = False
    widest: Widest = field(default_factory=Widest)
    forced: Mapping[str, str] = field(default_factory=dict)  # value -> why it passes the gate
    jobs: int = 0  # processes; 0: as many as processors
    gate: Gate | None = None  # tests bring their own


def import_file(home: Home, store: Store, order: Order, report: Report, progress: Progress) -> None:
    """Add what `order.path` holds and fill `report`; ConfigInvalid: nothing was changed."""
    begun = time.monotonic()
    format_ = format_of(order.format)
    order = _completed(store, order)
    store.close()  # no connection may be open when processes are forked
    report.layer, report.valid_until = order.wish.layer.name.lower(), _default_end(order.wish)
    judge = Judge(order.wish, format_, _context(order, format_), order.gate or gate_of(home, order.widest))
    with judged_by(judge, order.path, order.jobs) as many, store.staging() as connection:
        with connection.begin():
            staging = Staging(connection)
            for judged in _judged(order, format_, judge, many, progress):
                staging.add(judged.rows)
                report.take(judged)
            staging.settle()
        with for_writing(connection).begin():
            _merge(connection, staging, order, report)
    report.seconds = round(time.monotonic() - begun, 3)


def gate_of(home: Home, widest: Widest | None = None) -> Gate:
    """Return the gate of an enterprise, with the warninglists that are installed."""
    return Gate(never(home), compiled(), widest or Widest())


def seen_format(name: str, path: Path) -> str:
    """Return `name`, or for `auto` what `path` looks like."""
    return guess(head_of(path)) if name.strip().lower() == AUTO else name.strip().lower()


def other_format(name: str, path: Path) -> str:
    """Return what `path` looks like when that is not `name`, else ""."""
    try:
        seen = guess(head_of(path))
    except ConfigInvalid:
        return ""
    return "" if seen == name else seen


def _judged(order: Order, format_: Format, judge: Judge, many: Many, progress: Progress) -> Iterator[Judged]:
    if format_.document is not None:
        yield judge.document(document_of(order.path))
    else:
        yield from many(chunks_of(order.path, progress))


def _completed(store: Store, order: Order) -> Order:
    """Fill in what was not said: from the feed's last import, else from what its format is usually for."""
    with store.reading() as session:
        known = session.scalars(select(FeedRow).where(FeedRow.name == order.feed)).one_or_none()
    layer = order.layer or (Layer(known.layer) if known else _usual_layer(order))
    _check_life(order, layer)
    ttl_s = _ttl_s(order, known, layer)
    confidence = order.confidence if order.confidence is not None else known.confidence if known else 100
    if known and known.layer != layer:
        raise ConfigInvalid(
            f"feed {order.feed!r} is in layer {Layer(known.layer).name.lower()}; say another --source for layer"
            f" {layer.name.lower()}"
        )
    if layer is Layer.EMERGENCY:
        raise ConfigInvalid("feeds do not go to layer emergency; `ble add --layer emergency` is for single entries")
    return replace(order, wish=replace(order.wish, layer=layer, ttl_s=ttl_s, confidence=confidence))


def _check_life(order: Order, layer: Layer) -> None:
    """What was asked for is refused, not cut: who asks for a year shall not find 90 days in the list."""
    if layer is not Layer.FEEDS:
        return
    if (order.ttl_days or 0) > FEED_DAYS:
        raise ConfigInvalid(f"--ttl is {order.ttl_days} days, want at most {FEED_DAYS} in layer feeds; {_ELSEWHERE}")
    if order.wish.valid_until > order.wish.now_s + FEED_LIFE_S:
        raise ConfigInvalid(f"--until is more than {FEED_DAYS} days away, the most in layer feeds; {_ELSEWHERE}")


def _usual_layer(order: Order) -> Layer:
    wish = order.wish
    fits = wish.verdict is not Verdict.ALLOW and (wish.kind is None or wish.kind in FEED_KINDS)
    too_late = wish.valid_until > wish.now_s + FEED_LIFE_S
    return Layer.FEEDS if fits and not too_late and order.format not in _PERSONAL else Layer.ENTERPRISE


def _ttl_s(order: Order, known: FeedRow | None, layer: Layer) -> int:
    if order.ttl_days is not None:
        return order.ttl_days * DAY_S
    if known is not None:
        return known.ttl_s
    return DEFAULT_TTL_DAYS * DAY_S if layer is Layer.FEEDS else 0


def _default_end(wish: Wish) -> int:
    return wish.valid_until or (wish.now_s + wish.ttl_s if wish.ttl_s else 0)


def _context(order: Order, format_: Format) -> Context:
    columns = format_.columns(head_of(order.path)) if format_.columns is not None else {}
    return Context(order.wish.kind, columns, order.wish.min_score)


def _merge(connection: Connection, staging: Staging, order: Order, report: Report) -> None:
    """The part that holds the write lock."""
    with Session(connection, expire_on_commit=False) as session:
        feed, now_s = _feed(session, order), moment(session)
        place = {"layer": int(order.wish.layer), "feed": feed.id, "source": order.feed, "now": now_s}
        if order.replace:
            _check_shrinking(staging, feed.id, order)
        staging.merge(place)
        report.withdrawn, report.kept = staging.withdraw(place) if order.replace else (0, 0)
        counts = staging.counts()
        report.added, report.renewed, report.unchanged = (
            counts[fate] for fate in (Fate.NEW, Fate.RENEWED, Fate.UNCHANGED)
        )
        for line, value, fate, entry_id, verdict in staging.stayed_out():
            report.drop((line, value, fate.name.lower(), _why(fate, entry_id, Verdict(verdict))))
        report.dropped.sort(key=lambda one: one.line)
        feed.imported_at, feed.counts = now_s, report.counts()
        _note(session, order, report)
        session.flush()


def _feed(session: Session, order: Order) -> FeedRow:
    feed = session.scalars(select(FeedRow).where(FeedRow.name == order.feed)).one_or_none()
    if feed is None:
        feed = FeedRow(name=order.feed, layer=int(order.wish.layer), created_at=time.time(), counts={})
        session.add(feed)
    feed.format, feed.ttl_s, feed.confidence = order.format, order.wish.ttl_s, order.wish.confidence
    session.flush()
    return feed


def _check_shrinking(staging: Staging, feed_id: int, order: Order) -> None:
    """A download that broke off must not take half of a feed off the list."""
    before, missing = staging.missing(feed_id)
    if order.allow_shrink or 2 * missing <= before:
        return
    raise PublishFailed(
        f"{missing} of {before} entries of feed {order.feed!r} are not in the file any more, and --replace would"
        " withdraw them; look at the file, or say --allow-shrink if it is meant"
    )


def _why(fate: Fate, entry_id: int | None, verdict: Verdict) -> str:
    if fate is Fate.EXCEPTED:
        return "the feed makes an exception of it; entries that allow: --layer enterprise --exceptions"
    where = f"entry {entry_id}" if entry_id else "an earlier line"
    return f"{where} says {verdict.name.lower()} about it already"


def _note(session: Session, order: Order, report: Report) -> None:
    detail = (
        f"feed {order.feed}: {report.added} added, {report.renewed} renewed, {report.withdrawn} withdrawn,"
        f" {report.dropped_count} dropped of {report.lines} lines"
    )
    note(session, who=order.who, what="imported", subject=f"{order.format} {order.path.name}", detail=detail)
    for value, refusal in report.forced:
        detail = f"{order.forced.get(value, '')}; the gate: {refusal}"
        note(session, who=order.who, what="gate overruled", subject=value, detail=detail)


def feeds(session: Session) -> list[tuple[FeedRow, int]]:
    """Return every feed with how many entries of it are in force, by name."""
    counted = (
        select(EntryRow.feed_id, func.count().label("entries"))
        .where(EntryRow.removed_at.is_(None), EntryRow.feed_id.is_not(None))
        .group_by(EntryRow.feed_id)
        .subquery()
    )
    wanted = select(FeedRow, func.coalesce(counted.c.entries, 0)).outerjoin(counted, counted.c.feed_id == FeedRow.id)
    return [(row, int(count)) for row, count in session.execute(wanted.order_by(FeedRow.name))]


def default_feed_name(path: Path) -> str:
    return f"import:{path.name}"
