# Generated from tests/_async/test_session_watches.py by scripts/unasync.py; change that one.
# ruff: noqa: SIM117 - what `async with` kept apart
"""Watches on the files of a session, on both backends."""

from __future__ import annotations

import pytest

from unsandbox import (
    ConflictError,
    FileEvent,
    FileWatch,
    InvalidRequestError,
    LiveSession,
    RateLimitError,
)

DEADLINE_S = 60.0


def seen(watch: FileWatch, count: int) -> list[tuple[str | None, str | None]]:
    """The next changes; as many as are asked for, or more that came together."""
    events: list[FileEvent] = []
    while len(events) < count:
        events += watch.read(wait=DEADLINE_S)
    return [(event.type, event.name) for event in events]


def test_every_kind_of_change(workspace: LiveSession) -> None:
    files = workspace.files
    files.write("top/old", "1")
    files.make_dir("top/dir")
    with files.watch("top") as watch:
        files.write("top/new", "1")
        assert seen(watch, 1) == [("create", "new")]
        files.write("top/new", "2")
        assert seen(watch, 1) == [("write", "new")]
        files.write("top/old", "+", append=True)
        assert seen(watch, 1) == [("write", "old")]
        workspace.exec("mv top/old top/renamed")
        (event,) = watch.read(wait=DEADLINE_S)
        assert (event.type, event.path, event.old_path) == ("rename", "/work/top/renamed", "/work/top/old")
        files.remove("top/renamed")
        assert seen(watch, 1) == [("remove", "renamed")]
        # A change below a directory is one of that directory only.
        files.write("top/dir/inner", "1")
        files.make_dir("top/another")
        assert seen(watch, 1) == [("create", "another")]
        files.remove("top", recursive=True)
        events = [event for event in watch]
        assert (events[-1].type, events[-1].name, events[-1].is_dir) == ("remove", ".", True)


def test_directories_below_it(workspace: LiveSession) -> None:
    with workspace.files.watch(".", recursive=True) as watch:
        workspace.exec("mkdir -p a/b/c; echo 1 > a/b/c/one")
        wanted = [("create", "a"), ("create", "a/b"), ("create", "a/b/c"), ("create", "a/b/c/one")]
        events: list[tuple[str | None, str | None]] = []
        while not set(wanted) <= set(events):
            events += seen(watch, 1)
        assert sorted(set(events) - {("write", "a/b/c/one")}) == wanted
        workspace.exec("mv a z")
        assert seen(watch, 1) == [("rename", "z")]
        workspace.exec("echo 2 > z/b/c/one")
        assert seen(watch, 1) == [("write", "z/b/c/one")]


def test_a_watch_is_continued_by_its_cursor(workspace: LiveSession) -> None:
    files = workspace.files
    with files.watch() as watch:
        start = watch.cursor
        workspace.exec("touch one")
        assert seen(watch, 1) == [("create", "one")]
        behind = watch.cursor
        workspace.exec("touch two")
        assert seen(files.watch(cursor=behind), 1) == [("create", "two")]
        # What was seen is kept for a while: an answer may have been lost.
        assert seen(files.watch(cursor=start), 2) == [("create", "one"), ("create", "two")]
        with pytest.raises(ConflictError, match="another directory"):
            files.watch("/tmp", cursor=behind).read()
    workspace.exec("touch three")
    again = files.watch(cursor=behind)
    assert seen(again, 1) == [("lost", ".")]
    workspace.exec("touch four")
    assert seen(again, 1) == [("create", "four")]
    with pytest.raises(InvalidRequestError):
        files.watch(cursor="nonsense")


def test_many_changes_are_all_reported(workspace: LiveSession) -> None:
    with workspace.files.watch() as watch:
        workspace.exec("seq 6000 | xargs touch")
        names: set[str | None] = set()
        while len(names) < 6000:
            names |= {name for _, name in seen(watch, 1)}
        assert names == {str(number) for number in range(1, 6001)}


def test_errors(workspace: LiveSession) -> None:
    files = workspace.files
    files.write("file", "x")
    with pytest.raises(FileNotFoundError):
        with files.watch("nope"):
            pass
    with pytest.raises(NotADirectoryError):
        with files.watch("file"):
            pass
    for number in range(16):
        files.watch(cursor=f"w{number}-0").read()
    with pytest.raises(RateLimitError, match="16 watches"):
        files.watch(cursor="w17-0").read()
    files.watch(cursor="w1-0").close()
    files.watch(cursor="w17-0").read()


def test_a_program_that_is_killed_is_replaced(workspace: LiveSession) -> None:
    with workspace.files.watch() as watch:
        workspace.exec("pkill -9 -f '^/usr/bin/python3 -I -S'")
        assert seen(watch, 1) == [("lost", ".")]
        workspace.exec("touch new")
        assert seen(watch, 1) == [("create", "new")]
