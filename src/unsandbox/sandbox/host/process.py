"""Programs in persistent sandboxes, seen from the server: their start reports, and running one to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from unsandbox.protocol.contents import Content, chunks_of
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.descriptors import readable, writable
from unsandbox.sandbox.host.stream_capture import StreamCapture
from unsandbox.sandbox.launcher import messages
from unsandbox.sandbox.launcher.messages import MAX_MESSAGE, Answered, Message
from unsandbox.sandbox.persistent_spec import CommandOutcome, ProcessUsage, RunningProcess

_GRACE_S = 0.25
"""How long to wait for output of other processes after the program itself has ended."""
_WRITE_BYTES = 1 << 16
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class SandboxProcess:
    """A started program; implements `RunningProcess`."""

    def __init__(
        self,
        exited: asyncio.Future[Answered],
        signal: Callable[[int, bool], None],
        *,
        terminal_fd: int | None = None,
        stdin_fd: int | None = None,
        stdout_fd: int | None = None,
        stderr_fd: int | None = None,
        pid: int = 0,
    ) -> None:
        """Take over the descriptors.

        Args:
            exited: Completed at the program's end.
            signal: Sends a signal to the process group, or (True) to the session.
            terminal_fd: The master of its terminal.
            stdin_fd: Its standard input.
            stdout_fd: Its standard output.
            stderr_fd: Its standard error.
            pid: Its number on the host; 0 if it has none there.
        """
        self._pid = pid
        self._exited = exited
        self._signal = signal
        self.terminal_fd = terminal_fd
        self.stdin_fd = stdin_fd
        self.stdout_fd = stdout_fd
        self.stderr_fd = stderr_fd

    async def wait(self) -> int:
        """Return the exit code; see `RunningProcess.wait`.

        Raises:
            SandboxError: The sandbox was lost with its launcher.
        """
        code = (await asyncio.shield(self._exited)).exit_code
        if code is None:
            raise SandboxError("the program was lost")
        return code

    def usage(self) -> ProcessUsage | None:
        """Return what the program has used; see `RunningProcess.usage`."""
        if not self._exited.done():
            return _usage_of(self._pid) if self._pid else None
        if self._exited.cancelled() or self._exited.exception() is not None:
            return None
        answer = self._exited.result()
        if answer.cpu_s is None:
            return None
        return ProcessUsage(answer.cpu_s, answer.peak_memory_bytes or 0)

    def kill(self, signal_number: int = 9) -> None:
        """Send a signal to the program's process group; see `RunningProcess.kill`."""
        self._signal(signal_number, False)

    def kill_session(self) -> None:
        """Kill every process of the program's session, including background jobs."""
        self._signal(9, True)

    def take(self, name: str) -> int:
        """Return a descriptor; the caller now owns it."""
        fd: int | None = getattr(self, name)
        if fd is None:
            raise SandboxError(f"the program has no {name}")
        setattr(self, name, None)
        return fd

    def close(self) -> None:
        """Close the descriptors that are still open; see `RunningProcess.close`."""
        for name in ("terminal_fd", "stdin_fd", "stdout_fd", "stderr_fd"):
            if getattr(self, name) is not None:
                os.close(self.take(name))


def _usage_of(pid: int) -> ProcessUsage | None:
    """Return what a running process has used, with the children that it waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    return ProcessUsage(sum(map(int, fields[11:15])) / _TICKS_PER_S, int(peak) * 1024)


async def reports(sock: socket.socket) -> AsyncGenerator[tuple[Message, list[int]], None]:
    """Yield the messages, with descriptors, of a process that enters a sandbox, until it becomes a program."""
    sock.setblocking(False)
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(sock, MAX_MESSAGE, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await readable(sock.fileno())
            continue
        except ConnectionError:
            return
        if not data:
            return
        for fd in fds:
            os.set_blocking(fd, False)
        yield messages.decode(data), fds


async def communicate(
    process: RunningProcess,
    stdin: bytes | Content,
    *,
    timeout_s: float | None,
    output_bytes: int,
    discard_fd: int,
) -> CommandOutcome:
    """Send a program its standard input and return its whole output; see `PersistentSandbox.run`."""
    started = time.monotonic()
    ended = asyncio.Event()
    streams: list[StreamCapture] = []

    def check() -> None:
        if all(stream.ended for stream in streams):
            ended.set()

    def capture(name: str) -> StreamCapture:
        return StreamCapture(
            name,
            process.take(f"{name}_fd"),
            keep_bytes=output_bytes,
            flood_bytes=1 << 62,
            discard_fd=discard_fd,
            sink=None,
            on_flood=lambda: None,
            on_end=check,
        )

    try:
        streams += [capture("stdout"), capture("stderr")]
        feeding = asyncio.ensure_future(_feed(process.take("stdin_fd"), stdin))
        timed_out = False
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    code = await process.wait()
            except TimeoutError:
                timed_out = True
                process.kill_session()
                code = await process.wait()
            # Background processes may hold the pipes open for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await ended.wait()
            # This process may have slept all that time.
            for stream in streams:
                stream.read_now()
        except BaseException:
            process.kill_session()
            raise
        finally:
            feeding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await feeding
        stdout, stderr = (stream.result() for stream in streams)
        return CommandOutcome(code, stdout, stderr, time.monotonic() - started, timed_out)
    finally:
        for stream in streams:
            stream.close()
        process.close()


async def _feed(fd: int, data: bytes | Content) -> None:
    """Write `data` into a pipe and close it; it is not an error if the reader closes its end first."""
    try:
        for chunk in chunks_of(data):
            await _feed_chunk(fd, chunk)
    except OSError:
        return
    finally:
        os.close(fd)


async def _feed_chunk(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view[:_WRITE_BYTES]) :]
        except BlockingIOError:
            await writable(fd)
