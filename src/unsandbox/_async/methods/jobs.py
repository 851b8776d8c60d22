"""Jobs: start one in the background, wait for it, follow it, cancel it."""

# ruff: noqa: ASYNC109 - `timeout` also limits the work on the server, which `asyncio.timeout` cannot do

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unsandbox._async import execution
from unsandbox._async.base import Connected, type_partial, typed
from unsandbox._async.objects.stream import AsyncJobStream
from unsandbox._compat.aio import Stdin
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.files import InputFiles
from unsandbox._shared.options import ExecuteOptions, encode_script
from unsandbox.errors import WaitTimeoutError
from unsandbox.protocol.models import Cancelled, EndedJobs, IsolationName, Job, JobList, NetworkModeName
from unsandbox.protocol.polling import LONG_POLL_S


class JobMethods(Connected):
    """Methods of a client for jobs in the background."""

    async def submit(
        self,
        language: str,
        code: str,
        *,
        env: Mapping[str, str] | None = None,
        input_files: InputFiles | None = None,
        network_mode: NetworkModeName | None = None,
        vcpu: int | None = None,
        ttl: float | None = None,
        return_artifacts: bool = False,
        stdin: Stdin | None = None,
        args: Iterable[str] | None = None,
        isolation: IsolationName | None = None,
        compiler_args: Iterable[str] | None = None,
        memory_mb: int | None = None,
        compile_timeout: float | None = None,
        cpu_time: float | None = None,
        compile_output: bool = False,
        version: str | None = None,
        env_name: str | None = None,
    ) -> Job:
        """Start a job and return at once. `wait`, `get_job` and `cancel` take its id.

        Args:
            language: See `execute`.
            code: See `execute`.
            env: See `execute`.
            input_files: See `execute`.
            network_mode: See `execute`.
            vcpu: See `execute`.
            ttl: See `execute`.
            return_artifacts: See `execute`.
            stdin: See `execute`.
            args: See `execute`.
            isolation: See `execute`.
            compiler_args: See `execute`.
            memory_mb: See `execute`.
            compile_timeout: See `execute`.
            cpu_time: See `execute`.
            compile_output: See `execute`.
            version: See `execute`.
            env_name: See `execute`.

        Returns:
            The job with its `job_id`, usually `pending` or `running`.

        Raises:
            InvalidResponseError: The answer has no job id.

        Example:
            ```python
            job = await client.submit("python", "print(1)")
            job = await client.wait(job.job_id)
            ```
        """
        options = ExecuteOptions(
            input_files=input_files,
            language=language,
            code=code,
            env=env,
            network_mode=network_mode,
            vcpu=vcpu,
            ttl=ttl,
            return_artifacts=return_artifacts,
            stdin=stdin,
            args=args,
            isolation=isolation,
            compiler_args=compiler_args,
            memory_mb=memory_mb,
            compile_timeout=compile_timeout,
            cpu_time=cpu_time,
            compile_output=compile_output,
            version=version,
            env_name=env_name,
        )
        request = await self._connection.encode(options)
        return typed(await execution.submit(self._connection, request), Job)

    async def submit_run(
        self,
        source: str | bytes,
        *,
        env: Mapping[str, str] | None = None,
        network_mode: NetworkModeName | None = None,
        ttl: float | None = None,
    ) -> Job:
        """Start a script whose `#!` line names the language, and return at once.

        Args:
            source: The whole script.
            env: See `execute`.
            network_mode: See `execute`.
            ttl: See `execute`.
        """
        request, query = encode_script(source, env=env, network_mode=network_mode, ttl=ttl)
        answer = await execution.submit(self._connection, request, operation=execution.RUN, query=query)
        return typed(answer, Job)

    def follow(self, job_id: str, *, timeout: float | None = None, keep: bool = True) -> AsyncJobStream:
        """Yield the output of an existing job from its first byte, then its result.

        Args:
            job_id: Id of the job.
            timeout: Maximum seconds to wait; None means no limit.
            keep: Whether the job continues when the loop is left early. Otherwise it is cancelled.

        Example:
            ```python
            job = await client.submit("python", "print(1)")
            async for event in client.follow(job.job_id):
                print(event)
            ```
        """
        return AsyncJobStream(self._connection, job_id=job_id, timeout=timeout, keep=keep)

    async def get_job(self, job_id: str) -> Job:
        """Return the current state of a job without waiting.

        Args:
            job_id: Id of the job.

        Raises:
            NotFoundError: The key has no such job.
        """
        return await self._do("get_job", Job, job_id)

    async def wait(self, job_id: str, *, timeout: float | None = None, keep: bool = False) -> Job:
        """Wait for a job and return it when it has ended.

        Args:
            job_id: Id of the job.
            timeout: Maximum seconds to wait; None means no limit.
            keep: Whether the job continues when the wait ends early, by `timeout` or because the calling task
                is cancelled. By default the job is then cancelled.

        Raises:
            WaitTimeoutError: The job did not end in time; `partial` is its last known state.
            NotFoundError: The key has no such job.

        Example:
            ```python
            try:
                job = await client.wait(job_id, timeout=5, keep=True)
            except WaitTimeoutError:
                print("still running")
            ```
        """
        deadline = Deadline(timeout)
        try:
            answer = await execution.wait(self._connection, job_id, deadline=deadline, keep=keep)
        except WaitTimeoutError as error:
            type_partial(error)
            raise
        return typed(answer, Job)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it with its output so far. A job that has ended is not changed.

        Args:
            job_id: Id of the job.

        Raises:
            NotFoundError: The key has no such job.
        """
        return typed(await execution.cancel(self._connection, job_id), Cancelled)

    async def list_jobs(self, *, limit: int | None = None) -> JobList:
        """Return the key's jobs, newest first, without their output.

        Args:
            limit: Maximum number of jobs.
        """
        return await self._do("list_jobs", JobList, query={"limit": limit})

    async def wait_jobs(self, job_ids: Iterable[str], *, timeout: float = LONG_POLL_S) -> EndedJobs:
        """Wait until at least one of several jobs has ended, and return those that have.

        Call it again with the remaining ids.

        Args:
            job_ids: Ids of the jobs, at most 1000.
            timeout: Maximum seconds to wait for the first job.
        """
        members = {"ids": list(job_ids), "timeout": timeout}
        patience = timeout + self._connection.server.timeout
        return await self._do("wait_jobs", EndedJobs, body=members, timeout=patience)
