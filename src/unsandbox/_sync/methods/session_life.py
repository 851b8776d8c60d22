# Generated from src/unsandbox/_async/methods/session_life.py by scripts/unasync.py; change that one.
"""The life of sessions: their copies, their end, their processors, and what they use."""

from __future__ import annotations

from collections.abc import Mapping

from unsandbox._shared.deadline import LONG_S
from unsandbox._sync.base import Connected
from unsandbox.protocol.sessions import Session, SessionList, SessionMetrics


class SessionLifeMethods(Connected):
    """Methods of a client for the life of sessions. `session_id` may also be a container name."""

    def freeze_session(self, session_id: str) -> Session:
        """Suspend all processes of a session. Their memory is kept.

        Args:
            session_id: Id or container name of the session.
        """
        return self._do("freeze_session", Session, session_id)

    def unfreeze_session(self, session_id: str) -> Session:
        """Resume the processes of a frozen session.

        Args:
            session_id: Id or container name of the session.
        """
        return self._do("unfreeze_session", Session, session_id)

    def fork_session(
        self,
        session_id: str,
        *,
        count: int = 1,
        hot: bool | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: int | None = None,
    ) -> SessionList:
        """Create independent copies of a session, which goes on. All copies are made, or none.

        Args:
            session_id: Id or container name of the session.
            count: Number of copies, 1 to 16.
            hot: Whether to copy memory and running processes too. Requires gVisor. Otherwise the copies have
                the files of `/work`, and their shells are new.
            name: Display name of the copies. Default: that of the session.
            metadata: Names and values of the copies. Default: those of the session.
            timeout: Seconds after which the copies are deleted. Default: at the deadline of the session, if it
                has one; otherwise each copy is deleted when it was idle for its `ttl`.

        Raises:
            RateLimitError: The key would have too many sessions.
        """
        return self._do(
            "fork_session",
            SessionList,
            session_id,
            body={"count": count, "hot": hot, "name": name, "metadata": metadata, "timeout": timeout},
            timeout=LONG_S,
        )

    def session_metrics(self, session_id: str) -> SessionMetrics:
        """Return the use of a session's resources: processor time, memory, disk, processes.

        Args:
            session_id: Id or container name of the session.
        """
        return self._do("session_metrics", SessionMetrics, session_id)

    def set_session_timeout(self, session_id: str, timeout: int | None) -> Session:
        """Set the end of a session's life, counted from now. It replaces an earlier one.

        Args:
            session_id: Id or container name of the session.
            timeout: Seconds until the session is deleted, in use or not, up to 30 days. None: no deadline; the
                session is deleted when it was idle for its `ttl`.
        """
        return self._do("set_session_timeout", Session, session_id, body={"timeout": timeout})

    def boost_session(self, session_id: str, *, vcpu: int | None = None) -> Session:
        """Give a session more processors and memory.

        Args:
            session_id: Id or container name of the session.
            vcpu: Processors, 1 to 8. Default 2.
        """
        return self._do("boost_session", Session, session_id, body={"vcpu": vcpu})

    def unboost_session(self, session_id: str) -> Session:
        """Return a session to its original processors and memory.

        Args:
            session_id: Id or container name of the session.
        """
        return self._do("unboost_session", Session, session_id)
