"""What a client tells about its requests, and options that are changed for some of them."""

from __future__ import annotations

import logging

import pytest
from tests._async.conftest import AT_ONCE
from tests.client.aids_async import noting
from tests.client.fake import JOB, OURS, PUBLIC, SECRET, FakeServer, reply

from unsandbox import (
    AsyncClient,
    ClientStateError,
    Hooks,
    RequestEvent,
    ResponseEvent,
    RetryEvent,
    RetryPolicy,
    UnavailableError,
)


async def test_hooks_hear_of_requests_answers_and_repetitions(fake: FakeServer) -> None:
    fake.script(reply(200, {}, OURS), reply(503), reply(200, JOB, {"X-Request-Id": "req_1"}))
    heard: list[object] = []
    hooks = Hooks(request=noting(heard), response=heard.append, retry=noting(heard))
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, retry=AT_ONCE, hooks=hooks) as client:
        await client.health()
        await client.execute("python", "print('private')")
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


async def test_a_hook_that_fails_fails_the_call(fake: FakeServer) -> None:
    def fail(_: RequestEvent) -> None:
        raise LookupError("no")

    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, hooks=Hooks(request=fail)) as client:
        with pytest.raises(LookupError):
            await client.health()
    assert fake.requests == []


async def test_logs_say_what_happened_and_nothing_private(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    fake.script(reply(503, {"message": "very private"}), reply(200, JOB | {"stdout": "very private"}))
    with caplog.at_level(logging.DEBUG, "unsandbox"):
        async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, retry=AT_ONCE) as client:
            await client.execute("python", "very private", env={"A": "very private"})
    assert "execute: attempt 1 failed (UnavailableError 503)" in caplog.text
    assert "execute: 200 after" in caplog.text
    assert "private" not in caplog.text
    assert PUBLIC not in caplog.text


async def test_options_are_changed_for_some_calls_over_the_same_connections(fake: FakeServer) -> None:
    fake.script(reply(503))
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, retry=AT_ONCE) as client:
        eager = client.with_options(retry=RetryPolicy(max_retries=0))
        with pytest.raises(UnavailableError):
            await eager.get_job("j1")
        assert len(fake.requests) == 1
        with pytest.raises(UnavailableError):
            await client.get_job("j1")
        assert len(fake.requests) > 2
        fake.script(reply())
        async with client.with_options(timeout=5) as short:
            await short.get_job("j1")
        await client.get_job("j1")
        assert fake.connections == 1
    with pytest.raises(ClientStateError):
        await eager.get_job("j1")
