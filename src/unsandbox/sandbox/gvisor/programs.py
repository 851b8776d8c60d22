"""Programs and connections in persistent gVisor sandboxes, started by the agent inside."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace

from unsandbox.protocol.contents import Content
from unsandbox.sandbox.errors import ProgramStartError
from unsandbox.sandbox.gvisor import agent
from unsandbox.sandbox.gvisor.channel import Channel, encoded, text
from unsandbox.sandbox.gvisor.terminal import LocalTerminal
from unsandbox.sandbox.host.persistent import Program
from unsandbox.sandbox.host.process import SandboxProcess, communicate
from unsandbox.sandbox.launcher.messages import Answered
from unsandbox.sandbox.layout import DEFAULT_ENV
from unsandbox.sandbox.persistent_spec import CommandOutcome, PersistentSpec, RunningProcess
from unsandbox.sandbox.spec import EXIT_KILLED, MIB

_MOST_CPU_S = 1e9


class Programs:
    """Starts programs in one sandbox.

    Args:
        channel: The channel to the sandbox's agent.
        spec: The specification of the sandbox.
        discard_fd: Descriptor for output that is dropped.
    """

    def __init__(self, channel: Channel, spec: PersistentSpec, discard_fd: int) -> None:
        self._channel = channel
        self._spec = spec
        self._discard_fd = discard_fd
        self._streams: dict[RunningProcess, int] = {}

    def stream_of(self, process: RunningProcess | None) -> int | None:
        """Return the number of a program that still runs; None for any other."""
        return None if process is None else self._streams.get(process)

    async def start_tenants(self, program: Program) -> SandboxProcess:
        """Start a program of the tenant."""
        term = {"TERM": "xterm-256color"} if program.terminal is not None else {}
        env = DEFAULT_ENV | term | dict(self._spec.env) | dict(program.env)
        return await self.start(program.argv, env, program.cwd, program.terminal)

    async def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] = DEFAULT_ENV,
        cwd: str = "/",
        terminal: tuple[int, int] | None = None,
        root: bool = False,
    ) -> SandboxProcess:
        """Start a program as the tenant, or as root of the sandbox.

        Raises:
            SandboxError: It cannot be started.
        """
        channel, stream = self._channel, self._channel.new_stream()
        if terminal is not None:
            local = LocalTerminal(channel, stream, terminal)
            process = self._process(stream, terminal_fd=local.master)
        else:
            process = self.on_pipes(stream)
        limits = {
            "RLIMIT_NOFILE": self._spec.limits.open_files,
            "RLIMIT_NPROC": self._spec.limits.processes,
        }
        details = encoded(argv=list(argv), env=dict(env), cwd=cwd, terminal=terminal, limits=limits, root=root)
        try:
            said = await channel.call(agent.SPAWN, stream, details, agent.STARTED)
        except BaseException:
            process.close()
            raise
        if said:
            process.close()
            channel.abandon(stream)
            raise _start_error(said)
        return process

    async def help(
        self, argv: Sequence[str], stdin: bytes | Content = b"", output_bytes: int = MIB, *, root: bool = False
    ) -> CommandOutcome:
        """Run a helper program to its end, even while the tenant's programs are stopped."""
        process = await self.start(argv, root=root)
        return await communicate(
            process, stdin, timeout_s=None, output_bytes=output_bytes, discard_fd=self._discard_fd
        )

    def on_pipes(self, stream: int) -> SandboxProcess:
        """Return the program of a stream, with new pipes."""
        ends = {
            "stdin_fd": self._feeds(stream),
            "stdout_fd": self._drains(stream),
            "stderr_fd": self._drains(stream + 1),
        }
        return self._process(stream, **ends)

    def give_up(self, process: RunningProcess) -> None:
        """Forget a program that does not run any more."""
        if (stream := self._streams.pop(process, None)) is not None:
            self._channel.abandon(stream)
        process.close()

    def _process(self, stream: int, **ends: int) -> SandboxProcess:
        exited = self._exit_of(self._channel.expect(agent.EXIT, stream))
        process = SandboxProcess(exited, functools.partial(self._send_signal, stream), **ends)
        self._streams[process] = stream
        exited.add_done_callback(lambda _: self._streams.pop(process, None))
        return process

    def _feeds(self, stream: int) -> int:
        """Return a descriptor whose written bytes go into the sandbox."""
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write, False)
        self._channel.outlet(stream, read)
        return write

    def _drains(self, stream: int) -> int:
        """Return a descriptor with the bytes that come out of the sandbox."""
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        self._channel.inlet(stream, write)
        return read

    @staticmethod
    def _exit_of(said: asyncio.Future[bytes]) -> asyncio.Future[Answered]:
        answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()

        def tell(done: asyncio.Future[bytes]) -> None:
            lost = done.cancelled() or done.exception() is not None
            if not answer.done():
                answer.set_result(Answered(ask=0, exit_code=EXIT_KILLED) if lost else _ending(done.result()))

        said.add_done_callback(tell)
        return answer

    def _send_signal(self, stream: int, number: int, session: bool) -> None:
        self._channel.send(agent.SIGNAL, stream, encoded(number=number, session=session))

    async def halt(self, halt: bool) -> None:
        """Suspend or resume all programs of the tenant."""
        await self._channel.call(agent.HALT, 0, b"1" if halt else b"0", agent.DONE)

    async def connect(self, port: int) -> int:
        """Return a descriptor of a connection to a port inside; see `PersistentSandbox.connect`.

        It is one end of a local socket pair; the bytes of the other end are forwarded into the sandbox.

        Raises:
            ConnectionError: Nothing listens there.
        """
        channel, stream = self._channel, self._channel.new_stream()
        here, there = socket.socketpair()
        with here, there:
            there.setblocking(False)
            channel.outlet(stream, os.dup(there.fileno()))
            end = functools.partial(_shut, os.dup(there.fileno()))
            channel.inlet(stream, os.dup(there.fileno()), end)
            said = await channel.call(agent.CONNECT, stream, str(port).encode(), agent.STARTED)
            if said:
                channel.abandon(stream)
                raise ConnectionError(f"nothing listens on port {port} of the sandbox: {text(said)}")
            here.setblocking(False)
            return here.detach()


def _ending(said: bytes) -> Answered:
    """Return the end of a program as its agent tells it. That of an older checkpoint tells the code alone."""
    try:
        code, *used = said.split()
        answer = Answered(ask=0, exit_code=int(code) & 0xFF)
        cpu_s, kib = float(used[0]), int(used[1])
    except (ValueError, IndexError):
        return Answered(ask=0, exit_code=int(said) & 0xFF if said.isdigit() else EXIT_KILLED)
    if not (0 <= cpu_s < _MOST_CPU_S and 0 <= kib < 1 << 40):
        return answer
    return replace(answer, cpu_s=cpu_s, peak_memory_bytes=kib * 1024)


def _start_error(said: bytes) -> ProgramStartError:
    """Return the error for what an agent says of a program that it could not start."""
    try:
        reason, number, path = json.loads(said)
        named = f"{reason}: {path!r}" if path else str(reason)
        return ProgramStartError(f"cannot start the program: {named[:500]}", int(number), str(path))
    except (ValueError, TypeError):
        return ProgramStartError(f"cannot start the program: {text(said)}")


def _shut(fd: int) -> None:
    """Signal the end of the data to the other end of a socket pair, and close this copy."""
    try:
        with socket.socket(fileno=fd) as sock:
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        return
