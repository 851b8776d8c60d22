"""Nothing is left running, whoever cancels: scopes of anyio, web frameworks, a client that is closed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from tests.support import Serve

import un_async
from unsandbox import AsyncClient, Client, ClientStateError, UnsandboxError

ROOT = Path(__file__).resolve().parents[2]
LONG = ("bash", "echo begun; sleep 600")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(params=["embedded", "served"])
def make(request: pytest.FixtureRequest) -> Callable[[], AsyncClient]:
    """What makes a client of an engine in this process, and of a server."""
    if request.param == "embedded":
        return AsyncClient.local
    served: Serve = request.getfixturevalue("served")
    return lambda: AsyncClient(*served.keys(), base_url=served.url)


async def left(client: AsyncClient) -> list[str]:
    """Return the ids of jobs and sessions on the server."""
    jobs = [job.job_id for job in await client.list_jobs(limit=1000) if not job.done]
    return [str(name) for name in (*jobs, *(session.session_id for session in await client.list_sessions()))]


async def begun(client: AsyncClient, before: list[str]) -> None:
    """Return when something runs that did not run before."""
    with anyio.fail_after(60):
        while not set(await left(client)) - set(before):
            await anyio.sleep(0.02)


async def ends(client: AsyncClient, before: list[str]) -> bool:
    """Tell whether all that was begun has ended, soon."""
    with anyio.move_on_after(20):
        while set(await left(client)) - set(before):
            await anyio.sleep(0.05)
        return True
    return False


async def execute(client: AsyncClient) -> None:
    await client.execute(*LONG, timeout=300)


async def stream(client: AsyncClient) -> None:
    async for _ in client.stream(*LONG):
        pass


async def stream_in_a_block(client: AsyncClient) -> None:
    async with client.stream(*LONG) as events:
        async for _ in events:
            await anyio.sleep(300)


async def mapped(client: AsyncClient) -> None:
    async for outcome in client.map([LONG] * 3):
        if outcome.error is not None:
            raise outcome.error


async def session(client: AsyncClient) -> None:
    async with client.session(shell="bash") as made:
        await made.run("sleep 600", timeout=600)


async def wait(client: AsyncClient) -> None:
    job = await client.submit(*LONG)
    await client.wait(job.job_id or "")


WAYS = [execute, stream, stream_in_a_block, mapped, session, wait]


@pytest.mark.parametrize("way", WAYS)
async def test_a_scope_that_is_cancelled_leaves_nothing(
    make: Callable[[], AsyncClient], way: Callable[[AsyncClient], Coroutine[Any, Any, None]]
) -> None:
    async with make() as client:
        before = await left(client)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(way, client)
                await begun(client, before)
                scope.cancel()
        assert scope.cancelled_caught
        assert await ends(client, before)


async def test_closing_waits_for_clean_ups(make: Callable[[], AsyncClient]) -> None:
    async with make() as watch:
        before = await left(watch)
        async with make() as client, anyio.create_task_group() as group:
            for way in (execute, stream, session):
                group.start_soon(way, client)
            await begun(watch, before)
            group.cancel_scope.cancel()
        # Not "soon": the block of the client ends only when all is done.
        assert set(await left(watch)) <= set(before)


async def test_calls_of_a_client_that_is_closed_leave_nothing(make: Callable[[], AsyncClient]) -> None:
    async with make() as watch:
        before = await left(watch)
        async with make() as client:
            calls = [asyncio.create_task(way(client)) for way in (execute, stream, mapped, session, wait)]
            await begun(watch, before)
        closed = time.monotonic()
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, UnsandboxError), error
        # A stream without an event is given up after a minute: closing does not wait for that.
        assert time.monotonic() - closed < 45
        assert await ends(watch, before)


def test_the_functions_leave_nothing_also_when_the_loop_ends_at_once(
    served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, secret = served.keys()
    monkeypatch.setattr(un_async, "API_BASE", served.url)
    with Client(public, secret, base_url=served.url) as watch:
        before = {job.job_id for job in watch.list_jobs(limit=1000)}

        async def main() -> None:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(un_async.execute_code, *LONG, public, secret)
                    while len(await un_async.list_jobs(public, secret, limit=1000)) == len(before):
                        await anyio.sleep(0.02)
                    scope.cancel()

        anyio.run(main)
        states = [job.status for job in watch.list_jobs(limit=1000) if job.job_id not in before]
        assert states == ["cancelled"]


@pytest.mark.parametrize("call", [lambda: execute(AsyncClient.local()), lambda: un_async.execute_code(*LONG)])
def test_trio_is_told_what_to_do(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSANDBOX_API_BASE", "local")
    with pytest.raises(ClientStateError, match=r"trio\.to_thread\.run_sync"):
        trio.run(call)


@contextlib.asynccontextmanager
async def uvicorn(app: str, folder: Path, env: dict[str, str]) -> AsyncIterator[int]:
    """Serve an application on a port."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "error"]
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=env, stderr=subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
        assert process.returncode in (0, -signal.SIGTERM), errors.decode()


