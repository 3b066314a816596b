# SPDX-License-Identifier: Apache-2.0
"""What came of trying each control of a device, and what changed since."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("devices", sa.Column("examined", sa.JSON(), nullable=False, server_default="{}"))
    op.create_table(
        "control_changes",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("device_id", sa.String(64), sa.ForeignKey("devices.id"), nullable=False),
        sa.Column("control", sa.String(100), nullable=False),
        sa.Column("was", sa.String(32), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("tier", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
    )
    op.create_index("control_changes_by_device", "control_changes", ["device_id", "id"])
