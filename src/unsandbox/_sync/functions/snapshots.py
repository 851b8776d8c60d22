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
    """Save the state of a session and return the id of the snapshot.

    Args:
        session_id: Which session, by id or container name.
        public_key: Public key.
        secret_key: Secret key.
        name: A name for people.
        hot: With memory and running processes, where the isolation of the session can do that.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
    """Save the state of a service and return the id of the snapshot.

    Args:
        service_id: Which service, by id or name.
        public_key: Public key.
        secret_key: Secret key.
        name: A name for people.
        hot: With memory and running processes, where the isolation of the service can do that.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
    """Save the state of a session or service and return the snapshot.

    Args:
        source_type: `session` or `service`.
        source_id: Which one.
        public_key: Public key.
        secret_key: Secret key.
        name: A name for people.
        hot: With memory and running processes, where the isolation of the source can do that.
        ephemeral: Whether the server may remove it by itself.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
    """Return the snapshots of this key, newest first.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
        snapshot_id: Which snapshot.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
    """Put the saved state back into the session or service that it is from.

    Args:
        snapshot_id: Which snapshot.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
        snapshot_id: Which snapshot.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or what returns it, where the server wants one.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
        snapshot_id: Which snapshot.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
    """Take the protection off a snapshot.

    Args:
        snapshot_id: Which snapshot.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or what returns it, where the server wants one.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
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
    """Make a new session or service of the saved state.

    Args:
        snapshot_id: Which snapshot.
        clone_type: `session` or `service`.
        name: Name of the new one.
        public_key: Public key.
        secret_key: Secret key.
        shell: Shell of a new session.
        ports: Ports of a new service.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The id of the new one, in `session_id` or `service_id`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    members = {"type": clone_type, "name": name, "shell": shell, "ports": ports}
    return cast("CloneResult", caller.call("clone_snapshot", snapshot_id, body=members, timeout=LONG_S))
