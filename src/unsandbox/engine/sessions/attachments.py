"""Viewers of the terminals of sessions."""

from __future__ import annotations

from dataclasses import dataclass

from unsandbox.engine.context import Context
from unsandbox.engine.errors import Conflict
from unsandbox.engine.persistent.activity import Activity
from unsandbox.engine.sessions.history import Histories
from unsandbox.engine.sessions.record import SessionRecord, shell_of
from unsandbox.engine.sessions.sandboxes import OpenSession, SessionSandboxes
from unsandbox.engine.sessions.terminal import DEFAULT_SIZE, Terminal
from unsandbox.engine.sessions.tickets import Tickets
from unsandbox.engine.store.objects import Collection

_PREFIXES = {"tmux": b"\x02", "screen": b"\x01"}


class DetachKeys:
    r"""Finds the keys that leave a terminal: Ctrl-b d in sessions with tmux, Ctrl-a d with screen.

    The prefix twice types it once, as in these programs. Other keys after the prefix are typed with it.

    Args:
        multiplexer: The session's; None for no such keys.

    Example:
        >>> keys = DetachKeys("tmux")
        >>> keys.feed(b"ls\x02"), keys.feed(b"d")
        ((b'ls', False), (b'', True))
    """

    def __init__(self, multiplexer: str | None) -> None:
        self._prefix = _PREFIXES.get(multiplexer or "", b"")
        self._held = False

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of these keys is typed, and whether the viewer leaves; later keys are dropped then."""
        if not self._prefix or not (self._held or self._prefix in data):
            return data, False
        typed = bytearray()
        for key in data:
            one = bytes([key])
            if self._held:
                self._held = False
                if one == b"d":
                    return bytes(typed), True
                typed += self._prefix if one == self._prefix else self._prefix + one
            elif one == self._prefix:
                self._held = True
            else:
                typed += one
        return bytes(typed), False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A viewer's place at a terminal.

    Attributes:
        terminal: The terminal.
        keep: Whether the terminal outlives its viewers.
        session: The session that it is in.
        keys: Finds the keys that leave the terminal.
    """

    terminal: Terminal
    keep: bool
    session: OpenSession
    keys: DetachKeys


class SessionTerminals:
    """Opens the terminals of sessions; each has one, which its viewers share.

    Args:
        context: What the parts of the engine share.
        collection: All sessions.
        sandboxes: Their sandboxes.
        activity: Notes when they are used.
        histories: Keep what is typed in audited sessions.

    Attributes:
        tickets: Permissions to open terminals.
    """

    def __init__(
        self,
        context: Context,
        collection: Collection[SessionRecord],
        sandboxes: SessionSandboxes,
        activity: Activity[SessionRecord],
        histories: Histories,
    ) -> None:
        self._context = context
        self._collection = collection
        self._sandboxes = sandboxes
        self._activity = activity
        self._histories = histories
        self.tickets = Tickets()

    def owner_of(self, session_id: str) -> str | None:
        """Return the key that a session belongs to; None when there is no such session."""
        record = self._collection.find(session_id)
        return None if record is None else record.owner

    async def attach(self, session_id: str) -> Attachment:
        """Return a place at the terminal of a session, opened if need be; `detach` gives it up.

        Whoever calls it has checked that the viewer may see it: see `Tickets`.

        Raises:
            KeyError: No such session.
            Conflict: The session is frozen.
            LimitReached: Its key has used up its CPU time.
        """
        record = self._collection.find(session_id)
        if record is None:
            raise KeyError(session_id)
        self._context.quotas.check_cpu(record.owner)
        session = await self._sandboxes.ensure_open(record)
        if session.sandbox.frozen:
            raise Conflict("the session is frozen; unfreeze it first", code="session_frozen")
        async with session.lock:
            if session.terminal is None or session.terminal.exit_code is not None:
                process = await session.sandbox.spawn(
                    shell_of(self._context, record.shell).terminal_argv,
                    env={"TERM": "xterm-256color"},
                    terminal=DEFAULT_SIZE,
                )
                session.terminal = Terminal(process, lambda: self._activity.touch(record))
        session.uses += 1
        self._activity.touch(record)
        keep = record.multiplexer is not None
        return Attachment(session.terminal, keep, session, DetachKeys(record.multiplexer))

    def detach(self, session_id: str, attachment: Attachment) -> None:
        """Give up a viewer's place; without a multiplexer the last viewer takes the shell along."""
        session = attachment.session
        session.uses -= 1
        if (record := self._collection.find(session_id)) is not None:
            self._activity.touch(record)
        terminal = attachment.terminal
        if session.terminal is terminal and not terminal.viewers and not attachment.keep:
            session.terminal = None
            terminal.close()

    def note_input(self, session_id: str, data: bytes) -> None:
        """Keep typed input of an audited session, and count it as activity."""
        record = self._collection.find(session_id)
        if record is None:
            return
        self._activity.touch(record)
        if record.audit:
            text = data.decode("utf-8", "surrogateescape").replace("\r", "\n")
            self._histories.of(record).note(text)
