"""The interface between snapshots or images on one side and sessions or services on the other."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unsandbox.protocol.services import ServiceRequest
from unsandbox.protocol.sessions import SessionRequest
from unsandbox.sandbox.persistent_spec import PersistentSandbox


@dataclass(frozen=True, slots=True)
class SavedState:
    """A saved state, unpacked for one call; its paths are valid until that call returns.

    Attributes:
        origin: Id of the snapshot or image.
        work_archive: For `PersistentSpec.work_archive` or `PersistentSandbox.replace_work`.
        hot_image: For `PersistentSpec.hot_image`; of the same backend, and without a `work_archive`.
    """

    origin: str
    work_archive: Path | None = None
    hot_image: Path | None = None


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The current settings of a session or service, as far as they are needed to create one like it.

    Attributes:
        object_id: Its id.
        container: Its container name.
        isolation: Name of the backend that it runs on.
        request: The request that creates it again: every current setting, without input files and golden
            image, and with the backend's name for `isolation`. Kept with the snapshot.
        env_names: Names in its vault, never values.
    """

    object_id: str
    container: str
    isolation: str
    request: SessionRequest | ServiceRequest
    env_names: tuple[str, ...] = ()


class Source(Protocol):
    """All sessions, or all services, as snapshots see them."""

    kind: str
    """`session` or `service`."""

    def source(self, owner: str, name: str) -> SourceInfo:
        """Return the description from which one like it can be created.

        Raises:
            UnknownObject: The owner has no such object.
        """

    def lend(self, object_id: str) -> AbstractAsyncContextManager[PersistentSandbox]:
        """Give its sandbox, opened if need be; within the block it is in use. A frozen one stays frozen."""

    async def make_from(
        self,
        owner: str,
        request: Any,
        state: SavedState,
        object_id: str | None = None,
        limit: int | None = None,
    ) -> Any:
        """Make one out of a saved state, as `create` would, with the same limits, conflicts and refusals.

        With a hot image the bootstrap does not run, because its program runs already. After an error, nothing
        is left.

        Args:
            owner: The key that it shall belong to.
            request: As of `SourceInfo`.
            state: The saved state that it starts from.
            object_id: The id that it shall have: that of a deleted one that is restored.
            limit: How many the key may have; by default the engine's bound.
        """

    async def put_back(self, object_id: str, state: SavedState) -> None:
        """Replace the state of an existing one.

        Cold: files are replaced and what ran is started anew. Hot: the sandbox is closed, and one with the
        saved memory and processes takes its place. It ends unfrozen. When it fails, the error is passed on.
        """
