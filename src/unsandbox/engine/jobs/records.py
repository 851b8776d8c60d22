"""The engine's record of a job, from its acceptance until it is deleted."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from dataclasses import dataclass, field
from typing import Protocol

from unsandbox.engine.jobs.output import OutputBuffer
from unsandbox.engine.jobs.tracing import JobTrace
from unsandbox.protocol import models
from unsandbox.protocol.contents import base64_length
from unsandbox.protocol.models import JobStatus
from unsandbox.sandbox.spec import SandboxSpec


def new_job_id() -> str:
    """Return an id that cannot be guessed: 96 random bits."""
    return "job_" + secrets.token_hex(12)


class Cancellable(Protocol):
    """The part of a running job that its record needs."""

    def cancel(self) -> None:
        """End it now."""

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; None where they are not counted."""


_OVER = asyncio.Event()
"""Replaces the events of jobs that have ended."""
_OVER.set()


@dataclass(eq=False, slots=True)
class JobRecord:
    """A job. Only the engine changes it."""

    owner: str
    spec: SandboxSpec | None
    """None after the job has ended, because program and files are not kept."""
    language: str
    network_mode: str
    isolation: str = "auto"
    code_sha256: str = ""
    """Hash of the program for the audit log; empty without an audit log."""
    job_id: str = field(default_factory=new_job_id)
    detected_language: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    created_at: float = field(default_factory=time.time)
    result: models.Job | None = None
    """Set once, when the job has ended."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its sandbox is requested, or when the job has ended without one."""
    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the job is stored, or refused after all (then it has neither spec nor result)."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    running: Cancellable | None = None
    output: OutputBuffer | None = None
    """Its output so far, while it runs."""
    cancel_requested: bool = False
    kill_reason: str | None = None
    """The reason why the engine (not the caller) ended it, which becomes the error of the failed job."""
    trace: JobTrace | None = None

    @property
    def status(self) -> JobStatus:
        """The status of the job."""
        if self.result is not None:
            return JobStatus(self.result.status or JobStatus.FAILED)
        return JobStatus.RUNNING if self.started.is_set() else JobStatus.PENDING

    @property
    def memory_bytes(self) -> int:
        """Memory limit of its sandbox; 0 when it has none."""
        return 0 if self.spec is None else self.spec.limits.memory_bytes

    @property
    def input_bytes(self) -> int:
        """Bytes of program, input and files that it holds until it starts."""
        if self.spec is None:
            return 0
        return len(self.spec.stdin) + sum(len(file.data) for file in self.spec.files)

    @property
    def size(self) -> int:
        """Approximate bytes of memory of the result."""
        job = self.result
        if job is None:
            return 0
        parts = (
            *(job.stdout, job.stderr, job.compile_output),
            *(job.stdout_base64, job.stderr_base64, job.compile_output_base64),
        )
        return (
            1024
            + sum(sys.getsizeof(part) for part in parts if part)
            + sum(base64_length(len(artifact.source)) for artifact in job.artifacts or ())
        )

    def attach(self, running: Cancellable) -> None:
        """Record the sandbox; end it at once if the job was cancelled before the sandbox existed."""
        self.running = running
        if self.cancel_requested:
            running.cancel()

    def end_for(self, reason: str) -> None:
        """End a job for a reason that becomes its error; the first reason stays."""
        if self.kill_reason is None:
            self.kill_reason = reason
            self.cancel()

    def cancel(self) -> None:
        """End its sandbox, or prevent the job from getting one."""
        self.cancel_requested = True
        if self.running is not None:
            self.running.cancel()

    def finish(self, result: models.Job) -> None:
        """Set the result, wake everything that waits for it, and release what only unfinished jobs need."""
        self.result = result
        self.spec = None
        for event in (self.started, self.accepted, self.ended):
            event.set()
        self.started = self.accepted = self.ended = _OVER
        if self.output is not None:
            self.output.wake()
            self.output = None

    def as_job(self) -> models.Job:
        """Return what a client may see now: the result, or the state of a job that has not ended."""
        return self.result or models.Job(
            job_id=self.job_id,
            status=self.status.value,
            language=self.language,
            network_mode=self.network_mode,
            detected_language=self.detected_language,
            created_at=str(int(self.created_at)),
        )
