"""Objects that the parts of an engine share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unsandbox.engine.accounts.audit import AuditLog
from unsandbox.engine.accounts.logbook import LogBook
from unsandbox.engine.accounts.quotas import Quotas
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.backends import Backends
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.environments.store import EnvironmentStore
from unsandbox.engine.store.rows import Store
from unsandbox.sandbox.languages.table import LanguageTable


@dataclass(frozen=True, slots=True)
class Context:
    """Given to every part of an engine.

    Attributes:
        config: The bounds.
        store: Storage of jobs and objects.
        backends: Make sandboxes.
        languages: The languages that can run here.
        logbook: The events that the owner of a key may read.
        box: Encrypts secrets at rest.
        quotas: The totals that each key may use.
        environments: The sets of packages of this machine.
        audit: The audit log; None without a data folder.
    """

    config: EngineConfig
    store: Store
    backends: Backends
    languages: LanguageTable
    logbook: LogBook
    box: SecretBox
    quotas: Quotas
    environments: EnvironmentStore
    audit: AuditLog | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """Where disks and blobs lie.

    Attributes:
        path: The data folder, or one that is removed with the process.
        durable: Whether it outlives the process.
    """

    path: Path
    durable: bool

    @classmethod
    def at(cls, path: Path, *, durable: bool) -> Folder:
        """Return the folder with an absolute path, because the launcher works in another folder."""
        return cls(path.absolute(), durable)


class Part(Protocol):
    """A part of an engine. It loads its objects at the start and releases them at the stop."""

    async def start(self) -> None:
        """Load the objects of an earlier process."""

    async def stop(self) -> None:
        """End what runs. In a durable folder the objects themselves stay."""
