"""The server's handle of one persistent sandbox of the launcher."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.launcher_client import JobEvents, LauncherControl
from unsandbox.sandbox.launcher.messages import Answered, Ask, OpenPersistent


class SandboxHandle:
    """Sends the requests that concern one persistent sandbox.

    Args:
        control: The launcher.
    """

    def __init__(self, control: LauncherControl) -> None:
        self._control = control
        self.number = 0
        """Its number at the launcher; 0 before `start`."""
        self.over = asyncio.Event()
        """Set when no process of the sandbox is left."""

    async def start(self, events: JobEvents, request: OpenPersistent, fds: Sequence[int]) -> None:
        """Create the sandbox; `events` receives its events. The caller still owns the descriptors.

        Raises:
            SandboxError: The launcher is gone.
        """
        self.number = await self._control.start(events, request, fds)

    async def ask(self, kind: type[Ask], fds: Sequence[int] = (), **fields: Any) -> asyncio.Future[Answered]:
        """Send a request; return the future of its answer, which fails with `SandboxError`.

        Args:
            kind: The type of the request.
            fds: The descriptors to send with it.
            fields: The fields of `kind`, except for the two numbers.

        Raises:
            SandboxError: The launcher is gone.
        """
        return await self._control.ask(kind(job=self.number, **fields), fds)

    async def call(self, kind: type[Ask], fds: Sequence[int] = (), **fields: Any) -> Answered:
        """Send a request and return its answer; see `ask`."""
        return await (await self.ask(kind, fds, **fields))

    async def kill(self) -> None:
        """Kill the sandbox, frozen or not; does nothing if it or the launcher is gone."""
        if self.number and not self.over.is_set():
            with contextlib.suppress(SandboxError):
                await self._control.kill(self.number)
