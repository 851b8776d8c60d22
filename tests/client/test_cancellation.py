"""A task that is cancelled at any moment leaves no job behind and is not held up for long."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.client.fake import OURS, PUBLIC, SECRET, FakeServer, Hang, Request, reply
from tests.support import default_signals

from unsandbox import AsyncClient, local
from unsandbox._async import execution

RUNNING = {"job_id": "j1", "status": "running"}


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something has happened."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def cancel_when(call: Coroutine[Any, Any, Any], condition: Callable[[], bool]) -> float:
    """Cancel a call once something has happened; return how long it took to end."""
    task = asyncio.create_task(call)
    await until(condition)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began


@pytest.fixture
def client(fake: FakeServer) -> AsyncClient:
    return AsyncClient(PUBLIC, SECRET, base_url=fake.url)


async def test_with_a_known_id(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes(
        POST_execute=reply(200, RUNNING, OURS),
        GET_jobs=Hang(),
        DELETE_jobs=reply(200, RUNNING | {"status": "cancelled", "stdout": ""}),
    )
    async with client:
        await cancel_when(client.execute("python", "x"), lambda: len(fake.requests) == 2)
        assert fake.seen() == ["POST /execute", "GET /jobs/j1?wait=20.0", "DELETE /jobs/j1"]


async def test_before_the_id_is_known(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes(
        GET_health=reply(200, {}, OURS),
        POST_execute=Hang(),
        POST_execute_async=reply(200, RUNNING, OURS),
        DELETE_jobs=reply(200, RUNNING | {"status": "cancelled", "stdout": ""}),
    )
    async with client:
        await cancel_when(client.execute("python", "x"), lambda: len(fake.requests) == 1)
        assert fake.seen() == ["POST /execute", "GET /health", "POST /execute/async", "DELETE /jobs/j1"]


async def test_while_submitting(client: AsyncClient, fake: FakeServer) -> None:
    first = iter([True])

    def submit(_: Request) -> Any:
        return Hang() if next(first, False) else reply(200, RUNNING, OURS)

    fake.routes(
        GET_health=reply(200, {}, OURS),
        POST_execute_async=submit,
        DELETE_jobs=reply(200, RUNNING | {"status": "cancelled", "stdout": ""}),
    )
    async with client:
        await cancel_when(client.submit("python", "x"), lambda: len(fake.requests) == 1)
        assert fake.seen()[-1] == "DELETE /jobs/j1"


@pytest.mark.parametrize("keep", [False, True])
async def test_while_waiting(client: AsyncClient, fake: FakeServer, keep: bool) -> None:
    def look(request: Request) -> Any:
        return Hang() if "wait=" in request.target else reply(200, RUNNING, OURS)

    fake.routes(GET_jobs=look, DELETE_jobs=reply(200, RUNNING))
    async with client:
        await cancel_when(client.wait("j1", keep=keep), lambda: len(fake.requests) == 2)
        assert ("DELETE /jobs/j1" in fake.seen()) is not keep


async def test_nothing_is_cleaned_up_when_nothing_was_sent(fake: FakeServer) -> None:
    fake.script(Hang())
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, max_connections=1) as client:
        holder = asyncio.create_task(client.get_job("j1"))
        await until(lambda: len(fake.requests) == 1)
        queued = asyncio.create_task(client.execute("python", "x"))
        await asyncio.sleep(0)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        holder.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holder
    assert fake.seen() == ["GET /jobs/j1"]


async def test_jobs_can_be_ended_while_all_connections_are_held(fake: FakeServer) -> None:
    fake.routes(
        POST_execute=Hang(),
        POST_execute_async=reply(200, RUNNING, OURS),
        GET_health=reply(200, {}, OURS),
        DELETE_jobs=reply(200, RUNNING | {"status": "cancelled", "stdout": ""}, OURS),
    )
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, max_connections=1) as client:
        held = asyncio.create_task(client.execute("python", "x"))
        await until(lambda: len(fake.requests) == 1)
        assert (await client.cancel("j2")).status == "cancelled"
        queued = asyncio.create_task(client.execute("python", "y"))
        await asyncio.sleep(0)
        held.cancel()
        # The queued call takes the connection that this one leaves, and this one is cleaned up all the same.
        with pytest.raises(asyncio.CancelledError):
            await held
        # Either may come first: the queued call took the connection at once.
        assert "DELETE /jobs/j1" in fake.seen()
        await until(lambda: fake.seen().count("POST /execute") == 2)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued


async def test_a_server_that_is_dead_holds_nobody_up(
    client: AsyncClient, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "CLEAN_UP_S", 0.2)
    fake.routes(POST_execute=reply(200, RUNNING, OURS), GET_jobs=Hang(), DELETE_jobs=Hang())
    async with client:
        took = await cancel_when(client.execute("python", "x"), lambda: len(fake.requests) == 2)
    assert 0.15 < took < 2


async def test_a_second_cancellation_is_obeyed_at_once(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes(POST_execute=reply(200, RUNNING, OURS), GET_jobs=Hang(), DELETE_jobs=Hang())
    async with client:
        task = asyncio.create_task(client.execute("python", "x"))
        await until(lambda: len(fake.requests) == 2)
        task.cancel()
        await until(lambda: len(fake.requests) == 3)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 1


async def test_a_cancellation_during_the_clean_up_after_a_deadline_is_obeyed_after_it(
    client: AsyncClient, fake: FakeServer
) -> None:
    go = threading.Event()

    def delete(_: Request) -> Any:
        go.wait(10)
        return reply(200, RUNNING | {"status": "cancelled", "stdout": ""})

    fake.routes(POST_execute=reply(200, RUNNING, OURS), GET_jobs=Hang(), DELETE_jobs=delete)
    async with client:
        task = asyncio.create_task(client.execute("python", "x", timeout=0.1))
        await until(lambda: "DELETE /jobs/j1" in fake.seen())
        task.cancel()
        for _ in range(9):
            await asyncio.sleep(0)
        assert not task.done(), "the job is still being ended"
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelled_at_every_step_no_job_survives() -> None:
    engine = await asyncio.to_thread(local.ensure_started)
    async with AsyncClient(engine.public_key, engine.secret_key, base_url=engine.url) as client:
        await client.health()
        tasks = []
        for step in range(12):
            task = asyncio.create_task(client.execute("bash", f"sleep 60 # {step}"))
            tasks.append(task)
            # Cut off after another number of turns of the loop each time: before sending, while sending, later.
            for _ in range(step * 2):
                await asyncio.sleep(0.0005 * step)
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*tasks, return_exceptions=True)
        )
        states = [job.status for job in (await client.list_jobs(limit=1000)).jobs]
        assert "running" not in states
        assert "pending" not in states


def test_ctrl_c_cancels_the_job_of_the_sync_client(fake: FakeServer) -> None:
    fake.routes(
        POST_execute=reply(200, RUNNING, OURS),
        GET_jobs=Hang(),
        DELETE_jobs=reply(200, RUNNING | {"status": "cancelled", "stdout": ""}),
    )
    script = (
        f"import un, sys; un.API_BASE = sys.argv[1]; un.execute_code('python', 'x', {PUBLIC!r}, {SECRET!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, fake.url], stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=default_signals,
    ) as process:  # fmt: skip
        ends = time.monotonic() + 20
        while len(fake.requests) < 2:
            assert time.monotonic() < ends
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert fake.seen()[-1] == "DELETE /jobs/j1"


async def test_a_session_whose_making_is_cancelled_at_any_moment_leaves_none_behind() -> None:
    async def block(client: AsyncClient) -> None:
        async with client.session(shell="bash") as session:
            await session.run("true")

    async with AsyncClient.local() as client:
        began = time.monotonic()
        await block(client)
        whole = time.monotonic() - began
        for step in range(12):
            work = block(client) if step % 2 else client.create_session()
            task = asyncio.create_task(work)
            await asyncio.sleep(whole * step / 12)
            if not task.cancel():
                if step % 2 == 0:
                    await client.delete_session((await task).session_id)
                continue
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await client.list_sessions()).sessions == []
