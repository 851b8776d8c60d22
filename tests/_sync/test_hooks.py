# Generated from tests/_async/test_hooks.py by scripts/unasync.py; change that one.
# ruff: noqa: SIM117 - what `async with` kept apart
"""What a client tells about its requests, and options that are changed for some of them."""

from __future__ import annotations

import logging
import pickle
import threading
from typing import Any

import pytest
from tests._sync.conftest import AT_ONCE
from tests.client.aids_sync import noting
from tests.client.fake import CUT, JOB, OURS, PUBLIC, SECRET, FakeServer, Hang, Request, reply

from unsandbox import (
    NOT_GIVEN,
    Client,
    ClientStateError,
    Hooks,
    PollEvent,
    RequestEvent,
    RequestTimeoutError,
    ResponseEvent,
    RetryEvent,
    RetryPolicy,
    SudoRequiredError,
    UnavailableError,
)


def test_hooks_hear_of_requests_answers_and_repetitions(fake: FakeServer) -> None:
    fake.script(reply(200, {}, OURS), reply(503), reply(200, JOB, {"X-Request-Id": "req_1"}))
    heard: list[Any] = []
    hooks = Hooks(request=noting(heard), response=heard.append, retry=noting(heard))
    with Client(PUBLIC, SECRET, base_url=fake.url, retry=AT_ONCE, hooks=hooks) as client:
        client.health()
        client.execute("python", "print('private')")
    kinds = [type(event) for event in heard]
    assert kinds == [
        RequestEvent,
        ResponseEvent,
        RequestEvent,
        ResponseEvent,
        RetryEvent,
        RequestEvent,
        ResponseEvent,
    ]
    asked, refused, again, last = heard[2], heard[3], heard[4], heard[6]
    assert asked == RequestEvent("execute", "POST", "/execute", 1, len(fake.requests[1].body))
    assert (refused.status, refused.request) == (503, asked)
    assert (again.operation, again.attempt, again.error.status) == ("execute", 1, 503)
    assert (last.status, last.request.attempt, last.request_id) == (200, 2, "req_1")
    assert 0 < last.seconds < 10
    assert "private" not in repr(heard)


def test_a_hook_that_fails_fails_the_call(fake: FakeServer) -> None:
    def fail(_: RequestEvent) -> None:
        raise LookupError("no")

    with Client(PUBLIC, SECRET, base_url=fake.url, hooks=Hooks(request=fail)) as client:
        with pytest.raises(LookupError):
            client.health()
    assert fake.requests == []


def all_hooks(heard: list[Any]) -> Hooks:
    return Hooks(request=heard.append, response=heard.append, retry=heard.append, poll=noting(heard))


def test_looks_at_a_job_are_told(fake: FakeServer) -> None:
    fake.script(reply(200, {"job_id": "j1", "status": "running"}, OURS), reply(200, JOB, OURS))
    heard: list[Any] = []
    hooks = Hooks(poll=heard.append)
    with Client(PUBLIC, SECRET, base_url=fake.url, hooks=hooks) as client:
        client.execute("python", "x")
    (look,) = heard
    assert look == PollEvent("get_job", ("j1",), 1, 1, look.seconds)
    assert look.seconds > 0


def test_the_shared_looks_of_a_map_are_told(real: Client) -> None:
    heard: list[PollEvent] = []
    client = real.with_options(hooks=Hooks(poll=noting(heard)))
    jobs = [item.result() for item in client.map([("bash", "true")] * 3, concurrency=3)]
    looks = [event for event in heard if event.operation == "wait_jobs"]
    assert {job_id for event in looks for job_id in event.job_ids} == {job.job_id for job in jobs}
    assert sum(event.ended for event in looks) == 3
    assert [event.number for event in looks] == sorted(event.number for event in looks)


def test_streams_and_terminals_are_told(real: Client) -> None:
    heard: list[Any] = []
    client = real.with_options(hooks=all_hooks(heard))
    for _ in client.stream("bash", "echo private"):
        pass
    asked, opened = heard[-2:]
    assert asked == RequestEvent("stream_events", "GET", "/jobs/{id}/events", 1, 0)
    assert opened == ResponseEvent(asked, 200, opened.seconds, None, opened.request_id)
    assert opened.request_id
    with client.session(shell="bash") as session:
        heard.clear()
        with session.terminal():
            asked, opened = heard
            assert asked == RequestEvent("terminal", "GET", "/sessions/{id}/shell", 1, 0)
            assert opened == ResponseEvent(asked, 101, opened.seconds, None, None)
        assert session.id not in repr(heard)


def test_a_stream_that_breaks_is_told(fake: FakeServer) -> None:
    features = {"Unsandbox-Features": "events, idempotency"}
    result = b'event: result\ndata: {"job_id": "j1", "status": "completed", "exit_code": 0}\n\n'
    answers = [reply(200, b": hello\n\n", features), reply(200, result, features)]

    def events(_: Request) -> object:
        return answers.pop(0)

    fake.routes(
        POST_execute_async=reply(200, {"job_id": "j1", "status": "running"}, features),
        GET_jobs_j1_events=events,
    )
    heard: list[RetryEvent] = []
    hooks = Hooks(retry=heard.append)
    with Client(PUBLIC, SECRET, base_url=fake.url, hooks=hooks) as client:
        for _ in client.stream("bash", "x"):
            pass
    (again,) = heard
    assert (again.operation, again.attempt, again.delay_s) == ("stream_events", 1, 0)


