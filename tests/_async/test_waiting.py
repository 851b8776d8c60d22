"""From an accepted job to its end: polling, long-polling, deadlines. The servers here are other people's."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
from tests.client.aids_async import gather, in_thread
from tests.client.fake import CUT, JOB, OURS, PUBLIC, SECRET, FakeServer, Hang, Raw, Request, reply

from unsandbox import (
    AsyncClient,
    ConnectionFailedError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    UnavailableError,
    WaitTimeoutError,
)
from unsandbox.protocol import polling
from unsandbox.protocol.polling import poll_delays

ACCEPTED = {"job_id": "j1", "status": "pending"}
RUNNING = {"job_id": "j1", "status": "running"}
CANCELLED = {"job_id": "j1", "status": "cancelled", "stdout": "half"}


@pytest.fixture(autouse=True)
def quick_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll by the usual schedule, a hundred times as fast."""
    monkeypatch.setattr(polling, "POLL_DELAYS_MS", (3, 4, 7, 9, 6, 16, 20))


def after(
    times: int, first: dict[str, Any], last: dict[str, Any], headers: dict[str, str] | None = None
) -> Any:
    """Answer `first` so many times, then `last`."""
    count = iter(range(1000))
    return lambda _: reply(200, first if next(count) < times else last, headers)


