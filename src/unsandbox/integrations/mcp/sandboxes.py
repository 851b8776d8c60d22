"""The sandboxes of MCP sessions: started at the first use, remembered, and ended with the session."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Hashable

from unsandbox._async.client import AsyncClient
from unsandbox._async.objects.session import AsyncLiveSession
from unsandbox.errors import UnsandboxError
from unsandbox.integrations.workspace import AsyncWorkspace, WorkspaceOptions

logger = logging.getLogger("unsandbox.mcp")

IDLE_S = 900
"""Seconds after which an unused sandbox ends: those of HTTP clients that are gone without a word."""
_MOST_SESSIONS = 10_000


class McpSession:
    """The sandboxes of one MCP session.

    Args:
        options: The server, and the settings of the sandboxes.

    Attributes:
        seen_images: Versions of the images that the client has got, by path.
        outputs: Number of long outputs that were stored in a sandbox.
    """

    def __init__(self, options: WorkspaceOptions) -> None:
        self._options: WorkspaceOptions = {"ttl": IDLE_S, "shell": "python3", **options}
        self._started: list[AsyncWorkspace] = []
        self._current: AsyncWorkspace | None = None
        self._attached = AsyncWorkspace("", **self._options)
        self.seen_images: dict[str, str] = {}
        self.outputs = 0

    def client(self) -> AsyncClient:
        """Return the client of the session's key."""
        return self._attached.client()

    async def sandbox(self, sandbox_id: str | None = None) -> AsyncLiveSession:
        """Return a sandbox.

        Args:
            sandbox_id: Its id. Default: the remembered one, which is started if there is none.
        """
        if sandbox_id:
            return self.client().attach_session(sandbox_id)
        if self._current is None:
            self._current = self._new({})
        return await self._current.session()

    async def start(self, options: WorkspaceOptions) -> AsyncLiveSession:
        """Start a sandbox, which is then the remembered one.

        Args:
            options: Settings beside those of the MCP session.
        """
        workspace = self._new(options)
        session = await workspace.session()
        self._current = workspace
        return session

    async def stop(self, sandbox_id: str | None) -> str | None:
        """End a sandbox and return its id; None if there is none.

        Args:
            sandbox_id: Its id. Default: the remembered one.
        """
        workspace = self._find(sandbox_id)
        if workspace is None:
            if not sandbox_id:
                return None
            await self.client().delete_session(sandbox_id)
            return sandbox_id
        self.forget(workspace.session_id)
        await workspace.delete()
        return workspace.session_id

    def forget(self, sandbox_id: str | None = None) -> None:
        """Forget a sandbox that has ended. The next call without an id starts a new one.

        Args:
            sandbox_id: Its id. Default: the remembered one.
        """
        workspace = self._find(sandbox_id)
        if workspace is not None:
            self._started.remove(workspace)
            if workspace is self._current:
                self._current = None
                self.seen_images.clear()

    async def close(self) -> None:
        """End all sandboxes that were started here, and close the connections."""
        self._current = None
        while self._started:
            try:
                await self._started.pop().delete()
            except (UnsandboxError, OSError) as error:
                # The server ends it when it has been idle for long enough.
                logger.warning("a sandbox could not be ended: %s", error)
        await self._attached.close()

    def _new(self, options: WorkspaceOptions) -> AsyncWorkspace:
        settings = self._options.copy()
        settings.update(options)
        workspace = AsyncWorkspace(**settings)
        self._started.append(workspace)
        return workspace

    def _find(self, sandbox_id: str | None) -> AsyncWorkspace | None:
        if not sandbox_id:
            return self._current
        return next((known for known in self._started if known.session_id == sandbox_id), None)


class McpSessions:
    """The MCP sessions of a server, by what identifies them. The one that was used last stays longest."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[Hashable, McpSession] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, key: Hashable, options: WorkspaceOptions) -> McpSession:
        """Return a session; a new one for a key that is not known.

        Args:
            key: Identifies the session.
            options: Settings of a new one.
        """
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = McpSession(options)
            if len(self._sessions) > _MOST_SESSIONS:
                self._end(next(iter(self._sessions)))
        self._sessions.move_to_end(key)
        return session

    def end(self, key: Hashable) -> None:
        """End a session and its sandboxes, in the background.

        Args:
            key: Identifies the session.
        """
        if key in self._sessions:
            self._end(key)

    async def close(self) -> None:
        """End all sessions and their sandboxes."""
        for key in list(self._sessions):
            self._end(key)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _end(self, key: Hashable) -> None:
        task = asyncio.get_running_loop().create_task(self._sessions.pop(key).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
