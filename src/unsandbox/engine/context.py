"""What the parts of an engine share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unsandbox.engine.backends import Backends
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.store import Store
from unsandbox.sandbox.languages import LanguageTable


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
    """

    config: EngineConfig
    store: Store
    backends: Backends
    languages: LanguageTable
    folder: Path
    lasting: bool
