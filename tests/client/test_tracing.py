"""Spans, in a program that uses OpenTelemetry; run in a process of its own, as a tracer is for the whole process."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("opentelemetry.sdk.trace")

PROGRAM = """
import asyncio, json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.client.fake import PUBLIC, SECRET, FakeServer, reply
from unsandbox import AsyncClient, Client, NotFoundError

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
fake = FakeServer()

async def main():
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url) as client:
        with trace.get_tracer("test").start_as_current_span("outer"):
            await client.execute("python", "print('private')")
asyncio.run(main())
fake.script(reply(404, {"message": "none"}))
with Client(PUBLIC, SECRET, base_url=fake.url) as client:
    try:
        client.get_job("secret-id")
    except NotFoundError:
        pass
inner, outer, failed = spans.get_finished_spans()
assert (inner.name, outer.name, failed.name) == ("unsandbox execute", "outer", "unsandbox get_job")
assert inner.parent.span_id == outer.context.span_id
version, trace_id, span_id, _ = fake.requests[0].headers["traceparent"].split("-")
assert int(trace_id, 16) == inner.context.trace_id
assert int(span_id, 16) == inner.context.span_id
assert inner.attributes["http.response.status_code"] == 200
assert failed.attributes["url.template"] == "/jobs/{id}"
assert not failed.status.is_ok
text = inner.to_json() + failed.to_json()
assert "private" not in text and SECRET not in text
fake.close()
print("traced")
"""


def test_each_operation_is_a_span_that_the_server_can_continue() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.stdout == "traced\n", done.stderr


def test_a_program_without_it_never_loads_it() -> None:
    code = "import sys, un; un.API_BASE = 'http://127.0.0.1:1'; un.health_check(); print('opentelemetry' in str(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
