"""Output of a shell up to a marker: what a program that knows the marker can do, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from unsandbox.sandbox.languages import shells

MARKER = b"\x1e" + b"ab" * 12


@contextlib.asynccontextmanager
async def opened():
    read, write = os.pipe()
    os.set_blocking(read, False)
    stream = shells._Stream(read)
    try:
        yield stream, write
    finally:
        stream.stop()
        os.close(read)
        os.close(write)


async def ended(stream: shells._Stream, write: int, data: bytes) -> bytes:
    done = asyncio.Event()
    stream.expect(MARKER, lambda _: done.set())
    await asyncio.to_thread(os.write, write, data)
    async with asyncio.timeout(10):
        await done.wait()
    return stream.take(stale=False).data


@pytest.mark.parametrize("size", [1, 7, 25, 26, 64, 1000])
async def test_a_marker_is_found_however_it_is_cut(size):
    stream = shells._Stream(-1)
    stream._marker = MARKER
    data = b"out" + MARKER + b"and much later" + MARKER[:9] + b"x" + MARKER + b" 7\x1enext"
    for start in range(0, len(data), size):
        if not stream.done:
            stream._feed(data[start : start + size])
    assert stream.code == 7
    # What no exit code follows was written by the program, and is output.
    assert stream.take(stale=False).data == b"out" + MARKER + b"and much later" + MARKER[:9] + b"x"


async def test_a_marker_without_an_end_holds_no_memory():
    async with opened() as (stream, write):
        stream.expect(MARKER, lambda _: None)
        stream._feed(MARKER)
        for _ in range(2 * shells.OUTPUT_BYTES // 65536):
            stream._feed(b"x" * 65536)
        assert len(stream._tail) < 1000
        assert len(stream._kept) == shells.OUTPUT_BYTES
        assert (await ended(stream, write, b"new" + MARKER + b" 0\x1e")).endswith(b"xnew")


async def test_what_the_background_writes_between_commands_is_bounded():
    async with opened() as (stream, write):
        assert await ended(stream, write, b"a" + MARKER + b" 0\x1e") == b"a"
        stop, written = False, 0

        def flood() -> None:
            nonlocal written
            while not stop:
                written += os.write(write, b"y" * 4096)

        flooding = asyncio.create_task(asyncio.to_thread(flood))
        async with asyncio.timeout(60):
            while written < 4 * shells._BETWEEN_BYTES:
                assert len(stream._tail) <= 2 * shells._BETWEEN_BYTES + 65536
                await asyncio.sleep(0.01)
        stop = True
        await flooding
        data = await ended(stream, write, b"z" + MARKER + b" 0\x1e")
        assert data.endswith(b"yz")
        assert len(data) <= 2 * shells._BETWEEN_BYTES + 2 * 65536
