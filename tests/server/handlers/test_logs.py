"""Platform logs: what a key may read of what happened, in every historical style, and as it happens."""

from __future__ import annotations

import asyncio
import json

import pytest
from yarl import URL

pytestmark = pytest.mark.asyncio(loop_scope="session")

STYLES = [
    ("GET", "/logs?source=api&lines=5", None),
    ("GET", "/paas/logs?source=api&lines=5", None),
    ("POST", "/paas/logs", {"source": "api", "lines": 5}),
    ("GET", "/logs/api?lines=5", None),
]


@pytest.mark.parametrize(("method", "target", "body"), STYLES)
async def test_every_style_answers_the_same(wire, method, target, body):
    await wire.call("GET", "/jobs")
    page = (await wire.call(method, target, body)).json
    assert page["sources"] == ["api"]
    assert page["count"] == len(page["lines"]) <= 5
    assert page["lines"][-1]["source"] == "api"
    assert "GET /jobs 200" in page["lines"][-1]["line"]


async def test_lines_are_of_this_key_only_and_hold_neither_code_nor_secrets(wire, stranger):
    job = (await wire.execute("bash", "echo very-private")).json
    page = (await wire.call("GET", "/logs/all?lines=10000&since=1h")).json
    text = json.dumps(page)
    assert job["job_id"] in text
    assert "very-private" not in text
    assert wire.secret_key not in text
    assert job["job_id"] not in json.dumps((await stranger.call("GET", "/logs?lines=10000")).json)


async def test_lines_can_be_chosen(wire):
    job = (await wire.execute("bash", "true")).json
    found = (await wire.call("GET", f"/logs?grep={job['job_id']}&source=engine")).json
    assert found["count"] == 1
    assert "completed, exit code 0" in found["lines"][0]["line"]
    assert (await wire.call("GET", "/logs?level=error")).json["count"] == 0
    assert (await wire.call("GET", "/logs?grep=(a%2B)%2B%24")).json["count"] == 0


@pytest.mark.parametrize("query", ["since=soon", "lines=0", "lines=x", "level=loud", "since=-5m"])
async def test_what_makes_no_sense_is_refused(wire, query):
    assert (await wire.call("GET", f"/logs?{query}")).status == 400


@pytest.mark.parametrize("path", ["/logs/stream", "/paas/logs/stream?source=engine", "/logs/all/stream"])
async def test_following_shows_lines_as_they_come(wire, stranger, path):
    headers = wire.headers("GET", path, b"")
    async with wire.session.get(URL(wire.url + path, encoded=True), headers=headers) as response:
        assert response.content_type == "text/event-stream"
        assert (await response.content.readline()).startswith(b":")
        await stranger.execute("bash", "true")
        job = (await wire.execute("bash", "true")).json
        async with asyncio.timeout(10):
            while True:
                line = await response.content.readline()
                if line.startswith(b"data: "):
                    entry = json.loads(line.removeprefix(b"data: "))
                    if job["job_id"] in entry["line"]:
                        break
        assert entry["source"] == "engine"


async def test_following_needs_a_signature(wire):
    assert (await wire.call("GET", "/logs/stream", anonymous=True)).status == 401
    assert (await wire.call("GET", "/logs/stream?since=x")).status == 400
