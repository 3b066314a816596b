# SPDX-License-Identifier: Apache-2.0
"""The tables. Times are seconds since the epoch; a null time means "not yet".

`migrations/` makes them; a test compares the two. Nothing here is particular to one
database: what SQLite needs of its own stands in `store.py`.
"""

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    TextClause,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows by itself only under the name INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")


UNANSWERED = ("open", "reported")  # alert states: suspected, waits for an answer; confirmed by the device itself


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {float: Double()}  # seconds with fractions


class Device(Base):
    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of the public key, hex
    public_key: Mapped[bytes] = mapped_column(LargeBinary(32))
    name: Mapped[str] = mapped_column(String(255))  # what the device says: a claim
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)
    report: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # its last one
    # What came of trying its controls last (devices/controls.py); {}: it has not said.
    examined: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict, server_default="{}")
    generation: Mapped[int] = mapped_column(BigInteger, default=0)  # what it says it enforces
    enrolled_at: Mapped[float]
    last_seen: Mapped[float]
    removed_at: Mapped[float | None]


class ControlChange(Base):
    """A control of a device that did more or less than before, by the device's own trial."""

    __tablename__ = "control_changes"
    __table_args__ = (Index("control_changes_by_device", "device_id", "id"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    control: Mapped[str] = mapped_column(String(100))
    was: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(32))
    tier: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[float]  # by the device's clock
    received_at: Mapped[float]


class Token(Base):
    """A one-time enrolment token; only the hash of its secret is kept."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float]
    used_at: Mapped[float | None]
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))


_IN_FORCE = text("removed_at IS NULL")


def _partial(name: str, *columns: str, where: TextClause, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


class FeedRow(Base):
    """Where entries are imported from, and what the last import of it came to."""

    __tablename__ = "feeds"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)  # `source` of its entries
    format: Mapped[str] = mapped_column(String(32))
    layer: Mapped[int]
    confidence: Mapped[int]  # 0-100, of what does not say its own
    ttl_s: Mapped[int] = mapped_column(BigInteger, default=0)  # validity of what does not say its own; 0: no end
    created_at: Mapped[float]
    imported_at: Mapped[float | None]
    counts: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # of the last import


class EntryRow(Base):
    """A line of the list. Removed ones stay: their ids are never given again.

    A row never changes but for `removed_at`: another opinion, or another end, is another row. So the
    list as it was at any moment can be read from these times.
    """

    __tablename__ = "entries"
    __table_args__ = (
        # Two administrators' opinions on one value are one opinion: the later.
        _partial("one_entry_a_value", "layer", "kind", "value", where=_IN_FORCE, unique=True),
        # What changed since a moment is asked at every publication: it must not read the whole list.
        Index("entries_by_added", "layer", "added_at"),
        _partial("entries_by_removed", "layer", "removed_at", where=text("removed_at IS NOT NULL")),
        _partial("entries_by_end", "layer", "valid_until", where=text("valid_until > 0")),
        _partial("entries_by_feed", "feed_id", where=text("removed_at IS NULL AND feed_id IS NOT NULL")),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    layer: Mapped[int] = mapped_column(default=1)  # ble.layer.Layer
    kind: Mapped[int]  # ble.entry.Kind
    value: Mapped[str] = mapped_column(Text)  # canonical; a rule's may have 60,000 bytes
    verdict: Mapped[int]  # verdicts.Verdict
    severity: Mapped[int]
    confidence: Mapped[int] = mapped_column(default=100)
    valid_until: Mapped[int] = mapped_column(BigInteger, default=0)  # 0: no end
    source: Mapped[str] = mapped_column(Text, default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    message: Mapped[str] = mapped_column(Text, default="")
    link: Mapped[str] = mapped_column(Text, default="")
    feed_id: Mapped[int | None] = mapped_column(ForeignKey("feeds.id"))  # null: written by a person
    added_at: Mapped[float]
    removed_at: Mapped[float | None]


class ClaimRow(Base):
    """A feed names a value whose entry is another feed's: it takes the place over when that one names it no more."""

    __tablename__ = "feed_claims"
    __table_args__ = (Index("feed_claims_by_feed", "feed_id"),)

    kind: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(Text, primary_key=True)
    feed_id: Mapped[int] = mapped_column(RowId, ForeignKey("feeds.id"), primary_key=True)
    layer: Mapped[int]  # the feed's; the entry may be in another
    verdict: Mapped[int]
    severity: Mapped[int]
    confidence: Mapped[int]
    valid_until: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    link: Mapped[str] = mapped_column(Text)


class AlertRow(Base):
    """An escalation as its device signed it, and what became of it."""

    __tablename__ = "alerts"
    __table_args__ = (
        UniqueConstraint("device_id", "seq"),
        Index("alerts_by_indicator", "indicator_kind", "indicator_value"),
        Index("alerts_by_state", "state", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    seq: Mapped[int] = mapped_column(BigInteger)
    alert_id: Mapped[str] = mapped_column(String(64), index=True)  # the device's name for it
    received_at: Mapped[float]
    body: Mapped[str] = mapped_column(Text)  # JSON, byte for byte as signed
    signature: Mapped[bytes] = mapped_column(LargeBinary(64))
    indicator_kind: Mapped[str | None] = mapped_column(String(16))  # with its value: canonical, or both null
    indicator_value: Mapped[str | None] = mapped_column(String(512))
    state: Mapped[str] = mapped_column(String(16), default="open")  # UNANSWERED, confirmed, dismissed
    answered_at: Mapped[float | None]
    answered_by: Mapped[str] = mapped_column(String(255), default="")
    answer_reason: Mapped[str] = mapped_column(Text, default="")
    entry_id: Mapped[int | None] = mapped_column(ForeignKey("entries.id"))


class OrderRow(Base):
    """An order that the server hands to its device, as it was signed elsewhere, and what came of it."""

    __tablename__ = "orders"
    __table_args__ = (Index("orders_by_device", "device_id", "state"),)

    id: Mapped[str] = mapped_column(String(16), primary_key=True)  # of the order, hex
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    what: Mapped[str] = mapped_column(String(32))  # wipe, lock, container-lock
    text: Mapped[str] = mapped_column(Text)  # maintenance/order.py
    reason: Mapped[str] = mapped_column(Text)
    ordered_by: Mapped[str] = mapped_column(String(255))
    ordered_at: Mapped[float]
    expires_at: Mapped[int] = mapped_column(BigInteger)
    handed_at: Mapped[float | None]  # last
    state: Mapped[str] = mapped_column(String(16), default="waiting")  # devices/orders.py
    answered_at: Mapped[float | None]
    detail: Mapped[str] = mapped_column(Text, default="")  # what the device says came of it
    receipt: Mapped[str] = mapped_column(Text, default="")  # JSON, byte for byte as signed; "": none
    signature: Mapped[str] = mapped_column(Text, default="")  # of the device over the receipt, base64


class GenerationRow(Base):
    """A generation that was published."""

    __tablename__ = "generations"

    number: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=False)
    created_at: Mapped[float]
    entries: Mapped[int]  # of all layers
    why: Mapped[str] = mapped_column(Text)
    # Layer number (as text) -> {"number": the generation that changed it last, "entries": its count}.
    # A layer that is missing was published with this generation.
    layers: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class Audit(Base):
    """Who did what; only ever added to."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    at: Mapped[float]
    who: Mapped[str] = mapped_column(String(255))
    what: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(600))
    detail: Mapped[str] = mapped_column(Text, default="")
