"""The types of the protocol for jobs, keys and languages, with their aliases.

Decoding ignores unknown fields and accepts every historical alias (`READ_ALIASES`) and numbers written as
strings. Encoding omits None and writes both names of each historical pair (`WRITE_ALIASES`), so that every
client finds the name it reads. Times are Unix seconds; sizes are bytes; durations say their unit in their name.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import enum
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec

from unsandbox._presentation.display import job_html
from unsandbox._presentation.failure import failure_line
from unsandbox._presentation.pydantic import core_schema_of
from unsandbox._presentation.saving import save_file
from unsandbox._presentation.times import as_datetime
from unsandbox.errors import InvalidResponseError, JobFailedError
from unsandbox.protocol.bounds import (
    MAX_INPUT_FILES,
    MAX_WAITED_JOBS,
    Args,
    Base64,
    Code,
    Environment,
    FileName,
    Identifier,
    Input,
    Word,
)
from unsandbox.protocol.contents import Content, chunks_of
from unsandbox.protocol.names import relative_name

NetworkModeName = Literal["zerotrust", "semitrusted"]
IsolationName = Literal["auto", "bubblewrap", "gvisor", "hardened"]
"""`auto` is the server's choice; `hardened` is gVisor or a refusal. Not on the hosted service."""
Vcpu = Annotated[int, msgspec.Meta(ge=1, le=8)]
Ttl = Annotated[float, msgspec.Meta(gt=0, le=900)]
EnvironmentName = Annotated[str, msgspec.Meta(max_length=63, pattern=r"^[a-z0-9][a-z0-9._-]*(?![\s\S])")]
"""The name of a set of packages."""
DisplayName = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\[\]{}\x00-\x1f\x7f]*(?![\s\S])")]
"""A name that is only shown. Historical clients take a bracket or brace in a list for the list's end."""

_SHOWN = 80
"""Characters of a value that `repr` shows."""
TERMINAL_STATUSES = frozenset({"completed", "failed", "timeout", "cancelled"})


class JobStatus(enum.StrEnum):
    """`pending`, then `running`, then one of the other four."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    """The program ended by itself, with any exit code."""
    FAILED = "failed"
    """The job could not be run or was ended by a limit; `error` says which."""
    TIMEOUT = "timeout"
    """The program exceeded its `ttl`."""
    CANCELLED = "cancelled"


_REPLACED_BYTES = 1 << 14


class WireModel(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all wire types: frozen, keyword-only, unknown fields ignored."""

    READ_ALIASES: ClassVar[dict[str, str]] = {}
    """Accepted name to our name; our name wins when both are present."""
    WRITE_ALIASES: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Our name to the further names that are written with the same value."""
    WHOLE_NUMBERS: ClassVar[frozenset[str]] = frozenset()
    """Further names whose value is written as a whole number: historical clients read no other."""
    COERCERS: ClassVar[dict[str, Callable[[Any], Any]]] = {}
    """Our name to what turns a historical form of its value into the form declared here."""
    LAZY_FIELD: ClassVar[str] = ""
    """Our name of the member whose value is the base64 of `held`, a field that is not on the wire."""

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not None, as plain dicts and lists.

        Example:
            >>> Job(job_id="j1", status="completed", exit_code=0).to_dict()
            {'job_id': 'j1', 'status': 'completed', 'exit_code': 0}
        """
        return {name: _plain(value) for name in self.keys() if (value := getattr(self, name)) is not None}

    def to_json(self) -> str:
        """Return the same as a JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def keys(self) -> list[str]:
        """Return the names of the fields that are not None, so that `dict(job)` works."""
        names = (name for name in self.__struct_fields__ if name != "held")
        return [name for name in names if getattr(self, name) is not None]

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name, or by a name that the wire has for it (`job["id"]`)."""
        if not isinstance(name, str):
            raise TypeError(f"a {type(self).__name__} is indexed by names of fields, not by {name!r}")
        field = self.READ_ALIASES.get(name, name)
        if field not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, field)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from unsandbox.protocol import codec

        return core_schema_of(cls, lambda value: codec.from_wire(value, cls), cls.to_dict)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {"type": "object", "title": cls.__name__, "additionalProperties": True}

    def __repr__(self) -> str:
        # Omit fields that are None, and shorten long output.
        shown = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(f'{n}={_short(v)}' for n, v in shown if v is not None)})"


def _plain(value: Any) -> Any:
    if isinstance(value, WireModel):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}"


