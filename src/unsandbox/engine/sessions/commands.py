"""Commands in the shells of sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping

from unsandbox.engine.context import Context
from unsandbox.engine.errors import InvalidRequest
from unsandbox.engine.persistent.limits import sandbox_files
from unsandbox.engine.sessions.history import Histories
from unsandbox.engine.sessions.record import SessionRecord, shell_of
from unsandbox.engine.sessions.sandboxes import OpenSession
from unsandbox.engine.store.objects import epoch
from unsandbox.protocol.contents import Content
from unsandbox.sandbox.persistent_spec import CommandOutcome


class Commands:
    """Runs commands in the shells of sessions, which keep their state from one to the next.

    Args:
        context: What the parts of the engine share.
        histories: Keep the commands of audited sessions.
    """

    def __init__(self, context: Context, histories: Histories) -> None:
        self._context = context
        self._histories = histories

    async def run(
        self,
        record: SessionRecord,
        session: OpenSession,
        command: str,
        timeout_s: float | None,
        files: Mapping[str, bytes | Content] | None,
    ) -> CommandOutcome:
        """Run one command; the shell is started if it does not run.

        Args:
            record: The session.
            session: Its sandbox and shell.
            command: The command.
            timeout_s: Seconds until it is killed; None for no limit.
            files: Files to write first.

        Raises:
            InvalidRequest: The shell takes no one-shot commands, or the command holds a NUL byte.
        """
        # Historical clients send a trailing newline.
        command = command.rstrip("\n")
        if "\0" in command:
            raise InvalidRequest("a command must not contain a NUL byte")
        self._histories.of(record).note(f"{epoch(time.time())} {command}\n")
        try:
            if files:
                await session.sandbox.put_files(sandbox_files(files))
            async with session.lock:
                if session.driver is None or not session.driver.alive:
                    shell = shell_of(self._context, record.shell)
                    session.driver = await shell.open_driver(session.sandbox)
                return await session.driver.run(command, timeout_s)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
