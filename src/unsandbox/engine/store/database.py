"""The SQLite database of a data folder."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
from pathlib import Path

import sqlalchemy as sa

from unsandbox.errors import EngineError

logger = logging.getLogger("unsandbox.engine.store")


def open_database(folder: Path) -> sa.Engine:
    """Open or create the database of a data folder, and migrate its tables.

    Raises:
        EngineError: The folder or the database cannot be used.
    """
    from alembic import command
    from alembic.config import Config

    try:
        path = private_file(folder, "unsandbox.sqlite3")
        engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
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


def private_file(folder: Path, name: str) -> Path:
    """Return a file of a data folder that only its owner can read; a missing file or folder is created.

    SQLite gives the mode of the database to the files beside it.

    Raises:
        EngineError: Others may replace files in the folder.
        OSError: The folder or file cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = folder.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        raise EngineError(f"others may write to the data folder {folder}; make it private: chmod 700 {folder}")
    if mode & (stat.S_IROTH | stat.S_IXOTH):
        logger.warning("others may look into the data folder %s; its files are private: chmod 700 it", folder)
    path = folder / name
    # An existing file is never opened: closing it would drop the locks that SQLite holds on it in this process
    # (https://www.sqlite.org/howtocorrupt.html, 2.2), and another process would take away its log.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for file in folder.glob(f"{name}*"):
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
    return path


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
