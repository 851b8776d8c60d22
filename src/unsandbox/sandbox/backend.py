"""The interface between the engine and isolation backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unsandbox.sandbox.persistent_spec import PersistentSandbox, PersistentSpec
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Check, NetworkMode, OutputSink, ProbeReport, RunningJob, SandboxSpec
from unsandbox.sandbox.system import HOST, System


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities of a backend's sandboxes, on machines that meet its requirements.

    Attributes:
        persistent: The backend has persistent sandboxes: `Backend.open_persistent`.
        memory_snapshots: Persistent sandboxes can be saved and restored with memory and running processes
            (`PersistentSandbox.checkpoint`, `PersistentSpec.hot_image`).
        outbound_network: Sandboxes can have the network mode `semitrusted`.
        own_kernel: Sandboxes have a separate kernel, as `hardened` requires.
    """

    persistent: bool = False
    memory_snapshots: bool = False
    outbound_network: bool = False
    own_kernel: bool = False


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """A server's options for its backends.

    Attributes:
        system: The source of the sandboxes' `/usr`.
        pool: The configuration of the pool; None for no pool.
        native_code: Whether to use the machine code of this project.
    """

    system: System = HOST
    pool: PoolConfig | None = None
    native_code: bool = True


class JobStarter(Protocol):
    """The part of a backend that starts jobs."""

    @property
    def name(self) -> str:
        """Name of the backend, by which requests choose it."""

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> RunningJob:
        """Start one job in a fresh sandbox that no other job ever uses.

        Raises:
            InvalidSpecError: The specification is invalid.
            SandboxUnavailable: This machine cannot provide the requested isolation.
            SandboxError: The backend failed.
        """


class Backend(JobStarter, Protocol):
    """An isolation backend. One instance serves many sandboxes, all on the event loop that opened it."""

    @property
    def capabilities(self) -> Capabilities:
        """The abilities of its sandboxes; available before it is open."""

    def unavailable_reason(self) -> str | None:
        """Return why the backend cannot be opened here and what to do, if that is known without trying."""

    async def open(self) -> ProbeReport:
        """Prepare the resources that sandboxes share, and prove the isolation by running a sandbox.

        Raises:
            SandboxUnavailable: A part is missing or the isolation is incomplete; the message has the details.
        """

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """Return why sandboxes cannot have a network mode here and what to do; None if they can."""

    async def open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        """Create a persistent sandbox.

        Raises:
            SandboxUnavailable: The machine cannot provide it; the message says why and what to do.
            InvalidSpecError: A path or name is invalid.
            SandboxError: The backend failed.
            OSError: The disk is full (ENOSPC) or failed.
        """

    async def prove_persistent(self) -> Sequence[Check]:
        """Return the checks of persistent sandboxes; the first call creates one to find out."""

    def scratch(self) -> Path:
        """Return a private host folder that is removed with the backend, even if the server is killed."""

    async def close(self) -> None:
        """Kill all sandboxes; remove every process, folder and cgroup of this backend. May be repeated."""
