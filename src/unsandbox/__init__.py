"""Run untrusted code in many languages, safely: an async client, a blocking client, and the engine behind them.

Each program runs in its own sandbox, and the result is a `Job`:

    from unsandbox import Client

    with Client() as client:
        job = client.execute("python", "print(6 * 7)")
        print(job.stdout)

`AsyncClient` has the same methods, to be awaited. The main names:

* `Client.execute`, `submit`, `wait`, `stream`, `map` - one program, in the background, streamed, many at once
* `Client.session`, `service`, `create_snapshot`, `publish_image` - persistent shells, servers and their states
* `Client.local` - the embedded engine instead of a server; `base_url=` selects your own server
* `Hooks`, `RetryPolicy`, `Client.with_options` - callbacks, retries, and other options
* `UnsandboxError` - the root of all exceptions; `unsandbox.errors` has the hierarchy
* `un` and `un_async` - the same as functions that return plain dicts

`unsandbox.credentials` describes the lookup of keys; `explain_credentials()` reports its result. Names are
imported on first use, so `import unsandbox` costs next to nothing.
"""

from __future__ import annotations

# Importing `typing` for this constant would slow down the import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unsandbox._async.client import AsyncClient
    from unsandbox._async.objects.context import AsyncLiveContext
    from unsandbox._async.objects.files import AsyncFiles
    from unsandbox._async.objects.map import AsyncMap
    from unsandbox._async.objects.port import AsyncPort, AsyncPorts
    from unsandbox._async.objects.process import AsyncLiveProcess
    from unsandbox._async.objects.service import AsyncLiveService
    from unsandbox._async.objects.session import AsyncLiveSession
    from unsandbox._async.objects.stream import AsyncJobStream
    from unsandbox._async.objects.terminal import AsyncTerminal
    from unsandbox._async.objects.watch import AsyncFileWatch
    from unsandbox._shared.events import OutputEvent, ResultEvent
    from unsandbox._shared.given import NOT_GIVEN, NotGiven
    from unsandbox._shared.hooks import Hooks, PollEvent, RequestEvent, ResponseEvent, RetryEvent
    from unsandbox._shared.mapping import Mapped, Progress
    from unsandbox._sync.client import Client
    from unsandbox._sync.objects.context import LiveContext
    from unsandbox._sync.objects.files import Files
    from unsandbox._sync.objects.map import Map
    from unsandbox._sync.objects.port import Port, Ports
    from unsandbox._sync.objects.process import LiveProcess
    from unsandbox._sync.objects.service import LiveService
    from unsandbox._sync.objects.session import LiveSession
    from unsandbox._sync.objects.stream import JobStream
    from unsandbox._sync.objects.terminal import Terminal
    from unsandbox._sync.objects.watch import FileWatch
    from unsandbox._version import __version__
    from unsandbox.credentials import Credentials, explain_credentials, resolve_credentials
    from unsandbox.errors import (
        APIError,
        AuthenticationError,
        BadRequestError,
        ClientStateError,
        ConflictError,
        ConnectionFailedError,
        CredentialsError,
        EngineError,
        InvalidRequestError,
        InvalidResponseError,
        JobFailedError,
        NotFoundError,
        PayloadTooLargeError,
        PermissionDeniedError,
        RateLimitError,
        RemoteFileError,
        RemoteFileExistsError,
        RemoteFileNotFoundError,
        RemoteIsADirectoryError,
        RemoteNotADirectoryError,
        RemoteNotAFileError,
        RemotePermissionError,
        RequestTimeoutError,
        ServerError,
        SudoRequiredError,
        UnavailableError,
        UnsandboxError,
        UnsandboxWarning,
        WaitTimeoutError,
    )
    from unsandbox.protocol.contexts import (
        CodeContext,
        CodeContextList,
        CodeError,
        Execution,
        MimeBundle,
        RunEvent,
        RunOutput,
        Variable,
        VariableList,
    )
    from unsandbox.protocol.files import FileEvent, FileEvents, FileInfo, FileList
    from unsandbox.protocol.images import Image, ImageList, Pictures, Trusted
    from unsandbox.protocol.languages import detect_language, detect_shebang
    from unsandbox.protocol.logs import LogLine, LogPage
    from unsandbox.protocol.models import (
        Artifact,
        EndedJobs,
        Health,
        InputFile,
        Job,
        JobList,
        JobStatus,
        KeyInfo,
        Languages,
    )
    from unsandbox.protocol.processes import (
        ExecResult,
        ExposedPort,
        ExposedPorts,
        Process,
        ProcessList,
        ProcessOutput,
    )
    from unsandbox.protocol.retry import RetryPolicy
    from unsandbox.protocol.services import (
        Domains,
        Service,
        ServiceJob,
        ServiceList,
        ServiceLog,
        VaultExport,
        VaultInfo,
    )
    from unsandbox.protocol.sessions import CommandResult, Session, SessionList, SessionMetrics
    from unsandbox.protocol.snapshots import Cloned, Restored, Snapshot, SnapshotList