class InputFile(WireModel, frozen=True, kw_only=True):
    """A file for the program at `/tmp/input/<filename>`. The name may contain folders (`data/a.csv`)."""

    READ_ALIASES = {"content_base64": "content"}

    filename: FileName
    """Name of the file in `/tmp/input/`."""
    content: Base64
    """Base64 (RFC 4648, padded), or literal text where it is not valid base64."""
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)] | None = None
    """Permission bits; 0o644 by default."""

    @property
    def data(self) -> bytes:
        """The bytes of the file: base64 if it decodes strictly, else the text itself as UTF-8.

        Example:
            >>> InputFile(filename="a", content="aGk=").data, InputFile(filename="a", content="hi!").data
            (b'hi', b'hi!')
        """
        try:
            return base64.b64decode("".join(self.content.split()), validate=True)
        except (binascii.Error, ValueError):
            return self.content.encode("utf-8", "surrogateescape")

    @property
    def source(self) -> bytes | Content:
        """The bytes of the file, or where they lie."""
        return self.data

    @classmethod
    def of(cls, filename: str, data: bytes) -> InputFile:
        """Return an input file with these bytes."""
        return cls(filename=filename, content=base64.b64encode(data).decode("ascii"))


InputFiles = Annotated[list[InputFile], msgspec.Meta(max_length=MAX_INPUT_FILES)]


class ExecuteRequest(WireModel, frozen=True, kw_only=True):
    """The request of `POST /execute`.

    The hosted service does not know `stdin`, `stdin_base64`, `isolation` and `args`.
    """

    READ_ALIASES = {"network": "network_mode", "return_artifact": "return_artifacts"}

    language: Word
    code: Code
    env: Environment | None = None
    input_files: InputFiles | None = None
    network_mode: NetworkModeName = "zerotrust"
    vcpu: Vcpu = 1
    ttl: Ttl | None = None
    """Seconds the program may run; by default 60, or the language's own default."""
    return_artifacts: bool = False
    return_wasm_artifact: bool = False
    stdin: Input | None = None
    stdin_base64: Base64 | None = None
    isolation: IsolationName = "auto"
    args: Args | None = None
    """Command-line arguments of the program."""
    compiler_args: Args | None = None
    """Further arguments of the compiler."""
    memory_mb: Annotated[int, msgspec.Meta(ge=16)] | None = None
    """Memory limit in MiB, at most what `vcpu` gives."""
    compile_timeout: Ttl | None = None
    """Seconds the compiler may run; `ttl` then counts from the start of the program."""
    cpu_time: Ttl | None = None
    """Seconds of CPU time the program may use."""
    compile_output: bool | None = None
    """Whether to return the compiler's output apart from the program's `stderr`."""
    version: Word | None = None
    """Version of the language (`3.11`), where several are installed."""
    env_name: EnvironmentName | None = None
    """Name of an environment of the server, whose packages the program sees at `/opt/env`."""


class Artifact(WireModel, frozen=True, kw_only=True):
    """A file that the program left, or its compiled binary."""

    READ_ALIASES = {"content": "content_base64"}

    filename: str
    """Name of the file."""
    content_base64: str
    """Content as base64; `data` is decoded."""
    size: int | None = None
    """Bytes."""

    @property
    def data(self) -> bytes:
        """The bytes of the file.

        Raises:
            InvalidResponseError: The server sent invalid base64.

        Example:
            >>> Artifact(filename="a", content_base64="aGk=").data
            b'hi'
        """
        return _decoded(self.content_base64)

    @property
    def source(self) -> bytes | Content:
        """The bytes of the file, or where they lie."""
        return self.data

    @property
    def text(self) -> str:
        """The file as text, with bytes that are not UTF-8 replaced."""
        return self.data.decode("utf-8", "replace")

    def save(self, folder: str | os.PathLike[str] = ".") -> Path:
        """Write the file into a folder, which is created if necessary, and return its path.

        A name with folders (`plots/a.png`) keeps them; one that leads out of the folder keeps its last part.
        Links are not followed; a link with the file's name is replaced. Programs become executable.

        Args:
            folder: The folder.

        Raises:
            InvalidResponseError: The server sent an unusable name, or one that leads through a link.

        Example:
            ```python
            job = await client.execute("c", code, return_artifacts=True)
            paths = [artifact.save("out") for artifact in job.artifacts]
            ```
        """
        try:
            place = relative_name(self.filename)
        except ValueError:
            raise InvalidResponseError("the server sent a file without a usable name") from None
        return save_file(folder, place, chunks_of(self.source))


