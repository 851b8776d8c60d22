"""Numbers for Prometheus."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def numbers(wire, **headers):
    async with wire.session.get(wire.url + "/metrics", headers=headers) as answer:
        text = await answer.text()
        if answer.status != 200:
            return answer.status
    families = text_string_to_metric_families(text)
    return {(sample.name, *sorted(sample.labels.values())): sample.value for family in families
            for sample in family.samples}  # fmt: skip


async def test_requests_and_jobs_are_counted(wire):
    before = await numbers(wire)
    await wire.execute("bash", "echo 1")
    await wire.call("GET", "/jobs/none")
    after = await numbers(wire)

    def more(*key):
        return after[key] - before.get(key, 0.0)

    assert more("unsandbox_http_requests_total", "/execute", "200", "POST") == 1
    assert more("unsandbox_http_requests_total", "/jobs/{id}", "404", "GET") == 1
    assert more("unsandbox_http_request_seconds_count", "/execute", "POST") == 1
    assert more("unsandbox_jobs_ended_total", "completed") == 1
    assert after["unsandbox_jobs_running",] == 0


async def test_a_path_of_a_strangers_choice_makes_no_label(wire):
    await wire.call("GET", "/no/such/path/123")
    assert not any("/no/such/path/123" in key for key in await numbers(wire))


async def test_what_comes_through_a_proxy_needs_a_key(wire):
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert await numbers(wire, **forwarded) == 401
    assert isinstance(await numbers(wire, **forwarded, **wire.headers("GET", "/metrics", b"")), dict)
