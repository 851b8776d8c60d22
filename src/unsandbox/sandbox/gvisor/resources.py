"""What gVisor's sandboxes are made with, on this machine."""

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
from unsandbox.sandbox.host.resources import HostResources
from unsandbox.sandbox.launcher.fd_numbers import SCRIPT_FD
from unsandbox.sandbox.launcher.messages import OpenPersistent, Start
from unsandbox.sandbox.persistent_spec import PersistentLimits
from unsandbox.sandbox.spec import Limits, SandboxSpec


@dataclass(frozen=True, slots=True)
class GvisorResources:
    """The backend's part in its sandboxes.

    Attributes:
        host: What all its sandboxes share.
        program: Path of `runsc`.
        version: Its release.
    """

    host: HostResources
    program: Path
    version: str

    def mounts(self, system_paths: Sequence[str]) -> list[tuple[Path, str]]:
        """Return what a sandbox sees of the host, and where; see `SandboxSpec.system_paths`."""
        system = self.host.system
        paths = self.host.system_paths(system_paths)
        return [(system.usr, "/usr"), *((system.path(path), path) for path in paths)]

    def job_bundle(self, spec: SandboxSpec, uid: int | None, command: str = RUN_SCRIPT) -> Path:
        """Make the folder that describes a job's sandbox to `runsc`, with room for what that keeps of it.

        Args:
            spec: The job.
            uid: User of the host that the sandbox runs as; None for the server's.
            command: What its shell begins with.
        """
        bundle = make_bundle(self.host.runtime, uid)
        first = FirstProcess(
            command=["/bin/sh", "-c", command, "sh"], open_files=max(spec.limits.open_files, SCRIPT_FD + 8)
        )
        content = configuration(
            first,
            root=self.host.root,
            mounts=self.mounts(spec.system_paths),
            tmpfs_bytes=spec.limits.tmpfs_bytes,
            work_bytes=spec.limits.tmpfs_bytes,
        )
        write_configuration(bundle, content)
        return bundle

    def job_request(self, bundle: Path, limits: Limits, uid: int | None, fds: Iterable[int]) -> Start:
        """Return the request for a job's sandbox; `fds` are the numbers that its descriptors have in it."""
        passed = [word for fd in fds if fd > 2 for word in ("--pass-fd", f"{fd}:{fd}")]
        return Start(
            program=str(self.program),
            argv=(*runsc_words(bundle), "run", "--bundle", str(bundle), *passed, bundle.name),
            fds=tuple(fds),
            bounds=bounds(limits.memory_bytes, limits.processes, limits.vcpu),
            uid=uid,
            single_process=True,
        )

    def persistent_request(
        self,
        bundle: Path,
        words: Sequence[str],
        limits: PersistentLimits,
        uid: int | None,
        fds: Iterable[int],
    ) -> OpenPersistent:
        """Return the request for a persistent sandbox.

        Args:
            bundle: Its folder.
            words: The command of `runsc` that makes it, and its options.
            limits: Its bounds.
            uid: The user of the host that it runs as; None for the server's.
            fds: The numbers that its descriptors have in it.
        """
        return OpenPersistent(
            program=str(self.program),
            argv=(*runsc_words(bundle), *words, "--bundle", str(bundle), bundle.name),
            fds=tuple(fds),
            bounds=bounds(limits.memory_bytes, limits.processes, limits.vcpu),
            uid=uid,
            single_process=True,
        )

    def job_script(self, spec: SandboxSpec, before: Sequence[str] = ()) -> bytes:
        """Return the script of a job; the lines `before` come before its files are put in place."""
        return job_script(
            spec,
            data_bytes=self.host.data_bytes(spec.limits.memory_bytes),
            prepare=[*before, *place_lines(spec)],
            artifacts=hand_over_lines(spec),
            all_variables=True,
        )
