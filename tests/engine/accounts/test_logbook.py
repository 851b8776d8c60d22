"""The lines that a key may read of what happened: other keys neither see nor displace them."""

from __future__ import annotations

import asyncio

import pytest

from unsandbox.engine import InvalidRequest
from unsandbox.engine.accounts.logbook import KEPT_KEYS, KEPT_LINES, LogBook
from unsandbox.protocol.logs import LogQuery

ALL = LogQuery()


def lines(book: LogBook, owner: str, most: int = 10**6) -> list[str]:
    return [entry.text for entry in book.read(owner, ALL, most)]


def test_a_flood_of_one_key_displaces_no_line_of_another():
    book = LogBook()
    book.note("api", "quiet", "mine")
    for number in range(3 * KEPT_LINES):
        book.note("api", "loud", f"line {number}")
    assert lines(book, "quiet") == ["mine"]
    assert len(lines(book, "loud")) == KEPT_LINES
    assert lines(book, "loud", 1) == [f"line {3 * KEPT_LINES - 1}"]


def test_the_number_of_keys_is_bounded_and_those_that_are_in_use_stay():
    book = LogBook()
    for number in range(2 * KEPT_KEYS):
        book.note("api", "busy", f"line {number}")
        book.note("api", f"other {number}", "once")
    assert len(lines(book, "busy")) == 2 * KEPT_KEYS
    assert lines(book, "other 0") == []
    assert lines(book, f"other {2 * KEPT_KEYS - 1}") == ["once"]


async def test_a_follower_is_not_ended_by_the_lines_of_others():
    book, found = LogBook(), []

    async def follow() -> None:
        async for entry in book.follow("quiet", ALL, 60.0):
            found.append(entry.text)  # noqa: PERF401 - each as it comes

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for number in range(5000):
        book.note("api", "loud", f"line {number}")
    book.note("api", "quiet", "mine")
    async with asyncio.timeout(5):
        while not found:
            await asyncio.sleep(0)
    assert found == ["mine"]
    book.close()
    await task


def test_an_unknown_level_is_refused_also_where_there_are_no_lines():
    with pytest.raises(InvalidRequest, match="level"):
        LogBook().read("nobody", LogQuery(level="loud"), 1)
