"""Functions for snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._async.functions.context import connect
from unsandbox._shared.deadline import LONG_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unsandbox._compat.aio import OneTimeCode
    from unsandbox._shared.results import CloneResult, RestoredResult, SnapshotResult
    from unsandbox.protocol.snapshots import SourceType

__all__ = [
    "clone_snapshot",
    "create_snapshot",
    "delete_snapshot",
    "get_snapshot",
    "list_snapshots",
    "lock_snapshot",
    "restore_snapshot",
    "service_snapshot",
    "session_snapshot",
    "unlock_snapshot",
]


async def session_snapshot(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    name: str | None = None,
    hot: bool = False,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> str:
    """Take a snapshot of a session and return its id.

    Args:
        session_id: Id or container name of the session.
        public_key: Public key.
        secret_key: Secret key.
        name: Display name.
        hot: Whether to include memory and running processes. Requires gVisor.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return await caller.made("session_snapshot", session_id, "snapshot_id", {"name": name, "hot": hot or None})


async def service_snapshot(
    service_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    name: str | None = None,
    hot: bool = False,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> str:
    """Take a snapshot of a service and return its id.

    Args:
        service_id: Id or name of the service.
        public_key: Public key.
        secret_key: Secret key.
        name: Display name.
        hot: Whether to include memory and running processes. Requires gVisor.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return await caller.made("service_snapshot", service_id, "snapshot_id", {"name": name, "hot": hot or None})


async def create_snapshot(
    source_type: SourceType,
    source_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    name: str | None = None,
    hot: bool = False,
    *,
    ephemeral: bool = False,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SnapshotResult:
    """Take a snapshot of a session or service.

    Args:
        source_type: `session` or `service`.
        source_id: Id of the source.
        public_key: Public key.
        secret_key: Secret key.
        name: Display name.
        hot: Whether to include memory and running processes. Requires gVisor.
        ephemeral: Whether the server may delete it when a limit is reached.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {
        "source_type": source_type,
        "source_id": source_id,
        "name": name,
        "hot": hot or None,
        "ephemeral": ephemeral or None,
    }
    return cast("SnapshotResult", await caller.call("create_snapshot", body=members, timeout=LONG_S))


async def list_snapshots(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> list[SnapshotResult]:
    """Return the key's snapshots, newest first.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("list[SnapshotResult]", await caller.listed("list_snapshots", "snapshots"))


async def get_snapshot(
    snapshot_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SnapshotResult:
    """Return a snapshot.

    Args:
        snapshot_id: Id of the snapshot.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SnapshotResult", await caller.call("get_snapshot", snapshot_id))


async def restore_snapshot(
    snapshot_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> RestoredResult:
    """Restore the session or service to the saved state.

    Args:
        snapshot_id: Id of the snapshot.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("RestoredResult", await caller.call("restore_snapshot", snapshot_id, timeout=LONG_S))


async def delete_snapshot(
    snapshot_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SnapshotResult:
    """Delete a snapshot.

    Args:
        snapshot_id: Id of the snapshot.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or a function that returns it, if the server requires one.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SnapshotResult", await caller.call("delete_snapshot", snapshot_id, otp=otp))


async def lock_snapshot(
    snapshot_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SnapshotResult:
    """Protect a snapshot from deletion.

    Args:
        snapshot_id: Id of the snapshot.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SnapshotResult", await caller.call("lock_snapshot", snapshot_id))


async def unlock_snapshot(
    snapshot_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SnapshotResult:
    """Allow a snapshot to be deleted again.

    Args:
        snapshot_id: Id of the snapshot.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or a function that returns it, if the server requires one.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SnapshotResult", await caller.call("unlock_snapshot", snapshot_id, otp=otp))


async def clone_snapshot(
    snapshot_id: str,
    clone_type: SourceType = "session",
    name: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    shell: str | None = None,
    ports: Sequence[int] | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> CloneResult:
    """Create a session or service from a snapshot.

    Args:
        snapshot_id: Id of the snapshot.
        clone_type: `session` or `service`.
        name: Name of the new session or service.
        public_key: Public key.
        secret_key: Secret key.
        shell: Shell, for a new session.
        ports: Ports, for a new service.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The id of the new object, in `session_id` or `service_id`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {"type": clone_type, "name": name, "shell": shell, "ports": ports}
    return cast("CloneResult", await caller.call("clone_snapshot", snapshot_id, body=members, timeout=LONG_S))
