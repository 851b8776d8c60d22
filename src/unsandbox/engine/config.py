"""The configuration of one engine."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from unsandbox.errors import EngineError
from unsandbox.sandbox.spec import GIB, MIB

ISOLATION_VARIABLE = "UNSANDBOX_ISOLATION"
POOL_VARIABLE = "UNSANDBOX_POOL"
NATIVE_VARIABLE = "UNSANDBOX_NATIVE"
QUICK_END_VARIABLE = "UNSANDBOX_QUICK_END"


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _number_from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if text and not text.isdigit():
        raise EngineError(f"{name} must be a number of at least 0, not {text!r}")
    return int(text or default)


def _switch_from_environment(name: str) -> bool:
    text = os.environ.get(name, "").strip()
    if text not in ("", "0", "1"):
        raise EngineError(f"{name} must be 1 (on, the default) or 0 (off), not {text!r}")
    return text != "0"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The configuration of an engine. Sizes are in bytes, times in seconds.

    Attributes:
        max_running: Maximum number of concurrent sandboxes; 0 means two per CPU, at least four.
        extra_slots: Additional sandboxes, one for each key with no running job, so that no key has to wait for
            another key's long jobs.
        concurrency_per_key: Queued and running jobs per key; further jobs are refused with 429.
        code_bytes: Maximum size of a program.
        input_bytes: All input files of one job together.
        waiting_bytes_per_key: Programs, input and files of all jobs of a key that have not ended.
        memory_per_vcpu_bytes: Memory limit of a sandbox per vCPU.
        output_bytes: Stored part of each output stream of a job; the rest is counted and dropped.
        kept_jobs: Number of ended jobs that are kept in memory.
        kept_bytes: Total size of their results; the oldest are dropped first.
        waited_bytes: Total size of the results in one answer to a wait for several jobs.
        stop_grace_s: Seconds that a graceful stop waits for running jobs.
        retention_s: Seconds that ended jobs are kept in the data folder.
        retention_jobs: Number of ended jobs that are kept there; the oldest are deleted first.
        results_bytes_per_key: Stored results of one key's ended jobs; the oldest are deleted first.
        sessions_per_key: Maximum number of sessions per key.
        services_per_key: Maximum number of services per key.
        work_bytes: Quota of the work folder of a session or service.
        snapshots_per_key: Maximum number of snapshots per key.
        images_per_key: Maximum number of images per key.
        snapshot_bytes: Maximum size of a snapshot, compressed.
        saved_bytes_per_key: All snapshots of one key together, and all its images together.
        disk_bytes_per_key: Disks of sessions and services of one key, its snapshots and images, together.
        restart_delay_s: Wait before the program of a service is started again; doubles each time, to a minute.
        service_grace_s: Seconds between SIGTERM and SIGKILL for a service's program.
        service_start_s: Seconds that a request waits for a starting service to listen.
        reserved_domains: Domains of the API, which services cannot use, nor their subdomains.
        isolation: Minimum isolation: `auto`, `bubblewrap`, `gvisor` or `hardened`. Default: the variable
            `UNSANDBOX_ISOLATION`, otherwise `auto`.
        toolchains: Source of the sandboxes' `/usr`: `host`, a folder, or `auto`; see `find_system`.
        environments: Folder of environments; None for the default one, see `default_folder`.
        pool: Number of warm sandboxes under little load; 0 turns the pool off. Default: the variable
            `UNSANDBOX_POOL`, otherwise 4.
        pool_most: Maximum number of warm sandboxes under load.
        native: Whether bubblewrap sandboxes use the machine code in `unsandbox.sandbox.native`. Otherwise
            Python does the same more slowly. Default: the variable `UNSANDBOX_NATIVE`, otherwise yes.
        quick_end: Whether the interpreter of a warm Python program skips unobservable parts of its shutdown;
            see `PoolConfig`. Default: the variable `UNSANDBOX_QUICK_END`, otherwise yes.
    """

    max_running: int = 0
    concurrency_per_key: int = 20_000
    code_bytes: int = 16 * MIB
    input_bytes: int = 512 * MIB
    waiting_bytes_per_key: int = 2 * GIB
    memory_per_vcpu_bytes: int = 2 * GIB
    output_bytes: int = 10 * MIB
    kept_jobs: int = 10_000
    kept_bytes: int = 256 * MIB
    waited_bytes: int = 16 * MIB
    stop_grace_s: float = 20.0
    retention_s: float = 7 * 86400.0
    retention_jobs: int = 100_000
    results_bytes_per_key: int = 16 * GIB
    sessions_per_key: int = 100
    services_per_key: int = 100
    work_bytes: int = 2 * GIB
    snapshots_per_key: int = 1000
    images_per_key: int = 1000
    snapshot_bytes: int = 4 * GIB
    saved_bytes_per_key: int = 64 * GIB
    disk_bytes_per_key: int = 64 * GIB
    restart_delay_s: float = 1.0
    service_grace_s: float = 5.0
    service_start_s: float = 20.0
    reserved_domains: tuple[str, ...] = ()
    isolation: str = field(default_factory=lambda: os.environ.get(ISOLATION_VARIABLE) or "auto")
    toolchains: str | None = None
    environments: Path | None = None
    pool: int = field(default_factory=lambda: _number_from_environment(POOL_VARIABLE, 4))
    pool_most: int = 32
    native: bool = field(default_factory=lambda: _switch_from_environment(NATIVE_VARIABLE))
    quick_end: bool = field(default_factory=lambda: _switch_from_environment(QUICK_END_VARIABLE))

    extra_slots: int = 16

    @property
    def running_slots(self) -> int:
        """The maximum number of concurrent sandboxes."""
        return self.max_running or max(4, 2 * usable_cpus())
