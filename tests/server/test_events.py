"""Output as it is written: pieces with cursors, then the result, once."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsandbox.engine.jobs.output import OutputBuffer, pieces_behind
from unsandbox.protocol.events import Cursor, OutputChunk


async def lines_of(answer):
    rest = b""
    async for data in answer.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line


async def follow(wire, job_id, cursor=None, stop_after=None):
    """Return the events of a job as (event, id, data), and when each came."""
    target = f"/jobs/{job_id}/events"
    headers = wire.headers("GET", target, b"") | ({"Last-Event-ID": cursor} if cursor else {})
    found = []
    async with wire.session.get(wire.url + target, headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        fields: dict[str, str] = {}
        async for line in lines_of(answer):
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                found.append((fields["event"], fields.get("id"), json.loads(fields["data"]), time.monotonic()))
                fields = {}
                if stop_after is not None and len(found) >= stop_after:
                    return found
    return found


async def submit(wire, code, language="bash"):
    return (await wire.call("POST", "/execute/async", {"language": language, "code": code})).json["job_id"]


def text(events, stream):
    return b"".join(
        OutputChunk(**data).data
        for event, _, data, _ in events
        if event == "output" and data["stream"] == stream
    )


@pytest.mark.asyncio(loop_scope="session")
async def test_output_comes_while_the_program_still_runs(wire):
    job = await submit(wire, "echo first; echo odd >&2; sleep 0.5; echo last")
    events = await follow(wire, job)
    assert [event for event, *_ in events][-1] == "result"
    assert [event for event, *_ in events].count("result") == 1
    assert (text(events, "stdout"), text(events, "stderr")) == (b"first\nlast\n", b"odd\n")
    result = events[-1]
    assert (result[2]["status"], result[2]["stdout"]) == ("completed", "first\nlast\n")
    assert result[3] - events[0][3] > 0.4
    assert await follow(wire, job) != []  # And again when it has long ended.


@pytest.mark.asyncio(loop_scope="session")
async def test_whoever_comes_back_gets_the_next_byte(wire):
    job = await submit(wire, "printf '\\303'; sleep 0.2; printf '\\244'; echo e >&2; sleep 0.2; echo")
    first = await follow(wire, job, stop_after=1)
    assert first[0][2] == {"stream": "stdout", "base64": "ww=="}
    rest = await follow(wire, job, first[0][1])
    assert text(rest, "stdout") == b"\xa4\n"
    assert text(rest, "stderr") == b"e\n"
    ended = await follow(wire, job, "3-0")
    assert (text(ended, "stdout"), text(ended, "stderr")) == (b"", b"e\n")
    assert ended[-1][2]["stdout"] == "ä\n"


@pytest.mark.asyncio(loop_scope="session")
async def test_many_may_follow_one_job(wire):
    job = await submit(wire, "for i in $(seq 50); do echo $i; done; sleep 0.2; echo end")
    wanted = b"".join(b"%d\n" % number for number in range(1, 51)) + b"end\n"
    assert {
        text(events, "stdout") for events in await asyncio.gather(*(follow(wire, job) for _ in range(5)))
    } == {wanted}


@pytest.mark.asyncio(loop_scope="session")
async def test_output_beyond_the_limit_ends_in_a_flag(wire):
    job = await submit(wire, "head -c 20000000 /dev/zero | tr '\\0' x")
    events = await follow(wire, job)
    assert len(text(events, "stdout")) == 10 << 20
    assert (events[-1][2]["stdout_truncated"], events[-1][2]["stdout_dropped_bytes"]) == (
        True,
        20_000_000 - (10 << 20),
    )


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("cursor", ["x", "1", "-1-2", "1-2-3", "१-२"])
async def test_a_cursor_that_is_none_is_refused(wire, cursor):
    target = "/jobs/none/events"
    async with wire.session.get(
        wire.url + target, headers=wire.headers("GET", target, b"") | {"Last-Event-ID": cursor}
    ) as answer:
        assert answer.status == 400


@pytest.mark.asyncio(loop_scope="session")
async def test_another_key_follows_nothing(wire, stranger):
    job = await submit(wire, "echo mine")
    answer = await stranger.call("GET", f"/jobs/{job}/events")
    assert answer.status == 404
    assert (await wire.call("GET", "/jobs/none/events")).status == 404


@pytest.mark.asyncio(loop_scope="session")
async def test_a_cancelled_job_ends_its_stream(wire):
    job = await submit(wire, "echo begun; sleep 60")
    following = asyncio.create_task(follow(wire, job))
    await follow(wire, job, stop_after=1)
    await wire.call("DELETE", f"/jobs/{job}")
    events = await following
    assert (events[-1][0], events[-1][2]["status"]) == ("result", "cancelled")


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1))), st.randoms())
def test_no_byte_is_lost_or_repeated_wherever_a_reader_comes_back(writes, random):
    tape, cursor, got = OutputBuffer(), Cursor(), {"stdout": b"", "stderr": b""}
    for stream, data in writes:
        tape(stream, data)
        pieces = tape.pieces(cursor)
        for name, piece, after in pieces[: random.randrange(len(pieces) + 1)]:
            got[name] += OutputChunk.of(name, piece).data
            cursor = Cursor.parse(str(after))
    rests = [b"".join(data for name, data in writes if name == stream) for stream in got]
    for name, piece, _ in pieces_behind(cursor, rests[0][cursor.stdout :], rests[1][cursor.stderr :]):
        got[name] += piece
    assert list(got.values()) == rests
