"""The life of a session as methods of its object."""

# ruff: noqa: ASYNC109 - `timeout` is an argument of the server

from __future__ import annotations

from typing import TYPE_CHECKING

from unsandbox.errors import ClientStateError
from unsandbox.protocol.sessions import Session, SessionMetrics
from unsandbox.protocol.snapshots import Snapshot

if TYPE_CHECKING:
    from unsandbox._async.methods.sessions import SessionMethods


class AsyncSessionLife:
    """A session that can be suspended, resized, measured and given an end.

    Attributes:
        info: The last known state; None before the first request.
    """

    def __init__(self, client: SessionMethods, session_id: str | None) -> None:
        self._client = client
        self._id = session_id
        self.info: Session | None = None

    @property
    def id(self) -> str:
        """The session's id.

        Raises:
            ClientStateError: The block that creates the session has not begun.
        """
        if self._id is None:
            raise ClientStateError("this session does not exist yet; use it in an `async with` block")
        return self._id

    async def refresh(self) -> Session:
        """Return the current state of the session."""
        self.info = await self._client.get_session(self.id)
        return self.info

    async def freeze(self) -> Session:
        """Suspend all processes. Their memory is kept."""
        self.info = await self._client.freeze_session(self.id)
        return self.info

    async def unfreeze(self) -> Session:
        """Resume the processes."""
        self.info = await self._client.unfreeze_session(self.id)
        return self.info

    async def pause(self) -> Session:
        """Suspend all processes; the same as `freeze`. The end of the session's life stays where it is."""
        return await self.freeze()

    async def resume(self) -> Session:
        """Resume the processes; the same as `unfreeze`."""
        return await self.unfreeze()

    async def metrics(self) -> SessionMetrics:
        """Return the use of the session's resources: processor time, memory, disk, processes."""
        return await self._client.session_metrics(self.id)

    async def set_timeout(self, timeout: int | None) -> Session:
        """Set the end of the session's life, counted from now.

        Args:
            timeout: Seconds until the session is deleted, in use or not, up to 30 days. None: no deadline; the
                session is deleted when it was idle for its `ttl`.

        Example:
            ```python
            await session.set_timeout(600)
            ```
        """
        self.info = await self._client.set_session_timeout(self.id, timeout)
        return self.info

    async def boost(self, vcpu: int | None = None) -> Session:
        """Give the session more processors and memory.

        Args:
            vcpu: Processors, 1 to 8. Default 2.
        """
        self.info = await self._client.boost_session(self.id, vcpu=vcpu)
        return self.info

    async def unboost(self) -> Session:
        """Return the session to its original processors and memory."""
        self.info = await self._client.unboost_session(self.id)
        return self.info

    async def snapshot(self, *, name: str | None = None, hot: bool | None = None) -> Snapshot:
        """Take a snapshot.

        Args:
            name: Display name.
            hot: Whether to include memory and running processes. Requires gVisor.
        """
        return await self._client.session_snapshot(self.id, name=name, hot=hot)
