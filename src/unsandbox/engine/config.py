"""The bounds of one engine."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

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
    """What one engine allows. Sizes in bytes, times in seconds.

    Attributes:
        max_running: Sandboxes at work at the same time; 0 means two per CPU, at least four.
        extra_slots: Sandboxes beyond those, one for each key that has none at work, so that no key waits
            for the end of another's long jobs.
        concurrency_per_key: Jobs of one key that wait or run; one more is refused with 429.
        code_bytes: Largest program text.
        input_bytes: All input files of one job together.
        memory_per_vcpu_bytes: Memory limit of a sandbox is this times `vcpu`.
        output_bytes: Kept of each output stream of a job; the rest is counted and dropped.
        kept_jobs: Ended jobs that can still be looked up in memory.
        kept_bytes: Size of their results together; the oldest leave first.
        waited_bytes: Results that one answer to a wait for several jobs holds together.
        stop_grace_s: How long a graceful stop waits for running jobs.
        retention_s: How long an ended job stays in the data folder.
        retention_jobs: How many ended jobs stay there; the oldest leave first.
        sessions_per_key: Sessions that one key may have.
        services_per_key: Services that one key may have.
        work_bytes: Quota of the work folder of a session or service.
        snapshots_per_key: Snapshots that one key may have.
        images_per_key: Images that one key may have.
        snapshot_bytes: Largest saved state of a session or service, compressed.
        saved_bytes_per_key: All snapshots of one key together, and all its images together.
        disk_bytes_per_key: Disks of sessions and services of one key, its snapshots and images, together.
        restart_delay_s: Wait before the program of a service is started again; doubles each time, to a minute.
        service_grace_s: How long a service's program has to obey SIGTERM.
        service_start_s: How long a request waits for a service that was just started to listen.
        reserved_domains: Domains, with all below them, that no service may have: where the API itself is.
        isolation: What this engine demands at least: `auto`, `bubblewrap`, `gvisor` or `hardened`; by default
            what the environment's `UNSANDBOX_ISOLATION` says, else `auto`.
        toolchains: Where sandboxes get their `/usr`: `host`, a folder, or `auto`; see `find_system`.
        pool: Sandboxes that wait for jobs when there is little to do; 0 turns the pool off. By default what the
            environment's `UNSANDBOX_POOL` says, else 4.
        pool_most: Sandboxes that wait at most, when many jobs come.
        native: Whether bubblewrap sandboxes use the few hundred bytes of machine code in
            `unsandbox.sandbox.native`; without, Python does the same, slower. By default what the environment's
            `UNSANDBOX_NATIVE` says, else yes.
        quick_end: Whether the interpreter of a warm Python program skips what no program can observe when it
            ends; see `PoolConfig`. By default what the environment's `UNSANDBOX_QUICK_END` says, else yes.
    """

    max_running: int = 0
    concurrency_per_key: int = 20_000
    code_bytes: int = 16 * MIB
    input_bytes: int = 512 * MIB
    memory_per_vcpu_bytes: int = 2 * GIB
    output_bytes: int = 10 * MIB
    kept_jobs: int = 10_000
    kept_bytes: int = 256 * MIB
    waited_bytes: int = 16 * MIB
    stop_grace_s: float = 20.0
    retention_s: float = 7 * 86400.0
    retention_jobs: int = 100_000
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
    pool: int = field(default_factory=lambda: _number_from_environment(POOL_VARIABLE, 4))
    pool_most: int = 32
    native: bool = field(default_factory=lambda: _switch_from_environment(NATIVE_VARIABLE))
    quick_end: bool = field(default_factory=lambda: _switch_from_environment(QUICK_END_VARIABLE))

    extra_slots: int = 16

    @property
    def running_slots(self) -> int:
        """How many sandboxes may work at once."""
        return self.max_running or max(4, 2 * usable_cpus())
