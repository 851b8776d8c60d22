"""One job inside the engine, and the checks and translations at its two ends."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from unsandbox.engine.config import EngineConfig
from unsandbox.engine.errors import InvalidRequest, TooLarge
from unsandbox.engine.jobs.output import OutputBuffer
from unsandbox.engine.jobs.tracing import JobTrace
from unsandbox.protocol import models
from unsandbox.protocol.contents import Content, base64_length
from unsandbox.protocol.held import HeldInputFile, held_artifact
from unsandbox.protocol.models import JobStatus
from unsandbox.protocol.names import clash
from unsandbox.sandbox.languages.table import SAME_NAME, input_name
from unsandbox.sandbox.spec import Artifact, Captured, EndReason, Limits, Outcome, SandboxSpec

ARGS_CHARACTERS = 32 * 1024
LARGE_REQUEST = 128 * 1024
"""Characters of program, input and files that the event loop reads at once, in a few milliseconds."""
EXIT_TIMEOUT = 124
"""Exit code of a job that outlived its `ttl`, as of timeout(1)."""
EXIT_KILLED = 137
"""Exit code of a job that was killed by us or by a limit: 128 + SIGKILL."""


def new_job_id() -> str:
    """Return an id that cannot be guessed: 96 random bits."""
    return "job_" + secrets.token_hex(12)


class Cancellable(Protocol):
    """What a running job is run by, as far as its record cares."""

    def cancel(self) -> None:
        """End it now."""

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far; None where nobody counts."""


_OVER = asyncio.Event()
"""Stands for all that has come about."""
_OVER.set()


@dataclass(eq=False, slots=True)
class JobRecord:
    """A job from its acceptance until it is forgotten. Only the engine changes it."""

    owner: str
    spec: SandboxSpec | None
    """None once it has ended: program and files are not kept."""
    language: str
    network_mode: str
    isolation: str = "auto"
    code_sha256: str = ""
    """Of the program, for the audit log; empty where there is none."""
    job_id: str = field(default_factory=new_job_id)
    detected_language: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    status: JobStatus = JobStatus.PENDING
    created_at: float = field(default_factory=time.time)
    result: models.Job | None = None
    """Set once, when the job has ended."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its sandbox is asked for, or when it has ended without one."""
    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the job is stored, or refused after all (then it has neither spec nor result)."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    running: Cancellable | None = None
    tape: OutputBuffer | None = None
    """Its output so far, while it runs."""
    cancel_requested: bool = False
    kill_reason: str | None = None
    """Why the engine, and not the caller, ended it: becomes the error of a failed job."""
    trace: JobTrace | None = None

    @property
    def size(self) -> int:
        """Bytes that the result takes, roughly."""
        job = self.result
        if job is None:
            return 0
        parts = (job.stdout, job.stderr, job.stdout_base64, job.stderr_base64)
        return (
            1024
            + sum(len(part or "") for part in parts)
            + sum(base64_length(len(artifact.source)) for artifact in job.artifacts or ())
        )

    def rest(self) -> None:
        """Let go of what only jobs need that have not ended; those that have are kept by the thousand."""
        self.started = self.accepted = self.ended = _OVER

    def attach(self, running: Cancellable) -> None:
        """Take note of the sandbox; end it at once when a cancellation came before it existed."""
        self.running = running
        if self.cancel_requested:
            running.cancel()

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


def is_large(request: models.ExecuteRequest) -> bool:
    """Whether reading a request takes so long that a thread has to do it: other requests go on meanwhile."""
    held = [file for file in request.input_files or () if not isinstance(file, HeldInputFile)]
    texts = (request.code, request.stdin or "", request.stdin_base64 or "", *(file.content for file in held))
    return sum(map(len, texts)) > LARGE_REQUEST


def check_request(request: models.ExecuteRequest, config: EngineConfig) -> None:
    """Refuse what could never run, before it is accepted.

    Raises:
        InvalidRequest: An environment variable, file name or standard input is not usable.
        TooLarge: Program or files exceed the limits.
    """
    if len(request.code) > config.code_bytes:
        raise TooLarge(f"the program is larger than {config.code_bytes >> 20} MiB; send data as input files")
    _check_bytes(request.code, "code")
    for word in request.args or ():
        if "\0" in word:
            raise InvalidRequest("args: an argument must not hold a NUL byte")
        _check_bytes(word, "args")
    if request.args and sum(len(word) + 1 for word in request.args) > ARGS_CHARACTERS:
        raise TooLarge(f"the arguments are longer than {ARGS_CHARACTERS >> 10} KiB; send data as input files")
    env = request.env or {}
    if len(env) > models.MAX_ENV_VARS:
        raise InvalidRequest(f"env has {len(env)} variables; at most {models.MAX_ENV_VARS} are allowed")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidRequest("env: a name must not be empty or hold '=', and nothing may hold a NUL byte")
        _check_bytes(name + value, "env")
    if request.stdin is not None and request.stdin_base64 is not None:
        raise InvalidRequest("give stdin or stdin_base64, not both")
    if request.return_wasm_artifact:
        raise InvalidRequest("this server does not compile to WebAssembly; leave return_wasm_artifact out")


