"""Supervises one service: opens its sandbox, starts its program, and starts it again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from unsandbox.engine.context import Context
from unsandbox.engine.errors import RequestError
from unsandbox.engine.persistent.limits import open_persistent
from unsandbox.engine.saved.sources import SavedState
from unsandbox.engine.services.log import ServiceLog
from unsandbox.engine.services.output import copy_output
from unsandbox.errors import EngineError
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.persistent_spec import PersistentSandbox, PersistentSpec, RunningProcess
from unsandbox.sandbox.spec import EXIT_KILLED

logger = logging.getLogger("unsandbox.engine.services.services")

_LAST_OUTPUT_S = 2.0
_LISTEN_TRIES = 5
_LISTEN_PAUSE_S = 0.1
# One stream for the log, so that the order of the output is kept.
_JOIN_STREAMS = 'exec "$@" 2>&1'
_FAILURES = (RequestError, SandboxError, EngineError, OSError)


@dataclass(frozen=True, slots=True)
class Launch:
    """The data of one start; created anew for every start."""

    isolation: str
    spec: PersistentSpec
    argv: Sequence[str] | None
    ports: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class End:
    """How a program ended: its exit code if it had one, a description for people, how long it ran, and why."""

    exit_code: int | None
    description: str
    ran_s: float
    reason: str = "lost"


class ServiceSupervisor:
    """Keeps the program of one service going. Every start has a fresh sandbox with the same work folder.

    `start`, `stop`, `freeze` and `unfreeze` are called with `lock` held.

    Args:
        context: What the parts of the engine share.
        log: Takes the program's output.
        prepare: Returns the data of the next start.
        on_end: Called at every end; returns the seconds after which to start again, None for never.
        gate: Bounds how many start at the same time.
    """

    def __init__(
        self,
        context: Context,
        log: ServiceLog,
        prepare: Callable[[], Awaitable[Launch]],
        on_end: Callable[[End], Awaitable[float | None]],
        gate: asyncio.Semaphore,
    ) -> None:
        self._context = context
        self.log = log
        self._prepare = prepare
        self._on_end = on_end
        self._gate = gate
        self.lock = asyncio.Lock()
        self.sandbox: PersistentSandbox | None = None
        self.starting_since = time.monotonic()
        """When it was started last, or ended, or was unfrozen."""
        self.listened = False
        """Whether a connection has succeeded since then."""
        self._ports: Sequence[int] = ()
        self._process: RunningProcess | None = None
        self._copying: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._unfrozen = asyncio.Event()
        self._unfrozen.set()

    @property
    def active(self) -> bool:
        """Whether its program runs or is about to."""
        return self._keeper is not None and not self._keeper.done()

    async def start(self, state: SavedState | None = None) -> None:
        """Open the sandbox and start the program; in a hot saved state that runs already.

        Raises:
            InvalidRequest: The isolation or network cannot be had here.
            SandboxError: The sandbox failed.
            OSError: The disk is full or failed.
        """
        await self._launch(state)
        self._keeper = asyncio.create_task(self._keep(None))

    def start_later(self) -> None:
        """Start in the background, repeatedly until it succeeds."""
        self._keeper = asyncio.create_task(self._keep(0.0))

    async def stop(self, grace_s: float) -> None:
        """End the program, by SIGTERM if it obeys within the grace time, and its sandbox."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        process, sandbox = self._process, self.sandbox
        if process is not None and sandbox is not None and not sandbox.frozen and grace_s > 0:
            process.kill(15)
            with contextlib.suppress(TimeoutError, SandboxError):
                await asyncio.wait_for(process.wait(), grace_s)
        await self._close()
        self._unfrozen.set()

    async def freeze(self) -> None:
        """Stop every process where it is, and start nothing until it is unfrozen."""
        self._unfrozen.clear()
        try:
            sandbox = await self._living()
            if sandbox is not None:
                await sandbox.freeze()
        except BaseException:
            # Else its keeper would wait for a unfreeze that never comes.
            self._unfrozen.set()
            raise

    async def unfreeze(self) -> None:
        """Let every process go on."""
        if self.sandbox is not None:
            await self.sandbox.unfreeze()
        self.starting_since = time.monotonic()
        self._unfrozen.set()

    async def any_sandbox(self, *, frozen: bool) -> PersistentSandbox:
        """Return the sandbox, or open one in which nothing runs.

        Args:
            frozen: Whether one that must be opened shall be frozen.
        """
        sandbox = await self._living()
        if sandbox is None:
            launch = await self._prepare()
            sandbox = self.sandbox = await open_persistent(self._context, launch.isolation, launch.spec)
            if frozen:
                await sandbox.freeze()
        return sandbox

    async def _living(self) -> PersistentSandbox | None:
        """Return the sandbox; if it has ended, close it and return None."""
        if self.sandbox is not None and await _has_ended(self.sandbox):
            await self._close()
        return self.sandbox

    async def _keep(self, delay: float | None) -> None:
        """Restart the program whenever it ends; a delay of None means that it runs already."""
        while True:
            end = None
            if delay is not None:
                await asyncio.sleep(delay)
                await self._unfrozen.wait()
                async with self.lock:
                    if not self._unfrozen.is_set():
                        # It was frozen while we waited for our turn.
                        continue
                    end = await self._try_to_launch()
            end = end or await self._wait_for_end()
            self.starting_since, self.listened = time.monotonic(), False
            async with self.lock:
                # No caller gets a dead sandbox, and the log is complete before the state tells of the end.
                await self._close()
            delay = await self._on_end(end)
            if delay is None:
                async with self.lock:
                    await self._close()
                return

    async def _try_to_launch(self) -> End | None:
        """Launch; return how it went when it did not go well."""
        try:
            await self._launch(None)
        except _FAILURES as error:
            logger.warning("a service cannot be started: %s", error)
            return End(None, f"it cannot be started: {error}", 0.0, "start")
        except Exception:
            logger.exception("a service cannot be started")
            return End(None, "it cannot be started: the engine failed", 0.0, "start")
        return None

    async def _launch(self, state: SavedState | None) -> None:
        async with self._gate:
            launch = await self._prepare()
            spec = launch.spec
            if state is not None:
                spec = dataclasses.replace(spec, hot_image=state.hot_image)
            await self._close()
            sandbox = await open_persistent(self._context, launch.isolation, spec)
            # A hot image contains the running program, which continues with streams of its new sandbox.
            process = sandbox.lasting
            try:
                if state is not None and state.work_archive is not None:
                    await sandbox.replace_work(state.work_archive)
                if launch.argv is not None and spec.hot_image is None:
                    process = await sandbox.spawn(["/bin/sh", "-c", _JOIN_STREAMS, "sh", *launch.argv])
                    sandbox.lasting = process
            except BaseException:
                await sandbox.close()
                raise
        self.sandbox, self._process, self._ports = sandbox, process, launch.ports
        self.starting_since = time.monotonic()
        self.listened = False
        if process is not None:
            if process.stdin_fd is not None:
                os.close(process.stdin_fd)
                process.stdin_fd = None
            self._copying = asyncio.create_task(copy_output(process.stdout_fd, self.log))

    async def _wait_for_end(self) -> End:
        sandbox = self.sandbox
        if sandbox is None:
            return End(None, "its sandbox ended", 0.0)
        started = self.starting_since
        sandbox_end = asyncio.create_task(sandbox.wait_ended())
        waits: set[asyncio.Task[object]] = {sandbox_end}
        program_end = None
        if self._process is not None and self._copying is not None:
            program_end = asyncio.create_task(self._program_end(sandbox, self._process, self._copying))
            waits.add(program_end)
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            ran_s = time.monotonic() - started
            if program_end is not None and program_end.done() and program_end.exception() is None:
                code = program_end.result()
                if code == EXIT_KILLED and sandbox.memory_kills():
                    return End(code, "the program was killed at the memory limit", ran_s, "memory")
                return End(code, _describe_exit(code), ran_s, "signal" if code > 128 else "exit")
            why = sandbox.end_reason or "its sandbox ended by itself"
            return End(None, why, ran_s, sandbox.end_cause)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _program_end(
        self, sandbox: PersistentSandbox, process: RunningProcess, copying: asyncio.Task[None]
    ) -> int:
        """Return the exit code, once nothing is left that the program began.

        A script that ends well may leave a server in the background. It is one as long as it holds the output,
        or, when it has let go of that, if it listens on a port of the service.
        """
        code = await process.wait()
        if code == 0:
            await asyncio.wait({copying})
            if await self._listens(sandbox):
                await sandbox.wait_ended()
        return code

    async def _listens(self, sandbox: PersistentSandbox) -> bool:
        for _ in range(_LISTEN_TRIES if self._ports else 0):
            for port in self._ports:
                with contextlib.suppress(ConnectionError, SandboxError):
                    os.close(await sandbox.connect(port))
                    return True
            await asyncio.sleep(_LISTEN_PAUSE_S)
        return False

    async def _close(self) -> None:
        process, sandbox, copying = self._process, self.sandbox, self._copying
        self._process = self.sandbox = self._copying = None
        if sandbox is not None:
            await sandbox.close()
        if copying is not None:
            # All writers are gone with the sandbox, but their output is still in the pipe.
            await asyncio.wait({copying}, timeout=_LAST_OUTPUT_S)
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
        if process is not None:
            process.close()


async def _has_ended(sandbox: PersistentSandbox) -> bool:
    end = asyncio.ensure_future(sandbox.wait_ended())
    try:
        done, _ = await asyncio.wait({end}, timeout=0)
    finally:
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)
    return bool(done)


def _describe_exit(code: int) -> str:
    if code > 128:
        return f"the program was killed by signal {code - 128}"
    return f"the program ended with exit code {code}"
