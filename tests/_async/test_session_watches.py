"""Watches on the files of a session, on both backends."""

from __future__ import annotations

import pytest

from unsandbox import (
    AsyncFileWatch,
    AsyncLiveSession,
    ConflictError,
    FileEvent,
    InvalidRequestError,
    RateLimitError,
)

DEADLINE_S = 60.0


async def seen(watch: AsyncFileWatch, count: int) -> list[tuple[str | None, str | None]]:
    """The next changes; as many as are asked for, or more that came together."""
    events: list[FileEvent] = []
    while len(events) < count:
        events += await watch.read(wait=DEADLINE_S)
    return [(event.type, event.name) for event in events]


async def test_every_kind_of_change(workspace: AsyncLiveSession) -> None:
    files = workspace.files
    await files.write("top/old", "1")
    await files.make_dir("top/dir")
    async with files.watch("top") as watch:
        await files.write("top/new", "1")
        assert await seen(watch, 1) == [("create", "new")]
        await files.write("top/new", "2")
        assert await seen(watch, 1) == [("write", "new")]
        await files.write("top/old", "+", append=True)
        assert await seen(watch, 1) == [("write", "old")]
        await workspace.exec("mv top/old top/renamed")
        (event,) = await watch.read(wait=DEADLINE_S)
        assert (event.type, event.path, event.old_path) == ("rename", "/work/top/renamed", "/work/top/old")
        await files.remove("top/renamed")
        assert await seen(watch, 1) == [("remove", "renamed")]
        # A change below a directory is one of that directory only.
        await files.write("top/dir/inner", "1")
        await files.make_dir("top/another")
        assert await seen(watch, 1) == [("create", "another")]
        await files.remove("top", recursive=True)
        events = [event async for event in watch]
        assert (events[-1].type, events[-1].name, events[-1].is_dir) == ("remove", ".", True)


async def test_directories_below_it(workspace: AsyncLiveSession) -> None:
    async with workspace.files.watch(".", recursive=True) as watch:
        await workspace.exec("mkdir -p a/b/c; echo 1 > a/b/c/one")
        wanted = [("create", "a"), ("create", "a/b"), ("create", "a/b/c"), ("create", "a/b/c/one")]
        events: list[tuple[str | None, str | None]] = []
        while not set(wanted) <= set(events):
            events += await seen(watch, 1)
        assert sorted(set(events) - {("write", "a/b/c/one")}) == wanted
        await workspace.exec("mv a z")
        assert await seen(watch, 1) == [("rename", "z")]
        await workspace.exec("echo 2 > z/b/c/one")
        assert await seen(watch, 1) == [("write", "z/b/c/one")]


async def test_a_watch_is_continued_by_its_cursor(workspace: AsyncLiveSession) -> None:
    files = workspace.files
    async with files.watch() as watch:
        start = watch.cursor
        await workspace.exec("touch one")
        assert await seen(watch, 1) == [("create", "one")]
        behind = watch.cursor
        await workspace.exec("touch two")
        assert await seen(files.watch(cursor=behind), 1) == [("create", "two")]
        # What was seen is kept for a while: an answer may have been lost.
        assert await seen(files.watch(cursor=start), 2) == [("create", "one"), ("create", "two")]
        with pytest.raises(ConflictError, match="another directory"):
            await files.watch("/tmp", cursor=behind).read()
    await workspace.exec("touch three")
    again = files.watch(cursor=behind)
    assert await seen(again, 1) == [("lost", ".")]
    await workspace.exec("touch four")
    assert await seen(again, 1) == [("create", "four")]
    with pytest.raises(InvalidRequestError):
        files.watch(cursor="nonsense")


async def test_many_changes_are_all_reported(workspace: AsyncLiveSession) -> None:
    async with workspace.files.watch() as watch:
        await workspace.exec("seq 6000 | xargs touch")
        names: set[str | None] = set()
        while len(names) < 6000:
            names |= {name for _, name in await seen(watch, 1)}
        assert names == {str(number) for number in range(1, 6001)}


async def test_errors(workspace: AsyncLiveSession) -> None:
    files = workspace.files
    await files.write("file", "x")
    with pytest.raises(FileNotFoundError):
        async with files.watch("nope"):
            pass
    with pytest.raises(NotADirectoryError):
        async with files.watch("file"):
            pass
    for number in range(16):
        await files.watch(cursor=f"w{number}-0").read()
    with pytest.raises(RateLimitError, match="16 watches"):
        await files.watch(cursor="w17-0").read()
    await files.watch(cursor="w1-0").close()
    await files.watch(cursor="w17-0").read()


async def test_a_program_that_is_killed_is_replaced(workspace: AsyncLiveSession) -> None:
    async with workspace.files.watch() as watch:
        await workspace.exec("pkill -9 -f '^/usr/bin/python3 -I -S'")
        assert await seen(watch, 1) == [("lost", ".")]
        await workspace.exec("touch new")
        assert await seen(watch, 1) == [("create", "new")]
