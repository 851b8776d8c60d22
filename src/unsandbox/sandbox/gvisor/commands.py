"""Commands of `runsc` on a living sandbox: run by the launcher, as the sandbox's user and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.gvisor.bundle import runsc_words
from unsandbox.sandbox.host.descriptors import memory_file
from unsandbox.sandbox.host.launcher_client import Ending, LauncherControl
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


def request(program: Path, uid: int | None, argv: Sequence[str], fds: Iterable[int], bounds: Bounds) -> Start:
    """Return what the launcher is asked for to run `runsc`.

    Args:
        program: The executable.
        uid: User of the host, None for this process's own.
        argv: Its command line.
        fds: The numbers that its descriptors have in it.
        bounds: Of its control group.
    """
    return Start(
        program=str(program), argv=tuple(argv), fds=tuple(fds), bounds=bounds, uid=uid, single_process=True
    )


async def run(
    control: LauncherControl,
    program: Path,
    bundle: Path,
    uid: int | None,
    words: Sequence[str],
    extra_fds: Mapping[int, int] | None = None,
) -> None:
    """Run one command to its end.

    Args:
        control: The launcher.
        program: The executable.
        bundle: The sandbox's.
        uid: User of the host that the sandbox runs as.
        words: The command and its options; the sandbox's name is added.
        extra_fds: Descriptors of this process by their numbers in the command.

    Raises:
        SandboxError: It failed; the message says what `runsc` said.
    """
    with contextlib.ExitStack() as ours:
        nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        ours.callback(os.close, nothing)
        said = memory_file(b"")
        ours.callback(os.close, said)
        fds = {0: nothing, 1: said, 2: said, **(extra_fds or {})}
        command = _Command()
        argv = [*runsc_words(bundle), *words, bundle.name]
        await control.start(command, request(program, uid, argv, fds, _BOUNDS), list(fds.values()))
        ending = await asyncio.shield(command.over)
        if ending.error or ending.exit_code != 0:
            what = ending.error or os.pread(said, 2000, 0).decode("utf-8", "replace").strip()
            raise SandboxError(f"runsc {words[0]} failed: {what or f'exit status {ending.exit_code}'}")
