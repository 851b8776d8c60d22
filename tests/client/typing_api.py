"""Never run: what type checkers must make of the public API. `test_typing.py` gives it to mypy."""

from __future__ import annotations

from typing import assert_type

import un
import un_async
from unsandbox import (
    AsyncClient,
    Client,
    CommandResult,
    InputFile,
    Job,
    JobList,
    KeyInfo,
    Languages,
    Mapped,
    OutputEvent,
    ResultEvent,
    RetryPolicy,
    Service,
    Session,
    Snapshot,
)


async def asynchronous() -> None:
    async with AsyncClient("p", "s", account=1, base_url="local", timeout=5, retry=RetryPolicy()) as client:
        assert_type(client, AsyncClient)
        job = await client.execute(
            "python", "x", env={"A": "b"}, input_files={"a": b""}, network_mode="zerotrust"
        )
        assert_type(job, Job)
        assert_type(job.stdout, str | None)
        assert_type(job.ok, bool)
        assert_type(job.stdout_bytes, bytes)
        assert_type(await client.list_jobs(limit=3), JobList)
        assert_type(await client.languages(), Languages)
        assert_type(await client.validate_keys(), KeyInfo)
        assert_type(await client.submit("c", "x", input_files=["a.txt", InputFile.of("b", b"")]), Job)
        async for event in client.stream("bash", "x", stdin=open("a.txt")):  # noqa: SIM115
            assert_type(event, OutputEvent | ResultEvent)
        async for outcome in client.map([("bash", "x"), {"language": "bash", "code": "y"}], concurrency=2):
            assert_type(outcome, Mapped)
            assert_type(outcome.result().check(), Job)
        async with client.session(shell="bash") as session, session.terminal() as terminal:
            assert_type(await session.run("ls"), CommandResult)
            async for data in terminal:
                assert_type(data, bytes)
        for one in await client.list_sessions():
            assert_type(one, Session)
        assert_type(await client.service("web").refresh(), Service)
        assert_type(await client.create_snapshot("session", "x", hot=True), Snapshot)
        assert_type(client.with_options(timeout=1), AsyncClient)
        await client.create_snapshot("job", "x")  # type: ignore[arg-type]
        await client.execute("python", "x", network_mode="open")  # type: ignore[arg-type]
        await client.execute("python", "x", {"A": "b"})  # type: ignore[call-arg]
    assert_type(AsyncClient.local(), AsyncClient)
    result = await un_async.execute_code("python", "x", "p", "s", timeout=1.5)
    assert_type(result["stdout"], str)
    result["no_such_member"]  # type: ignore[typeddict-item]
    assert_type(await un_async.execute_async("python", "x"), str)
    assert_type(await un_async.list_jobs(), list[un_async.JobResult])
    assert_type(await un_async.get_languages(), list[str])
    assert_type(await un_async.health_check(), bool)


def synchronous() -> None:
    with Client(account="0") as client:
        assert_type(client.execute("python", "x", stdin=b""), Job)
        assert_type(client.wait("j", keep=True), Job)
        for event in client.stream("bash", "x"):
            assert_type(event, OutputEvent | ResultEvent)
        with client.session() as session:
            assert_type(session.run("ls").text, str)
    assert_type(Client.local(), Client)
    assert_type(un.create_session("python")["session_id"], str)
    assert_type(un.session_snapshot("s"), str)
    assert_type(un.execute_code("python", "x")["exit_code"], int)
    assert_type(un.wait_for_job("j", None, None, 5), un.JobResult)
    assert_type(un.detect_language("a.py"), str | None)
