"""Floods of one key, or of a stranger, against a server: `python benchmarks/floods.py KIND URL PUBLIC SECRET`.

Prints a line when the flood is under way and goes on until it is ended. `fair_sharing.py` measures another key meanwhile,
`server_memory.py` what the server holds afterwards. Only against a server of your own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp

IN_FLIGHT = 64
MIB = 1 << 20
APP = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/interim":
            while True:
                self.wfile.write(1000 * b"HTTP/1.1 100 Continue\\r\\n\\r\\n")
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()
"""
COSTLY = "import sys\nfor f in (sys.stdout, sys.stderr): f.buffer.write(b'\\x01' * (10 << 20)); f.flush()"


class Attacker:
    """A key, and what it sends. Requests are signed here, as any client can."""

    def __init__(self, url: str, public: str, secret: str, http: aiohttp.ClientSession) -> None:
        self.url, self.public, self.secret, self.http = url, public, secret, http
        place = urlsplit(url)
        self.address = str(place.hostname), int(place.port or 0)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send a signed request; return the decoded answer, or None of one that is refused or larger than 64 KiB."""
        data = b"" if body is None else json.dumps(body).encode()
        stamp = str(int(time.time()))
        message = f"{stamp}:{method}:{path}:".encode() + data
        signed = {
            "Authorization": f"Bearer {self.public}",
            "X-Timestamp": stamp,
            "X-Signature": hmac.new(self.secret.encode(), message, hashlib.sha256).hexdigest(),
            "Content-Type": "application/json",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, self.url + path, data=data or None, headers=signed) as response:
            first = await response.content.read(65536)
            size = len(first)
            async for part in response.content.iter_chunked(65536):
                size += len(part)
        if response.status >= 300:
            await asyncio.sleep(0.02)
            return None
        return json.loads(first) if size == len(first) else {}

    async def service(self, script: str) -> str:
        """Start a service; return its id."""
        body = {"name": f"flood-{time.time_ns()}", "bootstrap_content": script, "ports": [8000]}
        return str((await self.call("POST", "/services", body | {"network": "zerotrust"}))["service_id"])

    async def session(self) -> str:
        """Start a session; return its id."""
        return str((await self.call("POST", "/sessions", {"network": "zerotrust"}))["session_id"])

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send bytes."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(data)
        return reader, writer


Work = Callable[[], Awaitable[object]]
Flood = Callable[[Attacker], Awaitable[tuple[Work, int]]]
"""Prepares a flood; returns a piece of work and how many of it go on at a time."""
FLOODS: dict[str, Flood] = {}


def flood(function: Flood) -> Flood:
    """Declare a flood; its name is the function's."""
    FLOODS[function.__name__.replace("_", " ")] = function
    return function


def _jobs(name: str, language: str, code: str, width: int = IN_FLIGHT) -> None:
    async def prepare(attacker: Attacker) -> tuple[Work, int]:
        return lambda: attacker.call("POST", "/execute", {"language": language, "code": code, "ttl": 5}), width

    FLOODS[name] = prepare


_jobs("computing", "bash", "while :; do :; done")
_jobs("sleeping", "bash", "sleep 100")
_jobs("writing", "bash", "yes")
_jobs("forking", "bash", "for i in $(seq 100); do sleep 100 & done; wait")
_jobs("costly output", "python", COSTLY, 4)


@flood
async def unsigned_bodies(attacker: Attacker) -> tuple[Work, int]:
    """150 MiB with a public key and a wrong signature, the end withheld for a while."""
    head = (
        f"POST /execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {attacker.public}\r\n"
        f"X-Timestamp: {int(time.time())}\r\nX-Signature: {'0' * 64}\r\nContent-Length: {150 * MIB}\r\n\r\n"
    )

    async def work() -> None:
        _, writer = await attacker.raw(head.encode())
        with contextlib.closing(writer):
            for _ in range(149):
                writer.write(bytes(MIB))
                await writer.drain()
            await asyncio.sleep(1)

    return work, 4


@flood
async def stored_replies(attacker: Attacker) -> tuple[Work, int]:
    """Commands in a service with an Idempotency-Key each and 10 MiB of output."""
    service, numbers = await attacker.service("sleep 100000"), itertools.count(time.time_ns())
    command = {"command": "head -c 10000000 /dev/zero | tr '\\0' a"}
    path = f"/services/{service}/execute"
    return lambda: attacker.call("POST", path, command, Idempotency_Key=f"flood-{next(numbers)}"), 4


@flood
async def custom_domains(attacker: Attacker) -> tuple[Work, int]:
    """300,000 domains for a service; and two million numbers where a list of ports belongs."""
    service = await attacker.service("sleep 100000")
    body = {"custom_domains": ["a.bcd"] * 300_000}
    return lambda: attacker.call("PUT", f"/services/{service}/domains", body), 4


