"""What outlives the process: jobs and keys in a data folder."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from unsandbox.engine.accounts.keys import FixedKeys, KeyPair
from unsandbox.engine.accounts.secretbox import SecretBox, write_private
from unsandbox.engine.accounts.stored_keys import StoredKeys
from unsandbox.engine.store.database import open_database
from unsandbox.engine.store.rows import JobRow
from unsandbox.engine.store.schema import metadata
from unsandbox.engine.store.sql import SqlStore
from unsandbox.errors import EngineError


@pytest.fixture
async def store(tmp_path):
    store = SqlStore(open_database(tmp_path / "data"))
    yield store
    await store.close()


def row(number: int = 1, **changes: object) -> JobRow:
    base = JobRow(f"job_{number}", "alice", "pending", "python", created_at=1000.0 + number)
    return dataclasses.replace(base, **changes)


async def test_a_job_is_found_by_its_owner_only(store):
    await store.add_job(row())
    assert await store.find_job("alice", "job_1") == row()
    assert await store.find_job("bob", "job_1") is None
    assert await store.find_job("alice", "job_2") is None


async def test_the_end_of_a_job_is_kept(store):
    await store.add_job(row())
    await store.finish_job(row(status="completed", completed_at=5.0, result=b"{}"))
    found = await store.find_job("alice", "job_1")
    assert (found.status, found.completed_at, found.result) == ("completed", 5.0, b"{}")


async def test_the_list_is_newest_first_and_without_results(store):
    for number in range(5):
        await store.add_job(row(number, result=b"x"))
    listed = await store.list_jobs("alice", 3)
    assert [item.job_id for item in listed] == ["job_4", "job_3", "job_2"]
    assert all(item.result is None for item in listed)


async def test_an_idempotency_key_belongs_to_one_job_of_an_owner(store):
    await store.add_job(row(1, idempotency_key="k"))
    await store.add_job(row(2, idempotency_key="k", owner="bob"))
    await store.add_job(row(3))
    await store.add_job(row(4))
    with pytest.raises(sa.exc.IntegrityError):
        await store.add_job(row(5, idempotency_key="k"))
    assert (await store.find_by_idempotency_key("alice", "k")).job_id == "job_1"
    assert (await store.find_by_idempotency_key("bob", "k")).job_id == "job_2"
    assert await store.find_by_idempotency_key("alice", "other") is None


async def test_one_row_that_fails_does_not_lose_the_others(store):
    await store.add_job(row(1))
    results = await asyncio.gather(
        *(store.add_job(row(number)) for number in range(10)), return_exceptions=True
    )
    failed = [number for number, result in enumerate(results) if isinstance(result, Exception)]
    assert failed == [1]
    assert len(await store.list_jobs("alice", 100)) == 10


async def test_recover_marks_what_was_left_unfinished(tmp_path):
    store = SqlStore(open_database(tmp_path))
    await store.add_job(row(1, status="running"))
    await store.add_job(row(2))
    await store.finish_job(row(2, status="completed", result=b"kept"))
    await store.close()
    store = SqlStore(open_database(tmp_path))
    assert await store.recover(lambda left: left.job_id.encode()) == 1
    assert await store.recover(lambda left: left.job_id.encode()) == 0
    lost, kept = [await store.find_job("alice", name) for name in ("job_1", "job_2")]
    assert (lost.status, lost.result) == ("failed", b"job_1")
    assert lost.completed_at == pytest.approx(time.time(), abs=60)
    assert (kept.status, kept.result) == ("completed", b"kept")
    await store.close()


async def test_prune_deletes_only_what_ended_long_ago(store):
    for number, completed_at in enumerate((10.0, 20.0, None)):
        await store.add_job(row(number, completed_at=completed_at))
    assert await store.prune(15.0, most=100) == 1
    assert [item.job_id for item in await store.list_jobs("alice", 9)] == ["job_2", "job_1"]


async def test_prune_keeps_the_newest_of_those_that_ended(store):
    for number, completed_at in enumerate((10.0, 30.0, 20.0, None)):
        await store.add_job(row(number, completed_at=completed_at))
    assert await store.prune(0.0, most=1) == 2
    assert {item.job_id for item in await store.list_jobs("alice", 9)} == {"job_1", "job_3"}


def test_the_migrations_make_the_tables_of_the_code(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = open_database(tmp_path)
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.dispose()


def test_keys_are_made_listed_and_revoked(tmp_path):
    ring = StoredKeys(tmp_path)
    one, two = ring.create("one"), ring.create()
    assert ring.find(one.public_key).secret_key == one.secret_key
    assert ring.find("unsb-pk-none") is None
    assert ring.revoke(one.public_key)
    assert not ring.revoke(one.public_key)
    assert ring.find(one.public_key) is None
    assert [(key.public_key, key.note, key.revoked_at is None) for key in ring.list()] == [
        (one.public_key, "one", False),
        (two.public_key, "", True),
    ]
    ring.close()


def test_a_key_pair_does_not_show_its_secret():
    pair = KeyPair.generate()
    assert pair.secret_key not in repr(pair)
    assert pair.public_key.startswith("unsb-pk-")
    assert [len(part) for part in pair.public_key.split("-")] == [4, 2, 4, 4, 4, 4]
    assert [len(part) for part in pair.secret_key.split("-")] == [4, 2, 5, 5, 5, 5]
    known = FixedKeys(pair).find(pair.public_key)
    assert known.secret_key == pair.secret_key
    assert pair.secret_key not in repr(known)


def test_secrets_open_only_with_their_key(tmp_path):
    box = SecretBox.from_file(tmp_path / "server.key")
    sealed = box.seal("geheim")
    assert b"geheim" not in sealed
    assert SecretBox.from_file(tmp_path / "server.key").open(sealed) == "geheim"
    with pytest.raises(EngineError, match="another data folder"):
        SecretBox.from_file(tmp_path / "other.key").open(sealed)
    (tmp_path / "broken.key").write_bytes(b"no key")
    (tmp_path / "broken.key").chmod(0o600)
    with pytest.raises(EngineError, match="backup"):
        SecretBox.from_file(tmp_path / "broken.key")


def test_a_private_file_is_written_whole_and_never_over_another(tmp_path):
    path = tmp_path / "secret"
    write_private(path, b"first")
    write_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_another_process_that_opens_and_closes_the_database_takes_nothing_away(tmp_path):
    """Opened twice in one process, as a server does, it keeps its locks: else the other one removes its log."""
    first, second = open_database(tmp_path), open_database(tmp_path)
    with first.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE seen (number INTEGER)")
    code = (
        "import sys; from pathlib import Path; from unsandbox.engine.store.database import open_database\n"
        "database = open_database(Path(sys.argv[1]))\n"
        "with database.begin() as connection: connection.exec_driver_sql('INSERT INTO seen VALUES (7)')\n"
        "database.dispose()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    for database in (first, second):
        with database.begin() as connection:
            assert connection.exec_driver_sql("SELECT number FROM seen").scalar() == 7
        database.dispose()
