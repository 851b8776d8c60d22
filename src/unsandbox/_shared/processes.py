"""The output of a process as the client collects it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unsandbox._shared.events import Decoder, OutputEvent
from unsandbox._shared.options import limit_ms
from unsandbox.protocol.models import text_and_exact
from unsandbox.protocol.processes import MAX_WRITE_BYTES, ExecResult, Process, ProcessOutput

OutputCallback = Callable[[str], Any]
"""Called with a piece of output as text; awaited if it returns an awaitable."""

_KEEP_BYTES = 10 << 20


class ProgramOptions(NamedTuple):
    """The options of a program in a session; None stands for the server's default."""

    cwd: str | None = None
    env: Mapping[str, str] | None = None
    user: str | None = None
    timeout: float | None = None
    terminal: tuple[int, int] | None = None
    detach: bool = False
    output_bytes: int | None = None

    def members(self, program: Sequence[str] | str) -> dict[str, Any]:
        """Return the body that starts a program, with a new id.

        Raises:
            InvalidRequestError: The time limit is not a number of seconds.
        """
        members: dict[str, Any] = {
            "process_id": f"proc_{os.urandom(8).hex()}",
            "cwd": self.cwd,
            "env": None if self.env is None else dict(self.env),
            "user": self.user,
            "timeout": limit_ms(self.timeout),
            "detach": self.detach or None,
            "output_bytes": self.output_bytes,
        }
        if isinstance(program, str):
            members["command"] = program
        else:
            members["argv"] = [str(word) for word in program]
        if self.terminal is not None:
            members["terminal"] = {"columns": self.terminal[0], "rows": self.terminal[1]}
        return members


def with_text(result: ExecResult) -> ExecResult:
    """Return a result whose output is there as text, too; the server sends some bytes as base64 alone."""
    changes: dict[str, str] = {}
    if result.stdout is None and result.stdout_base64 is not None:
        changes["stdout"] = result.stdout_bytes.decode("utf-8", "replace")
    if result.stderr is None and result.stderr_base64 is not None:
        changes["stderr"] = result.stderr_bytes.decode("utf-8", "replace")
    return result.replace(**changes) if changes else result


def cut(data: str | bytes) -> Iterator[bytes]:
    """Yield standard input in parts that fit into a request; text as UTF-8."""
    view = memoryview(data.encode() if isinstance(data, str) else bytes(data))
    while view:
        yield bytes(view[:MAX_WRITE_BYTES])
        view = view[MAX_WRITE_BYTES:]


class Kept:
    """The first bytes of both streams, and how far each has been read.

    Args:
        keep_bytes: Bytes of each stream to keep; None for 10 MiB.
        offsets: Bytes of each stream that were read before.
    """

    def __init__(self, keep_bytes: int | None, offsets: tuple[int, int] = (0, 0)) -> None:
        self._keep = _KEEP_BYTES if keep_bytes is None else keep_bytes
        self._data = (bytearray(), bytearray())
        self._offsets = list(offsets)
        self._lost = [False, False]
        self.decoder = Decoder()
        self.ended = False

    @property
    def offsets(self) -> tuple[int, int]:
        """Bytes of each stream that have been read."""
        return self._offsets[0], self._offsets[1]

    def take(self, output: ProcessOutput) -> list[OutputEvent]:
        """Add output; return it as events."""
        events = []
        pieces = ((output.stdout, output.stdout_offset), (output.stderr, output.stderr_offset))
        for number, (data, offset) in enumerate(pieces):
            if offset is not None and offset > self._offsets[number]:
                self._lost[number] = True  # The server has dropped it.
                self._offsets[number] = offset
            if not data:
                continue
            self._offsets[number] += len(data)
            room = self._keep - len(self._data[number])
            if len(data) > room:
                self._lost[number] = True
            self._data[number].extend(data[:room])
            events.append(self.decoder.event("stderr" if number else "stdout", data))
        self.ended = bool(output.ended)
        return events

    def result(self, process: Process) -> ExecResult:
        """Return the result of a process that has ended."""
        (stdout, stdout_exact), (stderr, stderr_exact) = (text_and_exact(bytes(data)) for data in self._data)
        members = {name: getattr(process, name) for name in Process.__struct_fields__}
        return ExecResult(
            **members,
            stdout=stdout,
            stderr=stderr,
            stdout_base64=stdout_exact,
            stderr_base64=stderr_exact,
            stdout_truncated=self._lost[0] or None,
            stderr_truncated=self._lost[1] or None,
        )
