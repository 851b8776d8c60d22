"""The dicts that the functions of `un` and `un_async` return, for type checkers and editors.

They are the server's JSON objects as they came, so members may be missing and unknown ones may be there.
"""

from __future__ import annotations

from typing import TypedDict

__all__ = ["ArtifactResult", "JobResult", "KeyResult"]


class ArtifactResult(TypedDict, total=False):
    """A file that a program left."""

    filename: str
    content_base64: str
    size: int


class JobResult(TypedDict, total=False):
    """A job. `status` is `pending`, `running`, `completed`, `failed`, `timeout` or `cancelled`."""

    job_id: str
    id: str
    status: str
    language: str
    stdout: str
    stderr: str
    exit_code: int
    success: bool
    error: str
    detected_language: str
    total_time_ms: float
    execution_time_ms: float
    cpu_time_ms: float
    peak_memory_bytes: int
    network_mode: str
    created_at: str
    completed_at: str
    stdout_base64: str
    stderr_base64: str
    stdout_truncated: bool
    stdout_dropped_bytes: int
    stderr_truncated: bool
    stderr_dropped_bytes: int
    artifacts: list[ArtifactResult]
    artifacts_skipped: list[str]
    message: str


class KeyResult(TypedDict, total=False):
    """What the server knows about a key pair."""

    valid: bool
    public_key: str
    tier: int
    status: str
    reason: str
    valid_through_datetime: str
    valid_for_human: str
    rate_per_minute: int
    burst: int
    concurrency: int
