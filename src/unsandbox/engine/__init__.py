"""The engine: jobs, sessions and services of many keys on this machine. It is independent of HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from unsandbox.engine.config import EngineConfig
    from unsandbox.engine.engine import Engine

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

# Half a second of imports, which commands on a data folder (`un keys`, `un audit`, `un backup`) do not need.
_HOME = {"Engine": "engine", "EngineConfig": "config"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
