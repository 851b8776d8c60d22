"""What the parts of an engine share."""

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
from unsandbox.engine.store.store import Store
from unsandbox.sandbox.languages.table import LanguageTable


@dataclass(frozen=True, slots=True)
class Context:
    """Given to sessions, services, snapshots and images.

    Attributes:
        config: The bounds.
        store: Where objects live on.
        backends: Make sandboxes.
        languages: What can run here.
        folder: Where disks and blobs lie: the data folder, or one that goes with the process.
        lasting: Whether that folder outlives the process.
        logbook: What a key's owner may read of what happened.
        box: Encrypts what is secret at rest.
        quotas: What each key may use in all.
        audit: Who did what, in a data folder.
    """

    config: EngineConfig
    store: Store
    backends: Backends
    languages: LanguageTable
    folder: Path
    lasting: bool
    logbook: LogBook
    box: SecretBox
    quotas: Quotas
    audit: AuditLog | None = None


class Part(Protocol):
    """A part of an engine: what it keeps comes back at the start and is let go of at the stop."""

    async def start(self) -> None:
        """Take up what an earlier process left."""

    async def stop(self) -> None:
        """End what runs. In a lasting data folder the objects themselves stay."""
