"""Whatever ends a client's call, the processes that it started end too."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest

from unsandbox import AsyncClient, AsyncLiveSession
from unsandbox.local import LocalServer, ensure_started

CLIENT = """
import sys
from unsandbox import Client
url, public, secret, session = sys.argv[1:]
client = Client(public, secret, base_url=url)
client.attach_session(session).start("exec sleep 7654321")
client.attach_session(session).start("exec sleep 7654322", detach=True)
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> LocalServer:
    return ensure_started()


@pytest.fixture
async def session(server: LocalServer) -> AsyncIterator[AsyncLiveSession]:
    client = AsyncClient(server.public_key, server.secret_key, base_url=server.url)
    async with client, client.session() as made:
        yield made


async def sleepers(session: AsyncLiveSession) -> list[str]:
    """Return the command lines of the sleeping programs of a session."""
    listed = await session.exec(
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -ao 'sleep [7]65432[0-9]'; true"
    )
    return listed.text.split("\n")[:-1]


async def settled(session: AsyncLiveSession, count: int, seconds: float = 20) -> list[str]:
    """Return the sleeping programs when they are so few, or after some time."""
    ends = time.monotonic() + seconds
    while len(found := await sleepers(session)) > count and time.monotonic() < ends:
        await asyncio.sleep(1)  # Each look is a process, and only the last 64 that ended are listed.
    return found


async def test_a_cancelled_call_leaves_no_process(session: AsyncLiveSession) -> None:
    async def execute() -> None:
        await session.exec("setsid sleep 7654323 & exec sleep 7654324")

    async def follow() -> None:
        await session.exec("exec sleep 7654325", on_stdout=print, stdin=iter([b"x"]))

    async def live() -> None:
        async with await session.start("exec sleep 7654326", terminal=(80, 24)) as process:
            await process.wait()

    chosen = random.Random(5)
    for _ in range(40):
        task = asyncio.create_task(chosen.choice((execute, follow, live))())
        await asyncio.wait({task}, timeout=chosen.random() * 0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await settled(session, 0) == []


@pytest.mark.slow
async def test_the_processes_of_a_dead_client_end(session: AsyncLiveSession, server: LocalServer) -> None:
    words = [sys.executable, "-c", CLIENT, server.url, server.public_key, server.secret_key, session.id]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert await asyncio.to_thread(client.stdout.readline) == b"started\n"
        assert await sleepers(session) == ["sleep 7654321", "sleep 7654322"]
        client.kill()
    assert await settled(session, 1, seconds=60) == ["sleep 7654322"]
    reasons = {(process.argv or [""])[-1]: process.reason for process in await session.processes()}
    assert (reasons["exec sleep 7654321"], reasons["exec sleep 7654322"]) == ("lease", None)
