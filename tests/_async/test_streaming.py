"""Output as it is written: to the byte, through networks that break, from servers that send no events."""

from __future__ import annotations

import io
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from tests._async.conftest import AT_ONCE
from tests.client.aids_async import endless, pieces
from tests.client.fake import OURS, FakeServer, Hang, Raw, Request, reply
from tests.client.proxy import PASS, Fate, Proxy, refusal

from unsandbox import (
    AsyncClient,
    AsyncJobStream,
    ConnectionFailedError,
    InvalidRequestError,
    InvalidResponseError,
    Job,
    NotFoundError,
    OutputEvent,
    ResultEvent,
    WaitTimeoutError,
)
from unsandbox.local import LocalServer

TEXT = "".join(f"{number} é 日本 \U0001f600\n" for number in range(400))
PRINT_TEXT = """
import sys, time
data = ''.join(f'{number} é 日本 \\U0001f600\\n' for number in range(400)).encode()
for at in range(0, len(data), 37):
    sys.stdout.buffer.write(data[at:at + 37])
    sys.stdout.buffer.flush()
    if at % 5 == 0:
        print(at, file=sys.stderr, flush=True)
    time.sleep(0.004)
"""


@pytest.fixture
def proxy(engine: LocalServer) -> Iterator[Proxy]:
    """A network between the client and the real engine."""
    made = Proxy(engine.url)
    yield made
    made.close()


@pytest.fixture
async def through(proxy: Proxy, engine: LocalServer) -> AsyncIterator[AsyncClient]:
    """A client on the far side of that network."""
    async with AsyncClient(engine.public_key, engine.secret_key, base_url=proxy.url, retry=AT_ONCE) as made:
        yield made


def joined(events: list[OutputEvent | ResultEvent], stream: str) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, OutputEvent) and event.stream == stream)


async def listen(stream: AsyncJobStream, heard: list[OutputEvent | ResultEvent]) -> None:
    """Hear a stream to its end."""
    async for event in stream:
        heard.append(event)  # noqa: PERF401 - what came before an error is wanted


async def test_output_comes_while_the_program_runs_and_the_result_comes_once(real: AsyncClient) -> None:
    events, times = [], []
    async for event in real.stream("bash", "echo one; echo odd >&2; sleep 0.5; echo two"):
        events.append(event)
        times.append(time.monotonic())
    assert joined(events, "stdout") == b"one\ntwo\n"
    assert joined(events, "stderr") == b"odd\n"
    assert [isinstance(event, ResultEvent) for event in events].index(True) == len(events) - 1
    assert events[-1].job.stdout == "one\ntwo\n"
    assert times[-1] - times[0] > 0.4


async def test_the_first_byte_comes_within_20_ms_of_its_writing(real: AsyncClient) -> None:
    code = "import time, sys; time.sleep(0.3); sys.stdout.write(repr(time.time())); sys.stdout.flush(); time.sleep(0.3)"
    late = []
    for _ in range(3):
        async for event in real.stream("python", code):
            late.append(time.time() - float(event.text))
            break
    assert min(late) < 0.02


async def test_a_broken_network_loses_and_repeats_nothing(through: AsyncClient, proxy: Proxy) -> None:
    chance = random.Random(4)
    cuts = 0

    def fate(request: str) -> Fate:
        nonlocal cuts
        if not request.endswith("/events") or cuts >= 60:
            return PASS
        cuts += 1
        kinds = [refusal(502), Fate(cut_before=True)] + [
            Fate(cut_after=int(300 * 100 ** chance.random())) for _ in range(8)
        ]
        return chance.choice(kinds)

    proxy.rule = fate
    events = [event async for event in through.stream("python", PRINT_TEXT)]
    assert cuts > 5
    assert joined(events, "stdout") == TEXT.encode()
    assert "".join(event.text for event in events[:-1] if event.stream == "stdout") == TEXT
    assert joined(events, "stderr") == events[-1].job.stderr_bytes
    assert sum(isinstance(event, ResultEvent) for event in events) == 1
    assert events[-1].job.stdout == TEXT
    assert sum(request.startswith("POST") for request in proxy.passed) == 1


async def test_a_cut_character_comes_whole_and_bad_bytes_are_kept(real: AsyncClient) -> None:
    code = r"printf '\303'; sleep 0.2; printf '\251'; sleep 0.2; printf '\377\303'"
    events = [event async for event in real.stream("bash", code)]
    assert joined(events, "stdout") == b"\xc3\xa9\xff\xc3"
    texts = [event.text for event in events[:-1]]
    assert "".join(texts) == "é\ufffd\ufffd"
    assert texts[0] == ""


