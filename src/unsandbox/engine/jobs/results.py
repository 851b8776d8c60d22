"""Converts the outcome of a sandbox to the result of the API."""

from __future__ import annotations

import base64
import codecs
import signal
import time
from collections.abc import Sequence

from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.late_text import LateText
from unsandbox.protocol import models
from unsandbox.protocol.contents import LARGE, base64_length
from unsandbox.protocol.held import held_artifact
from unsandbox.protocol.models import JobStatus
from unsandbox.protocol.sessions import CommandResult
from unsandbox.sandbox.persistent_spec import CommandOutcome
from unsandbox.sandbox.spec import EXIT_KILLED, MIB, Artifact, Captured, EndReason, Limits, Outcome

EXIT_TIMEOUT = 124
"""Exit code of a job that exceeded its `ttl`, as of timeout(1)."""


_KILLED_BY = 128
_DEADLY = frozenset(
    f"SIG{name}"
    for name in (
        *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "SEGV", "PIPE", "ALRM", "TERM"),
        *("XCPU", "XFSZ", "SYS"),
    )
)
ENCODED_BYTES = 40 * MIB
"""Maximum size of one output stream in a JSON answer, where each control character takes six bytes."""
_STEP = 1 << 16
CONTROLS = bytes(byte for byte in range(32) if byte not in b"\b\t\n\f\r") + b"\x7f"
_QUOTED = b'"\\\b\t\n\f\r'
_HIGH = bytes(range(128, 256))
_LARGEST_GROWTH = 8


def result_of(record: JobRecord, outcome: Outcome, limits: Limits) -> models.Job:
    """Convert the outcome of a sandbox to the answer of the API."""
    status, error, exit_code = JobStatus.COMPLETED, None, outcome.exit_code
    match outcome.reason:
        case _ if record.kill_reason is not None:
            status, exit_code, error = JobStatus.FAILED, EXIT_KILLED, record.kill_reason
        case EndReason.TIMEOUT if outcome.compiling and limits.compile_s is not None:
            status, exit_code = JobStatus.TIMEOUT, EXIT_TIMEOUT
            error = (
                f"the compiler reached its time limit of {limits.compile_s:g} s; a larger compile_timeout "
                "(at most 900) allows more"
            )
        case EndReason.CPU_TIME:
            status, exit_code = JobStatus.TIMEOUT, EXIT_TIMEOUT
            error = f"the limit of {limits.cpu_s:g} s of CPU time was reached; a larger cpu_time allows more"
        case EndReason.TIMEOUT:
            status, exit_code = JobStatus.TIMEOUT, EXIT_TIMEOUT
            error = f"the time limit of {limits.wall_s:g} s was reached; a larger ttl (at most 900) allows more"
        case EndReason.CANCELLED:
            status, exit_code = JobStatus.CANCELLED, EXIT_KILLED
            error = "the job was cancelled"
        case EndReason.MEMORY:
            status, exit_code = JobStatus.FAILED, EXIT_KILLED
            error = (
                f"the memory limit of {limits.memory_bytes >> 20} MiB was reached; a larger memory_mb or vcpu "
                "allows more, unless the key has a limit"
            )
        case EndReason.OUTPUT_FLOOD:
            status, exit_code = JobStatus.FAILED, EXIT_KILLED
            error = "the program wrote without end and was killed"
        case EndReason.EXITED:
            pass
    stdout, stdout_exact, stdout_dropped = text_of(outcome.stdout)
    stderr, stderr_exact, stderr_dropped = text_of(outcome.stderr)
    compiler = outcome.compile_output
    compiled, compiled_exact, compiled_dropped = (None, None, 0) if compiler is None else text_of(compiler)
    return models.Job(
        job_id=record.job_id,
        status=status.value,
        language=record.language,
        stdout=stdout,
        stderr=stderr,
        exit_code=exit_code,
        success=status is JobStatus.COMPLETED and exit_code == 0,
        error=error,
        signal=_signal_of(outcome) if status is JobStatus.COMPLETED else None,
        stage="compile" if outcome.compiling else "run",
        detected_language=record.detected_language,
        total_time_ms=round(outcome.wall_s * 1000, 3),
        cpu_time_ms=None if outcome.cpu_s is None else round(outcome.cpu_s * 1000, 3),
        peak_memory_bytes=outcome.peak_memory_bytes,
        network_mode=record.network_mode,
        created_at=str(int(record.created_at)),
        completed_at=int(time.time()),
        compile_output=compiled,
        compile_output_base64=compiled_exact,
        compile_output_truncated=True if compiled_dropped else None,
        compile_output_dropped_bytes=compiled_dropped or None,
        stdout_base64=stdout_exact,
        stderr_base64=stderr_exact,
        stdout_truncated=True if stdout_dropped else None,
        stdout_dropped_bytes=stdout_dropped or None,
        stderr_truncated=True if stderr_dropped else None,
        stderr_dropped_bytes=stderr_dropped or None,
        output_cut=True if outcome.output_cut else None,
        artifacts=wire_artifacts(outcome.artifacts),
        artifacts_skipped=list(outcome.artifacts_skipped) or None,
    )


