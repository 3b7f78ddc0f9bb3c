"""Alembic, and the migrations that are part of this package. Imported only when a schema is to change."""

from __future__ import annotations

from pathlib import Path

import alembic.command
import alembic.config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest version, in the connection's transaction."""
    config = configuration()
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


def configuration() -> alembic.config.Config:
    """Alembic's configuration, without an ini file: the migrations are part of this package."""
    config = alembic.config.Config()
    place = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", place.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def known_versions() -> set[str]:
    return {walk_revision.revision for walk_revision in ScriptDirectory.from_config(configuration()).walk_revisions()}
