# Generated from tests/_async/test_retries.py by scripts/unasync.py; change that one.
# ruff: noqa: SIM117 - what `async with` kept apart
"""Networks and servers that fail, in front of the real engine: every submission runs once, never twice."""

from __future__ import annotations

import random
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from tests._sync.conftest import new_key
from tests.client.aids_sync import gather
from tests.client.fake import PUBLIC, SECRET, FakeServer, Raw, Request, reply
from tests.client.proxy import PASS, Fate, Proxy, refusal
from tests.support import Serve

from unsandbox import AuthenticationError, Client, RetryPolicy
from unsandbox._shared import signer
from unsandbox.local import LocalServer

STUBBORN = RetryPolicy(max_retries=30, base_s=0.001, cap_s=0.01)


def test_as_many_runs_as_submissions(served: Serve) -> None:
    chance = random.Random(7)
    proxy = Proxy(served.url)

    def fate(request: str) -> Fate:
        kinds = [
            refusal(502),
            refusal(503, "Retry-After: 0"),
            refusal(429, "Retry-After: 0.01"),
            Fate(cut_before=True),
            Fate(cut_after=0),
            Fate(cut_after=chance.randrange(1, 400)),
            Fate(delay_s=0.02),
            PASS,
        ]
        return chance.choice(kinds)

    try:
        with Client(*new_key(served), base_url=proxy.url, retry=STUBBORN) as client:
            client.health()
            proxy.rule = fate
            jobs = gather(*[lambda: client.execute("bash", "echo once")] * 30)
            started = gather(*[lambda: client.submit("bash", "echo once")] * 10)
            proxy.rule = lambda _: PASS
            ends = gather(*[lambda job=job: client.wait(job.job_id) for job in started])
            listed = client.list_jobs(limit=1000)
    finally:
        proxy.close()
    assert [job.stdout for job in [*jobs, *ends]] == ["once\n"] * 40
    posts = sum(request.startswith("POST /execute") for request in proxy.passed)
    assert posts > 40, "nothing was repeated, so nothing is proved"
    assert listed.count == 40


@pytest.mark.parametrize("trouble", [Fate(cut_after=0), Fate(cut_before=True), refusal(502)])
def test_the_first_call_of_all_is_repeated_too(engine: LocalServer, trouble: Fate) -> None:
    proxy = Proxy(engine.url)
    fates = [trouble]
    proxy.rule = lambda _: fates.pop() if fates else PASS
    try:
        with Client(engine.public_key, engine.secret_key, base_url=proxy.url) as client:
            assert (client.execute("bash", "echo once")).stdout == "once\n"
    finally:
        proxy.close()
    assert proxy.seen == ["POST /execute", "GET /health", "POST /execute"]


def test_a_clock_that_is_wrong_is_corrected_once(engine: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = SimpleNamespace(time=lambda: time.time() + 4000, monotonic=time.monotonic)
    monkeypatch.setattr(signer, "time", fast)
    monkeypatch.setattr("unsandbox._shared.request.time", fast)
    proxy = Proxy(engine.url)
    try:
        with Client(engine.public_key, engine.secret_key, base_url=proxy.url) as client:
            assert (client.execute("bash", "echo late")).stdout == "late\n"
            client.list_jobs(limit=1)
            assert [event for event in client.stream("bash", "true")]
        assert proxy.passed[:3] == ["POST /execute", "POST /execute", "GET /jobs?limit=1"]
        with Client(engine.public_key, engine.secret_key, base_url=proxy.url) as client:
            job = (client.list_jobs(limit=1)).jobs[0]
            assert [event for event in client.follow(job.job_id)]
        with Client(engine.public_key, engine.secret_key, base_url=engine.url) as client:
            assert len(gather(*[lambda: client.list_jobs(limit=1)] * 4)) == 4
    finally:
        proxy.close()


@pytest.mark.parametrize("ahead_s", [1e7, None, 0])
def test_a_refusal_that_is_not_about_the_clock_is_raised(fake: FakeServer, ahead_s: float | None) -> None:
    date = "nonsense" if ahead_s is None else formatdate(time.time() + ahead_s)
    fake.script(reply(401, {"error": "invalid_key"}, {"Date": date}))
    with Client(PUBLIC, SECRET, base_url=fake.url) as client:
        with pytest.raises(AuthenticationError):
            client.list_jobs()
    assert len(fake.requests) == 1


def test_a_server_whose_clock_jumps_about_is_not_followed(fake: FakeServer) -> None:
    def respond(request: Request) -> Raw:
        return reply(401, {"error": "x"}, {"Date": formatdate(time.time() + 1000 * len(fake.requests))})

    fake.respond = respond
    with Client(PUBLIC, SECRET, base_url=fake.url) as client:
        with pytest.raises(AuthenticationError):
            client.list_jobs()
    assert len(fake.requests) == 2
    first, second = (int(request.headers["x-timestamp"]) for request in fake.requests)
    assert 990 < second - first < 1010
