"""HTTP itself: signatures and their historical variants, bad requests, odd framing, metadata routes."""

from __future__ import annotations

import asyncio
import json
import re
import time

import pytest
from tests.server.conftest import open_wire
from yarl import URL

from unsandbox.engine.accounts.keys import KeyPair
from unsandbox.protocol.endpoints.jobs import ENDPOINTS
from unsandbox.server import ServerConfig

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def raw_exchange(url: str, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes as they are and read until the server closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    if half_close:
        writer.write_eof()
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def header_lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


async def test_a_signature_over_the_bare_path_is_accepted(wire):
    assert (await wire.call("GET", "/images?filter=owned", signed_target="/images")).status == 200


async def test_a_query_cannot_be_added_to_a_signed_request(wire):
    answer = await wire.call("GET", "/jobs?limit=1", signed_target="/jobs")
    assert (answer.status, answer.json["error"]) == (401, "invalid_signature")


@pytest.mark.parametrize("path", ["/metrics", "/health", "/openapi.json", "/languages"])
async def test_a_foreign_name_that_leads_to_this_machine_is_told_nothing(wire, path):
    port = URL(wire.url).port
    for host, status in (
        ("evil.example", 421),
        (f"evil.example:{port}", 421),
        ("localhost", 200),
        ("127.0.0.1", 200),
        (f"[::1]:{port}", 200),
    ):
        async with wire.session.get(wire.url + path, headers={"Host": host}) as answer:
            assert answer.status == status, host
    # A proxy on this machine answers for its own names.
    headers = {"Host": "api.example", "X-Forwarded-For": "203.0.113.9"}
    async with wire.session.get(f"{wire.url}/health", headers=headers) as answer:
        assert answer.status == 200


async def test_an_empty_object_signed_as_nothing_is_accepted(wire):
    assert (await wire.call("POST", "/keys/validate", b"{}", signed_body=b"")).status == 200
    assert (await wire.call("POST", "/keys/validate", b"{}")).status == 200


async def test_both_variants_at_once_are_accepted(wire):
    answer = await wire.call(
        "DELETE", "/sessions/none?audit=1", b"{}", signed_target="/sessions/none", signed_body=b""
    )
    assert answer.status == 404


@pytest.mark.parametrize("body", [b"{ }", b"[]", b'{"a":1}'])
async def test_other_bodies_must_be_signed_as_sent(wire, body):
    answer = await wire.call("POST", "/keys/validate", body, signed_body=b"")
    assert (answer.status, answer.json["error"]) == (401, "invalid_signature")


async def test_the_same_signature_twice_is_honest(wire):
    now = str(int(time.time()))
    for _ in range(2):
        assert (await wire.call("GET", "/jobs", timestamp=now)).status == 200


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Authorization": ""}, "missing_credentials"),
        ({"Authorization": "Basic abc"}, "missing_credentials"),
        ({"Authorization": "Bearer unsb-pk-none-none-none-none"}, "invalid_key"),
        ({"X-Signature": "0" * 64}, "invalid_signature"),
        ({"X-Signature": "é"}, "invalid_signature"),
        ({"X-Signature": ""}, "missing_credentials"),
        ({"X-Timestamp": ""}, "missing_credentials"),
        ({"X-Timestamp": "now"}, "invalid_timestamp"),
        ({"X-Timestamp": "-5"}, "invalid_timestamp"),
        ({"X-Timestamp": "9" * 40}, "invalid_timestamp"),
    ],
)
async def test_a_request_that_is_not_signed_rightly_is_401(wire, changes, code):
    answer = await wire.call("GET", "/jobs", headers=changes)
    assert (answer.status, answer.json["error"]) == (401, code)
    assert wire.secret_key not in answer.raw.decode()


@pytest.mark.parametrize("offset", [-301, 301, -100_000])
async def test_a_clock_that_is_wrong_is_said_so(wire, offset):
    answer = await wire.call("GET", "/jobs", timestamp=str(int(time.time()) + offset))
    assert answer.status == 401
    assert "timestamp" in answer.json["message"]


async def test_a_clock_within_five_minutes_is_accepted(wire):
    for offset in (-290, 290):
        assert (await wire.call("GET", "/jobs", timestamp=str(int(time.time()) + offset))).status == 200


async def test_validate_tells_about_the_key(wire):
    answer = await wire.call("POST", "/keys/validate")
    assert answer.json["valid"] is True
    assert answer.json["public_key"] == wire.public_key
    wrong = await wire.call("POST", "/keys/validate", headers={"X-Signature": "0" * 64})
    assert (wrong.status, wrong.json["valid"], wrong.json["reason"]) == (401, False, "invalid_key")


async def test_health_and_languages_need_no_key(wire):
    health = await wire.call("GET", "/health", anonymous=True)
    assert (health.status, health.json["status"]) == (200, "ok")
    head = await wire.call("HEAD", "/health", anonymous=True)
    assert (head.status, head.raw) == (200, b"")
    languages = await wire.call("GET", "/languages", anonymous=True)
    assert {"python", "bash", "c", "perl"} <= set(languages.json["languages"])
    # Historical clients look at the first few alone.
    assert languages.json["languages"][0] == "python"
    assert languages.json["count"] == len(languages.json["languages"])
    assert b'"languages":[' in languages.raw
    assert set(languages.json["aliases"].values()) <= set(languages.json["languages"])


