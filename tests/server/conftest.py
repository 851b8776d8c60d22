"""A real server on loopback, and a client that shares no code with ours: it signs by itself."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.support import signature_headers
from yarl import URL

from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.accounts.keys import FixedKeys, KeyPair, KeySettings
from unsandbox.server import Server, ServerConfig
from unsandbox.server.watchdog import LoopWatchdog


@dataclass
class Answer:
    """What came back, raw and decoded."""

    status: int
    headers: Any
    raw: bytes
    json: Any = None


@dataclass
class Wire:
    """Sends requests with a signature made here, over exactly what the test says."""

    url: str
    public_key: str
    secret_key: str = field(repr=False)
    session: aiohttp.ClientSession

    def headers(self, method: str, target: str, body: bytes, timestamp: str | None = None) -> dict[str, str]:
        """Sign: HMAC-SHA256 of `timestamp:METHOD:path:body`."""
        return signature_headers(self.public_key, self.secret_key, method, target, body, timestamp)

    async def call(
        self,
        method: str,
        target: str,
        body: bytes | dict[str, Any] | None = None,
        *,
        signed_target: str | None = None,
        signed_body: bytes | None = None,
        timestamp: str | None = None,
        headers: dict[str, str] | None = None,
        anonymous: bool = False,
    ) -> Answer:
        """Send one request and read the answer."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body or b""
        signature = self.headers(
            method, signed_target or target, data if signed_body is None else signed_body, timestamp
        )
        async with self.session.request(
            method,
            URL(self.url + target, encoded=True),
            data=io.BytesIO(data) if data else None,
            headers={} if anonymous else signature | (headers or {}),
        ) as response:
            raw = await response.read()
            answer = Answer(response.status, response.headers, raw)
            if raw:
                assert response.content_type == "application/json"
                answer.json = json.loads(raw)
            return answer

    async def execute(self, language: str, code: str, **options: Any) -> Answer:
        """`POST /execute`."""
        return await self.call("POST", "/execute", {"language": language, "code": code, **options})


@contextlib.asynccontextmanager
async def open_wire(
    engine: Engine, config: ServerConfig, *pairs: KeyPair, settings: KeySettings | None = None
) -> AsyncIterator[list[Wire]]:
    """Serve an engine and yield a client for each key pair; `settings` are those of the first one."""
    limits = {} if settings is None else {pairs[0].public_key: settings}
    server = Server(engine, FixedKeys(*pairs, settings=limits), config)
    await server.start()
    async with aiohttp.ClientSession() as session:
        yield [Wire(server.url, pair.public_key, pair.secret_key, session) for pair in pairs]
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine() -> AsyncIterator[Engine]:
    """One engine for all tests of the server."""
    engine = Engine(EngineConfig(stop_grace_s=0.0))
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def wires(engine: Engine) -> AsyncIterator[list[Wire]]:
    """Two keys on one server."""
    async with open_wire(engine, ServerConfig(port=0), KeyPair.generate(), KeyPair.generate()) as wires:
        yield wires


@pytest_asyncio.fixture(loop_scope="session")
async def watchdog() -> AsyncIterator[LoopWatchdog]:
    """Watches the event loop of server and test during a test."""
    with LoopWatchdog(on_stall=lambda _stall: None) as watchdog:
        yield watchdog


@pytest.fixture
def wire(wires: list[Wire]) -> Wire:
    """The first key."""
    return wires[0]


@pytest.fixture
def stranger(wires: list[Wire]) -> Wire:
    """Another valid key of the same server."""
    return wires[1]


@pytest.fixture
def serve(engine: Engine) -> Callable[..., AbstractAsyncContextManager[list[Wire]]]:
    """Start a further server on the same engine, with a configuration and two keys of the test's own."""

    def start(settings: KeySettings | None = None, **config: Any) -> AbstractAsyncContextManager[list[Wire]]:
        pairs = KeyPair.generate(), KeyPair.generate()
        return open_wire(engine, ServerConfig(port=0, **config), *pairs, settings=settings)

    return start
