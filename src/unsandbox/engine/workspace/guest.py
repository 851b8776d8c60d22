"""Works on the files of a sandbox through a program that runs inside it, as its user."""

from __future__ import annotations

import asyncio
from typing import Any

from unsandbox.engine.workspace.guest_program import GuestProgram, refusal_of
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.persistent_spec import PersistentSandbox

_MOST_HELPERS = 4
_CALL_S = 120.0
_IDLE_S = 30.0


class Guest:
    """The helpers of one sandbox. Each does one thing at a time; they are started when needed.

    Args:
        sandbox: The sandbox.
    """

    def __init__(self, sandbox: PersistentSandbox) -> None:
        self._sandbox = sandbox
        self._idle: list[GuestProgram] = []
        self._room = asyncio.Semaphore(_MOST_HELPERS)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def call(self, operation: str, data: bytes = b"", **members: Any) -> tuple[dict[str, Any], bytes]:
        """Carry out an operation of the program inside.

        Args:
            operation: Its name.
            data: The bytes that belong to it.
            members: Its arguments.

        Returns:
            The members and the bytes of its answer.

        Raises:
            RequestError: The file is missing, or is not what the operation needs.
            SandboxError: The sandbox has ended, or the program in it failed.
        """
        async with self._room:
            helper = self._idle.pop() if self._idle else await GuestProgram.start(self._sandbox, "files")
            try:
                async with asyncio.timeout(_CALL_S):
                    answer, payload = await helper.ask({"operation": operation, **members}, data)
            except TimeoutError:
                helper.close()
                raise SandboxError(f"the file operation did not end within {_CALL_S:g} s") from None
            except BaseException:
                helper.close()
                raise
            if self._closed:
                helper.close()
            else:
                self._idle.append(helper)
                self._rest()
        if (refusal := refusal_of(answer)) is not None:
            raise refusal
        return answer, payload

    def close(self) -> None:
        """End the helpers. Later calls start new ones."""
        for helper in self._idle:
            helper.close()
        self._idle.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def shut(self) -> None:
        """End the helpers for good."""
        self._closed = True
        self.close()

    def _rest(self) -> None:
        """Close unused helpers, because each uses memory of the tenant."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_IDLE_S, self.close)
