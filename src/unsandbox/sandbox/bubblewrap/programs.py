"""Programs in persistent sandboxes on bubblewrap: forks of the launcher that enter the namespaces."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
from collections.abc import Sequence

from unsandbox.sandbox.bubblewrap.resources import BubblewrapResources
from unsandbox.sandbox.errors import ProgramStartError, SandboxError
from unsandbox.sandbox.host.descriptors import DescriptorStack, memory_file, pipe
from unsandbox.sandbox.host.persistent import Program
from unsandbox.sandbox.host.process import SandboxProcess, reports
from unsandbox.sandbox.host.sandbox_handle import SandboxHandle
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.messages import Answered, ProcessLimits, ProgramDetails
from unsandbox.sandbox.layout import DEFAULT_ENV
from unsandbox.sandbox.persistent_spec import PersistentSpec

_START_TIMEOUT_S = 30.0


class Programs:
    """Starts programs in one sandbox.

    Args:
        spec: The specification of the sandbox.
        resources: The resources of the backend.
        uid: Its host user; None for the server's user.
        handle: The server's handle of it.
        file_bytes: Maximum size of a single file, if the work folder has no disk quota.
    """

    def __init__(
        self,
        spec: PersistentSpec,
        resources: BubblewrapResources,
        uid: int | None,
        handle: SandboxHandle,
        file_bytes: int | None,
    ) -> None:
        self._spec = spec
        self._resources = resources
        self._uid = uid
        self._handle = handle
        self._file_bytes = file_bytes
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, program: Program, cpus: tuple[int, ...] = ()) -> SandboxProcess:
        """Start a program of the tenant.

        Args:
            program: The program.
            cpus: The processors that it runs on; none for all.

        Raises:
            SandboxError: It cannot be started.
        """
        term = {"TERM": "xterm-256color"} if program.terminal is not None else {}
        details = ProgramDetails(
            argv=tuple(program.argv),
            env=DEFAULT_ENV | term | dict(self._spec.env) | dict(program.env),
            cwd=program.cwd,
            terminal=program.terminal,
            helper=None,
            filter=self._resources.filter,
            limits=ProcessLimits(
                open_files=self._spec.limits.open_files,
                # This limit counts the user's processes in this sandbox.
                processes=self._spec.limits.processes,
                # Without a quota the folder is only checked from time to time; limit single files at least.
                file_bytes=self._file_bytes,
                data_bytes=self._data_bytes(),
                cpus=cpus,
            ),
            forker=self._resources.forker or b"",
        )
        return await self._enter(messages.Spawn, details)

    async def start_helper(self, argv: Sequence[str], capabilities: int = 0) -> SandboxProcess:
        """Start a helper program that tenants cannot see and that runs while the sandbox is frozen.

        Args:
            argv: Its command line.
            capabilities: The capabilities that it keeps, as a mask.

        Raises:
            SandboxError: It cannot be started.
        """
        details = ProgramDetails(
            argv=tuple(argv),
            env=DEFAULT_ENV,
            cwd="/",
            terminal=None,
            helper=capabilities,
            filter=self._resources.filter,
            limits=ProcessLimits(open_files=self._spec.limits.open_files, data_bytes=self._data_bytes()),
        )
        return await self._enter(messages.SpawnHelper, details)

    def _data_bytes(self) -> int | None:
        return self._resources.host.data_bytes(self._spec.limits.memory_bytes)

    async def _enter(
        self, kind: type[messages.Spawn | messages.SpawnHelper], details: ProgramDetails
    ) -> SandboxProcess:
        with_pipes = details.terminal is None
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with DescriptorStack() as kept, here:
            ends: dict[str, int] = {}
            with DescriptorStack() as sent:
                reporting = sent.add(there.detach())
                fds = [sent.add(memory_file(messages.encode(details, None))), reporting]
                for name, ours in (("stdin", 1), ("stdout", 0), ("stderr", 0)) if with_pipes else ():
                    both = pipe(self._uid)
                    ends[f"{name}_fd"] = kept.add(both[ours])
                    fds.append(sent.add(both[1 - ours]))
                    os.set_blocking(both[ours], False)
                exited = await self._handle.ask(kind, fds)
            pid = 0
            try:
                async with asyncio.timeout(_START_TIMEOUT_S):
                    async for message, received in reports(here):
                        for fd in received:
                            ends["terminal_fd"] = kept.add(fd)
                        match message:
                            case messages.Failed():
                                reason = f"cannot start the program: {message.error}"
                                raise ProgramStartError(reason, message.errno, message.path)
                            case messages.Entered():
                                pid = message.pid
            except TimeoutError:
                # Tenants can kill it before it executes its program.
                self._send_signal(pid, exited, signal.SIGKILL, True)
                raise SandboxError(f"the program was not started within {_START_TIMEOUT_S:g} s") from None
            except asyncio.CancelledError:
                self._send_signal(pid, exited, signal.SIGKILL, True)
                raise
            if not pid or not (with_pipes or "terminal_fd" in ends):
                await exited
                raise SandboxError("the program ended while starting")
            kept.pop_all()
            return SandboxProcess(exited, functools.partial(self._send_signal, pid, exited), pid=pid, **ends)

    def _send_signal(self, pid: int, exited: asyncio.Future[Answered], number: int, session: bool) -> None:
        if not self._handle.over.is_set() and (session or not exited.done()):
            task = asyncio.get_running_loop().create_task(self._signal(pid, number, session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _signal(self, pid: int, number: int, session: bool) -> None:
        try:
            await self._handle.call(messages.Signal, pid=pid, signal=number, session=session)
        except SandboxError:
            # The sandbox is gone, and the program with it.
            return
