# SPDX-License-Identifier: Apache-2.0
"""Run by alembic; the connection comes from `storage/migrate.py`."""

from alembic import context

from mamplus_enterprise.storage.schema import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
