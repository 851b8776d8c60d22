"""Run code in many languages, safely: a client for asyncio, one for threads, and the engine behind them.

Names are imported when they are first used, so `import unsandbox` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unsandbox._async.client import AsyncClient
    from unsandbox._sync.client import Client
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
        NotFoundError,
        PayloadTooLargeError,
        PermissionDeniedError,
        RateLimitError,
        RequestTimeoutError,
        ServerError,
        SudoRequiredError,
        UnavailableError,
        UnsandboxError,
        UnsandboxWarning,
        WaitTimeoutError,
    )
    from unsandbox.protocol.languages import detect_language, detect_shebang
    from unsandbox.protocol.models import (
        Artifact,
        Health,
        InputFile,
        Job,
        JobList,
        JobStatus,
        KeyInfo,
        Languages,
    )
    from unsandbox.protocol.retry import RetryPolicy

__all__ = [
    "APIError",
    "Artifact",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "ClientStateError",
    "ConflictError",
    "ConnectionFailedError",
    "Credentials",
    "CredentialsError",
    "EngineError",
    "Health",
    "InputFile",
    "InvalidRequestError",
    "InvalidResponseError",
    "Job",
    "JobList",
    "JobStatus",
    "KeyInfo",
    "Languages",
    "NotFoundError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "RateLimitError",
    "RequestTimeoutError",
    "RetryPolicy",
    "ServerError",
    "SudoRequiredError",
    "UnavailableError",
    "UnsandboxError",
    "UnsandboxWarning",
    "WaitTimeoutError",
    "__version__",
    "detect_language",
    "detect_shebang",
    "explain_credentials",
    "resolve_credentials",
]

_HOME = {
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
    # All that is not in the table is an error class.
    module = importlib.import_module(f"{__name__}.{_HOME.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
