# SPDX-License-Identifier: Apache-2.0
"""`upgrade`: bring the database of an earlier release to this one's tables."""

import typer

from mamplus_enterprise.cli.shared import opened


def upgrade(context: typer.Context) -> None:
    """Bring the database of an earlier release to this one's tables; all of it or nothing."""
    from mamplus_enterprise.storage import migrate

    with opened(context) as (_home, store):
        migrate.upgrade(store.engine)
        migrate.check(store.engine)
    print("the database is as this release wants it")
