"""Never run: what type checkers must make of the public API. `test_typing.py` gives it to two of them."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import un
import un_async
from unsandbox import (
    NOT_GIVEN,
    APIError,
    Artifact,
    AsyncClient,
    AsyncLiveService,
    AsyncLiveSession,
    AsyncTerminal,
    Client,
    Cloned,
    CommandResult,
    Domains,
    EndedJobs,
    Health,
    Hooks,
    Image,
    ImageList,
    InputFile,
    Job,
    JobList,
    JobStream,
    KeyInfo,
    Languages,
    LogLine,
    LogPage,
    Mapped,
    OutputEvent,
    PollEvent,
    Progress,
    RequestEvent,
    Restored,
    ResultEvent,
    RetryEvent,
    RetryPolicy,
    Service,
    ServiceJob,
    ServiceList,
    ServiceLog,
    Session,
    SessionList,
    Snapshot,
    SnapshotList,
    UnsandboxError,
    VaultExport,
    VaultInfo,
    WaitTimeoutError,
)


def on_retry(event: RetryEvent) -> None:
    assert_type(event.error, Exception)
    assert_type(event.delay_s, float)


async def on_poll(event: PollEvent) -> None:
    assert_type(event.job_ids, tuple[str, ...])


def on_progress(progress: Progress) -> None:
    assert_type(progress.total, int | None)


async def asynchronous() -> None:
    async with AsyncClient("p", "s", account=1, base_url="local", timeout=None, retry=RetryPolicy()) as client:
        assert_type(client, AsyncClient)
        assert_type(await client.languages(), Languages)
        assert_type(await client.validate_keys(), KeyInfo)
        assert_type(await client.health(), Health)
        await jobs(client)
        await streams(client)
        await state(client)
        assert_type(client.with_options(timeout=1, retry=RetryPolicy(), hooks=Hooks()), AsyncClient)
        assert_type(client.with_options(timeout=None, otp=NOT_GIVEN), AsyncClient)
        client.with_options(timeout="1")  # type: ignore[arg-type]
    hooks = Hooks(retry=on_retry, poll=on_poll, request=lambda event: event.attempt)
    assert_type(AsyncClient.local(hooks=hooks, otp=lambda challenge: challenge), AsyncClient)
    Hooks(request=on_retry)  # type: ignore[arg-type]


async def jobs(client: AsyncClient) -> None:
    job = await client.execute(
        "python", "x", env={"A": "b"}, input_files={"a": b"", "b": Path("b")}, network_mode="zerotrust"
    )
    assert_type(job, Job)
    assert_type(job.stdout, str | None)
    assert_type(job.text, str)
    assert_type(job.ok, bool)
    assert_type(job.stdout_bytes, bytes)
    assert_type(job.check(), Job)
    for artifact in job.artifacts or []:
        assert_type(artifact, Artifact)
        assert_type(artifact.data, bytes)
        assert_type(artifact.save("out"), Path)
    listed = await client.list_jobs(limit=3)
    assert_type(listed, JobList)
    assert_type(list(listed), list[Job])
    submitted = await client.submit("c", "x", input_files=["a.txt", InputFile.of("b", b"")])
    assert_type(await client.wait(submitted.job_id or "", timeout=1.5, keep=True), Job)
    assert_type(await client.wait_jobs(["a"]), EndedJobs)
    assert_type(await client.cancel("a"), Job)
    assert_type(await client.run("#!/bin/sh\n"), Job)
    try:
        await client.execute("python", "x", timeout=1)
    except WaitTimeoutError as error:
        assert_type(error.job_id, str | None)
    except APIError as error:
        assert_type(error.status, int)
        assert_type(error.retry_after, float | None)
    job.stdout = "x"  # type: ignore[misc]
    await client.execute("python", "x", network_mode="open")  # type: ignore[arg-type]
    await client.execute("python", "x", {"A": "b"})  # type: ignore[call-arg]


async def streams(client: AsyncClient) -> None:
    async for event in client.stream("bash", "x", stdin=open("a.txt")):  # noqa: SIM115
        assert_type(event, OutputEvent | ResultEvent)
        if isinstance(event, OutputEvent):
            assert_type(event.text, str)
        else:
            assert_type(event.job, Job)
    async with client.follow("j", timeout=None, keep=False) as events:
        assert_type(events.job_id, str | None)
    requests = [("bash", "x"), ("bash", "y")]
    async with client.map(requests, concurrency=2, timeout=5, on_progress=on_progress) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, Mapped)
            assert_type(outcome.error, UnsandboxError | None)
            assert_type(outcome.result().check(), Job)
    async for outcome in client.map([{"language": "bash", "code": "y", "timeout": 1}], ordered=False):
        assert_type(outcome.job, Job | None)
    async for entry in client.stream_logs(level="error"):
        assert_type(entry, LogLine)
    assert_type(await client.fetch_logs(), LogPage)


async def state(client: AsyncClient) -> None:
    async with client.session(shell="bash") as session, session.terminal() as terminal:
        assert_type(session, AsyncLiveSession)
        assert_type(terminal, AsyncTerminal)
        result = await session.run("ls", timeout=None)
        assert_type(result, CommandResult)
        assert_type(result.check().text, str)
        async for data in terminal:
            assert_type(data, bytes)
    sessions = await client.list_sessions()
    assert_type(sessions, SessionList)
    assert_type(list(sessions), list[Session])
    service = client.service("web")
    assert_type(service, AsyncLiveService)
    assert_type(await service.refresh(), Service)
    assert_type(await client.list_services(), ServiceList)
    assert_type(await client.create_service("web", bootstrap="x", ports=[80]), Service)
    assert_type(await client.service_command("web", "ls"), ServiceJob)
    assert_type(await client.service_logs("web", lines=3), ServiceLog)
    assert_type(await client.service_domains("web", add=["a.example"]), Domains)
    assert_type(await client.set_vault("web", {"A": "b"}), VaultInfo)
    assert_type(await client.export_vault("web"), VaultExport)
    assert_type(await client.create_snapshot("session", "x", hot=True), Snapshot)
    await client.delete_service("web", otp=lambda challenge: challenge)
    assert_type(await client.list_snapshots(), SnapshotList)
    assert_type(await client.restore_snapshot("s"), Restored)
    assert_type(await client.clone_snapshot("s"), Cloned)
    assert_type(await client.list_images(), ImageList)
    assert_type(await client.publish_image("snapshot", "s", name="x"), Image)
    await client.create_snapshot("job", "x")  # type: ignore[arg-type]


async def functions() -> None:
    result = await un_async.execute_code("python", "x", "p", "s", timeout=1.5)
    assert_type(result.get("stdout"), str | None)
    result["no_such_member"]  # type: ignore[typeddict-item]
    assert_type(await un_async.execute_async("python", "x"), str)
    assert_type(await un_async.list_jobs(), list[un_async.JobResult])
    assert_type(await un_async.get_languages(), list[str])
    assert_type(await un_async.health_check(), bool)


def synchronous() -> None:
    with Client(account="0", hooks=Hooks(request=lambda event: event.path)) as client:
        assert_type(client.execute("python", "x", stdin=b"", on_stdout=str.strip), Job)
        assert_type(client.wait("j", keep=True), Job)
        stream = client.stream("bash", "x")
        assert_type(stream, JobStream)
        for event in stream:
            assert_type(event, OutputEvent | ResultEvent)
        for outcome in client.map([("bash", "x")], timeout=1):
            assert_type(outcome, Mapped)
        with client.session() as session, session.terminal() as terminal:
            assert_type(session.run("ls").text, str)
            assert_type(terminal.read(timeout=1), bytes)
        assert_type(client.service("web").refresh(), Service)
        assert_type(client.list_images(), ImageList)
        assert_type(client.with_options(otp=None), Client)
        client.execute("python", 1)  # type: ignore[arg-type]
    assert_type(Client.local(hooks=Hooks(), otp="123456"), Client)
    assert_type(un.session_snapshot("s"), str)
    assert_type(un.create_session("python").get("session_id"), str | None)
    assert_type(un.execute_code("python", "x").get("exit_code"), int | None)
    assert_type(un.wait_for_job("j", None, None, 5), un.JobResult)
    assert_type(un.detect_language("a.py"), str | None)


def events() -> RequestEvent:
    return RequestEvent("execute", "POST", "/execute", attempt=1, body_bytes=0)