def captured_size(outcome: Outcome | CommandOutcome) -> int:
    """Return how many bytes its output has."""
    size = len(outcome.stdout.data) + len(outcome.stderr.data)
    if isinstance(outcome, Outcome) and outcome.compile_output is not None:
        size += len(outcome.compile_output.data)
    return size


def _signal_of(outcome: Outcome) -> str | None:
    """Return the name of the signal that an exit code stands for; shells and sandboxes report it only so."""
    return signal_name(outcome.exit_code)


def signal_name(exit_code: int | None) -> str | None:
    """Return the name of the signal that an exit code of 128 + N stands for, if that signal ends programs.

    Example:
        >>> signal_name(137), signal_name(1)
        ('SIGKILL', None)
    """
    if exit_code is None or exit_code <= _KILLED_BY:
        return None
    try:
        found = signal.Signals(exit_code - _KILLED_BY)
    except ValueError:
        return None
    return found.name if found.name in _DEADLY else None


def wire_artifacts(artifacts: Sequence[Artifact]) -> list[models.Artifact] | None:
    """Return files in the format of the API; None if there are none."""
    return [_wire_artifact(artifact) for artifact in artifacts] or None


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


def _whole_characters(data: bytes, size: int) -> int:
    """Return where the last whole UTF-8 character before `size` ends: a cut must not look like bad output."""
    for back in range(1, min(4, size + 1)):
        byte = data[size - back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return size - back if needed > back else size
        if byte < 0x80:
            break
    return size


def _within(data: bytes, most: int) -> int:
    """Return how much of a stream takes about `most` bytes of JSON at most, with the base64 of exact bytes."""
    if len(data) * _LARGEST_GROWTH <= most:
        return len(data)
    is_text, size = _is_text(data, len(data)), 0
    for start in range(0, len(data), _STEP):
        size += _encoded_size(data[start : start + _STEP], is_text=is_text)
        if size > most:
            return start
    return len(data)


def _is_text(data: bytes, size: int) -> bool:
    """Return whether the first bytes are UTF-8; in steps, because all of the text may take much memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, size, _STEP):
            decoder.decode(data[start : min(start + _STEP, size)], start + _STEP >= size)
    except UnicodeDecodeError:
        return False
    return True


def _encoded_size(data: bytes, *, is_text: bool) -> int:
    """Return how many bytes a piece of a stream takes in JSON at most."""
    controls = len(data) - len(data.translate(None, CONTROLS))
    quoted = len(data) - len(data.translate(None, _QUOTED))
    size = len(data) + 5 * controls + quoted
    if is_text:
        return size
    # Each bad byte becomes U+FFFD, three bytes long, and the exact bytes come as base64 beside.
    high = len(data) - len(data.translate(None, _HIGH))
    return size + 2 * high + base64_length(len(data))


def text_of(captured: Captured, most: int = ENCODED_BYTES) -> tuple[str, str | None, int]:
    """Return a stream as text, its exact bytes as base64 where text replaced some, and the bytes dropped.

    Args:
        captured: The stored part of the stream.
        most: Maximum bytes in JSON; the rest is dropped.
    """
    data = captured.data
    size = _within(data, most)
    if size < captured.total_bytes:
        size = _whole_characters(data, size)
    dropped = captured.total_bytes - size
    if size > LARGE and not _is_text(data, size):
        return LateText(data, size, exact=False), LateText(data, size, exact=True), dropped
    return *models.text_and_exact(data[:size]), dropped


def command_result(outcome: CommandOutcome) -> CommandResult:
    """Convert the outcome of a command in a persistent sandbox."""
    stdout, stdout_exact, stdout_dropped = text_of(outcome.stdout)
    stderr, stderr_exact, stderr_dropped = text_of(outcome.stderr)
    exit_code = EXIT_TIMEOUT if outcome.timed_out else outcome.exit_code
    return CommandResult(
        stdout=stdout,
        stderr=stderr,
        exit_code=exit_code,
        success=exit_code == 0,
        error="the time limit of the command was reached" if outcome.timed_out else None,
        stdout_base64=stdout_exact,
        stderr_base64=stderr_exact,
        stdout_truncated=True if stdout_dropped else None,
        stderr_truncated=True if stderr_dropped else None,
    )
