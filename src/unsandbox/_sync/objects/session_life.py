# Generated from src/unsandbox/_async/objects/session_life.py by scripts/unasync.py; change that one.
"""The life of a session as methods of its object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unsandbox.errors import ClientStateError
from unsandbox.protocol.sessions import Session, SessionMetrics
from unsandbox.protocol.snapshots import Snapshot

if TYPE_CHECKING:
    from unsandbox._sync.methods.sessions import SessionMethods


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
            raise ClientStateError("this session does not exist yet; use it in an `with` block")
        return self._id

    def refresh(self) -> Session:
        """Return the current state of the session."""
        self.info = self._client.get_session(self.id)
        return self.info

    def freeze(self) -> Session:
        """Suspend all processes. Their memory is kept."""
        self.info = self._client.freeze_session(self.id)
        return self.info

    def unfreeze(self) -> Session:
        """Resume the processes."""
        self.info = self._client.unfreeze_session(self.id)
        return self.info

    def pause(self) -> Session:
        """Suspend all processes; the same as `freeze`. The end of the session's life stays where it is."""
        return self.freeze()

    def resume(self) -> Session:
        """Resume the processes; the same as `unfreeze`."""
        return self.unfreeze()

    def metrics(self) -> SessionMetrics:
        """Return the use of the session's resources: processor time, memory, disk, processes."""
        return self._client.session_metrics(self.id)

    def set_timeout(self, timeout: int | None) -> Session:
        """Set the end of the session's life, counted from now.

        Args:
            timeout: Seconds until the session is deleted, in use or not, up to 30 days. None: no deadline; the
                session is deleted when it was idle for its `ttl`.

        Example:
            ```python
            session.set_timeout(600)
            ```
        """
        self.info = self._client.set_session_timeout(self.id, timeout)
        return self.info

    def boost(self, vcpu: int | None = None) -> Session:
        """Give the session more processors and memory.

        Args:
            vcpu: Processors, 1 to 8. Default 2.
        """
        self.info = self._client.boost_session(self.id, vcpu=vcpu)
        return self.info

    def unboost(self) -> Session:
        """Return the session to its original processors and memory."""
        self.info = self._client.unboost_session(self.id)
        return self.info

    def snapshot(self, *, name: str | None = None, hot: bool | None = None) -> Snapshot:
        """Take a snapshot.

        Args:
            name: Display name.
            hot: Whether to include memory and running processes. Requires gVisor.
        """
        return self._client.session_snapshot(self.id, name=name, hot=hot)
