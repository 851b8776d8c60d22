"""Isolation: runs one program in a fresh sandbox and says what came of it."""

from unsandbox.sandbox.bubblewrap import BubblewrapBackend
from unsandbox.sandbox.command import InvalidSpecError
from unsandbox.sandbox.gvisor import GvisorBackend
from unsandbox.sandbox.languages import Language, LanguageTable, UnknownLanguageError, load_languages
from unsandbox.sandbox.spec import (
    Artifact,
    Backend,
    Captured,
    Check,
    EndReason,
    Limits,
    NetworkMode,
    Outcome,
    OutputSink,
    ProbeReport,
    RunningJob,
    SandboxError,
    SandboxFile,
    SandboxSpec,
    SandboxUnavailable,
)
from unsandbox.sandbox.system import System, find_system
from unsandbox.sandbox.warm import PoolConfig, pool_for

__all__ = [
    "Artifact",
    "Backend",
    "BubblewrapBackend",
    "Captured",
    "Check",
    "EndReason",
    "GvisorBackend",
    "InvalidSpecError",
    "Language",
    "LanguageTable",
    "Limits",
    "NetworkMode",
    "Outcome",
    "OutputSink",
    "PoolConfig",
    "ProbeReport",
    "RunningJob",
    "SandboxError",
    "SandboxFile",
    "SandboxSpec",
    "SandboxUnavailable",
    "System",
    "UnknownLanguageError",
    "find_system",
    "load_languages",
    "pool_for",
]
