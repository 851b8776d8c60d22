"""The processes of one session: those that run, and those that ended lately."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterator, Mapping

from unsandbox.engine.background import Background
from unsandbox.engine.errors import Conflict, InvalidRequest, LimitReached, UnknownObject
from unsandbox.engine.workspace.guest import Guest
from unsandbox.engine.workspace.process import ProcessSettings, SessionProcess
from unsandbox.engine.workspace.shares import KeyShares
from unsandbox.engine.workspace.watches import Watches
from unsandbox.sandbox.errors import ProgramStartError, SandboxError
from unsandbox.sandbox.guest.files import MARK
from unsandbox.sandbox.persistent_spec import PersistentSandbox

logger = logging.getLogger("unsandbox.engine.workspace")

MOST_RUNNING = 64
_MOST_ENDED = 64
_ENDED_BYTES = 64 << 20
_FORGET_AFTER_S = 60.0
_CANCELLED_FOR_S = 60.0
_MOST_CANCELLED = 1000


class ProcessTable:
    """Starts processes in one sandbox and knows them by their ids.

    Args:
        sandbox: The sandbox.
        shares: What the processes of its key take.
    """

    def __init__(self, sandbox: PersistentSandbox, shares: KeyShares) -> None:
        self.shares = shares
        self._sandbox = sandbox
        self.guest = Guest(sandbox)
        """Works on files, and finds the children of processes."""
        self._background = Background()
        self.watches = Watches(sandbox, self._background)
        """Watches on directories."""
        self._processes: dict[str, SessionProcess] = {}
        self._starting: dict[str, asyncio.Event] = {}
        self._cancelled: dict[str, float] = {}

    def __iter__(self) -> Iterator[SessionProcess]:
        return iter(self._processes.values())

    def get(self, process_id: str) -> SessionProcess:
        """Return a process.

        Raises:
            UnknownObject: There is none with this id; ended ones are forgotten after a minute.
        """
        process = self._processes.get(process_id)
        if process is None:
            raise UnknownObject(f"no process {process_id[:80]!r} in this session", code="process_not_found")
        return process

    @staticmethod
    def new_id() -> str:
        """Return an id that no process has."""
        return f"proc_{secrets.token_hex(8)}"

    async def start(self, settings: ProcessSettings, env: Mapping[str, str]) -> tuple[SessionProcess, bool]:
        """Start a process, or find the one that was started with the same id.

        Args:
            settings: How it is to run.
            env: Its environment.

        Returns:
            The process, and whether it was started by this call.

        Raises:
            Conflict: The session is frozen, or the process was cancelled before it started.
            LimitReached: The session runs too many processes.
            SandboxError: The sandbox has ended.
        """
        name = settings.process_id
        while (other := self._starting.get(name)) is not None:
            await other.wait()
        if (known := self._processes.get(name)) is not None:
            if known.settings.argv_digest != settings.argv_digest:
                raise Conflict(f"the process {name!r} runs another program", code="process_exists")
            return known, False
        if self._cancelled.pop(name, None) is not None:
            raise Conflict("the process was cancelled before it started", code="process_cancelled")
        if sum(process.running for process in self) + len(self._starting) >= MOST_RUNNING:
            raise LimitReached(
                f"the session runs {MOST_RUNNING} processes already; wait for one to end",
                code="process_limit_reached",
            )
        self._forget_old()
        begun = self._starting[name] = asyncio.Event()
        try:
            process = SessionProcess(settings, self._kill_children, self.shares, self._sandbox.memory_kills)
            await self._spawn(process, settings, env)
            self._processes[name] = process
        finally:
            del self._starting[name]
            begun.set()
        if self._cancelled.pop(name, None) is not None:
            process.kill("killed")
        return process, True

    async def end(self, process_id: str) -> SessionProcess | None:
        """Kill a process and its children, and forget it.

        One that is not there yet is not started: a client that gives up may be quicker than its request.

        Returns:
            The process; None if there is none.
        """
        process = self._processes.get(process_id)
        if process is None:
            while len(self._cancelled) >= _MOST_CANCELLED:
                del self._cancelled[next(iter(self._cancelled))]
            self._cancelled[process_id] = time.monotonic()
            return None
        process.kill("killed")
        await process.ended.wait()
        self._drop(process)
        return process

    def forget(self, process: SessionProcess) -> None:
        """Forget a process that has ended once its client had time to ask again."""
        asyncio.get_running_loop().call_later(_FORGET_AFTER_S, self._drop, process)

    def feed(self, process: SessionProcess, data: bytes, *, eof: bool) -> None:
        """Write to the standard input of a process beside other work."""
        self._background.start(self._feed(process, data, eof=eof))

    def close(self, why: str = "") -> None:
        """Release everything, because the sandbox and its programs end.

        Args:
            why: Why the sandbox ended by itself, for people.
        """
        for process in list(self):
            process.close(why)
        self._processes.clear()
        self.guest.shut()
        self.watches.shut()

    def rest(self) -> None:
        """End the programs of the server, which do not belong in a snapshot; they start again when needed."""
        self.guest.close()
        self.watches.close()

    async def _spawn(self, process: SessionProcess, settings: ProcessSettings, env: Mapping[str, str]) -> None:
        environment = {**env, MARK: settings.process_id}
        try:
            running = await self._sandbox.spawn(
                settings.argv, env=environment, cwd=settings.cwd, terminal=settings.terminal
            )
        except ProgramStartError as error:
            if error.path == settings.cwd:
                raise InvalidRequest(f"cwd: {error}", code="invalid_cwd") from error
            process.refuse(error.errno, str(error))
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        else:
            process.run(running)

    async def _feed(self, process: SessionProcess, data: bytes, *, eof: bool) -> None:
        # It is not an error if a program does not read its input.
        self.shares.stdin.used += len(data)
        try:
            with contextlib.suppress(OSError):
                await process.stdin.write(data, None, eof=eof)
        finally:
            self.shares.stdin.used -= len(data)

    def _kill_children(self, process_id: str) -> asyncio.Task[None]:
        return self._background.start(self._kill_marked(process_id))

    async def _kill_marked(self, process_id: str) -> None:
        try:
            await self.guest.call("kill", mark=process_id)
        except SandboxError:
            return  # Its end is the end of the children.
        except Exception:
            logger.exception("the children of a process could not be killed")

    def _forget_old(self) -> None:
        """Make space by dropping the oldest ended processes."""
        now = time.monotonic()
        for name, since in list(self._cancelled.items()):
            if now - since > _CANCELLED_FOR_S:
                del self._cancelled[name]
        ended = [process for process in self if not process.running]
        held = sum(process.kept_bytes for process in ended)
        for number, process in enumerate(ended):
            if len(ended) - number <= _MOST_ENDED and held <= _ENDED_BYTES:
                break
            held -= process.kept_bytes
            self._drop(process)

    def _drop(self, process: SessionProcess) -> None:
        if self._processes.get(process.settings.process_id) is process and not process.in_use_now:
            del self._processes[process.settings.process_id]
            process.close()
