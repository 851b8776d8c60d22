"""Programs in persistent sandboxes on bubblewrap: processes of the launcher that enter their namespaces."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
from collections.abc import Sequence

from unsandbox.sandbox.bubblewrap.resources import BubblewrapResources
from unsandbox.sandbox.errors import SandboxError
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
        spec: What the sandbox is made of.
        resources: What it is made with.
        uid: The user of the host that it runs as; None for the server's.
        handle: The server's hold on it.
        file_bytes: Bound of the size of a single file, where nothing else bounds the work folder at once.
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

    async def start(self, program: Program) -> SandboxProcess:
        """Start a program of the tenant.

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
                # Counts the processes of this user in this sandbox.
                processes=self._spec.limits.processes,
                # One file alone cannot fill a folder that is only looked at from time to time.
                file_bytes=self._file_bytes,
                data_bytes=self._data_bytes(),
            ),
        )
        return await self._enter(messages.Spawn, details)

    async def start_helper(self, argv: Sequence[str], capabilities: int = 0) -> SandboxProcess:
        """Start a program of ours, out of the tenant's sight, which also runs while all else is frozen.

        Args:
            argv: Its command line.
            capabilities: What it keeps of root's powers, as a mask.

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
                                raise SandboxError(f"cannot start the program: {message.error}")
                            case messages.Entered():
                                pid = message.pid
            except TimeoutError:
                # Tenants can stop it before it is a program.
                self._send_signal(pid, exited, signal.SIGKILL, True)
                raise SandboxError(f"the program was not started within {_START_TIMEOUT_S:g} s") from None
            except asyncio.CancelledError:
                self._send_signal(pid, exited, signal.SIGKILL, True)
                raise
            if not pid or not (with_pipes or "terminal_fd" in ends):
                await exited
                raise SandboxError("the program ended while starting")
            kept.pop_all()
            return SandboxProcess(exited, functools.partial(self._send_signal, pid, exited), **ends)

    def _send_signal(self, pid: int, exited: asyncio.Future[Answered], number: int, session: bool) -> None:
        if not self._handle.over.is_set() and (session or not exited.done()):
            task = asyncio.get_running_loop().create_task(self._signal(pid, number, session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _signal(self, pid: int, number: int, session: bool) -> None:
        try:
            await self._handle.call(messages.Signal, pid=pid, signal=number, session=session)
        except SandboxError:
            # It is gone, and the program with it.
            return
