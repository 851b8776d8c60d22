"""Types of the dicts that the functions of `un` and `un_async` return.

The dicts are the server's JSON objects, unchanged: members may be missing, and there may be further ones.
"""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = [
    "ArtifactResult",
    "CloneResult",
    "CommandOutcome",
    "DomainsResult",
    "ImageListResult",
    "ImageResult",
    "JobResult",
    "KeyResult",
    "LogLineResult",
    "LogResult",
    "MetricsResult",
    "PicturesResult",
    "RestoredResult",
    "ServiceLogResult",
    "ServiceResult",
    "SessionResult",
    "SnapshotResult",
    "TrustedResult",
    "VaultExportResult",
    "VaultResult",
]


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
    compile_output: str
    compile_output_base64: str
    compile_output_truncated: bool
    compile_output_dropped_bytes: int
    artifacts: list[ArtifactResult]
    artifacts_skipped: list[str]
    message: str


class SessionResult(TypedDict, total=False):
    """A session. `status` is `running` or `frozen`."""

    session_id: str
    id: str
    container_name: str
    name: str
    shell: str
    status: str
    state: str
    remaining_ttl: int
    network_mode: str
    vcpu: int
    memory_mb: int
    boosted: bool
    created_at: str
    last_activity: str
    websocket_url: str
    isolation: str
    metadata: dict[str, str]
    ends_at: float
    reason: str
    message: str
    artifacts: list[ArtifactResult]


class MetricsResult(TypedDict, total=False):
    """What a session uses; a member is missing if nothing counts it."""

    session_id: str
    at: float
    cpu_time_ms: float
    vcpu: int
    memory_bytes: int
    peak_memory_bytes: int
    memory_limit_bytes: int
    disk_bytes: int
    disk_limit_bytes: int
    processes: int
    process_limit: int


class CommandOutcome(TypedDict, total=False):
    """What a command in a session answers; `exit_code` is 124 when its time was up."""

    stdout: str
    stderr: str
    exit_code: int
    success: bool
    error: str
    stdout_base64: str
    stderr_base64: str
    stdout_truncated: bool
    stderr_truncated: bool


class ServiceResult(TypedDict, total=False):
    """A service. `state` is `running`, `frozen`, `stopped` or `failed`."""

    service_id: str
    id: str
    name: str
    state: str
    status: str
    url: str
    ports: list[int]
    custom_domains: list[str]
    domains: list[str]
    network_mode: str
    vcpu: int
    memory_mb: int
    locked: bool
    unfreeze_on_demand: bool
    show_freeze_page: bool
    disk_used: int
    container_name: str
    source_image: str
    service_type: str
    restarts: int
    isolation: str
    created_at: str
    last_activity: str
    message: str


class ServiceLogResult(TypedDict, total=False):
    """The output of a service's program."""

    log: str
    logs: str
    lines: int


class DomainsResult(TypedDict, total=False):
    """The names under which a service is reachable."""

    custom_domains: list[str]
    domains: list[str]


class VaultResult(TypedDict, total=False):
    """What is told of a vault: never its values."""

    has_vault: bool
    count: int
    env_count: int
    updated_at: float
    message: str


class VaultExportResult(TypedDict, total=False):
    """A whole vault as lines `NAME=value`."""

    env: str
    content: str


class SnapshotResult(TypedDict, total=False):
    """A snapshot."""

    snapshot_id: str
    id: str
    name: str
    source_type: str
    type: str
    source_id: str
    size_bytes: int
    size: int
    sha256: str
    hot: bool
    isolation: str
    locked: bool
    status: str
    container_name: str
    created_at: str
    message: str


class RestoredResult(TypedDict, total=False):
    """What a restore answers."""

    id: str
    type: str
    status: str
    restored_id: str
    message: str


class CloneResult(TypedDict, total=False):
    """What a clone of a snapshot answers: the id of the new session or service."""

    id: str
    session_id: str
    service_id: str
    name: str
    url: str
    type: str


class ImageResult(TypedDict, total=False):
    """An image."""

    image_id: str
    id: str
    name: str
    description: str
    fingerprint: str
    visibility: str
    source_type: str
    source_id: str
    owner_api_key: str
    size_bytes: int
    locked: bool
    access: str
    created_at: str
    message: str
    trusted_keys: list[str]


class ImageListResult(TypedDict, total=False):
    """Images, and how many."""

    images: list[ImageResult]
    count: int


class TrustedResult(TypedDict, total=False):
    """The keys that an image trusts."""

    trusted_keys: list[str]
    trusted: list[str]
    count: int


class PicturesResult(TypedDict, total=False):
    """Drawn pictures: URLs or base64 data."""

    images: list[Any]
    created_at: str


class LogLineResult(TypedDict, total=False):
    """One line of a log and where it is from."""

    source: str
    line: str


class LogResult(TypedDict, total=False):
    """Lines of a log, oldest first."""

    sources: list[str]
    count: int
    lines: list[LogLineResult]


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
    limits: dict[str, Any]
    used: dict[str, float]
