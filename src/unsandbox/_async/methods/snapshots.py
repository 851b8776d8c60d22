"""Snapshots: the saved state of a session or service."""

from __future__ import annotations

from collections.abc import Iterable

from unsandbox._async.base import Connected
from unsandbox._compat.aio import OneTimeCode
from unsandbox._shared.deadline import LONG_S
from unsandbox._shared.options import some
from unsandbox.protocol.snapshots import Cloned, Restored, Snapshot, SnapshotList, SourceType


class SnapshotMethods(Connected):
    """Methods of a client for snapshots."""

    async def list_snapshots(self) -> SnapshotList:
        """Return the key's snapshots, newest first."""
        return await self._do("list_snapshots", SnapshotList)

    async def create_snapshot(
        self,
        source_type: SourceType,
        source_id: str,
        *,
        name: str | None = None,
        hot: bool | None = None,
        ephemeral: bool | None = None,
    ) -> Snapshot:
        """Take a snapshot of a session or service.

        Args:
            source_type: `session` or `service`.
            source_id: Id of the source.
            name: Display name.
            hot: Whether to include memory and running processes. Requires gVisor.
            ephemeral: Whether the server may delete it when a limit is reached.
        """
        return await self._do(
            "create_snapshot",
            Snapshot,
            body={
                "source_type": source_type,
                "source_id": source_id,
                "name": name,
                "hot": hot,
                "ephemeral": ephemeral,
            },
            timeout=LONG_S,
        )

    async def get_snapshot(self, snapshot_id: str) -> Snapshot:
        """Return a snapshot.

        Args:
            snapshot_id: Id of the snapshot.

        Raises:
            NotFoundError: The key has no such snapshot.
        """
        return await self._do("get_snapshot", Snapshot, snapshot_id)

    async def delete_snapshot(self, snapshot_id: str, *, otp: OneTimeCode | None = None) -> Snapshot:
        """Delete a snapshot.

        Args:
            snapshot_id: Id of the snapshot.
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        return await self._do("delete_snapshot", Snapshot, snapshot_id, otp=otp)

    async def restore_snapshot(self, snapshot_id: str) -> Restored:
        """Restore the session or service to the saved state.

        Args:
            snapshot_id: Id of the snapshot.
        """
        return await self._do("restore_snapshot", Restored, snapshot_id, timeout=LONG_S)

    async def lock_snapshot(self, snapshot_id: str) -> Snapshot:
        """Protect a snapshot from deletion.

        Args:
            snapshot_id: Id of the snapshot.
        """
        return await self._do("lock_snapshot", Snapshot, snapshot_id)

    async def unlock_snapshot(self, snapshot_id: str, *, otp: OneTimeCode | None = None) -> Snapshot:
        """Allow a snapshot to be deleted again.

        Args:
            snapshot_id: Id of the snapshot.
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        return await self._do("unlock_snapshot", Snapshot, snapshot_id, otp=otp)

    async def clone_snapshot(
        self,
        snapshot_id: str,
        type: SourceType | None = None,  # noqa: A002 - the wire's name
        *,
        name: str | None = None,
        shell: str | None = None,
        ports: Iterable[int] | None = None,
    ) -> Cloned:
        """Create a session or service from a snapshot.

        Args:
            snapshot_id: Id of the snapshot.
            type: `session` or `service`. Default: the type of the source.
            name: Name of the new session or service.
            shell: Shell, for a new session.
            ports: Ports, for a new service.

        Returns:
            The id of the new object, in `session_id` or `service_id`.
        """
        return await self._do(
            "clone_snapshot",
            Cloned,
            snapshot_id,
            body={"type": type, "name": name, "shell": shell, "ports": some(ports)},
            timeout=LONG_S,
        )
