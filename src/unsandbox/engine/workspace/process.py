"""One process of a session: its streams, its time limit, its lease, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from unsandbox.engine.jobs.results import EXIT_TIMEOUT, signal_name
from unsandbox.engine.workspace.output_log import OutputLog
from unsandbox.engine.workspace.shares import KeyShares
from unsandbox.engine.workspace.standard_input import StandardInput
from unsandbox.protocol.processes import LEASE_S, Process
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.descriptors import set_window_size
from unsandbox.sandbox.persistent_spec import RunningProcess
from unsandbox.sandbox.spec import EXIT_KILLED

_READ_BYTES = 1 << 16
_READS_AT_ONCE = 8
_OUTPUT_GRACE_S = 0.1
"""How long a process that has ended may still have output in its pipes, held open by a child."""
_KILL_S = 10.0
EXIT_UNUSABLE, EXIT_MISSING = 126, 127
ARGV_SHOWN = 4096
"""Characters of the arguments of a process that are remembered, and shown."""
_ARGS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How a process was asked for.

    Attributes:
        process_id: Its id.
        argv: Program and arguments; of a process that runs, those that fit in `ARGV_SHOWN`.
        argv_digest: Hash of all of them.
        cwd: Working directory.
        terminal: Columns and rows of its terminal; None for pipes.
        timeout_s: Seconds until it is killed; None for no limit.
        detach: Whether it needs no lease.
        output_bytes: Bytes of each stream to keep.
        keep_first: Whether to keep the first bytes rather than the last.
    """

    process_id: str
    argv: tuple[str, ...]
    argv_digest: bytes
    cwd: str
    terminal: tuple[int, int] | None
    timeout_s: float | None
    detach: bool
    output_bytes: int
    keep_first: bool

    def shortened(self) -> ProcessSettings:
        """Return the settings with the beginning of `argv`, which may take megabytes, alone."""
        left = ARGV_SHOWN
        shown: list[str] = []
        for argument in self.argv:
            if len(argument) > left or len(shown) == _ARGS_SHOWN:
                shown.append(argument[:left] + "...")
                break
            shown.append(argument)
            left -= len(argument)
        return replace(self, argv=tuple(shown))