__all__ = [
    "NOT_GIVEN",
    "APIError",
    "Artifact",
    "AsyncClient",
    "AsyncFileWatch",
    "AsyncFiles",
    "AsyncJobStream",
    "AsyncLiveContext",
    "AsyncLiveProcess",
    "AsyncLiveService",
    "AsyncLiveSession",
    "AsyncMap",
    "AsyncPort",
    "AsyncPorts",
    "AsyncTerminal",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "ClientStateError",
    "Cloned",
    "CodeContext",
    "CodeContextList",
    "CodeError",
    "CommandResult",
    "ConflictError",
    "ConnectionFailedError",
    "Credentials",
    "CredentialsError",
    "Domains",
    "EndedJobs",
    "EngineError",
    "ExecResult",
    "Execution",
    "ExposedPort",
    "ExposedPorts",
    "FileEvent",
    "FileEvents",
    "FileInfo",
    "FileList",
    "FileWatch",
    "Files",
    "Health",
    "Hooks",
    "Image",
    "ImageList",
    "InputFile",
    "InvalidRequestError",
    "InvalidResponseError",
    "Job",
    "JobFailedError",
    "JobList",
    "JobStatus",
    "JobStream",
    "KeyInfo",
    "Languages",
    "LiveContext",
    "LiveProcess",
    "LiveService",
    "LiveSession",
    "LogLine",
    "LogPage",
    "Map",
    "Mapped",
    "MimeBundle",
    "NotFoundError",
    "NotGiven",
    "OutputEvent",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "Pictures",
    "PollEvent",
    "Port",
    "Ports",
    "Process",
    "ProcessList",
    "ProcessOutput",
    "Progress",
    "RateLimitError",
    "RemoteFileError",
    "RemoteFileExistsError",
    "RemoteFileNotFoundError",
    "RemoteIsADirectoryError",
    "RemoteNotADirectoryError",
    "RemoteNotAFileError",
    "RemotePermissionError",
    "RequestEvent",
    "RequestTimeoutError",
    "ResponseEvent",
    "Restored",
    "ResultEvent",
    "RetryEvent",
    "RetryPolicy",
    "RunEvent",
    "RunOutput",
    "ServerError",
    "Service",
    "ServiceJob",
    "ServiceList",
    "ServiceLog",
    "Session",
    "SessionList",
    "SessionMetrics",
    "Snapshot",
    "SnapshotList",
    "SudoRequiredError",
    "Terminal",
    "Trusted",
    "UnavailableError",
    "UnsandboxError",
    "UnsandboxWarning",
    "Variable",
    "VariableList",
    "VaultExport",
    "VaultInfo",
    "WaitTimeoutError",
    "__version__",
    "detect_language",
    "detect_shebang",
    "explain_credentials",
    "resolve_credentials",
]

