"""Output of a shell up to a marker: what a program that knows the marker can do, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest

from unsandbox.sandbox.languages.marked_output import BETWEEN_BYTES, OUTPUT_BYTES, MarkedOutput, MarkedStream

MARKER = b"\x1e" + b"ab" * 12


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[tuple[MarkedStream, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    stream = MarkedStream(read)
    try:
        yield stream, write
    finally:
        stream.stop()
        os.close(read)
        os.close(write)


async def ended(stream: MarkedStream, write: int, data: bytes) -> bytes:
    done = asyncio.Event()
    stream.expect(MARKER, lambda _: done.set())
    await asyncio.to_thread(os.write, write, data)
    async with asyncio.timeout(10):
        await done.wait()
    return stream.output.take().data


@pytest.mark.parametrize("size", [1, 7, 25, 26, 64, 1000])
def test_a_marker_is_found_however_it_is_cut(size):
    output = MarkedOutput()
    output.expect(MARKER)
    data = b"out" + MARKER + b"and much later" + MARKER[:9] + b"x" + MARKER + b" 7\x1enext"
    for start in range(0, len(data), size):
        if not output.done:
            output.feed(data[start : start + size])
    assert output.code == 7
    # What no exit code follows was written by the program, and is output.
    assert output.take().data == b"out" + MARKER + b"and much later" + MARKER[:9] + b"x"


def test_a_marker_without_an_end_holds_no_memory():
    output = MarkedOutput()
    output.expect(MARKER)
    output.feed(MARKER)
    for _ in range(2 * OUTPUT_BYTES // 65536):
        output.feed(b"x" * 65536)
        assert output.unread_bytes < 1000
    kept = output.take()
    assert len(kept.data) == OUTPUT_BYTES
    assert kept.total_bytes == len(MARKER) + 2 * OUTPUT_BYTES
    output.expect(MARKER)
    output.feed(b"new" + MARKER + b" 0\x1e")
    assert (output.done, output.take().data) == (True, b"new")


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
            while written < 4 * BETWEEN_BYTES:
                assert stream.output.unread_bytes <= 2 * BETWEEN_BYTES + 65536
                await asyncio.sleep(0.01)
        stop = True
        await flooding
        data = await ended(stream, write, b"z" + MARKER + b" 0\x1e")
        assert data.endswith(b"yz")
        assert len(data) <= 2 * BETWEEN_BYTES + 2 * 65536
