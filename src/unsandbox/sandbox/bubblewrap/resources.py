"""The resources of the bubblewrap backend on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox.bubblewrap.arguments import Mounts
from unsandbox.sandbox.bubblewrap.outbound import Outbound
from unsandbox.sandbox.host.resources import HostResources


@dataclass(frozen=True, slots=True)
class FirstProcess:
    """The first process of persistent sandboxes.

    Attributes:
        file: The program, which is attached as `INIT_FD`.
        command: The command that runs it.
    """

    file: Path
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BubblewrapResources:
    """The resources for one sandbox.

    Attributes:
        host: The resources that all sandboxes of the backend share.
        program: Path of bubblewrap.
        init: The first process of persistent sandboxes.
        filter: The system call filter, an array of `struct sock_filter`.
        network: The outbound network; None for a sandbox without.
        forker: Machine code that forks programs; see `NativePrograms`.
    """

    host: HostResources
    program: Path
    init: FirstProcess
    filter: bytes
    network: Outbound | None = None
    forker: bytes | None = None

    def mounts(self, system_paths: Sequence[str], environment: Path | None) -> Mounts:
        """Return a sandbox's view of the host; the arguments are those of `SandboxSpec`."""
        host = self.host
        return Mounts(host.root, host.system, host.system_paths(system_paths), self.network, environment)