class SessionProcess:
    """A process, from its start until it is forgotten.

    Args:
        settings: How it was asked for.
        kill_children: Kills the children that left its session.
        shares: What the processes of its key take.
        memory_kills: Counts the processes of its sandbox that were killed at the memory limit.
    """

    def __init__(
        self,
        settings: ProcessSettings,
        kill_children: Callable[[str], asyncio.Task[None]],
        shares: KeyShares,
        memory_kills: Callable[[], int],
    ) -> None:
        self.settings = settings.shortened()
        self._memory_kills = memory_kills
        self._kills_before = memory_kills()
        self.outputs = {
            name: OutputLog(settings.output_bytes, keep_first=settings.keep_first, share=shares.output)
            for name in ("stdout", "stderr")
        }
        self.exit_code: int | None = None
        self.reason: str | None = None
        self.error: str | None = None
        self.ended = asyncio.Event()
        """No more output follows."""
        self.stdin = StandardInput(self.ended)
        self._kill_children = kill_children
        self._loop = asyncio.get_running_loop()
        self._started_at = time.time()
        self._began = time.monotonic()
        self._wall_s: float | None = None
        self._running: RunningProcess | None = None
        self._terminal = -1
        self._readers: dict[int, OutputLog] = {}
        self._changed = asyncio.Event()
        self._users = 0
        self._lease: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._killing: asyncio.Task[None] | None = None

    # Its beginning

    def run(self, process: RunningProcess) -> None:
        """Follow a program that was started for it."""
        self._running = process
        if self.settings.terminal is not None:
            self._terminal = process.take("terminal_fd")
            self.stdin.open(os.dup(self._terminal), terminal=True)
            self._read(self._terminal, self.outputs["stdout"])
        else:
            self.stdin.open(process.take("stdin_fd"))
            self._read(process.take("stdout_fd"), self.outputs["stdout"])
            self._read(process.take("stderr_fd"), self.outputs["stderr"])
        if self.settings.timeout_s is not None:
            self._timer = self._loop.call_later(self.settings.timeout_s, self.kill, "timeout")
        self._watching = self._loop.create_task(self._watch(process))
        self._renew()

    def refuse(self, number: int, error: str) -> None:
        """Note that the program could not be started."""
        self.error = error
        missing = number in (errno.ENOENT, errno.ENOTDIR)
        self._finish(EXIT_MISSING if missing else EXIT_UNUSABLE)
        self.outputs["stderr"].append(f"{error}\n".encode("utf-8", "replace"))
        self.ended.set()

    # Its use

    @property
    def running(self) -> bool:
        """Whether the program runs."""
        return self.exit_code is None

    @property
    def in_use_now(self) -> bool:
        """Whether a request uses it."""
        return self._users > 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of output that are kept."""
        return sum(output.kept_bytes for output in self.outputs.values())

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the process from ending for lack of a client within the block."""
        self._users += 1
        self._stop_lease()
        try:
            yield
        finally:
            self._users -= 1
            self._renew()

    async def changed(self) -> None:
        """Return when there is new output, or the process has ended."""
        await self._changed.wait()

    def resize(self, columns: int, rows: int) -> None:
        """Set the size of its terminal.

        Raises:
            ValueError: It has none.
        """
        if self._terminal < 0:
            raise ValueError("the process has no terminal" if self.running else "the process has ended")
        set_window_size(self._terminal, columns, rows)

    def send_signal(self, number: int) -> None:
        """Send a signal to the program's process group."""
        if self._running is not None and self.running and number:
            self._running.kill(number)

    def kill(self, reason: str) -> None:
        """Kill the program and its children."""
        if self.running:
            self.reason = self.reason or reason
            if self._running is not None:
                self._running.kill_session()
        self._killing = self._kill_children(self.settings.process_id)

    def describe(self) -> Process:
        """Return its state."""
        return Process(**self.members())

    def members(self) -> dict[str, Any]:
        """Return the members of its state by their names on the wire."""
        wall_s = time.monotonic() - self._began if self._wall_s is None else self._wall_s
        return {
            "process_id": self.settings.process_id,
            "argv": list(self.settings.argv),
            "cwd": self.settings.cwd,
            "status": "running" if self.running else "exited",
            "exit_code": self.exit_code,
            "signal": None if self.reason == "timeout" else signal_name(self.exit_code),
            "reason": self.reason,
            "error": self.error,
            "started_at": round(self._started_at, 3),
            "wall_ms": round(wall_s * 1000),
            **self._used(),
            "terminal": self.settings.terminal is not None,
            "detached": self.settings.detach,
            "stdin_bytes": self.stdin.count,
            "stdout_bytes_total": self.outputs["stdout"].total,
            "stderr_bytes_total": self.outputs["stderr"].total,
        }

    def _used(self) -> dict[str, Any]:
        usage = None if self._running is None else self._running.usage()
        if usage is None:
            return {}
        return {
            "cpu_time_ms": round(usage.cpu_s * 1000, 3),
            "peak_memory_bytes": usage.peak_memory_bytes,
        }

    def close(self, why: str = "") -> None:
        """Release the resources on this side; the caller kills the program.

        Args:
            why: Why the sandbox ended by itself, for people.
        """
        self._stop_lease()
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        for fd in list(self._readers):
            self._stop_reading(fd)
        self.stdin.close()
        for output in self.outputs.values():
            output.close()
        if self.running:
            self.reason = self.reason or "session"
            self.error = self.error or (f"the sandbox of the session ended: {why}" if why else None)
            self._finish(EXIT_KILLED)
        self.ended.set()
        self._wake()

    # Reading

    def _read(self, fd: int, log: OutputLog) -> None:
        os.set_blocking(fd, False)
        self._readers[fd] = log
        self._loop.add_reader(fd, self._readable, fd, log)

    def _readable(self, fd: int, log: OutputLog) -> None:
        # Bounded, so that a loud program does not hold the event loop.
        for _ in range(_READS_AT_ONCE):
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""  # A terminal without programs.
            if not data:
                self._stop_reading(fd)
                break
            log.append(data)
        self._wake()

    def _stop_reading(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._loop.remove_reader(fd)
            os.close(fd)
            if fd == self._terminal:
                self._terminal = -1
        if not self._readers and not self.running:
            self.ended.set()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Its end

    async def _watch(self, process: RunningProcess) -> None:
        try:
            code = await process.wait()
        except SandboxError:
            code = EXIT_KILLED
            self.reason = self.reason or "session"
        if code == EXIT_KILLED and self.reason is None and self._memory_kills() > self._kills_before:
            self.reason = "memory"
        if self._killing is not None:
            await asyncio.wait({self._killing}, timeout=_KILL_S)
        self._finish(EXIT_TIMEOUT if self.reason == "timeout" else code)
        process.close()
        self.stdin.close()
        if not self._readers:
            self.ended.set()
        self._wake()
        # A child may hold the pipes open for ever. Its later output is kept, but the end does not wait for it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_OUTPUT_GRACE_S):
                await self.ended.wait()
        self.ended.set()
        self._wake()

    def _finish(self, code: int) -> None:
        self.exit_code = code
        self._wall_s = time.monotonic() - self._began
        self._stop_lease()
        if self._timer is not None:
            self._timer.cancel()

    def _renew(self) -> None:
        self._stop_lease()
        if not self.settings.detach and self.running and not self._users:
            self._lease = self._loop.call_later(LEASE_S, self.kill, "lease")

    def _stop_lease(self) -> None:
        if self._lease is not None:
            self._lease.cancel()
            self._lease = None
