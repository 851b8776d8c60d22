"""Spans and metrics, in programs that use OpenTelemetry; each in a process of its own, as its tracer is for all."""

from __future__ import annotations

import subprocess
import sys

SET_UP = """
import asyncio, json
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exported, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exported))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))
tracer = trace.get_tracer("test")
"""

CLIENT = """
from tests.client.fake import JOB, PUBLIC, SECRET, FakeServer, reply
from unsandbox import AsyncClient, Client, NotFoundError, RetryPolicy

fake = FakeServer()

async def main():
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url) as client:
        with tracer.start_as_current_span("outer"):
            await client.execute("python", "print('private')")
asyncio.run(main())
fake.script(reply(503, {"message": "private"}), reply(503), reply(200, JOB), reply(404, {"message": "private"}))
with Client(PUBLIC, SECRET, base_url=fake.url, retry=RetryPolicy(base_s=0.001)) as client:
    client.get_job("secret-id")
    try:
        client.get_job("secret-id")
    except NotFoundError:
        pass
inner, outer, repeated, failed = exported.get_finished_spans()
assert (inner.name, outer.name, failed.name) == ("unsandbox execute", "outer", "unsandbox get_job")
assert inner.parent.span_id == outer.context.span_id
version, trace_id, span_id, _ = fake.requests[0].headers["traceparent"].split("-")
assert int(trace_id, 16) == inner.context.trace_id
assert int(span_id, 16) == inner.context.span_id
assert inner.attributes["http.response.status_code"] == 200
assert repeated.attributes["http.request.resend_count"] == 2
assert [event.name for event in repeated.events] == ["retry", "retry"]
assert failed.attributes["url.template"] == "/jobs/{id}"
assert failed.attributes["error.type"] == "404"
assert not failed.status.is_ok
told = "".join(span.to_json() for span in (inner, repeated, failed)) + reader.get_metrics_data().to_json()
assert '"unsandbox.client.retries"' in told
for secret in ("private", SECRET, PUBLIC, "secret-id"):
    assert secret not in told, secret
fake.close()
print("traced")
"""

SERVED = """
from tests.support import eventually
from unsandbox import AsyncClient, BadRequestError, Client, local

engine = local.ensure_started()
keys = (engine.public_key, engine.secret_key)

def family(outer, *wanted):
    # The server's spans end a moment after its answers.
    trace_id = outer.get_span_context().trace_id
    def found():
        spans = {s.name: s for s in exported.get_finished_spans() if s.context.trace_id == trace_id}
        return spans if set(wanted) <= set(spans) else None
    return eventually(found, 60)

def parent(spans, child, of):
    assert spans[child].parent.span_id == spans[of].context.span_id, (child, of)

async def main():
    async with AsyncClient(*keys, base_url=engine.url) as client:
        with tracer.start_as_current_span("outer") as outer:
            await client.execute("python", "print('priv' + 'ate')", env={"PRIVATE": "x"})
        spans = family(outer, "outer", "unsandbox execute", "POST /execute", "job queue", "job run")
        parent(spans, "unsandbox execute", "outer")
        parent(spans, "POST /execute", "unsandbox execute")
        parent(spans, "job queue", "POST /execute")
        parent(spans, "job run", "POST /execute")
        assert spans["job queue"].end_time <= spans["job run"].start_time
        assert spans["POST /execute"].attributes["http.route"] == "/execute"
        assert spans["POST /execute"].attributes["http.response.status_code"] == 200
        assert spans["unsandbox execute"].attributes["server.address"] == "127.0.0.1"
        assert spans["job run"].attributes["unsandbox.job.language"] == "python"
        assert spans["job run"].attributes["process.exit.code"] == 0

        with tracer.start_as_current_span("outer") as outer:
            async for event in client.stream("bash", "echo private"):
                pass
        spans = family(outer, "unsandbox execute_async", "POST /execute/async", "job run",
                       "unsandbox stream_events", "GET /jobs/{id}/events")
        parent(spans, "job run", "POST /execute/async")
        parent(spans, "GET /jobs/{id}/events", "unsandbox stream_events")

        with tracer.start_as_current_span("outer") as outer:
            try:
                await client.execute("no-such-language", "private")
            except BadRequestError:
                pass
        spans = family(outer, "unsandbox execute", "POST /execute")
        assert not spans["unsandbox execute"].status.is_ok
        assert spans["unsandbox execute"].attributes["error.type"] == "400"
        assert spans["unsandbox execute"].events == ()
        assert spans["POST /execute"].status.is_unset

asyncio.run(main())
with Client(*keys, base_url=engine.url) as client, tracer.start_as_current_span("outer") as outer:
    with client.session(shell="bash") as session:
        with session.terminal() as terminal:
            terminal.write("echo private; exit\\n")
            for data in terminal:
                pass
spans = family(outer, "unsandbox terminal", "GET /sessions/{id}/shell")
parent(spans, "GET /sessions/{id}/shell", "unsandbox terminal")

told = "".join(span.to_json() for span in exported.get_finished_spans())
measured = reader.get_metrics_data().to_json()
for secret in ("private", "PRIVATE", "priv' +", *keys, "session_"):
    assert secret not in told + measured, secret
points = {
    metric["name"]: [point["attributes"] for point in metric["data"]["data_points"]]
    for resource in json.loads(measured)["resource_metrics"]
    for scope in resource["scope_metrics"]
    for metric in scope["metrics"]
}
assert {"unsandbox.job.run.duration", "unsandbox.job.queue.duration"} <= set(points), points
failed = [a for a in points["http.client.request.duration"] if a.get("error.type") == "400"]
assert failed and failed[0]["url.template"] == "/execute" and failed[0]["http.response.status_code"] == 400
assert {a["http.route"] for a in points["http.server.request.duration"]} >= {"/execute", "/jobs/{id}/events"}
print("one trace")
"""


def run(program: str) -> str:
    """Run a program in a process of its own and return what it printed."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


def test_each_operation_is_a_span_that_the_server_can_continue() -> None:
    assert run(SET_UP + CLIENT) == "traced\n"


def test_client_server_and_job_are_one_trace_that_tells_nothing_private() -> None:
    assert run(SET_UP + SERVED) == "one trace\n"


def test_a_program_without_it_never_loads_it() -> None:
    code = """
import sys, un, unsandbox.server
un.API_BASE = 'http://127.0.0.1:1'
un.health_check()
print('opentelemetry' in str(sys.modules))
"""
    assert run(code) == "False\n"
