"""The engine: jobs, sessions and services of many keys on this machine. It is independent of HTTP."""

from unsandbox.engine.config import EngineConfig
from unsandbox.engine.engine import Engine
from unsandbox.engine.errors import (
    Conflict,
    Damaged,
    Forbidden,
    InsufficientStorage,
    InvalidRequest,
    LimitReached,
    NotImplementedHere,
    RequestError,
    Stopping,
    StorageUnavailable,
    TooLarge,
    UnknownJob,
    UnknownObject,
)

__all__ = [
    "Conflict",
    "Damaged",
    "Engine",
    "EngineConfig",
    "Forbidden",
    "InsufficientStorage",
    "InvalidRequest",
    "LimitReached",
    "NotImplementedHere",
    "RequestError",
    "Stopping",
    "StorageUnavailable",
    "TooLarge",
    "UnknownJob",
    "UnknownObject",
]
