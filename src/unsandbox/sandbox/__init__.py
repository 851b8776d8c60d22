"""Isolation: runs one program in a fresh sandbox and returns its outcome."""

from unsandbox.sandbox.backend import Backend
from unsandbox.sandbox.bubblewrap.backend import BubblewrapBackend
from unsandbox.sandbox.errors import InvalidSpecError, SandboxError, SandboxUnavailable
from unsandbox.sandbox.gvisor.backend import GvisorBackend
from unsandbox.sandbox.languages.pool import pool_for
from unsandbox.sandbox.languages.table import Language, LanguageTable, UnknownLanguageError, load_languages
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import (
    Artifact,
    Captured,
    Check,
    EndReason,
    Limits,
    NetworkMode,
    Outcome,
    OutputSink,
    ProbeReport,
    RunningJob,
    SandboxFile,
    SandboxSpec,
)
from unsandbox.sandbox.system import System, find_system

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