async def test_the_api_describes_itself(wire):
    document = (await wire.call("GET", "/openapi.json", anonymous=True)).json
    assert document["openapi"].startswith("3.1")
    for endpoint in ENDPOINTS:
        for method, path in ((endpoint.method, endpoint.path), *endpoint.aliases):
            assert document["paths"][path][method.lower()]["summary"] == endpoint.summary

    def references(node):
        if isinstance(node, dict):
            yield from [node["$ref"]] if "$ref" in node else []
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    found = set(references(document))
    assert found
    for reference in found:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


async def test_every_endpoint_refuses_strangers_unless_it_is_open(wire):
    for endpoint in ENDPOINTS:
        for method, path in ((endpoint.method, endpoint.path), *endpoint.aliases):
            answer = await wire.call(method, re.sub(r"\{\w+\}", "x", path), anonymous=True)
            assert (answer.status == 401) == (endpoint.auth == "signed"), (method, path)


async def test_unknown_paths_and_methods_answer_json(wire):
    nowhere = await wire.call("GET", "/nowhere")
    assert (nowhere.status, nowhere.json["error"]) == (404, "not_found")
    wrong = await wire.call("PUT", "/execute")
    assert wrong.status == 405
    assert "POST" in wrong.headers["Allow"]
    assert wrong.json["error"] == "method_not_allowed"


async def test_requests_have_ids(wire):
    ours = await wire.call("GET", "/health", headers={"X-Request-Id": "my-id.7"})
    assert ours.headers["X-Request-Id"] == "my-id.7"
    odd = await wire.call("GET", "/nowhere", headers={"X-Request-Id": "a b<script>"})
    assert odd.headers["X-Request-Id"].startswith("req_")
    assert odd.json["request_id"] == odd.headers["X-Request-Id"]
    assert "wait" in ours.headers["Unsandbox-Features"].split(",")


async def test_a_body_larger_than_the_limit_is_413(serve):
    async with serve(body_bytes=1 << 20) as (wire, _):
        answer = await wire.call("POST", "/execute", b" " * (1 << 20) + b"{}")
        assert (answer.status, answer.json["error"]) == (413, "too_large")
        chunked = header_lines(wire.headers("POST", "/execute", b"") | {"Transfer-Encoding": "chunked"})
        data = b"POST /execute HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + chunked + b"\r\n"
        data += (b"100000\r\n" + b" " * (1 << 20) + b"\r\n") * 2 + b"0\r\n\r\n"
        assert b" 413 " in (await raw_exchange(wire.url, data)).partition(b"\r\n")[0]


async def test_a_hundred_megabytes_of_code_are_refused_and_the_server_goes_on(wire):
    answer = await wire.call("POST", "/execute", b'{"language":"bash","code":"' + b"#" * 100_000_000 + b'"}')
    assert (answer.status, answer.json["error"]) == (413, "too_large")
    assert (await wire.execute("bash", "echo well")).json["stdout"] == "well\n"


async def test_chunked_bodies_and_expect_continue(wire):
    body = json.dumps({"language": "bash", "code": "echo chunked"}).encode()
    headers = wire.headers("POST", "/execute", body)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    head = b"POST /execute HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    answer = await raw_exchange(
        wire.url, head + header_lines(headers | {"Transfer-Encoding": "chunked"}) + b"\r\n" + chunks
    )
    assert b'"stdout":"chunked\\n"' in answer
    more = header_lines(headers | {"Content-Length": str(len(body)), "Expect": "100-continue"})
    answer = await raw_exchange(wire.url, head + more + b"\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b'"stdout":"chunked\\n"' in answer


async def test_a_truncated_body_starts_nothing(wire, engine):
    body = json.dumps({"language": "bash", "code": "echo cut"}).encode()
    before = (await wire.call("GET", "/jobs")).json["count"]
    headers = wire.headers("POST", "/execute", body) | {"Content-Length": str(len(body))}
    head = b"POST /execute HTTP/1.1\r\nHost: x\r\n" + header_lines(headers) + b"\r\n"
    await raw_exchange(wire.url, head + body[:-5], half_close=True)
    assert (await wire.call("GET", "/jobs")).json["count"] == before


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01secret\r\n\r\n", b"GET\r\n\r\n", b"A" * 70_000 + b" / HTTP/1.1\r\n\r\n"]
)
async def test_nonsense_is_400_and_its_bytes_are_not_logged(wire, data, caplog):
    answer = await raw_exchange(wire.url, data)
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert "secret" not in caplog.text
    assert "AAAA" not in caplog.text
    assert (await wire.call("GET", "/health")).status == 200


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nX-A: "])
async def test_headers_must_come_in_time(engine, sent):
    async with open_wire(engine, ServerConfig(port=0, idle_s=0.2), KeyPair.generate()) as (wire,):
        assert await raw_exchange(wire.url, sent) == b""


async def test_a_caller_who_leaves_does_not_end_the_job(wire):
    body = json.dumps({"language": "bash", "code": "sleep 0.3; echo survived"}).encode()
    headers = wire.headers("POST", "/execute", body) | {
        "Content-Length": str(len(body)),
        "Idempotency-Key": "left-early",
    }
    before = (await wire.call("GET", "/jobs")).json["jobs"]
    host, _, port = wire.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /execute HTTP/1.1\r\nHost: x\r\n" + header_lines(headers) + b"\r\n" + body)
    await writer.drain()
    async with asyncio.timeout(10):
        while (newest := (await wire.call("GET", "/jobs?limit=1")).json["jobs"][:1]) == before[:1]:
            await asyncio.sleep(0.005)
    writer.close()
    ended = await wire.call("GET", f"/jobs/{newest[0]['job_id']}?wait=20")
    assert ended.json["stdout"] == "survived\n"