async def test_an_accepted_job_is_polled_where_the_server_cannot_hold(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.routes(POST_execute=reply(200, ACCEPTED), GET_jobs=after(3, RUNNING, JOB))
    assert (await client.execute("python", "print(1)")).stdout == "hi\n"
    assert fake.seen() == ["POST /execute"] + ["GET /jobs/j1"] * 4


async def test_an_accepted_job_is_long_polled_where_the_server_can(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.routes(POST_execute=reply(200, ACCEPTED, OURS), GET_jobs=after(1, RUNNING, JOB, OURS))
    assert (await client.execute("python", "print(1)")).ok
    assert fake.seen() == ["POST /execute"] + ["GET /jobs/j1?wait=20.0"] * 2
    assert all(request.signature_is_right() for request in fake.requests)


async def test_a_status_that_nobody_knows_is_waited_for(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes(POST_execute=reply(200, {"id": "j1", "status": "queued"}), GET_jobs=after(1, RUNNING, JOB))
    assert (await client.execute("python", "print(1)")).ok


@pytest.mark.parametrize("outcome", [{"stdout": "x"}, {"exit_code": 3}, {"error": "boom"}, {"output": "x"}])
async def test_an_outcome_without_a_status_is_final(
    client: AsyncClient, fake: FakeServer, outcome: dict[str, Any]
) -> None:
    fake.script(reply(200, {"job_id": "j1"} | outcome))
    assert (await client.execute("python", "print(1)")).done
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "answer", [{}, {"status": "pending"}, {"job_id": ""}, {"job_id": 7, "status": "running"}]
)
async def test_neither_result_nor_id_is_an_invalid_response(
    client: AsyncClient, fake: FakeServer, answer: dict[str, Any]
) -> None:
    fake.script(reply(200, answer))
    with pytest.raises(InvalidResponseError, match="job id"):
        await client.execute("python", "print(1)")
    with pytest.raises(InvalidResponseError, match="job id"):
        await client.submit("python", "print(1)")


async def test_a_wait_lives_through_a_restart_of_the_server(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes(GET_jobs=reply(200, RUNNING))
    assert (await client.get_job("j1")).status == "running"
    troubles = [CUT, reply(502), reply(503), CUT, CUT, reply(504), reply(200, JOB)]
    fake.routes(GET_jobs=lambda _: troubles.pop(0))
    assert (await client.wait("j1")).ok
    assert troubles == []


async def test_a_job_that_is_not_there_ends_the_wait(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes()
    with pytest.raises(NotFoundError):
        await client.wait("j1")


async def test_a_deadline_while_polling_cancels_and_keeps_the_output(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.routes(
        POST_execute=reply(200, ACCEPTED), GET_jobs=reply(200, RUNNING), DELETE_jobs=reply(200, CANCELLED)
    )
    with pytest.raises(WaitTimeoutError, match=r"j1 had not ended after 1(\.0)? s; it was cancelled") as caught:
        await client.execute("python", "print(1)", timeout=1)
    assert (caught.value.job_id, caught.value.partial.stdout) == ("j1", "half")
    assert isinstance(caught.value, TimeoutError)
    assert fake.seen()[-1] == "DELETE /jobs/j1"
    assert fake.requests[0].json()["ttl"] == 2


async def test_a_server_that_confirms_without_output_is_asked_for_it(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.routes(
        POST_execute=reply(200, ACCEPTED),
        GET_jobs=lambda _: reply(200, CANCELLED if "DELETE /jobs/j1" in fake.seen() else RUNNING),
        DELETE_jobs=reply(200, {"message": "cancelled"}),
    )
    with pytest.raises(WaitTimeoutError) as caught:
        await client.execute("python", "print(1)", timeout=1)
    assert caught.value.partial.stdout == "half"


@pytest.mark.parametrize("trouble", [CUT, reply(502)])
@pytest.mark.parametrize("way", ["execute", "submit"])
async def test_retries_that_run_out_leave_no_job_behind(
    client: AsyncClient, fake: FakeServer, trouble: Raw, way: str
) -> None:
    troubles = [trouble] * 3
    fake.routes(
        GET_health=reply(200, {}, OURS),
        POST_execute=trouble,
        POST_execute_async=lambda _: (
            troubles.pop() if way == "submit" and troubles else reply(200, RUNNING, OURS)
        ),
        DELETE_jobs=reply(200, CANCELLED, OURS),
    )
    await client.health()
    with pytest.raises((ConnectionFailedError, UnavailableError)):
        await getattr(client, way)("python", "print(1)")
    assert fake.seen()[-2:] == ["POST /execute/async", "DELETE /jobs/j1"]
    assert len({request.headers.get("idempotency-key") for request in fake.requests[1:-1]}) == 1


async def test_a_deadline_without_an_id_finds_the_job_by_its_key(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes(
        POST_execute=Hang(),
        POST_execute_async=reply(200, RUNNING, OURS),
        GET_health=reply(200, {}, OURS),
        DELETE_jobs=reply(200, CANCELLED, OURS),
    )
    with pytest.raises(WaitTimeoutError, match="cancelled") as caught:
        await client.execute("python", "print(1)", timeout=1)
    assert caught.value.partial.stdout == "half"
    assert fake.seen() == ["POST /execute", "GET /health", "POST /execute/async", "DELETE /jobs/j1"]
    held, found = fake.requests[0], fake.requests[2]
    assert held.headers["idempotency-key"] == found.headers["idempotency-key"]
    assert held.body == found.body


async def test_a_job_is_not_looked_for_where_that_would_make_a_second_one(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.routes(POST_execute=Hang(), GET_health=reply(200, {}))
    with pytest.raises(WaitTimeoutError) as caught:
        await client.execute("python", "print(1)", timeout=1)
    assert caught.value.partial is None
    assert fake.seen() == ["POST /execute", "GET /health"]


async def test_clean_up_that_fails_does_not_hide_the_deadline(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes(POST_execute=reply(200, ACCEPTED), GET_jobs=reply(200, RUNNING), DELETE_jobs=reply(500))
    with pytest.raises(WaitTimeoutError) as caught:
        await client.execute("python", "print(1)", timeout=1)
    assert "cancelled" not in str(caught.value)
    assert caught.value.partial.status in {"pending", "running"}


async def test_a_failure_before_the_deadline_stays_what_it_is(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(reply(503))
    with pytest.raises(UnavailableError):
        await client.execute("python", "print(1)", timeout=30)


async def test_the_programs_own_limit_is_a_status_and_no_exception(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.script(reply(200, {"job_id": "j1", "status": "timeout", "stdout": "half"}))
    job = await client.execute("python", "print(1)", ttl=1, timeout=30)
    assert (job.status, job.stdout, job.ok) == ("timeout", "half", False)
    assert fake.requests[0].json()["ttl"] == 1


async def test_a_wait_cancels_at_its_deadline_unless_told_to_keep(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.routes(GET_jobs=reply(200, RUNNING), DELETE_jobs=reply(200, CANCELLED))
    with pytest.raises(WaitTimeoutError) as caught:
        await client.wait("j1", timeout=0.5, keep=True)
    assert caught.value.partial.status == "running"
    assert "DELETE /jobs/j1" not in fake.seen()
    with pytest.raises(WaitTimeoutError, match="cancelled"):
        await client.wait("j1", timeout=0.5)
    assert fake.seen()[-1] == "DELETE /jobs/j1"


async def test_a_long_poll_does_not_outlast_the_deadline(client: AsyncClient, fake: FakeServer) -> None:
    def hold(request: Request) -> Raw | Hang:
        return Hang() if "wait=" in request.target else reply(200, RUNNING, OURS)

    fake.routes(GET_jobs=hold, DELETE_jobs=reply(200, CANCELLED))
    began = time.monotonic()
    with pytest.raises(WaitTimeoutError) as caught:
        await client.wait("j1", timeout=0.2)
    assert time.monotonic() - began < 3
    assert caught.value.partial.stdout == "half"


async def test_a_server_that_does_not_hold_is_asked_on_the_schedule_of_polling(
    client: AsyncClient, fake: FakeServer
) -> None:
    times: list[float] = []

    def look(_: Request) -> Raw:
        times.append(time.monotonic())
        return reply(200, RUNNING if len(times) < 4 else JOB, OURS)

    fake.routes(GET_jobs=look)
    await client.wait("j1")
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) == 3
    for gap, delay in zip(gaps, poll_delays(), strict=False):
        assert gap > delay - 0.01


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5"])
async def test_a_deadline_must_make_sense(client: AsyncClient, fake: FakeServer, timeout: Any) -> None:
    with pytest.raises(InvalidRequestError, match="timeout"):
        await client.execute("python", "print(1)", timeout=timeout)
    assert fake.requests == []


async def test_a_deadline_of_zero_has_passed(client: AsyncClient, fake: FakeServer) -> None:
    with pytest.raises(WaitTimeoutError):
        await client.wait("j1", timeout=0, keep=True)
    assert fake.requests == []


async def test_a_deadline_in_the_queue_for_a_connection(fake: FakeServer) -> None:
    fake.routes(POST_execute=Hang(), GET_health=reply(200, {}))

    def wait_for_the_first() -> None:
        ends = time.monotonic() + 10
        while not fake.requests:
            assert time.monotonic() < ends
            time.sleep(0.002)

    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, max_connections=1) as client:

        async def first() -> None:
            with pytest.raises(WaitTimeoutError):
                await client.execute("python", "print(1)", timeout=0.6)

        async def second() -> None:
            await in_thread(wait_for_the_first)
            with pytest.raises(WaitTimeoutError) as caught:
                await client.execute("python", "print(2)", timeout=0.1)
            assert "connections of this client were busy" in str(caught.value.__cause__)

        await gather(first, second)
    assert fake.seen().count("POST /execute") == 1
