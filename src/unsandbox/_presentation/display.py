"""Results as HTML, for notebooks: the output, the exit code, and pictures."""

from __future__ import annotations

import html
from collections.abc import Sequence, Sized
from typing import Protocol

_PICTURES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "svg": "image/svg+xml",
}
_MOST_CHARACTERS = 20_000
_MOST_PICTURE = 10 << 20


class Outcome(Protocol):
    """The end of a program: a job, or the result of a command."""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""

    @property
    def exit_code(self) -> int | None:
        """Its exit code."""

    @property
    def error(self) -> str | None:
        """Why it did not end by itself."""

    @property
    def stdout(self) -> str | None:
        """Its standard output."""

    @property
    def stderr(self) -> str | None:
        """Its standard error."""


class File(Protocol):
    """A file that a program left."""

    @property
    def filename(self) -> str:
        """Its name."""

    @property
    def content_base64(self) -> str:
        """Its bytes in base64."""

    @property
    def source(self) -> Sized:
        """Its bytes, or where they lie."""


class JobOutcome(Outcome, Protocol):
    """The end of a job."""

    @property
    def status(self) -> str | None:
        """Its status."""

    @property
    def language(self) -> str | None:
        """Its language."""

    @property
    def artifacts(self) -> Sequence[File] | None:
        """The files that it left."""


def job_html(job: JobOutcome) -> str:
    """Return a job as HTML. The program's output is escaped."""
    parts = [_written(job, job.status or "", job.language or "")]
    for artifact in job.artifacts or ():
        kind = _PICTURES.get(artifact.filename.rpartition(".")[2].lower())
        if kind and len(artifact.source) <= _MOST_PICTURE // 4 * 3:
            # As a picture a file cannot run scripts, SVG included.
            source = f"data:{kind};base64,{html.escape(artifact.content_base64)}"
            parts.append(f'<img alt="{_text(artifact.filename)}" src="{source}" style="max-width:100%">')
        else:
            parts.append(f"<div>{_text(artifact.filename)}</div>")
    return "".join(parts)


def command_html(result: Outcome) -> str:
    """Return the result of a command as HTML. Its output is escaped."""
    return _written(result, "completed" if result.ok else "failed", "")


def _written(result: Outcome, status: str, what: str) -> str:
    color = "#2a7" if result.ok else "#c33"
    ending = f"exit code {result.exit_code}" if result.exit_code is not None else ""
    words = " ".join(_text(word) for word in (what, ending, result.error or ""))
    parts = [f'<div><b style="color:{color}">{_text(status)}</b> {words}</div>']
    if result.stdout:
        parts.append(f"<pre>{_text(result.stdout)}</pre>")
    if result.stderr:
        parts.append(f'<pre style="color:#c33">{_text(result.stderr)}</pre>')
    return "".join(parts)


def _text(text: str) -> str:
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n\N{HORIZONTAL ELLIPSIS}"
    return html.escape(shown.encode("utf-8", "replace").decode())
