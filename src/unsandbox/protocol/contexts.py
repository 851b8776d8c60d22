"""Types of contexts: interpreters in a session that keep their state between runs, with rich results."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from unsandbox._presentation.bundle import bundle_html
from unsandbox.errors import InvalidResponseError, JobFailedError
from unsandbox.protocol.bounds import Code, Environment, FileName, WaitSeconds, Word
from unsandbox.protocol.models import WireModel
from unsandbox.protocol.processes import Milliseconds, Offset, ProcessId

DATA_TYPE = "application/vnd.unsandbox.data+json"
"""MIME type of the rows of a DataFrame, as pandas writes them with `orient="split"`."""
CHART_TYPE = "application/vnd.unsandbox.chart+json"
"""MIME type of the values that a figure shows."""


class ContextRequest(WireModel, frozen=True, kw_only=True):
    """An interpreter to start in a session."""

    context_id: ProcessId | None = None
    """Id chosen by the client. The same id names the same context, so the request can be repeated safely."""
    language: Word = "python"
    """Language of the interpreter: `python`."""
    cwd: FileName | None = None
    """Working directory. Default `/work`; a relative path starts there."""
    env: Environment | None = None
    """Further environment variables."""


class CodeContext(WireModel, frozen=True, kw_only=True):
    """An interpreter that keeps its state between runs."""

    context_id: str | None = None
    """Id of the context."""
    language: str | None = None
    """Language of the interpreter."""
    cwd: str | None = None
    """Working directory at the start."""
    status: Literal["starting", "idle", "busy", "dead"] | None = None
    """`starting`, `idle`, `busy` or `dead`."""
    execution_count: int | None = None
    """Number of the last run in its history."""
    restarts: int | None = None
    """How often its interpreter was replaced; its variables were lost each time."""
    created_at: float | None = None
    """Unix time of the start in seconds."""


class CodeContextList(WireModel, frozen=True, kw_only=True):
    """The contexts of a session, oldest first."""

    contexts: list[CodeContext] = []
    """The contexts."""

    def __iter__(self) -> Iterator[CodeContext]:
        return iter(self.contexts)

    def __len__(self) -> int:
        return len(self.contexts)


class Variable(WireModel, frozen=True, kw_only=True):
    """A variable of a context."""

    name: str | None = None
    """Its name."""
    type: str | None = None
    """Name of its type."""
    value: str | None = None
    """The beginning of a number's or a text's representation."""
    size: list[int] | None = None
    """Shape of an array or table, or length of a collection."""


class VariableList(WireModel, frozen=True, kw_only=True):
    """The variables of a context, by name; at most 1,000."""

    variables: list[Variable] = []
    """The variables."""

    def __iter__(self) -> Iterator[Variable]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


class RunRequest(WireModel, frozen=True, kw_only=True):
    """Code to run in a context."""

    run_id: ProcessId | None = None
    """Id chosen by the client. The same id names the same run, so the request can be repeated safely."""
    code: Code
    """The code: one cell of a notebook."""
    timeout: Milliseconds = 0
    """Milliseconds until the run is interrupted; 0 means no limit."""
    env: Environment | None = None
    """Environment variables of this run."""
    silent: bool = False
    """Whether to leave the run out of the history, and its value out of the results."""
    wait: WaitSeconds = 0
    """Seconds to wait for the end."""


class RunOutputRequest(WireModel, frozen=True, kw_only=True):
    """Asks for the events of a run behind a position."""

    cursor: Offset = 0
    """Number of events to skip: those received so far."""
    wait: WaitSeconds = 0
    """Seconds to wait if there is nothing new and the run has not ended."""
    until_end: bool = False
    """Whether to wait for the end rather than for the next event."""


class MimeBundle(WireModel, frozen=True, kw_only=True):
    """One result in one or more representations.

    Example:
        >>> MimeBundle(data={"text/plain": "42"}).text
        '42'
    """

    data: dict[str, Any] = {}
    """The representations by MIME type; binary ones as base64."""
    metadata: dict[str, Any] = {}
    """What the interpreter says about them."""
    is_main_result: bool | None = None
    """Whether it is the value of the last expression of the code."""
    display_id: str | None = None
    """Id by which later code can replace it."""

    @property
    def formats(self) -> list[str]:
        """The MIME types."""
        return list(self.data)

    @property
    def text(self) -> str | None:
        """`text/plain`: the representation that every result has."""
        return self._text("text/plain")

    @property
    def html(self) -> str | None:
        """`text/html`."""
        return self._text("text/html")

    @property
    def markdown(self) -> str | None:
        """`text/markdown`."""
        return self._text("text/markdown")

    @property
    def svg(self) -> str | None:
        """`image/svg+xml`."""
        return self._text("image/svg+xml")

    @property
    def latex(self) -> str | None:
        """`text/latex`."""
        return self._text("text/latex")

    @property
    def javascript(self) -> str | None:
        """`application/javascript`."""
        return self._text("application/javascript")

    @property
    def png(self) -> bytes | None:
        """`image/png`."""
        return self._bytes("image/png")

    @property
    def jpeg(self) -> bytes | None:
        """`image/jpeg`."""
        return self._bytes("image/jpeg")

    @property
    def pdf(self) -> bytes | None:
        """`application/pdf`."""
        return self._bytes("application/pdf")

    @property
    def json(self) -> Any:
        """`application/json`."""
        return self.data.get("application/json")

    @property
    def table(self) -> dict[str, Any] | None:
        """The rows of a DataFrame, at most 1,000: `columns`, `index` and `data`."""
        return self._object(DATA_TYPE)

    @property
    def chart(self) -> dict[str, Any] | None:
        """The values that a figure shows: `type`, `title`, `elements` and, depending on the type, axes."""
        return self._object(CHART_TYPE)

    def save(self, path: str | Path) -> Path:
        """Write the representation that the suffix names; return the path.

        Args:
            path: The file: `.png`, `.jpg`, `.pdf`, `.svg`, `.html`, `.md`, `.tex`, `.json`, `.js` or `.txt`.

        Raises:
            ValueError: The result has no such representation.
        """
        target = Path(path)
        kind = _SUFFIXES.get(target.suffix.lower())
        value = self.data.get(kind or "")
        if kind is None or value is None:
            known = ", ".join(name for name, one in _SUFFIXES.items() if one in self.data)
            raise ValueError(f"the result has no representation for {target.name}; it can be saved as {known}")
        if kind in _BINARY:
            target.write_bytes(self._bytes(kind) or b"")
        else:
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            target.write_text(text, "utf-8")
        return target

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        return dict(self.data)

    def _text(self, kind: str) -> str | None:
        value = self.data.get(kind)
        return "".join(map(str, value)) if isinstance(value, list) else None if value is None else str(value)

    def _bytes(self, kind: str) -> bytes | None:
        value = self._text(kind)
        try:
            return None if value is None else base64.b64decode(value)
        except (binascii.Error, ValueError) as error:
            raise InvalidResponseError(f"{kind} of the result is not base64") from error

    def _object(self, kind: str) -> dict[str, Any] | None:
        value = self.data.get(kind)
        try:
            found = msgspec.json.decode(value) if isinstance(value, str) else value
        except msgspec.DecodeError:
            return None
        return found if isinstance(found, dict) else None


_BINARY = frozenset({"image/png", "image/jpeg", "application/pdf"})
_SUFFIXES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".pdf": "application/pdf",
    ".svg": "image/svg+xml",
    ".html": "text/html",
    ".md": "text/markdown",
    ".tex": "text/latex",
    ".json": "application/json",
    ".js": "application/javascript",
    ".txt": "text/plain",
}


class CodeError(WireModel, frozen=True, kw_only=True):
    """An exception that the code did not catch."""

    name: str | None = None
    """Name of its class."""
    value: str | None = None
    """Its message."""
    traceback: list[str] = []
    """The traceback as the interpreter prints it, with terminal colours."""

    def __str__(self) -> str:
        return f"{self.name}: {self.value}" if self.value else str(self.name)


class RunEvent(WireModel, frozen=True, kw_only=True):
    """Something that happened in a run."""

    type: Literal["stdout", "stderr", "result", "display", "update", "clear", "error"] | None = None
    """`stdout` and `stderr` have `text`; `result`, `display` and `update` have `result`; `error` has `error`.
    `clear` means that what was shown so far goes."""
    text: str | None = None
    """Output."""
    result: MimeBundle | None = None
    """The value of the last expression, or what the code displayed."""
    error: CodeError | None = None
    """The exception."""
    timestamp: float | None = None
    """Unix time in seconds."""


class RunOutput(WireModel, frozen=True, kw_only=True):
    """The state of a run, and events behind a position."""

    run_id: str | None = None
    """Id of the run."""
    context_id: str | None = None
    """Id of its context."""
    status: Literal["queued", "running", "ok", "error", "interrupted", "timeout", "died"] | None = None
    """`queued`, `running`, `ok`, `error` (an exception), `interrupted`, `timeout`, or `died` (the interpreter
    ended; it was replaced)."""
    state_kept: bool | None = None
    """Whether the variables are still there afterwards."""
    execution_count: int | None = None
    """Its number in the history of the context."""
    events: list[RunEvent] = []
    """What happened behind the position."""
    cursor: int | None = None
    """Position behind these events."""
    ended: bool | None = None
    """Whether no more events follow."""
    truncated: bool | None = None
    """Whether events are missing, because a run keeps 10,000 events and 32 MiB."""


class Execution(WireModel, frozen=True, kw_only=True):
    """A run that has ended, with everything that it printed and showed."""

    status: str | None = None
    """See `RunOutput`."""
    stdout: str = ""
    """Standard output."""
    stderr: str = ""
    """Standard error."""
    results: list[MimeBundle] = []
    """The displayed results in their order, and the value of the last expression."""
    error: CodeError | None = None
    """The exception that the code did not catch; None if there was none."""
    execution_count: int | None = None
    """Its number in the history of the context."""
    state_kept: bool | None = None
    """Whether the variables are still there afterwards."""
    truncated: bool | None = None
    """Whether output is missing."""

    @property
    def ok(self) -> bool:
        """Whether the code ran to its end without an exception."""
        return self.status == "ok"

    @property
    def text(self) -> str | None:
        """The value of the last expression as text; None if it has none."""
        return next((one.text for one in reversed(self.results) if one.is_main_result), None)

    def check(self) -> Self:
        """Return the result if the code ran to its end.

        Raises:
            JobFailedError: It did not; the error's `result` is this object.
        """
        if self.ok:
            return self
        raise JobFailedError(f"the run ended with status {self.status}: {self.error or 'no exception'}", self)

    def _repr_html_(self) -> str:
        return bundle_html(self.stdout, self.stderr, [one.data for one in self.results], self.error)


def collect(output: RunOutput, events: list[RunEvent]) -> Execution:
    """Return a run that has ended as one object.

    Example:
        >>> event = RunEvent(type="stdout", text="hello")
        >>> collect(RunOutput(status="ok"), [event]).stdout
        'hello'
    """
    texts: dict[str | None, list[str]] = {"stdout": [], "stderr": []}
    results: list[MimeBundle] = []
    error = None
    for event in events:
        if event.type in ("stdout", "stderr"):
            texts[event.type].append(event.text or "")
        elif event.type == "clear":
            results.clear()
        elif event.type == "error":
            error = event.error
        elif event.result is not None and event.type == "update":
            name = event.result.display_id
            results = [event.result if name and one.display_id == name else one for one in results]
        elif event.result is not None:
            results.append(event.result)
    return Execution(
        status=output.status,
        stdout="".join(texts["stdout"]),
        stderr="".join(texts["stderr"]),
        results=results,
        error=error,
        execution_count=output.execution_count,
        state_kept=output.state_kept,
        truncated=output.truncated,
    )