async def test_leaving_early_ends_the_job(real: AsyncClient) -> None:
    async with real.stream("bash", "echo on; sleep 60") as events:
        async for event in events:
            assert event.text == "on\n"
            break
    assert (await real.get_job(events.job_id)).status == "cancelled"
    async with real.stream("bash", "sleep 60") as unused:
        pass
    assert unused.job_id is None


async def test_a_deadline_ends_the_job_and_keeps_what_it_wrote(real: AsyncClient) -> None:
    heard: list[OutputEvent | ResultEvent] = []
    with pytest.raises(WaitTimeoutError) as late:
        await listen(real.stream("bash", "echo on; sleep 60", timeout=1.0), heard)
    assert joined(heard, "stdout") == b"on\n"
    assert isinstance(late.value.partial, Job)
    assert late.value.partial.stdout == "on\n"
    assert (await real.get_job(late.value.job_id)).status == "cancelled"


async def test_a_deadline_comes_in_time_also_between_pieces(real: AsyncClient) -> None:
    began = time.monotonic()
    with pytest.raises(WaitTimeoutError):
        await listen(real.stream("bash", "sleep 0.8; echo on; sleep 60", timeout=1.2), [])
    assert time.monotonic() - began < 30  # Far from the end of the program, also on a busy machine.


async def test_somebody_else_may_follow_from_the_first_byte(real: AsyncClient) -> None:
    job = await real.submit("bash", "echo one; sleep 0.3; echo two")
    async for _ in real.follow(job.job_id):
        break
    events = [event async for event in real.follow(job.job_id)]
    assert joined(events, "stdout") == b"one\ntwo\n"
    assert events[-1].job.status == "completed"
    with pytest.raises(NotFoundError):
        await real.follow("none").__anext__()


async def test_execute_tells_listeners(real: AsyncClient) -> None:
    out: list[str] = []
    err: list[str] = []
    job = await real.execute(
        "bash", "echo one; echo odd >&2; echo two", on_stdout=out.append, on_stderr=err.append
    )
    assert ("".join(out), "".join(err)) == ("one\ntwo\n", "odd\n")
    assert job.stdout == "one\ntwo\n"
    assert (await real.execute("bash", "echo x; echo y >&2", on_stderr=err.append)).stdout == "x\n"


async def test_a_listener_that_fails_ends_the_job(real: AsyncClient) -> None:
    def fail(_: str) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError):
        await real.execute("bash", "echo one; sleep 60", on_stdout=fail)
    assert (await real.list_jobs(limit=1)).jobs[0].status == "cancelled"


@pytest.mark.parametrize(
    "stdin",
    ["é", "é".encode(), bytearray("é".encode()), io.StringIO("é"), io.BytesIO("é".encode()), ["", b"\xc3\xa9"]],
)
async def test_standard_input_of_every_kind(real: AsyncClient, stdin: object) -> None:
    assert (await real.execute("bash", "cat", stdin=stdin)).stdout == "é"


async def test_standard_input_that_comes_in_pieces(real: AsyncClient) -> None:
    assert (await real.execute("bash", "cat", stdin=pieces("a", b"b", "c"))).stdout == "abc"
    with pytest.raises(InvalidRequestError):
        await real.execute("bash", "cat", stdin=pieces("a", 5))


async def test_arguments_reach_the_program(real: AsyncClient) -> None:
    job = await real.execute("python", "import sys; print(sys.argv[1:])", args=["a b", "--x", ""])
    assert job.stdout == "['a b', '--x', '']\n"


async def test_a_server_without_events_is_asked_again(client: AsyncClient, fake: FakeServer) -> None:
    answers = [
        {"job_id": "j1", "status": "running", "stdout": "on"},
        {"job_id": "j1", "status": "running", "stdout": "one\n"},
        {"job_id": "j1", "status": "completed", "stdout": "one\ntwo\n", "stderr": "odd\n", "exit_code": 0},
    ]
    fake.routes(
        POST_execute_async=reply(200, {"job_id": "j1", "status": "pending"}),
        GET_jobs=lambda _: reply(200, answers.pop(0)),
    )
    events = [event async for event in client.stream("bash", "x")]
    assert [event.text for event in events[:-1]] == ["on", "e\n", "two\n", "odd\n"]
    assert events[-1].job.exit_code == 0


async def test_a_cut_character_in_a_look_is_no_output(client: AsyncClient, fake: FakeServer) -> None:
    answers = [
        {"status": "running", "stdout": "a\ufffd"},
        {"status": "running", "stdout": "a日\ufffd\ufffd", "stderr": "\ufffd"},
        {"status": "running", "stdout": "a日本b", "stderr": "\ufffd!"},
        {"status": "completed", "stdout": "a日本bc\ufffd", "stderr": "\ufffd!", "exit_code": 0},
    ]
    fake.routes(
        POST_execute_async=reply(200, {"job_id": "j1", "status": "pending"}),
        GET_jobs=lambda _: reply(200, {"job_id": "j1"} | answers.pop(0)),
    )
    events = [event async for event in client.stream("bash", "x")][:-1]
    assert [event.text for event in events if event.stream == "stdout"] == ["a", "日", "本b", "c\ufffd"]
    assert [event.text for event in events if event.stream == "stderr"] == ["\ufffd!"]


