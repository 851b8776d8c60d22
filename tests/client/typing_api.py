"""Never run: what type checkers must make of the public API. `test_typing.py` gives it to mypy."""

from __future__ import annotations

from typing import assert_type

import un
import un_async
from unsandbox import AsyncClient, Client, InputFile, Job, JobList, KeyInfo, Languages, RetryPolicy


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
    assert_type(Client.local(), Client)
    assert_type(un.execute_code("python", "x")["exit_code"], int)
    assert_type(un.wait_for_job("j", None, None, 5), un.JobResult)
    assert_type(un.detect_language("a.py"), str | None)
