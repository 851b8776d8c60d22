"""Bodies with large files: checked and taken apart as they come, and nothing is kept of what is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Wire
from yarl import URL

from unsandbox.server.body import LARGE_AT_ONCE

pytestmark = pytest.mark.asyncio(loop_scope="session")

LARGE = os.urandom(1_500_000)
SUM = "cd /tmp/input && sha256sum * | cut -c1-64"


def body(content: str, **further: Any) -> dict[str, Any]:
    return {"language": "bash", "code": SUM, "input_files": [{"filename": "a", "content": content}], **further}


def spools() -> int:
    """Return how many files without a name this process holds."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return sum(link.startswith("/var/tmp/") and link.endswith("(deleted)") for link in links)


async def gone(before: int) -> None:
    """Wait until there are no more such files than before."""
    for _ in range(1000):
        if spools() <= before:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{spools() - before} files are left")


@pytest.mark.parametrize("name", ["content", "content_base64"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
async def test_a_large_file_arrives(wire: Wire, name: str, end: str) -> None:
    before = spools()
    content = base64.b64encode(LARGE).decode() + end
    answer = await wire.execute("bash", SUM, input_files=[{"filename": "a", name: content}])
    assert answer.json["stdout"].strip() == hashlib.sha256(LARGE).hexdigest()
    await gone(before)


async def test_what_is_not_base64_is_text(wire: Wire) -> None:
    for text in (
        "A" * 1_500_001,
        "B" * 1_500_000 + "ä",
        "C" * 1_400_000 + "=" + "D" * 100_003,
        "\\n" * 700_000,
    ):
        answer = await wire.call("POST", "/execute", body(text))
        assert answer.json["stdout"].strip() == hashlib.sha256(text.encode()).hexdigest()


async def test_only_files_are_taken_out(wire: Wire) -> None:
    long = base64.b64encode(LARGE[:90_000]).decode()
    code = f'echo -n \'"content":"{long}"\' | sha256sum; echo -n $content | sha256sum'
    request = {
        "env": {"content": long[:100_000]},
        "input_files": [{"filename": "a", "content": long}],
        "code": code,
        "language": "bash",
        "x": "y" * (1 << 20),
    }
    answer = await wire.call("POST", "/execute", request)
    said = [f'"content":"{long}"', long[:100_000]]
    assert answer.json["stdout"].split()[::2] == [hashlib.sha256(text.encode()).hexdigest() for text in said]


async def test_a_wrong_signature_leaves_nothing(wire: Wire) -> None:
    before = spools()
    data = json.dumps(body(base64.b64encode(LARGE).decode())).encode()
    answer = await wire.call("POST", "/execute", data, signed_body=data[:-1] + b" }")
    assert (answer.status, answer.json["error"]) == (401, "invalid_signature")
    jobs = (await wire.call("GET", "/jobs?limit=1")).json["jobs"]
    await gone(before)
    assert (await wire.call("GET", "/jobs?limit=1")).json["jobs"] == jobs


async def test_historical_signatures_fit_large_bodies(wire: Wire) -> None:
    path, large = "/sessions/none", {"x": "y" * 1_500_000}
    for signed, status in ((path, 404), (f"{path}?audit=1", 404), ("/sessions", 401)):
        answer = await wire.call("DELETE", f"{path}?audit=1", large, signed_target=signed)
        assert answer.status == status


async def test_the_body_may_come_in_chunks(wire: Wire) -> None:
    data = json.dumps(body(base64.b64encode(LARGE).decode())).encode()

    async def pieces() -> Any:
        for start in range(0, len(data), 77_777):
            yield data[start : start + 77_777]

    headers = wire.headers("POST", "/execute", data)
    async with wire.session.post(URL(wire.url + "/execute"), data=pieces(), headers=headers) as response:
        assert (await response.json())["stdout"].strip() == hashlib.sha256(LARGE).hexdigest()


async def begun(wire: Wire) -> asyncio.StreamWriter:
    """Return a connection with an upload that has begun and goes no further."""
    before = spools()
    data = json.dumps(body(base64.b64encode(LARGE).decode())).encode()
    url = URL(wire.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    lines = [f"{name}: {value}\r\n" for name, value in wire.headers("POST", "/execute", data).items()]
    head = f"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{''.join(lines)}\r\n"
    writer.write(head.encode() + data[:1_200_000])
    await writer.drain()
    for _ in range(1000):
        if spools() > before:
            return writer
        await asyncio.sleep(0.01)
    raise AssertionError("the file never began")


async def test_an_upload_that_is_broken_off_leaves_nothing(wire: Wire) -> None:
    before = spools()
    writer = await begun(wire)
    writer.transport.abort()
    await gone(before)


async def test_large_bodies_of_one_key_take_turns(wire: Wire, stranger: Wire) -> None:
    before = spools()
    writers = [await begun(wire) for _ in range(LARGE_AT_ONCE)]
    request = body(base64.b64encode(LARGE).decode())
    waiting = asyncio.create_task(wire.call("POST", "/execute", request))
    assert (await stranger.call("POST", "/execute", request)).json["exit_code"] == 0
    assert (await wire.execute("bash", "echo small")).json["stdout"] == "small\n"
    assert not waiting.done()
    assert spools() == before + LARGE_AT_ONCE
    writers[0].transport.abort()
    assert (await waiting).json["exit_code"] == 0
    for writer in writers:
        writer.transport.abort()
    await gone(before)


async def test_too_much_is_refused_before_it_is_read(wire: Wire) -> None:
    before = spools()
    url = URL(wire.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    lines = [f"{name}: {value}\r\n" for name, value in wire.headers("POST", "/execute", b"").items()]
    head = f"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n{''.join(lines)}\r\n"
    writer.write(head.encode())
    assert b" 413 " in await reader.readline()
    writer.transport.abort()
    assert spools() <= before


async def test_the_same_key_with_another_large_file_is_a_conflict(wire: Wire) -> None:
    headers = {"Idempotency-Key": os.urandom(8).hex()}
    first, other = (base64.b64encode(LARGE[:-1] + end).decode() for end in (b"a", b"b"))
    answers = [
        await wire.call("POST", "/execute", body(content), headers=headers) for content in (first, first)
    ]
    assert answers[0].json["job_id"] == answers[1].json["job_id"]
    answer = await wire.call("POST", "/execute", body(other), headers=headers)
    assert (answer.status, answer.json["error"]) == (409, "idempotency_key_reused")
