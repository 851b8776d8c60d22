# Generated from src/unsandbox/_async/functions/snapshots.py by scripts/unasync.py; change that one.
"""Functions for snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._shared.deadline import LONG_S
from unsandbox._sync.functions.context import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unsandbox._compat.blocking import OneTimeCode
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


def session_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    return caller.made("session_snapshot", session_id, "snapshot_id", {"name": name, "hot": hot or None})


def service_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    return caller.made("service_snapshot", service_id, "snapshot_id", {"name": name, "hot": hot or None})


def create_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    members = {
        "source_type": source_type,
        "source_id": source_id,
        "name": name,
        "hot": hot or None,
        "ephemeral": ephemeral or None,
    }
    return cast("SnapshotResult", caller.call("create_snapshot", body=members, timeout=LONG_S))


def list_snapshots(
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
    caller = connect(public_key, secret_key, account, account_index)
    return cast("list[SnapshotResult]", caller.listed("list_snapshots", "snapshots"))


def get_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SnapshotResult", caller.call("get_snapshot", snapshot_id))


def restore_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    return cast("RestoredResult", caller.call("restore_snapshot", snapshot_id, timeout=LONG_S))


def delete_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SnapshotResult", caller.call("delete_snapshot", snapshot_id, otp=otp))


def lock_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SnapshotResult", caller.call("lock_snapshot", snapshot_id))


def unlock_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SnapshotResult", caller.call("unlock_snapshot", snapshot_id, otp=otp))


def clone_snapshot(
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
    caller = connect(public_key, secret_key, account, account_index)
    members = {"type": clone_type, "name": name, "shell": shell, "ports": ports}
    return cast("CloneResult", caller.call("clone_snapshot", snapshot_id, body=members, timeout=LONG_S))
