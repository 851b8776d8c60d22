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
    """What the sandboxes of a backend can do, on machines that have what it needs.

    Attributes:
        persistent: There are persistent sandboxes: `Backend.open_persistent`.
        memory_snapshots: Persistent sandboxes can be saved and restored with memory and running processes
            (`PersistentSandbox.checkpoint`, `PersistentSpec.hot_image`).
        outbound_network: There is network mode `semitrusted`.
        own_kernel: Sandboxes have a kernel of their own: what `hardened` asks for.
    """

    persistent: bool = False
    memory_snapshots: bool = False
    outbound_network: bool = False
    own_kernel: bool = False


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How a server wants its backends.

    Attributes:
        system: Where the sandboxes' `/usr` comes from.
        pool: How many warm sandboxes to keep; None for none.
        native_code: Whether parts of sandboxes may be machine code of this project.
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
            InvalidSpecError: The specification cannot be carried out as written.
            SandboxUnavailable: It asks for isolation that this backend does not have here.
            SandboxError: The backend failed.
        """


class Backend(JobStarter, Protocol):
    """An isolation backend. One instance serves many sandboxes, all on the event loop that opened it."""

    @property
    def capabilities(self) -> Capabilities:
        """What its sandboxes can do; known before it is open."""

    def unavailable_reason(self) -> str | None:
        """Return why it cannot be opened on this machine and what to do, if that is known without trying."""

    async def open(self) -> ProbeReport:
        """Prepare what its sandboxes share, and prove the isolation by running one.

        Raises:
            SandboxUnavailable: A part is missing, or a promise is not kept; the message says which.
        """

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """Return why sandboxes cannot have a kind of network here and what to do; None when they can."""

    async def open_persistent(self, spec: PersistentSpec) -> PersistentSandbox:
        """Make a persistent sandbox.

        Raises:
            SandboxUnavailable: The backend cannot make it here; the message says why and what to do.
            InvalidSpecError: A path or name in it is not usable.
            SandboxError: The backend failed.
            OSError: The disk is full (ENOSPC) or failed.
        """

    async def prove_persistent(self) -> Sequence[Check]:
        """Return what persistent sandboxes have here, found out the first time by making one."""

    def scratch(self) -> Path:
        """Return a private folder on the host that goes with the backend, also when the server is killed."""

    async def close(self) -> None:
        """Kill what runs; remove every process, folder and cgroup of this backend. Repeating does no harm."""