async def test_the_deadline_covers_standard_input_that_never_ends(
    client: AsyncClient, fake: FakeServer
) -> None:
    with pytest.raises(WaitTimeoutError, match=r"had not ended after 0\.2 s"):
        await client.execute("bash", "cat", stdin=itertools.repeat(b"x" * 100), timeout=0.2)
    with pytest.raises(WaitTimeoutError):
        await client.execute("bash", "cat", stdin=endless(b"x"), timeout=0.2, on_stdout=print)
    assert fake.requests == []


async def test_the_deadline_covers_the_question_what_a_server_can_do(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.respond = lambda _: Hang()
    with pytest.raises(WaitTimeoutError):
        await client.execute("bash", "cat", stdin="x", timeout=0.3)


def stream_answer(*events: str, end: bool = True) -> Raw:
    body = "".join(events).encode()
    size = "" if end else f"Content-Length: {len(body) + 10}\r\n"
    return Raw(f"HTTP/1.1 200 OK\r\n{size}Connection: close\r\n\r\n".encode() + body)


OUT = 'event: output\nid: 2-0\ndata: {"stream":"stdout","text":"hi"}\n\n'
RESULT = 'event: result\ndata: {"job_id":"j1","status":"completed","stdout":"hi","exit_code":0}\n\n'


def events_of(fake: FakeServer, *answers: Raw) -> None:
    """Serve a job whose event streams are these, one after another."""
    left = list(answers)

    def respond(request: Request) -> Raw:
        if request.target.endswith("/events"):
            return left.pop(0) if len(left) > 1 else left[0]
        return reply(
            200, {"job_id": "j1", "status": "running"}, OURS | {"Unsandbox-Features": "idempotency,events"}
        )

    fake.respond = respond


async def test_a_stream_that_ends_without_its_end_is_an_error(
    client: AsyncClient, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unsandbox._async.objects import stream as streaming

    monkeypatch.setattr(streaming, "_PATIENCE", AT_ONCE)
    events_of(fake, stream_answer(OUT), stream_answer())
    heard: list[OutputEvent | ResultEvent] = []
    with pytest.raises(InvalidResponseError, match="without its result"):
        await listen(client.stream("bash", "x"), heard)
    assert joined(heard, "stdout") == b"hi"
    asked = [
        request.headers.get("last-event-id") for request in fake.requests if request.target.endswith("events")
    ]
    assert asked == [None, "2-0", "2-0"]
    events_of(fake, stream_answer(OUT, end=False))
    with pytest.raises((ConnectionFailedError, InvalidResponseError)):
        await listen(client.stream("bash", "x"), [])
    assert "DELETE /jobs/j1" in fake.seen(), "nobody waits for the job any more"


@pytest.mark.parametrize(
    "bad",
    [
        OUT.replace("2-0", "5-0"),
        OUT.replace("id: 2-0\n", ""),
        OUT.replace("stdout", "stdlog"),
        OUT.replace("{", "["),
        OUT.replace('"text":"hi"', '"base64":"%%"'),
        RESULT.replace('"exit_code":0', '"exit_code":"x"'),
    ],
)
async def test_events_that_make_no_sense_are_no_output(client: AsyncClient, fake: FakeServer, bad: str) -> None:
    events_of(fake, stream_answer(bad))
    with pytest.raises(InvalidResponseError):
        await listen(client.stream("bash", "x"), [])


async def test_keep_alives_unknown_events_and_any_line_ends_are_understood(
    client: AsyncClient, fake: FakeServer
) -> None:
    noise = ": keepalive\n\nevent: weather\ndata: rain\n\nretry: 5\n"
    events_of(fake, stream_answer(noise, OUT.replace("\n", "\r\n"), noise, RESULT))
    events = [event async for event in client.stream("bash", "x")]
    assert [type(event).__name__ for event in events] == ["OutputEvent", "ResultEvent"]


async def test_a_chosen_isolation_is_never_dropped_in_silence(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(reply(200, {}))
    with pytest.raises(InvalidRequestError, match="this server"):
        await client.execute("bash", "x", isolation="hardened")
    with pytest.raises(InvalidRequestError, match="this server"):
        await client.execute("bash", "x", args=["a"])
    with pytest.raises(InvalidRequestError, match="this server"):
        await client.create_session(isolation="gvisor")