async def visit(port: int, path: str, body: bytes, until: bytes | None, stay_s: float = 0.0) -> None:
    """Send a request, read until some bytes have come, stay a while, and go away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    seen = b""
    while until is not None and until not in seen:
        piece = await reader.read(1000)
        assert piece, seen
        seen += piece
    await asyncio.sleep(stay_s)
    writer.close()


async def test_the_example_ends_the_programs_of_visitors_who_leave(served: Serve) -> None:
    public, secret = served.keys()
    env = os.environ | {
        "UNSANDBOX_API_BASE": served.url,
        "UNSANDBOX_PUBLIC_KEY": public,
        "UNSANDBOX_SECRET_KEY": secret,
    }
    async with AsyncClient(public, secret, base_url=served.url) as watch:
        before = await left(watch)
        async with uvicorn("fastapi_app:app", ROOT / "examples", env) as port:
            body = b'{"language": "bash", "code": "echo begun; sleep 600"}'
            await asyncio.gather(*(visit(port, "/stream", body, b"begun") for _ in range(4)))
            await asyncio.gather(*(visit(port, "/stream", body, None) for _ in range(4)))
            assert await ends(watch, before)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nothing_runs_on_after_two_hundred_visitors_who_leave(served: Serve) -> None:
    public, secret = served.keys()
    env = os.environ | {
        "UNSANDBOX_API_BASE": served.url,
        "UNSANDBOX_PUBLIC_KEY": public,
        "UNSANDBOX_SECRET_KEY": secret,
    }
    chance = random.Random(1)
    body = b'{"language": "bash", "code": "echo begun; sleep 600"}'

    async def leave(port: int) -> None:
        path = chance.choice(["/run", "/stream"])
        until = b"begun" if path == "/stream" and chance.random() < 0.4 else None
        await visit(port, path, body, until, chance.random() / 2)

    async with AsyncClient(public, secret, base_url=served.url) as watch:
        before = await left(watch)
        async with uvicorn("fastapi_app:app", ROOT / "examples", env) as port:
            for _ in range(25):
                await asyncio.gather(*(leave(port) for _ in range(8)))
            assert await ends(watch, before)


async def test_a_dead_server_holds_up_the_end_of_a_client_for_a_bounded_time(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.client.fake import OURS, Hang, reply

    from unsandbox._async import execution

    monkeypatch.setattr(execution, "CLEAN_UP_S", 0.3)
    running = reply(200, {"job_id": "j1", "status": "running"}, OURS)
    fake.routes(POST_execute=running, GET_jobs=Hang(), DELETE_jobs=Hang())
    began = time.monotonic()
    async with AsyncClient("unsb-pk-1", "unsb-sk-1", base_url=fake.url) as client:
        with anyio.move_on_after(0.2):
            await client.execute("python", "x")
    assert "DELETE /jobs/j1" in fake.seen()
    assert time.monotonic() - began < 10