@flood
async def processes_in_sessions(attacker: Attacker) -> tuple[Work, int]:
    """Processes that fork until they are killed, in four sessions."""
    sessions = itertools.cycle([await attacker.session() for _ in range(4)])
    body = {"command": "for i in $(seq 50); do (sleep 1 &) ; done; wait", "timeout": 2000}
    return lambda: attacker.call("POST", f"/sessions/{next(sessions)}/exec", body), 16


@flood
async def output_of_processes(attacker: Attacker) -> tuple[Work, int]:
    """Processes that write without end and keep 64 MiB of it, in four sessions."""
    sessions = itertools.cycle([await attacker.session() for _ in range(4)])
    body = {"command": "yes", "timeout": 3000, "output_bytes": 64 * MIB}
    return lambda: attacker.call("POST", f"/sessions/{next(sessions)}/exec", body), 8


@flood
async def file_listings(attacker: Attacker) -> tuple[Work, int]:
    """Lists of a folder with 20,000 files, and searches through it."""
    session = await attacker.session()
    make = "mkdir -p /work/many && cd /work/many && seq 20000 | xargs touch"
    await attacker.call("POST", f"/sessions/{session}/exec", {"command": make})
    kinds = itertools.cycle(
        [
            ("list", {"path": "/work/many", "limit": 1000}),
            ("glob", {"path": "/work", "pattern": "**/*1*"}),
        ]
    )

    async def work() -> None:
        kind, body = next(kinds)
        await attacker.call("POST", f"/sessions/{session}/files/{kind}", body)

    return work, 8


async def _app(attacker: Attacker) -> str:
    """Start a service that answers; return its host name."""
    name = f"app-{time.time_ns()}"
    body = {"name": name, "bootstrap_content": "cat > /tmp/a.py <<'E'\n" + APP + "\nE\nexec python3 /tmp/a.py"}
    await attacker.call("POST", "/services", body | {"ports": [8000], "network": "zerotrust"})
    host = f"{name}.localhost:{attacker.address[1]}"
    for _ in range(300):
        async with attacker.http.get(attacker.url, headers={"Host": host}) as response:
            if response.status == 200:
                return host
        await asyncio.sleep(0.1)
    raise SystemExit("the service does not answer")


@flood
async def ingress_visitors(attacker: Attacker) -> tuple[Work, int]:
    """Visitors of a service, each on a new connection."""
    request = f"GET / HTTP/1.1\r\nHost: {await _app(attacker)}\r\nConnection: close\r\n\r\n".encode()

    async def work() -> None:
        reader, writer = await attacker.raw(request)
        with contextlib.closing(writer):
            await reader.read()

    return work, IN_FLIGHT


@flood
async def interim_answers(attacker: Attacker) -> tuple[Work, int]:
    """Visitors of a service that answers `100 Continue` without end."""
    request = f"GET /interim HTTP/1.1\r\nHost: {await _app(attacker)}\r\n\r\n".encode()

    async def work() -> None:
        reader, writer = await attacker.raw(request)
        with contextlib.closing(writer):
            await reader.read()

    return work, 8


@flood
async def slow_heads(attacker: Attacker) -> tuple[Work, int]:
    """Connections that send 60 KiB of a head and no more."""
    head = b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(
        b"X-%d: %b\r\n" % (n, b"a" * 7000) for n in range(8)
    )

    async def work() -> None:
        reader, writer = await attacker.raw(head)
        with contextlib.closing(writer):
            await asyncio.wait_for(reader.read(), 5)

    return work, 200


@flood
async def large_results(attacker: Attacker) -> tuple[Work, int]:
    """Answers with a stored result of 20 MiB, again and again."""
    job = await attacker.call("POST", "/execute/async", {"language": "python", "code": COSTLY})
    path = f"/jobs/{job['job_id']}"
    while (await attacker.call("GET", path) or {}).get("status") in ("pending", "running"):
        await asyncio.sleep(0.1)
    return lambda: attacker.call("GET", path), 4


@flood
async def requests_that_are_refused(attacker: Attacker) -> tuple[Work, int]:
    """Ten megabytes of JSON that no type accepts."""
    body = {"language": "python", "code": "", "env": {"A": ["x" * 100] * 100_000}}
    return lambda: attacker.call("POST", "/execute", body), 4


async def run(kind: str, url: str, public: str, secret: str) -> None:
    """Flood until this process is ended."""
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        work, width = await FLOODS[kind](Attacker(url, public, secret, http))

        async def repeat() -> None:
            while True:
                try:
                    await work()
                except (OSError, aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(repeat())
            await asyncio.sleep(1.0)
            print(kind, flush=True)


async def tidy(url: str, public: str, secret: str) -> None:
    """Delete sessions and services of a key, and cancel its jobs."""
    async with aiohttp.ClientSession() as http:
        attacker = Attacker(url, public, secret, http)
        for kind, name in (("sessions", "session_id"), ("services", "service_id")):
            for one in (await attacker.call("GET", f"/{kind}") or {}).get(kind, []):
                await attacker.call("DELETE", f"/{kind}/{one[name]}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(*sys.argv[1:5]))
