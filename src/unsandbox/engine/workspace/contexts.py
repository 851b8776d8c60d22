"""Contexts of the sessions of all keys, as the API offers them."""

from __future__ import annotations

import asyncio
import secrets

from unsandbox.engine.errors import InvalidRequest, LimitReached, UnknownObject
from unsandbox.engine.sessions.sandboxes import OpenSession
from unsandbox.engine.sessions.sessions import Sessions
from unsandbox.engine.workspace.kernel import KernelContext
from unsandbox.engine.workspace.kernel_run import KernelRun
from unsandbox.engine.workspace.waiting import Connected, wait_until
from unsandbox.engine.workspace.workspaces import absolute_path
from unsandbox.protocol.contexts import (
    CodeContext,
    CodeContextList,
    ContextRequest,
    RunOutput,
    RunOutputRequest,
    RunRequest,
    VariableList,
)
from unsandbox.sandbox.layout import WORK

MAX_CONTEXTS = 16
"""Contexts of a session."""
_LANGUAGES = ("python", "python3", "py")


class Contexts:
    """Starts interpreters in sessions and runs code in them.

    Args:
        sessions: The sessions.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def create(self, owner: str, session: str, request: ContextRequest) -> CodeContext:
        """Start an interpreter, or find the one with the same id; it answers when this returns.

        Raises:
            InvalidRequest: There is no interpreter for the language in this session.
            LimitReached: The session has too many contexts.
        """
        if request.language.lower() not in _LANGUAGES:
            raise InvalidRequest(
                f"no interpreter for {request.language!r} keeps its state; choose python",
                code="unknown_language",
            )
        async with self._sessions.in_use(owner, session) as opened:
            name = request.context_id or f"ctx_{secrets.token_hex(8)}"
            if (known := opened.contexts.get(name)) is not None:
                await known.wait_ready()
                return known.describe()
            if len(opened.contexts) >= MAX_CONTEXTS:
                raise LimitReached(
                    f"the session has {MAX_CONTEXTS} contexts already; delete one", code="context_limit_reached"
                )
            cwd = absolute_path("cwd", request.cwd or WORK)
            context = opened.contexts[name] = KernelContext(name, "python", cwd, opened.processes)
            try:
                await context.start(request.env or {}, opened.has_environment)
            except BaseException:
                opened.contexts.pop(name, None)
                raise
            return context.describe()

    async def list_of(self, owner: str, session: str) -> CodeContextList:
        """Return the contexts of a session, oldest first."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            return CodeContextList(contexts=[one.describe() for one in opened.contexts.values()])

    async def get(self, owner: str, session: str, context_id: str) -> CodeContext:
        """Return a context."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            return _find(opened, context_id).describe()

    async def run(
        self, owner: str, session: str, context_id: str, request: RunRequest, connected: Connected
    ) -> RunOutput:
        """Run code; the answer has its first events.

        Raises:
            Conflict: The interpreter has ended.
            LimitReached: Too many runs wait.
        """
        async with self._sessions.in_use(owner, session) as opened:
            members = {"code": request.code, "env": request.env or {}, "silent": request.silent}
            run_id = request.run_id or f"run_{secrets.token_hex(8)}"
            timeout_s = request.timeout / 1000 if request.timeout else None
            run = _find(opened, context_id).submit(
                KernelRun(run_id, context_id, members, timeout_s, opened.processes.shares.events)
            )
            await wait_until(run.ended.is_set, run.ended.wait, request.wait, connected)
            return run.output(0)

    async def output(
        self,
        owner: str,
        session: str,
        names: tuple[str, str],
        request: RunOutputRequest,
        connected: Connected,
    ) -> RunOutput:
        """Return events behind a position, or wait for some; `names` are the ids of context and run."""
        async with self._sessions.in_use(owner, session, frozen_too=True) as opened:
            run = _find(opened, names[0]).run(names[1])

            def new() -> bool:
                return run.ended.is_set() or (not request.until_end and run.count > request.cursor)

            await wait_until(new, run.changed, request.wait, connected)
            return run.output(request.cursor)

    async def interrupt(self, owner: str, session: str, context_id: str) -> CodeContext:
        """Interrupt the run that is under way."""
        async with self._sessions.in_use(owner, session) as opened:
            context = _find(opened, context_id)
            context.interrupt()
            return context.describe()

    async def restart(self, owner: str, session: str, context_id: str) -> CodeContext:
        """Replace the interpreter."""
        async with self._sessions.in_use(owner, session) as opened:
            context = _find(opened, context_id)
            await context.restart()
            return context.describe()

    async def variables(self, owner: str, session: str, context_id: str) -> VariableList:
        """Return the variables of a context."""
        async with self._sessions.in_use(owner, session) as opened:
            return await _find(opened, context_id).variables()

    async def delete(self, owner: str, session: str, context_id: str) -> CodeContext:
        """End a context; one that does not exist is no error."""
        async with self._sessions.in_use(owner, session) as opened:
            context = opened.contexts.pop(context_id, None)
            if context is None:
                return CodeContext(context_id=context_id)
            await asyncio.shield(context.close())
            return context.describe()


def _find(opened: OpenSession, context_id: str) -> KernelContext:
    context = opened.contexts.get(context_id)
    if context is None:
        raise UnknownObject(f"no context {context_id[:80]!r} in this session", code="context_not_found")
    return context