def running(client: Client, job_id: str) -> bool:
    return (client.get_job(job_id)).status in ("pending", "running")


def begin(client: Client, kind: str) -> None:
    if kind == "submit":
        client.submit("bash", "sleep 600")
    elif kind == "execute":
        client.execute("bash", "sleep 0.3")
    else:
        requests = [("bash", "sleep 600")] * 3
        for _ in client.stream(*requests[0]) if kind == "stream" else client.map(requests):
            pass


@pytest.mark.parametrize("kind", ["submit", "stream", "map", "execute"])
def test_a_hook_that_fails_leaves_no_job_behind(real: Client, kind: str) -> None:
    before = {job.job_id for job in (real.list_jobs(limit=100)).jobs}
    seen: list[ResponseEvent] = []

    def fail(event: ResponseEvent) -> None:
        if event.request.method in ("POST", "DELETE"):
            seen.append(event)
            raise LookupError("no")

    client = real.with_options(hooks=Hooks(response=fail), timeout=30)
    with pytest.raises(LookupError):
        begin(client, kind)
    # The clean-up went on although its hooks failed, too.
    assert len(seen) > 1
    made = {job.job_id for job in (real.list_jobs(limit=100)).jobs} - before
    assert made
    assert not [job_id for job_id in made if running(real, job_id)]


def test_a_hook_that_fails_leaves_no_session_behind(real: Client) -> None:
    before = (real.list_sessions()).count

    def fail(event: ResponseEvent) -> None:
        if event.request.operation == "create_session":
            raise LookupError("no")

    with pytest.raises(LookupError):
        real.with_options(hooks=Hooks(response=fail)).create_session(shell="bash")
    assert (real.list_sessions()).count == before


def test_the_embedded_engine_is_told_of_as_any_server(engine: object) -> None:
    heard: list[Any] = []
    with Client.local(hooks=all_hooks(heard), otp="123456") as client:
        client.health()
    assert [type(event) for event in heard] == [RequestEvent, ResponseEvent]
    assert heard[1].status == 200


def test_logs_say_what_happened_and_nothing_private(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    fake.script(reply(503, {"message": "very private"}), reply(200, JOB | {"stdout": "very private"}))
    with caplog.at_level(logging.DEBUG, "unsandbox"):
        with Client(PUBLIC, SECRET, base_url=fake.url, retry=AT_ONCE) as client:
            client.execute("python", "very private", env={"A": "very private"})
    assert "execute: attempt 1 failed (UnavailableError 503)" in caplog.text
    assert "execute: 200 after" in caplog.text
    assert "private" not in caplog.text
    assert PUBLIC not in caplog.text


def test_options_are_changed_for_some_calls_over_the_same_connections(fake: FakeServer) -> None:
    fake.script(reply(503))
    with Client(PUBLIC, SECRET, base_url=fake.url, retry=AT_ONCE) as client:
        eager = client.with_options(retry=RetryPolicy(max_retries=0))
        with pytest.raises(UnavailableError):
            eager.get_job("j1")
        assert len(fake.requests) == 1
        with pytest.raises(UnavailableError):
            client.get_job("j1")
        assert len(fake.requests) > 2
        fake.script(reply())
        with client.with_options(timeout=5) as short:
            short.get_job("j1")
        client.get_job("j1")
        assert fake.connections == 1
    with pytest.raises(ClientStateError):
        eager.get_job("j1")


def test_what_is_not_given_stays_and_none_means_none(fake: FakeServer) -> None:
    with Client(PUBLIC, SECRET, base_url=fake.url, otp="1") as client:
        fake.script(reply(428, {"error": "sudo_otp_required", "challenge_id": "c1"}), reply(200, {}))
        with pytest.raises(SudoRequiredError):
            client.with_options(otp=None).delete_session("s1")
        fake.script(reply(428, {"error": "sudo_otp_required", "challenge_id": "c1"}), reply(200, {}))
        short = client.with_options(timeout=0.2, retry=RetryPolicy(max_retries=0))
        short.with_options(timeout=60).delete_session("s1")
        assert fake.requests[-1].headers["x-sudo-otp"] == "1"
        fake.respond = lambda _: Hang()
        with pytest.raises(RequestTimeoutError):
            short.with_options(otp=None).health()
        slow = threading.Event()
        fake.respond = lambda _: reply() if slow.wait(60) else CUT
        threading.Timer(0.5, slow.set).start()
        short.with_options(timeout=None).get_job("j1")
    assert not NOT_GIVEN
    assert repr(NOT_GIVEN) == "NOT_GIVEN"
    assert pickle.loads(pickle.dumps(NOT_GIVEN)) is NOT_GIVEN
