"""The resources of the gVisor backend on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox.gvisor.bundle import (
    FirstProcess,
    bounds,
    configuration,
    make_bundle,
    runsc_words,
    write_configuration,
)
from unsandbox.sandbox.gvisor.files import hand_over_lines, place_lines
from unsandbox.sandbox.host.job_script import RUN_SCRIPT, job_script
from unsandbox.sandbox.host.machine_view import Processors
from unsandbox.sandbox.host.resources import HostResources
from unsandbox.sandbox.host.slots import Slot
from unsandbox.sandbox.launcher.fd_numbers import SCRIPT_FD
from unsandbox.sandbox.launcher.messages import OpenPersistent, Start
from unsandbox.sandbox.layout import ENVIRONMENT
from unsandbox.sandbox.persistent_spec import PersistentLimits
from unsandbox.sandbox.spec import Limits, SandboxSpec

MEMORY = "/proc/meminfo"
"""The file that tells programs how much memory there is."""


@dataclass(frozen=True, slots=True)
class GvisorResources:
    """The resources of the backend for its sandboxes.

    Attributes:
        host: The resources that all sandboxes share.
        program: Path of `runsc`.
        version: Its release.
    """

    host: HostResources
    program: Path
    version: str

    def mounts(self, system_paths: Sequence[str], environment: Path | None) -> list[tuple[Path, str]]:
        """Return a sandbox's mounts of host paths; the arguments are those of `SandboxSpec`."""
        system = self.host.system
        paths = self.host.system_paths(system_paths)
        own = [] if environment is None else [(environment, ENVIRONMENT)]
        return [(system.usr, "/usr"), *((system.path(path), path) for path in paths), *own]

    def job_bundle(self, spec: SandboxSpec, slot: Slot, command: str = RUN_SCRIPT) -> Path:
        """Create the folder with the configuration of a job's sandbox and the state of `runsc`.

        Args:
            spec: The job.
            slot: Its slot.
            command: The first command of its shell.
        """
        bundle = make_bundle(self.host.runtime, slot.uid)
        # Its kernel knows its processors, but not its limit of memory.
        memory = self.host.view.show(slot.number, spec.limits.vcpu, spec.limits.memory_bytes) / "meminfo"
        first = FirstProcess(
            command=["/bin/sh", "-c", command, "sh"], open_files=max(spec.limits.open_files, SCRIPT_FD + 8)
        )
        content = configuration(
            first,
            root=self.host.root,
            mounts=[*self.mounts(spec.system_paths, spec.environment), (memory, MEMORY)],
            tmpfs_bytes=spec.limits.tmpfs_bytes,
            work_bytes=spec.limits.tmpfs_bytes,
        )
        write_configuration(bundle, content)
        return bundle

    def job_request(
        self, bundle: Path, limits: Limits, slot: Slot, fds: Iterable[int], processors: Processors
    ) -> Start:
        """Return the request for a job's sandbox; `fds` are the numbers of its descriptors inside."""
        passed = [word for fd in fds if fd > 2 for word in ("--pass-fd", f"{fd}:{fd}")]
        return Start(
            program=str(self.program),
            argv=(*runsc_words(bundle), "run", "--bundle", str(bundle), *passed, bundle.name),
            fds=tuple(fds),
            bounds=bounds(limits.memory_bytes, limits.processes, limits.vcpu),
            uid=slot.uid,
            single_process=True,
            cpus=processors.cpus,
        )

    def persistent_request(
        self,
        bundle: Path,
        words: Sequence[str],
        limits: PersistentLimits,
        uid: int | None,
        fds: Iterable[int],
        cpus: tuple[int, ...],
    ) -> OpenPersistent:
        """Return the request for a persistent sandbox.

        Args:
            bundle: Its folder.
            words: The command of `runsc` that makes it, and its options.
            limits: Its limits.
            uid: Its host user; None for the server's user.
            fds: The numbers of its descriptors inside.
            cpus: The processors that it runs on; none for all.
        """
        return OpenPersistent(
            program=str(self.program),
            argv=(*runsc_words(bundle), *words, "--bundle", str(bundle), bundle.name),
            fds=tuple(fds),
            bounds=bounds(limits.memory_bytes, limits.processes, limits.vcpu),
            uid=uid,
            single_process=True,
            cpus=cpus,
        )

    def job_script(self, spec: SandboxSpec, before: Sequence[str] = ()) -> bytes:
        """Return the script of a job; it executes the lines `before` before it writes the job's files."""
        return job_script(
            spec,
            data_bytes=self.host.data_bytes(spec.limits.memory_bytes),
            prepare=[*before, *place_lines(spec)],
            artifacts=hand_over_lines(spec),
            all_variables=True,
        )