class Job(WireModel, frozen=True, kw_only=True):
    """A job: the answer of `/execute`, `/jobs/{id}` and their variants.

    Text is UTF-8 with undecodable bytes replaced; `stdout_bytes` and `stderr_bytes` are exact.
    """

    READ_ALIASES = {
        "id": "job_id",
        "execution_time_ms": "total_time_ms",
        "execution_time": "total_time_ms",
        "duration_ms": "total_time_ms",
        "submitted_at": "created_at",
        "output": "stdout",
    }
    WRITE_ALIASES = {
        "job_id": ("id",),
        "total_time_ms": ("execution_time_ms", "execution_time"),
        "stdout": ("output",),
    }
    WHOLE_NUMBERS = frozenset({"execution_time_ms"})

    job_id: str | None = None
    """Id of the job."""
    status: str | None = None
    """`pending`, `running`, `completed`, `failed`, `timeout` or `cancelled`."""
    language: str | None = None
    """Name of the language."""
    stdout: str | None = None
    """Standard output as text; see `stdout_bytes`."""
    stderr: str | None = None
    """Standard error as text; see `stderr_bytes`."""
    exit_code: int | None = None
    """Exit code of the program: 124 at its `ttl`, 137 if it was killed."""
    success: bool | None = None
    """The server's verdict; `ok` is computed by this library."""
    error: str | None = None
    """Why the program did not end by itself; None if it did."""
    signal: str | None = None
    """Signal that killed the program, such as `SIGSEGV`; None if it exited."""
    stage: str | None = None
    """`compile` if the compiler failed or was still at work when the job ended, else `run`."""
    detected_language: str | None = None
    """Language named by the `#!` line of a script."""
    total_time_ms: float | None = None
    """Milliseconds from the start of the program (or its compiler) to its end."""
    cpu_time_ms: float | None = None
    """CPU time in milliseconds."""
    peak_memory_bytes: int | None = None
    """Peak memory."""
    network_mode: str | None = None
    """`zerotrust` or `semitrusted`."""
    created_at: str | int | float | None = None
    """Unix time in seconds, as a string of digits, which all clients accept."""
    completed_at: str | int | float | None = None
    """Unix time of the end."""
    compile_output: str | None = None
    """The compiler's output, if it was requested; it is not part of `stderr` then."""
    compile_output_base64: str | None = None
    """See `stdout_base64`."""
    compile_output_truncated: bool | None = None
    """See `stdout_truncated`."""
    compile_output_dropped_bytes: int | None = None
    """See `stdout_dropped_bytes`."""
    stdout_base64: str | None = None
    """The exact bytes as base64, present only if `stdout` cannot represent them."""
    stderr_base64: str | None = None
    """See `stdout_base64`."""
    stdout_truncated: bool | None = None
    """Whether the output was cut at the limit."""
    stdout_dropped_bytes: int | None = None
    """Number of dropped bytes."""
    stderr_truncated: bool | None = None
    """See `stdout_truncated`."""
    stderr_dropped_bytes: int | None = None
    """See `stdout_dropped_bytes`."""
    output_cut: bool | None = None
    """Whether processes that outlived the program still held its output and were killed."""
    artifacts: list[Artifact] | None = None
    """The artifacts, if they were requested."""
    artifacts_skipped: list[str] | None = None
    """Artifacts that were not returned, with the reason."""
    artifacts_apart: bool | None = None
    """Only in the last event of a stream: the artifacts are too large for it and are part of the job."""

    @property
    def done(self) -> bool:
        """Whether the job has ended. An answer without a status counts as ended."""
        return self.status is None or self.status in TERMINAL_STATUSES

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself with exit code 0.

        Example:
            >>> Job(status="completed", exit_code=0).ok, Job(status="completed", exit_code=3).ok
            (True, False)
        """
        return self.done and self.exit_code == 0 and not self.error

    @property
    def text(self) -> str:
        """Standard output as text; empty if there is none."""
        return self.stdout or ""

    @property
    def created(self) -> datetime | None:
        """`created_at` as a time in UTC."""
        return as_datetime(self.created_at)

    @property
    def completed(self) -> datetime | None:
        """`completed_at` as a time in UTC."""
        return as_datetime(self.completed_at)

    def check(self) -> Self:
        """Return the job if its program ended by itself with exit code 0.

        Raises:
            JobFailedError: The program failed; the error's `result` is the job.

        Example:
            ```python
            job = (await client.execute("python", code)).check()
            ```
        """
        if self.ok:
            return self
        subject = f"the {self.language} program" if self.language else "the program"
        if self.job_id:
            subject += f" of job {self.job_id}"
        raise JobFailedError(failure_line(subject, self.exit_code, self.error, self.stderr), self)

    def _repr_html_(self) -> str:
        return job_html(self)

    @property
    def stdout_bytes(self) -> bytes:
        """Standard output as bytes, as far as the server stored it."""
        return exact_bytes(self.stdout, self.stdout_base64)

    @property
    def stderr_bytes(self) -> bytes:
        """Standard error as bytes, as far as the server stored it."""
        return exact_bytes(self.stderr, self.stderr_base64)

    @property
    def compile_output_bytes(self) -> bytes:
        """The compiler's output as bytes, as far as the server stored it; empty if it was not requested."""
        return exact_bytes(self.compile_output, self.compile_output_base64)


