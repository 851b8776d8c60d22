"""One run of code in a context, and its events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from unsandbox.engine.workspace.shares import Share
from unsandbox.protocol import codec
from unsandbox.protocol.contexts import CodeError, RunEvent, RunOutput

Status = Literal["queued", "running", "ok", "error", "interrupted", "timeout", "died"]
MAX_EVENTS = 10_000
MAX_BYTES = 32 << 20
"""Bytes of the events of one run, as they came."""
MAX_ANSWER_BYTES = 8 << 20
"""Bytes of the events in one answer; a single event may be larger."""
_RESULTS = ("result", "display", "update")


class KernelRun:
    """A run, from its request until it is forgotten.

    Args:
        run_id: Its id.
        context_id: Id of its context.
        request: What the guest is told: code, variables, whether it is silent.
        timeout_s: Seconds until it is interrupted; None for no limit.
        share: What the events of all runs of its key may take together.
    """

    def __init__(
        self, run_id: str, context_id: str, request: Mapping[str, Any], timeout_s: float | None, share: Share
    ) -> None:
        self.run_id = run_id
        self.request = request
        self.timeout_s = timeout_s
        self.status: Status = "queued"
        self.state_kept: bool | None = None
        self.execution_count: int | None = None
        self.interrupted: Literal["", "interrupted", "timeout"] = ""
        """Why it was interrupted."""
        self.ended = asyncio.Event()
        self.kept_bytes = 0
        self._context_id = context_id
        self._share = share
        self._events: list[RunEvent] = []
        self._sizes: list[int] = []
        self._truncated = False
        self._changed = asyncio.Event()

    @property
    def count(self) -> int:
        """Number of events."""
        return len(self._events)

    def add(self, message: Mapping[str, Any], size: int) -> None:
        """Add an event that the guest reported, unless there are too many.

        Args:
            message: The line of the guest, which is not trusted.
            size: Its length.

        Raises:
            ValueError: The line is no event.
        """
        full = self.count >= MAX_EVENTS or self.kept_bytes + size > MAX_BYTES
        if full or not self._share.has_room(size):
            self._truncated = True
            return
        self._events.append(_event(message))
        self._sizes.append(size)
        self.kept_bytes += size
        self._share.used += size
        self._wake()

    def release(self) -> None:
        """Drop its events."""
        self._share.used -= self.kept_bytes
        self.kept_bytes = 0
        self._events.clear()
        self._sizes.clear()

    def begin(self) -> None:
        """Note that it runs."""
        self.status = "running"
        self._wake()

    def finish(self, status: Status, *, state_kept: bool, execution_count: int | None = None) -> None:
        """Note its end, once."""
        if not self.ended.is_set():
            self.status = status
            self.state_kept = state_kept
            self.execution_count = execution_count
            self.ended.set()
            self._wake()

    def fail(self, status: Status, name: str, value: str) -> None:
        """Note that its interpreter is gone."""
        if not self.ended.is_set():
            error = CodeError(name=name, value=value, traceback=[f"{name}: {value}"])
            self._events.append(RunEvent(type="error", error=error, timestamp=_now()))
            self._sizes.append(0)
            self.finish(status, state_kept=False)

    async def changed(self) -> None:
        """Return when there is a new event, or the run has ended."""
        await self._changed.wait()

    def output(self, cursor: int) -> RunOutput:
        """Return its state and the events behind a position."""
        cursor = min(cursor, self.count)
        behind, size = cursor, 0
        while behind < self.count and (behind == cursor or size + self._sizes[behind] <= MAX_ANSWER_BYTES):
            size += self._sizes[behind]
            behind += 1
        return RunOutput(
            run_id=self.run_id,
            context_id=self._context_id,
            status=self.status,
            state_kept=self.state_kept,
            execution_count=self.execution_count,
            events=self._events[cursor:behind],
            cursor=behind,
            ended=self.ended.is_set() and behind == self.count,
            truncated=self._truncated or None,
        )

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _now() -> float:
    return round(time.time(), 6)


def _event(message: Mapping[str, Any]) -> RunEvent:
    """Return an event out of a line of the guest."""
    kind = message.get("type")
    members: dict[str, Any] = {"type": kind, "timestamp": _now()}
    if kind in _RESULTS:
        result = {name: message[name] for name in ("data", "metadata", "display_id") if message.get(name)}
        members["result"] = result | {"is_main_result": True if kind == "result" else None}
    elif kind == "error":
        members["error"] = {name: message.get(name) for name in ("name", "value", "traceback")}
    else:
        members["text"] = message.get("text")
    try:
        return codec.from_wire(members, RunEvent)
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise ValueError("not an event") from error