def stdin_bytes(request: models.ExecuteRequest) -> bytes:
    """Return the program's standard input.

    Raises:
        InvalidRequest: `stdin_base64` is not base64, or `stdin` is not text that can be written.
    """
    if request.stdin_base64 is None:
        _check_bytes(request.stdin or "", "stdin")
        return (request.stdin or "").encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(request.stdin_base64, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("stdin_base64 is not valid base64 (standard alphabet, padded)") from None


def input_files(given: list[models.InputFile], config: EngineConfig) -> dict[str, bytes | Content]:
    """Return the input files by name, which may have folders: their bytes, or where those lie.

    Raises:
        InvalidRequest: Too many files, a name that is no file name, or a name given twice.
        TooLarge: Together they exceed the limit.
    """
    files: dict[str, bytes | Content] = {}
    if len(given) > models.MAX_INPUT_FILES:
        raise InvalidRequest(f"{len(given)} input files; at most {models.MAX_INPUT_FILES} are allowed")
    total = 0
    for file in given:
        # Historical clients send trailing newlines.
        try:
            name = input_name(file.filename.strip())
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        if name in files:
            raise InvalidRequest(SAME_NAME)
        files[name] = file.source
        total += len(files[name])
        if total > config.input_bytes:
            raise TooLarge(f"the input files together exceed {config.input_bytes >> 20} MiB")
    if (both := clash(set(files))) is not None:
        raise InvalidRequest(f"input_files: {both[:80]!r} is a file, and another file has it for a folder")
    return files


def _check_bytes(text: str, what: str) -> None:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} holds a lone surrogate, which no file can hold as UTF-8") from None


def result_of(record: JobRecord, outcome: Outcome, limits: Limits) -> models.Job:
    """Translate what happened in the sandbox into the answer of the API."""
    status, error, exit_code = JobStatus.COMPLETED, None, outcome.exit_code
    match outcome.reason:
        case _ if record.kill_reason is not None:
            status, exit_code, error = JobStatus.FAILED, EXIT_KILLED, record.kill_reason
        case EndReason.TIMEOUT:
            status, exit_code = JobStatus.TIMEOUT, EXIT_TIMEOUT
            error = f"the time limit of {limits.wall_s:g} s was reached; a larger ttl (at most 900) allows more"
        case EndReason.CANCELLED:
            status, exit_code = JobStatus.CANCELLED, EXIT_KILLED
            error = "the job was cancelled"
        case EndReason.MEMORY:
            status, exit_code = JobStatus.FAILED, EXIT_KILLED
            error = (
                f"the memory limit of {limits.memory_bytes >> 20} MiB was reached; a larger vcpu allows more, "
                "unless the key has a limit"
            )
        case EndReason.OUTPUT_FLOOD:
            status, exit_code = JobStatus.FAILED, EXIT_KILLED
            error = "the program wrote without end and was killed"
        case EndReason.EXITED:
            pass
    stdout, stdout_exact, stdout_dropped = text_of(outcome.stdout)
    stderr, stderr_exact, stderr_dropped = text_of(outcome.stderr)
    return models.Job(
        job_id=record.job_id,
        status=status.value,
        language=record.language,
        stdout=stdout,
        stderr=stderr,
        exit_code=exit_code,
        success=status is JobStatus.COMPLETED and exit_code == 0,
        error=error,
        detected_language=record.detected_language,
        total_time_ms=round(outcome.wall_s * 1000, 3),
        cpu_time_ms=None if outcome.cpu_s is None else round(outcome.cpu_s * 1000, 3),
        peak_memory_bytes=outcome.peak_memory_bytes,
        network_mode=record.network_mode,
        created_at=str(int(record.created_at)),
        completed_at=int(time.time()),
        stdout_base64=stdout_exact,
        stderr_base64=stderr_exact,
        stdout_truncated=True if stdout_dropped else None,
        stdout_dropped_bytes=stdout_dropped or None,
        stderr_truncated=True if stderr_dropped else None,
        stderr_dropped_bytes=stderr_dropped or None,
        output_cut=True if outcome.output_cut else None,
        artifacts=wire_artifacts(outcome.artifacts),
        artifacts_skipped=[
            *outcome.artifacts_skipped,
            *(f"{artifact.filename}: empty file" for artifact in outcome.artifacts if not artifact.data),
        ]
        or None,
    )


def wire_artifacts(artifacts: Sequence[Artifact]) -> list[models.Artifact] | None:
    """Return files as the wire has them; empty ones are left out, historical clients stumble over them."""
    return [_wire_artifact(artifact) for artifact in artifacts if artifact.data] or None


def _wire_artifact(artifact: Artifact) -> models.Artifact:
    data = artifact.data
    if not isinstance(data, bytes):
        return held_artifact(artifact.filename, data)
    encoded = base64.b64encode(data).decode("ascii")
    return models.Artifact(filename=artifact.filename, content_base64=encoded, size=len(data))


def failed_result(record: JobRecord, status: JobStatus, error: str) -> models.Job:
    """Return the result of a job that ended without a sandbox's outcome."""
    return models.Job(
        job_id=record.job_id,
        status=status.value,
        language=record.language,
        stdout="",
        stderr="",
        exit_code=EXIT_KILLED,
        success=False,
        error=error,
        detected_language=record.detected_language,
        network_mode=record.network_mode,
        created_at=str(int(record.created_at)),
        completed_at=int(time.time()),
    )


def _whole_characters(captured: Captured) -> Captured:
    """Cut a truncated stream back to a whole UTF-8 character, so that the cut does not look like bad output."""
    if not captured.dropped_bytes:
        return captured
    data = captured.data
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return Captured(data[:-back], captured.total_bytes) if needed > back else captured
        if byte < 0x80:
            break
    return captured


def text_of(captured: Captured) -> tuple[str, str | None, int]:
    """Return a stream as text, its exact bytes as base64 where text replaced some, and the bytes dropped."""
    whole = _whole_characters(captured)
    try:
        return whole.data.decode("utf-8"), None, whole.dropped_bytes
    except UnicodeDecodeError:
        exact = base64.b64encode(whole.data).decode("ascii")
        return whole.data.decode("utf-8", "replace"), exact, whole.dropped_bytes
