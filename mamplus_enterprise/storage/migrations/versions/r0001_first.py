# SPDX-License-Identifier: Apache-2.0
"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _devices_and_tokens()
    _entries()
    _alerts()
    op.create_table(
        "generations",
        sa.Column("number", _ROW_ID, primary_key=True, autoincrement=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("what", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(600), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )


def _devices_and_tokens() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("public_key", sa.LargeBinary(32), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("enrolled_at", sa.Double(), nullable=False),
        sa.Column("last_seen", sa.Double(), nullable=False),
        sa.Column("removed_at", sa.Double()),
    )
    op.create_table(
        "tokens",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("used_at", sa.Double()),
        sa.Column("device_id", sa.String(64), sa.ForeignKey("devices.id")),
    )


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("value", sa.String(512), nullable=False),
        sa.Column("verdict", sa.Integer(), nullable=False),
        sa.Column("severity", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Integer(), nullable=False),
        sa.Column("valid_until", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("link", sa.Text(), nullable=False),
        sa.Column("added_at", sa.Double(), nullable=False),
        sa.Column("removed_at", sa.Double()),
        sqlite_autoincrement=True,
    )
    in_force = sa.text("removed_at IS NULL")
    op.create_index(
        "one_entry_a_value", "entries", ["kind", "value"], unique=True, sqlite_where=in_force, postgresql_where=in_force
    )


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("device_id", sa.String(64), sa.ForeignKey("devices.id"), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("alert_id", sa.String(64), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(64), nullable=False),
        sa.Column("indicator_kind", sa.String(16)),
        sa.Column("indicator_value", sa.String(512)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("answered_at", sa.Double()),
        sa.Column("answered_by", sa.String(255), nullable=False),
        sa.Column("answer_reason", sa.Text(), nullable=False),
        sa.Column("entry_id", _ROW_ID, sa.ForeignKey("entries.id")),
        sa.UniqueConstraint("device_id", "seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alerts_alert_id", "alerts", ["alert_id"])
    op.create_index("alerts_by_indicator", "alerts", ["indicator_kind", "indicator_value"])
    op.create_index("alerts_by_state", "alerts", ["state", "id"])
