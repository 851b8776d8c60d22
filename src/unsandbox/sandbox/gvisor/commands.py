"""Commands of `runsc` for a running sandbox; the launcher runs them as the sandbox's user."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.gvisor.bundle import runsc_words
from unsandbox.sandbox.gvisor.resources import GvisorResources
from unsandbox.sandbox.host.descriptors import DescriptorStack, memory_file
from unsandbox.sandbox.host.launcher_client import Ending
from unsandbox.sandbox.launcher.cgroups import Bounds
from unsandbox.sandbox.launcher.messages import Start
from unsandbox.sandbox.spec import MIB

_BOUNDS = Bounds(512 * MIB, processes=128, vcpu=1.0)


class _Command:
    """Implements the launcher's `JobEvents` for one command."""

    def __init__(self) -> None:
        self.over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def started(self, pid: int, pidfd: int) -> None:  # noqa: ARG002 - nobody needs either
        os.close(pidfd)

    def ended(self, ending: Ending) -> None:
        if not self.over.done():
            self.over.set_result(ending)


async def run(
    resources: GvisorResources,
    bundle: Path,
    uid: int | None,
    words: Sequence[str],
    extra_fds: Mapping[int, int] | None = None,
) -> None:
    """Run one command to its end.

    Args:
        resources: The resources of the backend.
        bundle: The bundle of the sandbox.
        uid: The host user of the sandbox.
        words: The command and its options, without the sandbox's name.
        extra_fds: Descriptors of this process, by their numbers in the command.

    Raises:
        SandboxError: The command failed; the message has the output of `runsc`.
    """
    with DescriptorStack() as ours:
        nothing = ours.add(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        said = ours.add(memory_file(b""))
        fds = {0: nothing, 1: said, 2: said, **(extra_fds or {})}
        command = _Command()
        request = Start(
            program=str(resources.program),
            argv=(*runsc_words(bundle), *words, bundle.name),
            fds=tuple(fds),
            bounds=_BOUNDS,
            uid=uid,
            single_process=True,
        )
        await resources.host.control.start(command, request, list(fds.values()))
        ending = await asyncio.shield(command.over)
        if ending.error or ending.exit_code != 0:
            what = ending.error or os.pread(said, 2000, 0).decode("utf-8", "replace").strip()
            raise SandboxError(f"runsc {words[0]} failed: {what or f'exit status {ending.exit_code}'}")
