# SPDX-License-Identifier: Apache-2.0
"""Layers and feeds; values as long as a rule's text; what changed since a moment, by index."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "feeds",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("name", sa.String(255), nullable=False, unique=True),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("layer", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Integer(), nullable=False),
        sa.Column("ttl_s", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("imported_at", sa.Double()),
        sa.Column("counts", sa.JSON(), nullable=False),
    )
    _entries()
    with op.batch_alter_table("generations") as table:
        table.add_column(sa.Column("layers", sa.JSON(), nullable=False, server_default="{}"))


def _entries() -> None:
    op.drop_index("one_entry_a_value", "entries")
    with op.batch_alter_table("entries", table_kwargs={"sqlite_autoincrement": True}) as table:
        table.alter_column("value", existing_type=sa.String(512), type_=sa.Text(), existing_nullable=False)
        table.add_column(sa.Column("layer", sa.Integer(), nullable=False, server_default="1"))
        table.add_column(sa.Column("feed_id", _ROW_ID))
        table.create_foreign_key("entries_feed", "feeds", ["feed_id"], ["id"])
    _index("one_entry_a_value", ["layer", "kind", "value"], "removed_at IS NULL", unique=True)
    op.create_index("entries_by_added", "entries", ["layer", "added_at"])
    _index("entries_by_removed", ["layer", "removed_at"], "removed_at IS NOT NULL")
    _index("entries_by_end", ["layer", "valid_until"], "valid_until > 0")
    _index("entries_by_feed", ["feed_id"], "removed_at IS NULL AND feed_id IS NOT NULL")


def _index(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(
        name, "entries", columns, unique=unique, sqlite_where=condition, postgresql_where=condition
    )  # fmt: skip
