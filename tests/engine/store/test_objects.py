"""Objects on a shelf: what was deleted stays deleted, whatever changes it meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from unsandbox.engine import UnknownObject
from unsandbox.engine.sessions.history import KEPT_BYTES, History
from unsandbox.engine.store.database import open_database
from unsandbox.engine.store.objects import Collection, Record
from unsandbox.engine.store.sql import SqlStore


class Thing(Record, kw_only=True):
    state: str = ""


@pytest.fixture
async def store(tmp_path):
    opened = SqlStore(open_database(tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
def shelf(store):
    return Collection("thing", Thing, store)


@pytest.mark.parametrize("first", ["drop", "update"])
async def test_a_change_does_not_bring_back_what_is_being_deleted(shelf, store, first):
    thing = Thing(object_id="thing_1", owner="me", created_at=0.0)
    await shelf.put(thing)
    calls = {"drop": shelf.drop, "update": shelf.update}
    order = [first, *(calls.keys() - {first})]
    results = await asyncio.gather(*(calls[name](thing) for name in order), return_exceptions=True)
    assert isinstance(results[order.index("update")], UnknownObject)
    assert results[order.index("drop")] is None
    assert len(shelf) == 0
    with pytest.raises(UnknownObject):
        await shelf.update(thing)
    assert await store.load_objects("thing") == []


async def test_what_changes_while_it_is_new_is_stored(shelf, store):
    thing = Thing(object_id="thing_1", owner="me", created_at=0.0)
    putting = asyncio.create_task(shelf.put(thing))
    await asyncio.sleep(0)
    thing.state = "ended meanwhile"
    with pytest.raises(UnknownObject):
        await shelf.update(thing)
    await putting
    assert [b"ended meanwhile" in row.document for row in await store.load_objects("thing")] == [True]


async def test_a_deletion_that_fails_leaves_the_object(shelf, store, monkeypatch):
    thing = Thing(object_id="thing_1", owner="me", created_at=0.0)
    await shelf.put(thing)

    async def fail(_):
        raise OSError

    monkeypatch.setattr(store, "delete_object", fail)
    with pytest.raises(OSError):
        await shelf.drop(thing)
    assert shelf.get("me", "thing_1") is thing


def test_a_history_is_bounded_and_outlives_its_process(tmp_path):
    path = tmp_path / "history"
    history = History(path)
    history.note("first\n")
    assert History(path).read() == b"first\n"
    for _ in range(5):
        history.note("x" * (KEPT_BYTES // 2))
    assert len(history.read()) <= KEPT_BYTES
    assert path.stat().st_size <= 3 * KEPT_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    history.remove()
    assert not path.exists()
