"""A command in a persistent sandbox as a job: it has a status, a stored result, and can be cancelled."""

from __future__ import annotations

import asyncio
import logging
import time

from unsandbox.engine.background import run_large
from unsandbox.engine.errors import RequestError
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.jobs.results import captured_size, command_result, failed_result
from unsandbox.protocol import models
from unsandbox.protocol.models import JobStatus
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.persistent_spec import CommandOutcome

logger = logging.getLogger("unsandbox.engine")

SHELL = "bash"
"""The language of such a job."""


class CommandJob:
    """A running command.

    Args:
        task: The task that runs it.
    """

    def __init__(self, task: asyncio.Task[CommandOutcome]) -> None:
        self._task = task

    def cancel(self) -> None:
        """Kill it."""
        self._task.cancel()

    def cpu_s(self) -> float | None:
        """Return None: its CPU time is counted with that of its sandbox."""
        return None

    async def captured(self) -> int:
        """Return how many bytes of output it has left, once it has ended."""
        await asyncio.wait({self._task})
        ended = not self._task.cancelled() and self._task.exception() is None
        return captured_size(self._task.result()) if ended else 0

    async def result(self, record: JobRecord) -> models.Job:
        """Return the result of its job."""
        await asyncio.wait({self._task})
        if self._task.cancelled():
            if record.kill_reason is not None:
                return failed_result(record, JobStatus.FAILED, record.kill_reason)
            return failed_result(record, JobStatus.CANCELLED, "the command was cancelled")
        error = self._task.exception()
        if error is None:
            outcome = self._task.result()
            return await run_large(captured_size(outcome), _ended, record, outcome)
        if isinstance(error, RequestError):
            return failed_result(record, JobStatus.FAILED, error.message)
        if isinstance(error, SandboxError):
            return failed_result(record, JobStatus.FAILED, f"the sandbox ended while the command ran: {error}")
        logger.error("job %s: the engine failed", record.job_id, exc_info=error)
        return failed_result(record, JobStatus.FAILED, "the engine failed; its log says why")


def _ended(record: JobRecord, outcome: CommandOutcome) -> models.Job:
    result = command_result(outcome)
    return models.Job(
        job_id=record.job_id,
        # Historical clients show no output of a failed job, so only commands that could not run have this
        # status.
        status=(JobStatus.TIMEOUT if outcome.timed_out else JobStatus.COMPLETED).value,
        language=record.language,
        stdout=result.stdout,
        stderr=result.stderr,
        exit_code=result.exit_code,
        success=result.success,
        error=result.error,
        stdout_base64=result.stdout_base64,
        stderr_base64=result.stderr_base64,
        stdout_truncated=result.stdout_truncated,
        stderr_truncated=result.stderr_truncated,
        total_time_ms=round(outcome.wall_s * 1000, 3),
        network_mode=record.network_mode,
        created_at=str(int(record.created_at)),
        completed_at=int(time.time()),
    )
