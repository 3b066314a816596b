# SPDX-License-Identifier: Apache-2.0
"""What several feeds name: those that are not the entry's own keep a claim to it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "feed_claims",
        sa.Column("kind", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("value", sa.Text(), primary_key=True),
        sa.Column("feed_id", _ROW_ID, sa.ForeignKey("feeds.id"), primary_key=True),
        sa.Column("layer", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.Integer(), nullable=False),
        sa.Column("severity", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Integer(), nullable=False),
        sa.Column("valid_until", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("link", sa.Text(), nullable=False),
    )
    op.create_index("feed_claims_by_feed", "feed_claims", ["feed_id"])
