"""The SQLite database of a data folder."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa

from unsandbox.errors import EngineError


def open_database(folder: Path) -> sa.Engine:
    """Open (or make) the database of a data folder and bring its tables up to date.

    Raises:
        EngineError: The folder or the database cannot be used.
    """
    from alembic import command
    from alembic.config import Config

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = sa.create_engine(f"sqlite:///{folder / 'unsandbox.sqlite3'}", connect_args={"timeout": 30})
        sa.event.listen(engine, "connect", _tune_sqlite)
        sa.event.listen(engine, "begin", _begin)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (OSError, sa.exc.SQLAlchemyError) as error:
        raise EngineError(f"the data folder {folder} cannot be used: {error}") from error
    return engine


def reading(database: sa.Engine) -> sa.Engine:
    """Return the same database for transactions that only read."""
    return database.execution_options(unsandbox_reads=True)


def _tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # The driver begins nothing by itself; `_begin` does.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # IMMEDIATE: two processes that open a new folder at once migrate one after the other. Who only reads says
    # so and never waits for a writer.
    reads = connection.get_execution_options().get("unsandbox_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
