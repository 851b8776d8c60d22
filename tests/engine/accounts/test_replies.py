"""Creating calls that are repeated make one thing."""

from __future__ import annotations

import asyncio

import pytest

from unsandbox.engine import Conflict
from unsandbox.engine.accounts import idempotency as module
from unsandbox.engine.accounts.idempotency import IdempotencyStore
from unsandbox.engine.store.database import open_database
from unsandbox.engine.store.memory import MemoryStore
from unsandbox.engine.store.objects import Collection, Record, note_made
from unsandbox.engine.store.sql import SqlStore


class Maker:
    """Counts how often something is made."""

    def __init__(self) -> None:
        self.made = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> bytes:
        await self.go.wait()
        self.made += 1
        return b'{"made":%d}' % self.made


async def test_repeats_at_the_same_time_and_later_make_one_thing():
    replies, make = IdempotencyStore(MemoryStore()), Maker()
    make.go.clear()
    asked = [asyncio.create_task(replies.once("me", "k", "f", make)) for _ in range(5)]
    await asyncio.sleep(0)
    make.go.set()
    assert set(await asyncio.gather(*asked)) == {b'{"made":1}'}
    assert await replies.once("me", "k", "f", make) == b'{"made":1}'
    assert make.made == 1


async def test_keys_belong_to_their_owner_and_to_one_request():
    replies, make = IdempotencyStore(MemoryStore()), Maker()
    await replies.once("me", "k", "f", make)
    assert await replies.once("you", "k", "f", make) == b'{"made":2}'
    with pytest.raises(Conflict):
        await replies.once("me", "k", "other", make)


async def test_a_failure_is_not_kept():
    replies, make = IdempotencyStore(MemoryStore()), Maker()

    async def fail() -> bytes:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await replies.once("me", "k", "f", fail)
    assert await replies.once("me", "k", "f", make) == b'{"made":1}'


async def test_a_caller_who_leaves_does_not_stop_the_making():
    replies, make = IdempotencyStore(MemoryStore()), Maker()
    make.go.clear()
    asked = asyncio.create_task(replies.once("me", "k", "f", make))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    make.go.set()
    assert await replies.once("me", "k", "f", make) == b'{"made":1}'
    assert make.made == 1


async def test_they_are_kept_over_a_restart_and_for_a_day(tmp_path, monkeypatch):
    store, make = SqlStore(open_database(tmp_path)), Maker()
    await IdempotencyStore(store).once("me", "k", "f", make)
    again = IdempotencyStore(store)
    await again.start()
    assert await again.once("me", "k", "f", make) == b'{"made":1}'
    monkeypatch.setattr(module, "KEPT_S", -1.0)
    assert await again.once("me", "k", "f", make) == b'{"made":2}'
    await again.prune()
    assert await store.load_objects("reply") == []
    await store.close()


async def test_a_large_answer_is_made_again_and_not_copied(tmp_path):
    store, jobs = SqlStore(open_database(tmp_path)), {"job_1": b"x" * 100_000}
    replies = IdempotencyStore(store)

    async def run() -> bytes:
        note = note_made.get()
        assert note is not None
        await note("job", "job_1")
        return jobs["job_1"]

    async def describe(kind: str, object_id: str) -> bytes | None:
        assert kind == "job"
        return jobs.get(object_id)

    assert await replies.once("me", "k", "f", run, describe) == jobs["job_1"]
    assert replies.bytes_of("me") < 2000
    for kept in (replies, successor := IdempotencyStore(store)):
        if kept is successor:
            await kept.start()
        assert await kept.once("me", "k", "f", Maker(), describe) == jobs["job_1"]
    (row,) = await store.load_objects("reply")
    assert len(row.document) < 2000
    jobs.clear()
    with pytest.raises(Conflict, match="gone"):
        await successor.once("me", "k", "f", Maker(), describe)
    await store.close()


async def test_what_a_key_has_kept_is_bounded_and_the_newest_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BYTES_PER_KEY", 20_000)
    store, make = SqlStore(open_database(tmp_path)), Maker()
    replies = IdempotencyStore(store)
    for number in range(100):
        await replies.once("me", str(number), "f", make)
    assert await replies.once("you", "k", "f", make) == b'{"made":101}'
    assert replies.bytes_of("me") <= 20_000
    assert await replies.once("me", "99", "f", make) == b'{"made":100}'
    assert await replies.once("me", "0", "f", make) == b'{"made":102}'
    monkeypatch.setattr(module, "BYTES_PER_KEY", 2_000)
    successor = IdempotencyStore(store)
    await successor.start()
    assert len(await store.load_objects("reply")) < 10
    assert await successor.once("you", "k", "f", make) == b'{"made":101}'
    await store.close()


async def test_what_was_made_by_a_server_that_died_before_it_answered_is_not_made_again(tmp_path):
    store = SqlStore(open_database(tmp_path))
    shelf = Collection("thing", Record, store)
    replies, died = IdempotencyStore(store), asyncio.Event()

    async def make_and_die() -> bytes:
        await shelf.put(Record(object_id="thing_1", owner="me", created_at=0.0))
        died.set()
        await asyncio.Event().wait()
        return b""

    dying = asyncio.create_task(replies.once("me", "k", "f", make_and_die))
    await died.wait()

    async def describe(kind: str, object_id: str) -> bytes | None:
        found = {row.object_id for row in await store.load_objects(kind)}
        return object_id.encode() if object_id in found else None

    successor, make = IdempotencyStore(store), Maker()
    await successor.start()
    assert await successor.once("me", "k", "f", make, describe) == b"thing_1"
    assert make.made == 0
    with pytest.raises(Conflict):
        await successor.once("me", "k", "other", make, describe)

    await shelf.drop(Record(object_id="thing_1", owner="me", created_at=0.0))
    another = IdempotencyStore(store)
    await another.start()
    assert await another.once("me", "k", "f", make, describe) == b'{"made":1}'
    dying.cancel()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    await asyncio.sleep(0)
    await store.close()
