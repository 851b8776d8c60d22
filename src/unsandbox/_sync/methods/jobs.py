# Generated from src/unsandbox/_async/methods/jobs.py by scripts/unasync.py; change that one.
"""Jobs: starting one in the background, waiting for it, following it, ending it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unsandbox._compat.blocking import Stdin
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.files import InputFiles
from unsandbox._shared.options import ExecuteOptions, encode_script
from unsandbox._sync import execution
from unsandbox._sync.base import Connected, type_partial, typed
from unsandbox._sync.objects.stream import JobStream
from unsandbox.errors import WaitTimeoutError
from unsandbox.protocol.models import Cancelled, EndedJobs, IsolationName, Job, JobList, NetworkModeName
from unsandbox.protocol.polling import LONG_POLL_S


class JobMethods(Connected):
    """Methods of a client that start jobs in the background and look after them."""

    def submit(
        self,
        language: str,
        code: str,
        *,
        env: Mapping[str, str] | None = None,
        input_files: InputFiles | None = None,
        network_mode: NetworkModeName | None = None,
        vcpu: int | None = None,
        ttl: int | None = None,
        return_artifacts: bool = False,
        stdin: Stdin | None = None,
        args: Iterable[str] | None = None,
        isolation: IsolationName | None = None,
    ) -> Job:
        """Start a job and return at once; `wait` for it, look at it with `get_job`, end it with `cancel`.

        Args:
            language: As for `execute`.
            code: As for `execute`.
            env: As for `execute`.
            input_files: As for `execute`.
            network_mode: As for `execute`.
            vcpu: As for `execute`.
            ttl: As for `execute`.
            return_artifacts: As for `execute`.
            stdin: As for `execute`.
            args: As for `execute`.
            isolation: As for `execute`.

        Returns:
            The job with its `job_id`, most often still `pending` or `running`.

        Raises:
            InvalidResponseError: The answer holds no job id.

        Example:
            ```python
            job = client.submit("python", "print(1)")
            job = client.wait(job.job_id)
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
        )
        request = self._connection.encode(options)
        return typed(execution.submit(self._connection, request), Job)

    def submit_run(
        self,
        source: str | bytes,
        *,
        env: Mapping[str, str] | None = None,
        network_mode: NetworkModeName | None = None,
        ttl: int | None = None,
    ) -> Job:
        """Start a script whose `#!` line names the language, and return at once.

        Args:
            source: The whole script.
            env: As for `execute`.
            network_mode: As for `execute`.
            ttl: As for `execute`.
        """
        request, query = encode_script(source, env=env, network_mode=network_mode, ttl=ttl)
        answer = execution.submit(self._connection, request, operation=execution.RUN, query=query)
        return typed(answer, Job)

    def follow(self, job_id: str, *, timeout: float | None = None, keep: bool = True) -> JobStream:
        """Yield the output of a job that was started before, from its first byte on, then its result.

        Args:
            job_id: Which job.
            timeout: Seconds to wait at most; None waits as long as it takes.
            keep: Whether the job goes on when the loop is left early; otherwise it is cancelled.

        Example:
            ```python
            job = client.submit("python", "print(1)")
            for event in client.follow(job.job_id):
                print(event)
            ```
        """
        return JobStream(self._connection, job_id=job_id, timeout=timeout, keep=keep)

    def get_job(self, job_id: str) -> Job:
        """Return a job as it is now, without waiting.

        Args:
            job_id: Which job.

        Raises:
            NotFoundError: There is no such job, or it belongs to another key.
        """
        return self._do("get_job", Job, job_id)

    def wait(self, job_id: str, *, timeout: float | None = None, keep: bool = False) -> Job:
        """Return a job when it has ended.

        Args:
            job_id: Which job.
            timeout: Seconds to wait at most; None waits as long as it takes.
            keep: Whether the job goes on when the waiting ends early, by `timeout` or by
                Ctrl-C. Without it the job is cancelled, so that nothing runs on for nobody.

        Raises:
            WaitTimeoutError: The job had not ended in time; `partial` holds what there is of it.
            NotFoundError: There is no such job.

        Example:
            ```python
            try:
                job = client.wait(job_id, timeout=5, keep=True)
            except WaitTimeoutError:
                print("still running")
            ```
        """
        deadline = Deadline(timeout)
        try:
            answer = execution.wait(self._connection, job_id, deadline=deadline, keep=keep)
        except WaitTimeoutError as error:
            type_partial(error)
            raise
        return typed(answer, Job)

    def cancel(self, job_id: str) -> Job:
        """End a job and return it with its output so far; one that has ended stays as it is.

        Args:
            job_id: Which job.

        Raises:
            NotFoundError: There is no such job.
        """
        return typed(execution.cancel(self._connection, job_id), Cancelled)

    def list_jobs(self, *, limit: int | None = None) -> JobList:
        """Return the jobs of this key, newest first, without their output.

        Args:
            limit: At most so many.
        """
        return self._do("list_jobs", JobList, query={"limit": limit})

    def wait_jobs(self, job_ids: Iterable[str], *, timeout: float = LONG_POLL_S) -> EndedJobs:
        """Return those of several jobs that have ended, as soon as there is one; then ask for the others again.

        Args:
            job_ids: Which jobs, at most 1000.
            timeout: Seconds to wait while none has ended.
        """
        members = {"ids": list(job_ids), "timeout": timeout}
        patience = timeout + self._connection.server.timeout
        return self._do("wait_jobs", EndedJobs, body=members, timeout=patience)
