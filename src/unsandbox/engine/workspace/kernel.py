"""One context: an interpreter inside a sandbox, spoken to through a program that runs beside it there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from typing import Any

from unsandbox.engine.background import Background
from unsandbox.engine.errors import Conflict, LimitReached, UnknownObject
from unsandbox.engine.workspace.kernel_program import KernelProgram, missing
from unsandbox.engine.workspace.kernel_run import KernelRun
from unsandbox.engine.workspace.process_table import ProcessTable
from unsandbox.protocol import codec
from unsandbox.protocol.contexts import CodeContext, VariableList

MAX_QUEUED = 64
"""Runs of a context that wait."""
_KEPT_RUNS = 64
_KEPT_BYTES = 64 << 20
_READY_S = 90.0
_INTERRUPT_AGAIN_S = 1.0
_INTERRUPT_S = 5.0
"""Seconds that an interrupted run has to end; then the interpreter is replaced."""
_VARIABLES_S = 10.0


class KernelContext:
    """An interpreter and its runs.

    Args:
        context_id: Its id.
        language: Its language.
        cwd: Its working directory.
        processes: The processes of its session; the interpreter is one of them.
    """

    def __init__(self, context_id: str, language: str, cwd: str, processes: ProcessTable) -> None:
        self.context_id = context_id
        self._language = language
        self._cwd = cwd
        self._program = KernelProgram(processes, cwd, self._handle, self._ended)
        self._ready = asyncio.Event()
        self._problem: Exception | None = None
        self._dead = False
        self._runs: dict[str, KernelRun] = {}
        self._current: KernelRun | None = None
        self._waiting: asyncio.Queue[KernelRun] = asyncio.Queue()
        self._variables: dict[str, asyncio.Future[VariableList]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._restarts = 0
        self._execution_count = 0
        self._created_at = round(time.time(), 3)
        self._background = Background()

    # Its beginning and its end

    async def start(self, env: Mapping[str, str], environment: bool) -> None:
        """Start the interpreter; it answers when this returns.

        Args:
            env: Further environment variables.
            environment: Whether the session has an environment.

        Raises:
            InvalidRequest: The session has no such interpreter.
            Conflict: It ended at once.
        """
        await self._program.start(env, environment=environment)
        self._worker = self._background.start(self._work())
        try:
            await self.wait_ready()
        except BaseException:
            await self.close()
            raise

    async def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            InvalidRequest: The session has no such interpreter.
            Conflict: It ended at once, or did not start in time.
        """
        try:
            async with asyncio.timeout(_READY_S):
                await self._ready.wait()
        except TimeoutError:
            raise Conflict(
                f"the interpreter did not start within {_READY_S:g} s", code="context_failed"
            ) from None
        if self._problem is not None:
            raise self._problem

    async def close(self) -> None:
        """End the interpreter and everything that it started."""
        self.abandon("ContextDeleted", "the context was deleted")
        await self._program.close()

    def abandon(self, name: str = "SessionEnded", value: str = "the session ended") -> None:
        """Release what belongs to it, because the sandbox ends."""
        self._die(name, value)
        for run in self._runs.values():
            run.release()
        self._runs.clear()

    def describe(self) -> CodeContext:
        """Return its state."""
        busy = self._current is not None or not self._waiting.empty()
        status = "dead" if self._dead else "busy" if busy else "idle" if self._ready.is_set() else "starting"
        return CodeContext(
            context_id=self.context_id,
            language=self._language,
            cwd=self._cwd,
            status=status,  # type: ignore[arg-type]
            execution_count=self._execution_count,
            restarts=self._restarts,
            created_at=self._created_at,
        )

    # Its use

    def submit(self, run: KernelRun) -> KernelRun:
        """Queue a run, or find the one with its id.

        Raises:
            Conflict: The interpreter has ended.
            LimitReached: Too many runs wait.
        """
        if (known := self._runs.get(run.run_id)) is not None:
            return known
        if self._dead:
            raise Conflict("the interpreter of the context has ended; delete it", code="context_dead")
        if self._waiting.qsize() >= MAX_QUEUED:
            raise LimitReached(f"{MAX_QUEUED} runs of the context wait already", code="run_limit_reached")
        self._forget_old()
        self._runs[run.run_id] = run
        self._waiting.put_nowait(run)
        return run

    def run(self, run_id: str) -> KernelRun:
        """Return a run by its id.

        Raises:
            UnknownObject: There is none; ended ones are forgotten after 64 others.
        """
        if (run := self._runs.get(run_id)) is None:
            raise UnknownObject(f"no run {run_id[:80]!r} in this context", code="run_not_found")
        return run

    def interrupt(self) -> None:
        """Interrupt the run that is under way, as Ctrl-C does. If nothing runs, nothing happens."""
        if self._current is not None:
            self._current.interrupted = self._current.interrupted or "interrupted"
            self._say(do="interrupt")

    async def restart(self) -> None:
        """Replace the interpreter; runs that wait are dropped."""
        while not self._waiting.empty():
            self._waiting.get_nowait().fail("interrupted", "ContextRestarted", "the context was restarted")
        self._ready.clear()
        self._say(do="restart")
        if self._current is not None:
            self._current.fail("interrupted", "ContextRestarted", "the context was restarted")
        self._restarts += 1
        self._execution_count = 0
        await self.wait_ready()

    async def variables(self) -> VariableList:
        """Return its variables.

        Raises:
            Conflict: Code runs, or the interpreter has ended.
        """
        if self._current is not None or not self._waiting.empty() or self._dead:
            raise Conflict("the context runs code; interrupt it or wait for its end", code="context_busy")
        name = secrets.token_hex(8)
        answer: asyncio.Future[VariableList] = asyncio.get_running_loop().create_future()
        self._variables[name] = answer
        self._say(do="variables", id=name)
        try:
            async with asyncio.timeout(_VARIABLES_S):
                return await answer
        except TimeoutError:
            raise Conflict(
                "the interpreter does not answer; restart the context", code="context_busy"
            ) from None
        finally:
            del self._variables[name]

    # The run that is under way

    async def _work(self) -> None:
        """Carry out one run after the other."""
        while not self._dead:
            run = await self._waiting.get()
            if run.ended.is_set():
                continue
            self._current = run
            try:
                self._say(do="run", id=run.run_id, **run.request)
                run.begin()
                await self._until_end(run)
            finally:
                self._current = None

    async def _until_end(self, run: KernelRun) -> None:
        """Wait for the end of a run; interrupt it at its deadline; replace the interpreter if that fails."""
        try:
            async with asyncio.timeout(run.timeout_s):
                await run.ended.wait()
                return
        except TimeoutError:
            run.interrupted = run.interrupted or "timeout"
        ends = time.monotonic() + _INTERRUPT_S
        while time.monotonic() < ends and not self._dead:
            self._say(do="interrupt")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERRUPT_AGAIN_S):
                    await run.ended.wait()
                    return
        self._ready.clear()
        self._restarts += 1
        self._say(do="restart")
        run.fail(
            "timeout", "TimeoutError", "the interpreter was replaced at the time limit; its variables are lost"
        )
        with contextlib.suppress(Conflict):
            await self.wait_ready()

    # The program inside

    def _say(self, **message: Any) -> None:
        if not self._dead:
            self._program.say(message)

    def _ended(self, problem: Exception) -> None:
        if not self._ready.is_set():
            self._problem = self._problem or problem
        self._ready.set()
        self._die("ContextDead", "the interpreter ended")

    def _handle(self, message: Mapping[str, Any], size: int) -> None:
        """Take a line of the guest. It is the tenant's, so nothing in it is trusted."""
        run, kind = self._current, message.get("type")
        if kind == "ready":
            self._ready.set()
        elif kind == "missing":
            self._problem = missing()
            self._ready.set()
        elif kind == "variables":
            answer = self._variables.get(str(message.get("id")))
            if answer is not None and not answer.done():
                answer.set_result(codec.from_wire({"variables": message["variables"]}, VariableList))
        elif run is None:
            if kind == "died":
                self._restarts += 1
        elif kind == "died":
            code = message.get("exit_code")
            self._restarts += 1
            value = f"the interpreter ended (exit code {code}) and was replaced; its variables are lost"
            run.fail("died", "InterpreterDied", value)
        elif kind == "done":
            if message.get("id") == run.run_id:
                self._finish(run, message)
        elif kind != "started" and not run.ended.is_set():
            run.add(message, size)

    def _finish(self, run: KernelRun, message: Mapping[str, Any]) -> None:
        count, status = message.get("execution_count"), message.get("status")
        count = count if isinstance(count, int) else None
        self._execution_count = count or self._execution_count
        if status == "died":
            run.fail("died", "InterpreterDied", "the interpreter was replaced; its variables are lost")
        elif status == "ok":
            run.finish("ok", state_kept=True, execution_count=count)
        else:
            run.finish(run.interrupted or "error", state_kept=True, execution_count=count)

    def _die(self, name: str, value: str) -> None:
        self._dead = True
        for run in self._runs.values():
            run.fail("died", name, value)
        for answer in self._variables.values():
            answer.cancel()
        if self._worker is not None:
            self._worker.cancel()

    def _forget_old(self) -> None:
        ended = [run for run in self._runs.values() if run.ended.is_set()]
        held = sum(run.kept_bytes for run in ended)
        for number, run in enumerate(ended):
            if len(ended) - number < _KEPT_RUNS and held <= _KEPT_BYTES:
                break
            held -= run.kept_bytes
            run.release()
            del self._runs[run.run_id]