class JobList(WireModel, frozen=True, kw_only=True):
    """The answer of `GET /jobs`, newest first."""

    jobs: list[Job] = []
    """The jobs, without their output."""
    count: int | None = None
    """Length of the list."""

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


class WaitRequest(WireModel, frozen=True, kw_only=True):
    """The request of `POST /jobs/wait`."""

    ids: Annotated[list[Identifier], msgspec.Meta(min_length=1, max_length=MAX_WAITED_JOBS)]
    timeout: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    """Maximum seconds to hold the answer."""


class EndedJobs(WireModel, frozen=True, kw_only=True):
    """The answer of `POST /jobs/wait`: the jobs that have ended, with their results."""

    jobs: list[Job] = []
    """Jobs that have ended."""
    count: int | None = None
    """Length of the list."""
    unknown: list[str] = []
    """Ids that belong to no job of this key."""

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


class Languages(WireModel, frozen=True, kw_only=True):
    """The answer of `GET /languages`: the languages that can run, and their aliases."""

    languages: list[str] = []
    """Names of languages."""
    count: int | None = None
    """Length of the list."""
    aliases: dict[str, str] = {}
    """Language by alias."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.languages)

    def __len__(self) -> int:
        return len(self.languages)


class KeyInfo(WireModel, frozen=True, kw_only=True):
    """The answer of `POST /keys/validate`: validity and limits of the signing key."""

    valid: bool = True
    """Whether the key may be used now."""
    public_key: str | None = None
    """The key."""
    tier: int | float | str | None = None
    """Tier number."""
    status: str | None = None
    """Status as one word."""
    reason: str | None = None
    """Why the key is not valid."""
    valid_through_datetime: str | None = None
    """Time of expiry as text."""
    valid_for_human: str | None = None
    """The duration in words."""
    expires_at: str | int | float | None = None
    """Unix time of the end."""
    time_remaining: int | float | str | None = None
    """Seconds."""
    expired_at_datetime: str | None = None
    """Time of expiry as text, if it has passed."""
    expired_ago: str | None = None
    """The duration in words."""
    rate_per_minute: int | None = None
    """Requests per minute."""
    burst: int | None = None
    """Requests in a burst."""
    concurrency: int | None = None
    """Jobs that may be queued or running."""
    limits: dict[str, Any] | None = None
    """The key's own limits by name; for others the server's defaults apply."""
    used: dict[str, float] | None = None
    """The current use, by the same names."""


class Health(WireModel, frozen=True, kw_only=True):
    """The answer of `GET /health`."""

    status: str | None = None
    """`ok` if the server is healthy."""
    version: str | None = None
    """Version of the server."""
    isolation: dict[str, Any] | None = None
    """The isolation backend and its checks."""


class Cancelled(Job, frozen=True, kw_only=True):
    """The answer of a cancellation: the job with its partial output."""

    message: str | None = None
    """A message about the object."""


class ErrorBody(WireModel, frozen=True, kw_only=True):
    """The body of every error answer: a code and a message."""

    error: str
    message: str
    request_id: str | None = None
    reason: str | None = None
    active_executions: int | None = None
    concurrency_limit: int | None = None


def exact_bytes(text: str | None, encoded: str | None) -> bytes:
    """Return the bytes of an output: the encoded form where there is one, else the text."""
    return _decoded(encoded) if encoded is not None else (text or "").encode("utf-8", "surrogateescape")


def text_and_exact(data: bytes) -> tuple[str, str | None]:
    r"""Return bytes as text, and as base64 where the text cannot represent them.

    Example:
        >>> text_and_exact(b"hi"), text_and_exact(b"\xff")
        (('hi', None), ('\ufffd', '/w=='))
    """
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        return _replaced(data), base64.b64encode(data).decode("ascii")


def _replaced(data: bytes) -> str:
    """Return bytes that are not UTF-8 as text, in steps: the interpreter is held during each."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    starts = range(0, len(data), _REPLACED_BYTES)
    return "".join(
        decoder.decode(data[start : start + _REPLACED_BYTES], start + _REPLACED_BYTES >= len(data))
        for start in starts
    )


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidResponseError("the server's answer contains invalid base64") from error
