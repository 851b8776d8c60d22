# Generated from tests/_async/test_mapping.py by scripts/unasync.py; change that one.
"""Many jobs at once, against the real engine: order, errors, bounds, and nothing left behind."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests._sync.conftest import new_key
from tests.client.aids_sync import gather, pieces
from tests.client.fake import JOB, OURS, FakeServer, Request, reply
from tests.client.proxy import PASS, Fate, Proxy
from tests.support import Serve

from unsandbox import (
    AuthenticationError,
    BadRequestError,
    Client,
    InvalidRequestError,
    Job,
    Mapped,
    NotFoundError,
    Progress,
    WaitTimeoutError,
)
from unsandbox._sync import execution
from unsandbox.local import LocalServer


def echo(number: int) -> tuple[str, str]:
    return ("bash", f"echo {number}")


def sleeper(seconds: float) -> dict[str, str]:
    return {"language": "bash", "code": f"sleep {seconds}; echo {seconds}"}


def running_jobs(client: Client) -> int:
    return sum(job.status in ("pending", "running") for job in (client.list_jobs(limit=50)).jobs)


def test_outcomes_come_in_the_order_of_the_requests(real: Client) -> None:
    outcomes = [item for item in real.map([sleeper(0.3), *map(echo, range(20))], concurrency=8)]
    assert [item.index for item in outcomes] == list(range(21))
    assert [item.result().stdout for item in outcomes[1:]] == [f"{number}\n" for number in range(20)]


def test_or_as_they_finish(real: Client) -> None:
    slow_first = real.map([sleeper(0.6), sleeper(0)], concurrency=2, ordered=False)
    assert [item.index for item in slow_first] == [1, 0]


def test_what_goes_wrong_with_one_stops_nothing(real: Client) -> None:
    requests: list[Any] = [
        ("no-such-language", "x"),
        echo(1),
        {"language": "bash"},
        {"language": "bash", "code": "true", "colour": "red"},
        "bash",
        None,
        {"language": "bash", "code": "exit 3", "ttl": 5, "env": {"A": "1"}},
    ]
    outcomes = [item for item in real.map(requests)]
    kinds = [type(item.error) for item in outcomes]
    assert issubclass(kinds[0], BadRequestError)
    assert [issubclass(kind, InvalidRequestError) for kind in kinds] == [
        False,
        False,
        True,
        True,
        True,
        True,
        False,
    ]
    assert [item.job.exit_code for item in outcomes if item.job] == [0, 3]
    with pytest.raises(BadRequestError):
        outcomes[0].result()


def test_input_that_cannot_be_read_is_the_error_of_its_request(real: Client) -> None:
    closed = io.BytesIO()
    closed.close()
    requests = [echo(0), {"language": "bash", "code": "cat", "stdin": closed}, echo(2)]
    outcomes = [item for item in real.map(requests)]
    assert [item.job is not None for item in outcomes] == [True, False, True]
    assert isinstance(outcomes[1].error.__cause__, ValueError)


def test_what_ends_it_all_is_raised_as_it_is(client: Client, fake: FakeServer) -> None:
    numbers = iter(range(9))
    fake.routes(
        POST_execute_async=lambda _: reply(200, {"job_id": f"j{next(numbers)}", "status": "running"}),
        GET_jobs=reply(401),
        DELETE_jobs=reply(200),
    )
    with pytest.raises(AuthenticationError):
        [item for item in client.map([echo(0), echo(1)])]


def test_requests_are_taken_only_as_fast_as_outcomes_are(real: Client) -> None:
    taken = 0

    def many() -> Iterator[tuple[str, str]]:
        nonlocal taken
        while True:
            taken += 1
            yield echo(taken)

    got: list[Mapped] = []
    with real.map(many(), concurrency=4) as outcomes:
        for item in outcomes:
            got.append(item)
            assert taken <= len(got) + 4 * 4
            if len(got) == 20:
                break
    assert [item.result().stdout for item in got] == [f"{number}\n" for number in range(1, 21)]
    assert running_jobs(real) == 0


def test_leaving_cancels_what_runs(real: Client) -> None:
    with real.map([echo(0), *[sleeper(60)] * 10], concurrency=3) as outcomes:
        for item in outcomes:
            assert item.index == 0
            assert running_jobs(real) > 0
            break
    assert running_jobs(real) == 0


def test_leaving_many_takes_as_long_as_it_must(real: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "CLEAN_UP_S", 0.0)
    with real.map([echo(0), *[sleeper(60)] * 100], concurrency=100, ordered=False) as outcomes:
        for _ in outcomes:
            break
    assert running_jobs(real) == 0


def test_requests_may_come_from_elsewhere(real: Client) -> None:
    outcomes = [item for item in real.map(pieces(*map(echo, range(5))), concurrency=2)]
    assert [item.result().stdout for item in outcomes] == [f"{number}\n" for number in range(5)]
    assert [item for item in real.map([])] == []


def test_progress_is_told(real: Client) -> None:
    told: list[Progress] = []
    requests = [echo(0), ("no-such-language", ""), echo(2)]
    assert len([item for item in real.map(requests, on_progress=told.append)]) == 3
    assert told[-1] == Progress(started=3, running=0, done=3, failed=1, total=3)
    assert all(before.done <= after.done for before, after in itertools.pairwise(told))


def test_bounds_that_make_no_sense_are_refused(real: Client) -> None:
    with pytest.raises(InvalidRequestError, match="concurrency"):
        real.map([echo(1)], concurrency=0)


def test_a_key_that_may_have_few_jobs_gets_all_of_them_done(served: Serve) -> None:
    with Client(*new_key(served, concurrency=2), base_url=served.url) as client:
        outcomes = [item for item in client.map([sleeper(0.05)] * 12, concurrency=10)]
    assert [item.result().exit_code for item in outcomes] == [0] * 12


def test_many_jobs_are_started_with_few_looks_at_those_in_flight(engine: LocalServer) -> None:
    looks: list[float] = []
    running = 0

    def note(request: str) -> Fate:
        if request == "POST /jobs/wait" and 256 < running < 600:
            looks.append(time.monotonic())
        return PASS

    def progress(now: Progress) -> None:
        nonlocal running
        running = now.running
        if running == 600:
            raise EOFError

    proxy = Proxy(engine.url)
    proxy.rule = note
    try:
        with Client(engine.public_key, engine.secret_key, base_url=proxy.url) as client:
            endless = itertools.repeat(sleeper(600))
            with pytest.raises(EOFError):
                [item for item in client.map(endless, concurrency=600, on_progress=progress)]
            assert running_jobs(client) == 0
    finally:
        proxy.close()
    pauses = [later - before for before, later in itertools.pairwise(looks)]
    # The proxy sees a look a moment after the client decided on it.
    assert all(pause > 0.2 for pause in pauses), pauses


def test_what_can_be_read_only_once_is_sent_whole_after_a_refusal(client: Client, fake: FakeServer) -> None:
    answers = [reply(429), reply(200, {"job_id": "j1", "status": "running"}, OURS)]
    fake.routes(
        GET_health=reply(200, {}, OURS),
        POST_execute_async=lambda _: answers.pop(0),
        GET_jobs=reply(200, JOB, OURS),
    )
    request = {"language": "bash", "code": "cat", "stdin": io.BytesIO(b"once")}
    assert [item.job is not None for item in client.map([request])] == [True]
    refused, taken = (sent for sent in fake.requests if sent.method == "POST")
    assert refused.body == taken.body
    assert refused.headers["idempotency-key"] == taken.headers["idempotency-key"]


def test_a_wait_for_several(real: Client) -> None:
    jobs = gather(*[lambda: real.submit("bash", "echo quick"), lambda: real.submit("bash", "sleep 60")])
    ids = [job.job_id for job in jobs]
    ended = real.wait_jobs([*ids, "none"], timeout=10)
    assert ended.unknown == ["none"]
    seen = real.wait_jobs(ids, timeout=10)
    assert [job.stdout for job in seen.jobs] == ["quick\n"]
    assert (real.wait_jobs(ids[1:], timeout=0)).jobs == []
    real.cancel(ids[1])
    assert [job.status for job in (real.wait_jobs(ids[1:])).jobs] == ["cancelled"]
    for bad in ([], ["x"] * 1001):
        with pytest.raises(InvalidRequestError):
            real.wait_jobs(bad)


def test_each_job_has_a_deadline(real: Client) -> None:
    before = running_jobs(real)
    requests: list[Any] = [
        {"language": "bash", "code": "echo begun; sleep 600"},
        {"language": "bash", "code": "sleep 0.1; echo quick", "timeout": 60},
        {"language": "bash", "code": "cat", "stdin": itertools.repeat(b"x"), "timeout": 0.2},
        {"language": "bash", "code": "true", "timeout": -1},
    ]
    outcomes = {item.index: item for item in real.map(requests, timeout=6)}
    late = outcomes[0].error
    assert isinstance(late, WaitTimeoutError)
    assert isinstance(late.partial, Job)
    assert (late.partial.status, late.job_id) == ("cancelled", late.partial.job_id)
    assert late.partial.stdout == "begun\n"
    assert outcomes[1].result().stdout == "quick\n"
    assert isinstance(outcomes[2].error, WaitTimeoutError)
    assert isinstance(outcomes[3].error, InvalidRequestError)
    assert running_jobs(real) == before


def test_a_deadline_comes_in_time_without_a_shared_wait(client: Client, fake: FakeServer) -> None:
    fake.routes(
        POST_execute_async=reply(200, {"job_id": "j1", "status": "running"}),
        GET_jobs=reply(200, {"job_id": "j1", "status": "running"}),
        DELETE_jobs=reply(200, {"status": "cancelled", "stdout": "so far"}),
    )
    (outcome,) = [item for item in client.map([echo(1)], timeout=1.5)]
    assert isinstance(outcome.error, WaitTimeoutError)
    assert outcome.error.partial.stdout == "so far"
    assert "DELETE /jobs/j1" in fake.seen()


def test_a_job_that_ended_at_its_deadline_is_a_result(client: Client, fake: FakeServer) -> None:
    fake.routes(
        POST_execute_async=reply(200, {"job_id": "j1", "status": "running"}),
        GET_jobs=reply(200, {"job_id": "j1", "status": "running"}),
        DELETE_jobs=reply(200, JOB),
    )
    (outcome,) = [item for item in client.map([echo(1)], timeout=1.5)]
    assert outcome.result().stdout == "hi\n"


def test_a_server_without_a_shared_wait_is_asked_for_each(client: Client, fake: FakeServer) -> None:
    looks: dict[str, int] = {}

    def look(request: Request) -> Any:
        job_id = request.target.rpartition("/")[2]
        looks[job_id] = looks.get(job_id, 0) + 1
        if job_id == "j2":
            return reply(404, {"error": "not_found"})
        status = "completed" if looks[job_id] > 1 else "running"
        return reply(200, JOB | {"job_id": job_id, "status": status})

    numbers = iter(range(9))
    fake.routes(
        POST_execute_async=lambda _: reply(200, {"job_id": f"j{next(numbers)}", "status": "running"}),
        GET_jobs=look,
    )
    outcomes = [item for item in client.map([echo(number) for number in range(4)], concurrency=2)]
    assert [item.job is not None for item in outcomes].count(False) == 1
    assert isinstance(next(item.error for item in outcomes if item.error), NotFoundError)
