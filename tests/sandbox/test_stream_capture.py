"""What lies in a pipe is read to its last byte, also when the server comes late."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from unsandbox.sandbox.host.descriptors import pipe
from unsandbox.sandbox.host.stream_capture import StreamCapture

Captures = Callable[..., StreamCapture]


@pytest.fixture
def capture() -> Iterator[Captures]:
    discard = os.open("/dev/null", os.O_WRONLY)
    made: list[StreamCapture] = []

    def capture(fd: int, keep_bytes: int) -> StreamCapture:
        made.append(
            StreamCapture(
                "stdout",
                fd,
                keep_bytes=keep_bytes,
                flood_bytes=1 << 40,
                discard_fd=discard,
                sink=None,
                on_flood=lambda: None,
                on_end=lambda: None,
            )
        )
        return made[-1]

    yield capture
    for stream in made:
        stream.close()
    os.close(discard)


def fill(fd: int) -> bytes:
    """Write until nothing more fits."""
    os.set_blocking(fd, False)
    written = b""
    while True:
        part = os.urandom(1 << 16)
        try:
            written += part[: os.write(fd, part)]
        except BlockingIOError:
            return written


@pytest.mark.parametrize("held", [False, True], ids=["all writers gone", "one writer left"])
async def test_a_full_pipe_is_read_at_once(capture: Captures, held: bool) -> None:
    ours, theirs = pipe(None)
    written = fill(theirs)
    if not held:
        os.close(theirs)
    stream = capture(ours, 1 << 24)
    stream.read_now()
    stream.close()
    stream.read_now()
    assert stream.result().data == written
    if held:
        os.close(theirs)


async def test_bytes_that_are_not_kept_are_counted(capture: Captures) -> None:
    ours, theirs = pipe(None)
    written = fill(theirs)
    stream = capture(ours, 1000)
    stream.read_now()
    assert (stream.result().data, stream.total_bytes) == (written[:1000], len(written))
    os.close(theirs)
