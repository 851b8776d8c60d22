"""Permissions to open the terminal of a session: one-time tickets, and addresses that its key signs from.

A browser cannot sign the handshake of a WebSocket, and the oldest clients do not. The id of a session is in
URLs and logs, so that it does not suffice.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict

TICKET_S = 300.0
"""Seconds for which a ticket may be used, once."""
_MOST_TICKETS = 10_000
_MOST_SENDERS = 10_000


class Tickets:
    """The tickets that were given, and who has signed from where since the server started.

    Example:
        >>> tickets = Tickets()
        >>> ticket = tickets.give("session_1")
        >>> tickets.take(ticket, "session_2"), tickets.take(ticket, "session_1")
        (False, False)
        >>> ticket = tickets.give("session_1")
        >>> tickets.take(ticket, "session_1"), tickets.take(ticket, "session_1")
        (True, False)
    """

    def __init__(self) -> None:
        self._given: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._senders: OrderedDict[tuple[str, str], None] = OrderedDict()

    def give(self, session_id: str) -> str:
        """Return a new ticket for a session; the oldest of all are forgotten when there are very many."""
        ticket = secrets.token_urlsafe(24)
        self._given[_digest(ticket)] = (session_id, time.monotonic() + TICKET_S)
        if len(self._given) > _MOST_TICKETS:
            self._given.popitem(last=False)
        return ticket

    def take(self, ticket: str, session_id: str) -> bool:
        """Use a ticket up; return whether it was good, and for this session."""
        known = self._given.pop(_digest(ticket), None)
        return known is not None and known[0] == session_id and time.monotonic() < known[1]

    def note_sender(self, owner: str, sender: str) -> None:
        """Note that a key has signed a request from an address."""
        self._senders[owner, sender] = None
        self._senders.move_to_end((owner, sender))
        if len(self._senders) > _MOST_SENDERS:
            self._senders.popitem(last=False)

    def has_signed_from(self, owner: str, sender: str) -> bool:
        """Return whether a key has signed a request from an address."""
        return (owner, sender) in self._senders


def _digest(ticket: str) -> bytes:
    # Looked up by its hash: how long that takes tells nothing of the ticket.
    return hashlib.sha256(ticket.encode("utf-8", "surrogateescape")).digest()
