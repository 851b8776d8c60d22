"""Jobs and objects in a SQL database, through SQLAlchemy Core.

`SqlStore` does its work in one thread. Job rows that arrive while a transaction is under way are written
together in the next one (group commit); a call returns when its row is committed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import sqlalchemy as sa

from unsandbox.engine.store.database import reading
from unsandbox.engine.store.objects import ObjectRow
from unsandbox.engine.store.rows import JobRow
from unsandbox.engine.store.schema import jobs_table, objects_table
from unsandbox.protocol.contents import CHUNK, LARGE, Pieces, Spool, Written
from unsandbox.protocol.splitting import Parted, Splitter

T = TypeVar("T")

_Write = tuple[sa.Executable, dict[str, Any], "asyncio.Future[None]"]


class SqlStore:
    """Jobs in a SQL database.

    Args:
        database: From `open_database`.
    """

    keeps = True

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        # One thread, because SQLite has one writer and runs transactions one after another.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unsandbox-store")
        # Another one, so that nothing waits to be written while a large result is read.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="unsandbox-store-reader")
        self._pending: list[_Write] = []
        self._flusher: asyncio.Task[None] | None = None
        self._connection: sa.Connection | None = None

    async def add_job(self, row: JobRow) -> None:
        """Store a job that was accepted; returns when it is committed."""
        await self._write(sa.insert(jobs_table), {name: getattr(row, name) for name in JobRow.__slots__})

    async def finish_job(self, row: JobRow) -> None:
        """Store the end of a job; returns when it is committed."""
        if isinstance(row.result, Pieces):
            result = row.result
            await self._run(lambda connection: _finish_large(connection, row, result))
            return
        await self._write(
            _FINISH,
            {
                "id": row.job_id,
                "new_status": row.status,
                "new_completed_at": row.completed_at,
                "new_result": row.result,
            },
        )

    async def find_job(self, owner: str, job_id: str) -> JobRow | None:
        """Return a job of this owner, result included."""
        table = jobs_table.c
        return await self._find(sa.and_(table.job_id == job_id, table.owner == owner))

    async def large_result(self, owner: str, job_id: str) -> Pieces | None:
        """Return the stored answer of a job as it is, if it is large; otherwise None."""
        table = jobs_table.c
        query: sa.Select[Any] = (
            sa.select(sa.literal_column("rowid"))
            .select_from(jobs_table)
            .where(table.job_id == job_id, table.owner == owner, sa.func.length(table.result) > LARGE)
        )

        def work(connection: sa.Connection) -> Pieces | None:
            place = connection.execute(query).scalar()
            return None if place is None else _copied(connection, place)

        return await self._read(work)

    async def find_by_idempotency_key(self, owner: str, key: str) -> JobRow | None:
        """Return the job that this owner created with this key."""
        table = jobs_table.c
        return await self._find(sa.and_(table.owner == owner, table.idempotency_key == key))

    async def list_jobs(self, owner: str, limit: int) -> list[JobRow]:
        """Return jobs without their results, newest first."""
        table = jobs_table.c
        columns = [column for column in table if column.name != "result"]
        query = sa.select(*columns).where(table.owner == owner).order_by(table.created_at.desc()).limit(limit)
        return await self._run(
            lambda connection: [JobRow(**row) for row in connection.execute(query).mappings()]
        )

    async def put_object(self, row: ObjectRow) -> None:
        """Store an object, new or changed; returns when it is committed."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(objects_table).where(objects_table.c.object_id == row.object_id))
            connection.execute(
                sa.insert(objects_table), {name: getattr(row, name) for name in ObjectRow.__slots__}
            )

        await self._run(work)

    async def delete_object(self, object_id: str) -> None:
        """Delete an object; returns when the deletion is committed."""
        query = sa.delete(objects_table).where(objects_table.c.object_id == object_id)
        await self._run(lambda connection: connection.execute(query))

    async def load_objects(self, kind: str) -> list[ObjectRow]:
        """Return all objects of a kind."""
        query = sa.select(objects_table).where(objects_table.c.kind == kind)
        return await self._run(
            lambda connection: [ObjectRow(**row) for row in connection.execute(query).mappings()]
        )

    async def recover(self, result_for: Callable[[JobRow], bytes]) -> int:
        """Mark unfinished jobs of an earlier process as failed; return their number.

        Args:
            result_for: Builds the stored answer of such a job.
        """
        table = jobs_table.c

        def work(connection: sa.Connection) -> int:
            rows = connection.execute(
                sa.select(jobs_table).where(table.status.in_(["pending", "running"]))
            ).mappings()
            left = [JobRow(**row) for row in rows]
            for row in left:
                connection.execute(
                    _FINISH,
                    {
                        "id": row.job_id,
                        "new_status": "failed",
                        "new_completed_at": time.time(),
                        "new_result": result_for(row),
                    },
                )
            return len(left)

        return await self._run(work)

    async def results_bytes(self, owner: str) -> int:
        """Return how many bytes the stored results of an owner take."""
        table = jobs_table.c
        query = sa.select(sa.func.sum(sa.func.length(table.result))).where(table.owner == owner)
        return await self._run(lambda connection: connection.execute(query).scalar() or 0)

    async def trim_results(self, owner: str, most: int) -> list[str]:
        """Delete the oldest ended jobs of an owner until the rest takes `most` bytes; return their ids.

        The newest stays, however large it is.
        """
        table = jobs_table.c
        newest_first = [table.completed_at.desc(), table.job_id]
        sizes = (
            sa.select(
                table.job_id,
                sa.func.sum(sa.func.length(table.result)).over(order_by=newest_first).label("so_far"),
                sa.func.row_number().over(order_by=newest_first).label("place"),
            )
            .where(table.owner == owner, table.completed_at.is_not(None))
            .subquery()
        )
        query = sa.select(sizes.c.job_id).where(sizes.c.so_far > most, sizes.c.place > 1)

        def work(connection: sa.Connection) -> list[str]:
            gone = list(connection.execute(query).scalars())
            for job_id in gone:
                connection.execute(sa.delete(jobs_table).where(table.job_id == job_id))
            return gone

        return await self._run(work)

    async def prune(self, older_than: float, most: int) -> int:
        """Delete jobs that ended before a Unix time, and the oldest beyond a number; return how many."""
        table = jobs_table.c
        beyond = (
            sa.select(table.job_id)
            .where(table.completed_at.is_not(None))
            .order_by(table.completed_at.desc())
            .offset(most)
        )
        query = sa.delete(jobs_table).where(
            sa.or_(table.completed_at < older_than, table.job_id.in_(beyond.limit(-1)))
        )
        return await self._run(lambda connection: int(connection.execute(query).rowcount))

    async def close(self) -> None:
        """Write pending rows and close the database."""
        while self._flusher is not None:
            await self._flusher
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._reader.shutdown()
        self._thread.shutdown()

    async def _find(self, condition: sa.ColumnElement[bool]) -> JobRow | None:
        query = sa.select(*_ALL_BUT_LARGE_RESULTS).where(condition)

        def work(connection: sa.Connection) -> dict[str, Any] | None:
            row = connection.execute(query).mappings().first()
            return None if row is None else dict(row)

        members = await self._run(work)
        if members is None:
            return None
        place, size = members.pop("place"), members.pop("size") or 0
        found = JobRow(**members)
        if size <= LARGE:
            return found
        try:
            return replace(found, result=await self._read(lambda connection: _read_large(connection, place)))
        except sqlite3.OperationalError:
            return None  # It was deleted just now.

    async def _read(self, work: Callable[[sa.Connection], T]) -> T:
        """Read beside the transactions that write."""

        def transaction() -> T:
            with reading(self._database).begin() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._reader, transaction)

    async def _run(self, work: Callable[[sa.Connection], T]) -> T:
        def transaction() -> T:
            if self._connection is None:
                self._connection = self._database.connect()
            with self._connection.begin():
                return work(self._connection)

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    async def _write(self, statement: sa.Executable, row: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        self._pending.append((statement, row, committed))
        if self._flusher is None:
            self._flusher = loop.create_task(self._flush())
        await committed

    async def _flush(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                if not await self._commit(batch) and len(batch) > 1:
                    # A bad row must not affect the others, so each row gets a separate transaction.
                    for row in batch:
                        await self._commit([row])
        finally:
            self._flusher = None

    async def _commit(self, batch: list[_Write]) -> bool:
        """Write rows in one transaction and wake their callers; return False to retry several one by one."""

        def work(connection: sa.Connection) -> None:
            for statement, row, _ in batch:
                connection.execute(statement, row)

        try:
            await self._run(work)
        except Exception as error:  # noqa: BLE001 - handed to the caller
            if len(batch) == 1 and not batch[0][2].done():
                batch[0][2].set_exception(error)
            return False
        for _, _, committed in batch:
            if not committed.done():
                committed.set_result(None)
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._database.dispose()


_ALL_BUT_LARGE_RESULTS = [
    *(column for column in jobs_table.c if column.name != "result"),
    sa.literal_column("rowid").label("place"),
    sa.func.length(jobs_table.c.result).label("size"),
    sa.case((sa.func.length(jobs_table.c.result) <= LARGE, jobs_table.c.result)).label("result"),
]


def _finish_large(connection: sa.Connection, row: JobRow, result: Pieces) -> None:
    """Store the end of a job whose result is not in memory: reserve its space, then write it in parts."""
    members = {"id": row.job_id, "new_status": row.status, "new_completed_at": row.completed_at}
    finish = _FINISH.values(result=sa.func.zeroblob(len(result)))
    connection.execute(finish, members)
    table = jobs_table.c
    query: sa.Select[Any] = (
        sa.select(sa.literal_column("rowid")).select_from(jobs_table).where(table.job_id == row.job_id)
    )
    place = connection.execute(query).scalar()
    if place is None:
        return
    with _sqlite(connection).blobopen("jobs", "result", place) as blob:
        for chunk in result.chunks():
            blob.write(chunk)


def _read_large(connection: sa.Connection, place: int) -> Parted:
    """Return a result whose parts are read one after another."""
    splitter = Splitter()
    with _sqlite(connection).blobopen("jobs", "result", place, readonly=True) as blob:
        while chunk := blob.read(CHUNK):
            splitter.feed(chunk)
    return Parted(splitter.finish(), splitter.marks)


def _copied(connection: sa.Connection, place: int) -> Pieces:
    """Return a result in an unnamed file, where it takes no memory while it is sent."""
    spool = Spool()
    with _sqlite(connection).blobopen("jobs", "result", place, readonly=True) as blob:
        while chunk := blob.read(CHUNK):
            spool.write(chunk)
    return Pieces([Written(spool.since(0))])


def _sqlite(connection: sa.Connection) -> sqlite3.Connection:
    found = connection.connection.driver_connection
    if not isinstance(found, sqlite3.Connection):
        raise TypeError("the database is not SQLite")
    return found


_FINISH = (
    sa.update(jobs_table)
    .where(jobs_table.c.job_id == sa.bindparam("id"))
    .values(
        status=sa.bindparam("new_status"),
        completed_at=sa.bindparam("new_completed_at"),
        result=sa.bindparam("new_result"),
    )
)
