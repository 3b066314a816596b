# SPDX-License-Identifier: Apache-2.0
"""Bring the database to the revision of this release, or say that it is of another."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from mamplus_enterprise.errors import NotAnEnterprise
from mamplus_enterprise.storage.store import rebuilding


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run every migration up to `revision` that is missing."""
    config = _config()
    with rebuilding(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def check(engine: Engine) -> None:
    """Raise NotAnEnterprise unless the database is at the revision of this release."""
    with engine.connect() as connection:
        seen = MigrationContext.configure(connection).get_current_revision()
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    if seen != wanted:
        raise NotAnEnterprise(
            f"the database is at revision {seen!r}, this release wants {wanted!r}; an older one is brought"
            " up by: mamplus-enterprise --dir DIR upgrade"
        )