_HOME = {
    "NOT_GIVEN": "_shared.given",
    "NotGiven": "_shared.given",
    "Hooks": "_shared.hooks",
    "PollEvent": "_shared.hooks",
    "RequestEvent": "_shared.hooks",
    "ResponseEvent": "_shared.hooks",
    "RetryEvent": "_shared.hooks",
    "JobFailedError": "errors",
    "AsyncMap": "_async.objects.map",
    "Map": "_sync.objects.map",
    "Mapped": "_shared.mapping",
    "Progress": "_shared.mapping",
    "EndedJobs": "protocol.models",
    "AsyncJobStream": "_async.objects.stream",
    "JobStream": "_sync.objects.stream",
    "OutputEvent": "_shared.events",
    "ResultEvent": "_shared.events",
    "AsyncLiveSession": "_async.objects.session",
    "AsyncLiveService": "_async.objects.service",
    "AsyncTerminal": "_async.objects.terminal",
    "AsyncFileWatch": "_async.objects.watch",
    "AsyncLiveContext": "_async.objects.context",
    "LiveContext": "_sync.objects.context",
    "AsyncFiles": "_async.objects.files",
    "AsyncLiveProcess": "_async.objects.process",
    "AsyncPort": "_async.objects.port",
    "AsyncPorts": "_async.objects.port",
    "Files": "_sync.objects.files",
    "Port": "_sync.objects.port",
    "Ports": "_sync.objects.port",
    "LiveProcess": "_sync.objects.process",
    "FileEvent": "protocol.files",
    "FileEvents": "protocol.files",
    "CodeContext": "protocol.contexts",
    "CodeContextList": "protocol.contexts",
    "CodeError": "protocol.contexts",
    "Execution": "protocol.contexts",
    "MimeBundle": "protocol.contexts",
    "RunEvent": "protocol.contexts",
    "RunOutput": "protocol.contexts",
    "Variable": "protocol.contexts",
    "VariableList": "protocol.contexts",
    "FileInfo": "protocol.files",
    "FileList": "protocol.files",
    "FileWatch": "_sync.objects.watch",
    "ExecResult": "protocol.processes",
    "ExposedPort": "protocol.processes",
    "ExposedPorts": "protocol.processes",
    "Process": "protocol.processes",
    "ProcessList": "protocol.processes",
    "ProcessOutput": "protocol.processes",
    "LiveSession": "_sync.objects.session",
    "LiveService": "_sync.objects.service",
    "Terminal": "_sync.objects.terminal",
    "Session": "protocol.sessions",
    "SessionList": "protocol.sessions",
    "SessionMetrics": "protocol.sessions",
    "CommandResult": "protocol.sessions",
    "Service": "protocol.services",
    "ServiceList": "protocol.services",
    "ServiceLog": "protocol.services",
    "ServiceJob": "protocol.services",
    "Domains": "protocol.services",
    "VaultInfo": "protocol.services",
    "VaultExport": "protocol.services",
    "Snapshot": "protocol.snapshots",
    "SnapshotList": "protocol.snapshots",
    "Restored": "protocol.snapshots",
    "Cloned": "protocol.snapshots",
    "Image": "protocol.images",
    "ImageList": "protocol.images",
    "Trusted": "protocol.images",
    "Pictures": "protocol.images",
    "LogLine": "protocol.logs",
    "LogPage": "protocol.logs",
    "AsyncClient": "_async.client",
    "Client": "_sync.client",
    "__version__": "_version",
    "Credentials": "credentials",
    "explain_credentials": "credentials",
    "resolve_credentials": "credentials",
    "detect_language": "protocol.languages",
    "detect_shebang": "protocol.languages",
    "RetryPolicy": "protocol.retry",
    "Artifact": "protocol.models",
    "Health": "protocol.models",
    "InputFile": "protocol.models",
    "Job": "protocol.models",
    "JobList": "protocol.models",
    "JobStatus": "protocol.models",
    "KeyInfo": "protocol.models",
    "Languages": "protocol.models",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    # All that is not in the table is an error class.
    module = importlib.import_module(f"{__name__}.{_HOME.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
