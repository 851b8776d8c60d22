"""Bodies whose signatures are not checked yet: bounded in memory and time, whoever sends them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.server.conftest import Wire
from tests.support import Serve, signature_headers
from yarl import URL

from unsandbox.server import body as bodies
from unsandbox.server import unproved
from unsandbox.server.unproved import Busy, UnprovedBytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20
SIZE = 40 * MIB


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) << 10


async def withheld(
    url: str, public_key: str, path: str, data: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send all but the last byte of a body with a wrong signature, under a key that is valid."""
    place = URL(url)
    reader, writer = await asyncio.open_connection(place.host, place.port)
    headers = signature_headers(public_key, "wrong", "POST", path, data)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{lines}\r\n".encode())
    for start in range(0, len(data) - 1, MIB):
        writer.write(data[start : min(start + MIB, len(data) - 1)])
        await writer.drain()
    return reader, writer


@pytest.mark.parametrize(
    "text",
    [
        b'{"language":"bash","code":"' + b"x" * SIZE + b'"}',
        pytest.param(b'{"x":[' + b"0," * (SIZE // 2) + b"0]}", marks=pytest.mark.slow),
        b'{"input_files":[{"content":"' + b"QUJD" * (SIZE // 4) + b"!" * 100_000 + b'"}]}',
    ],
    ids=["program", "numbers", "almost base64"],
)
async def test_large_bodies_with_a_wrong_signature_take_no_memory(tmp_path: Path, text: bytes) -> None:
    with Serve(tmp_path) as server:
        public_key, _ = server.keys()
        _, first = await withheld(
            server.url, public_key, "/execute", b'{"language":"bash","code":"' + b"x" * MIB
        )
        await asyncio.sleep(0.5)
        before = resident(server.process.pid)
        writers = [(await withheld(server.url, public_key, "/execute", text))[1] for _ in range(3)]
        await asyncio.sleep(1.0)
        assert resident(server.process.pid) - before < SIZE
        for writer in (first, *writers):
            writer.transport.abort()


async def test_a_body_that_comes_too_slowly_is_given_up(wire: Wire, monkeypatch) -> None:
    monkeypatch.setattr(bodies, "_GRACE_S", 0.2)
    monkeypatch.setattr(bodies, "_SLOWEST_BYTES_PER_S", MIB)
    for size in (1000, 2 * MIB):
        reader, writer = await withheld(wire.url, wire.public_key, "/execute", b"{" + b" " * size)
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
        assert b" 400 " in head
        writer.transport.abort()


async def test_a_large_body_of_json_does_not_hold_the_loop(wire: Wire, watchdog) -> None:
    many = b'{"language":"bash","code":"true","x":[' + b"{}," * (8 * MIB // 3) + b"{}]}"
    answer = await wire.call("POST", "/execute", many)
    assert (answer.status, answer.json["error"]) == (400, "invalid_json")
    assert "JSON values" in answer.json["message"]
    long = json.dumps({"language": "bash", "code": "true", "stdin": "x" * (24 * MIB)}).encode()
    assert (await wire.call("POST", "/execute", long)).json["exit_code"] == 0
    assert [stall for stall in watchdog.stalls if stall.cpu_s > 0.5] == []


async def test_json_without_files_has_a_bound(wire: Wire, monkeypatch) -> None:
    monkeypatch.setattr(bodies, "TEXT_BYTES", 4 * MIB)
    answer = await wire.execute("bash", "true", stdin="x" * (5 * MIB))
    assert answer.status == 413
    assert "input files" in answer.json["message"]


async def test_each_address_has_a_share_and_releases_it(monkeypatch) -> None:
    monkeypatch.setattr(unproved, "_WAIT_S", 0.05)
    held = UnprovedBytes()
    async with held.memory("one", unproved.MEMORY_OF_ONE):
        with pytest.raises(Busy):
            async with held.memory("one", 1):
                pass
        async with held.memory("other", unproved.MEMORY_OF_ONE):
            pass
        waiting = asyncio.create_task(enter(held))
        await asyncio.sleep(0.01)
    assert await waiting
    assert not held.in_memory
    with held.disk("one") as charge:
        charge(unproved.DISK_OF_ONE)
        with pytest.raises(Busy):
            charge(1)
    assert not held.on_disk


async def enter(held: UnprovedBytes) -> bool:
    async with held.memory("one", 1):
        return True
