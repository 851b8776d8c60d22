"""The ports of sessions that visitors reach through the ingress, and the tokens that they need."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from unsandbox.engine.errors import LimitReached
from unsandbox.engine.sessions.record import SessionRecord

MOST_PORTS = 64
"""Exposed ports of one session."""
_LABEL = re.compile(r"([1-9][0-9]{0,4})-([a-z0-9_-]{1,57})\Z")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,55}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """A port that is reached from outside.

    Attributes:
        owner: The key that the session belongs to.
        session: Id of the session.
        port: The port.
        public: Whether visitors need no token.
        token: The token that they need otherwise.
        label: First label of its host name.
    """

    owner: str
    session: str
    port: int
    public: bool
    label: str
    token: str = field(repr=False)

    def admits(self, token: str) -> bool:
        """Return whether a visitor with a token may enter, in a time that tells nothing of the right one."""
        return self.public or hmac.compare_digest(_digest(token), _digest(self.token))


class SessionPorts:
    """The exposed ports of all sessions. They are in memory only, as the programs that listen on them are."""

    def __init__(self) -> None:
        self._ports: dict[str, dict[int, ExposedPort]] = {}
        self._names: dict[str, str] = {}

    def expose(self, record: SessionRecord, port: int, *, public: bool) -> ExposedPort:
        """Let visitors reach a port; asked again, its token stays the same.

        Args:
            record: The session.
            port: The port.
            public: Whether visitors need no token.

        Raises:
            LimitReached: The session has too many exposed ports.
        """
        ports = self._ports.setdefault(record.object_id, {})
        known = ports.get(port)
        if known is None and len(ports) >= MOST_PORTS:
            raise LimitReached(f"the session has {MOST_PORTS} exposed ports already", code="port_limit_reached")
        names = list(_names_of(record))
        self._names.update(dict.fromkeys(names, record.object_id))
        token = secrets.token_urlsafe(24) if known is None else known.token
        exposed = ports[port] = ExposedPort(
            record.owner, record.object_id, port, public, f"{port}-{names[0]}", token
        )
        return exposed

    def close(self, record: SessionRecord, port: int) -> None:
        """Let visitors no longer reach a port; its token is not valid any more."""
        self._ports.get(record.object_id, {}).pop(port, None)

    def of(self, record: SessionRecord) -> list[ExposedPort]:
        """Return the exposed ports of a session, in the order of their numbers."""
        return sorted(self._ports.get(record.object_id, {}).values(), key=lambda exposed: exposed.port)

    def find(self, label: str) -> ExposedPort | None:
        """Return the exposed port of the first label of a host name, lower-case."""
        match = _LABEL.match(label)
        if match is None:
            return None
        return self._ports.get(self._names.get(match[2], ""), {}).get(int(match[1]))

    def forget(self, record: SessionRecord) -> None:
        """Forget the ports of a session that is gone."""
        self._ports.pop(record.object_id, None)
        for name in _names_of(record):
            self._names.pop(name, None)


def _names_of(record: SessionRecord) -> Iterable[str]:
    """Yield the names of a session in host names: the shown one first."""
    dashed = record.object_id.replace("_", "-")
    if _NAME.match(record.container):
        yield record.container
    yield dashed
    if dashed != record.object_id:
        yield record.object_id


def _digest(token: str) -> bytes:
    # Texts of equal length: the comparison takes the same time for each.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
