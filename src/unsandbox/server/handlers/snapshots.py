"""Snapshots."""

from __future__ import annotations

from unsandbox.protocol.snapshots import Cloned, CloneRequest, Restored, Snapshot, SnapshotList, SnapshotRequest
from unsandbox.server.call import Call, read_body


async def list_snapshots(call: Call) -> SnapshotList:
    """List snapshots."""
    snapshots = call.engine.snapshots.list_of(call.owner)
    return SnapshotList(snapshots=snapshots, count=len(snapshots))


async def create_snapshot(call: Call) -> Snapshot:
    """Take a snapshot of the source that the body names."""
    return await _create(call, read_body(call, SnapshotRequest))


async def session_snapshot(call: Call) -> Snapshot:
    """Save the state of the session in the path."""
    return await _create(call, _without_source(call).replace(session_id=call.params["id"]))


async def service_snapshot(call: Call) -> Snapshot:
    """Save the state of the service in the path."""
    return await _create(call, _without_source(call).replace(service_id=call.params["id"]))


async def get_snapshot(call: Call) -> Snapshot:
    """Get one snapshot."""
    return call.engine.snapshots.get(call.owner, call.params["id"])


async def delete_snapshot(call: Call) -> Snapshot:
    """Delete one snapshot."""
    snapshot = await call.engine.snapshots.delete(call.owner, call.params["id"])
    return snapshot.replace(status="deleted", message="snapshot deleted")


async def restore_snapshot(call: Call) -> Restored:
    """Put the saved state back."""
    return await call.engine.snapshots.restore(call.owner, call.params["id"], _limits(call))


async def lock_snapshot(call: Call) -> Snapshot:
    """Protect from deletion."""
    return await call.engine.snapshots.set_locked(call.owner, call.params["id"], True)


async def unlock_snapshot(call: Call) -> Snapshot:
    """Take the protection off."""
    return await call.engine.snapshots.set_locked(call.owner, call.params["id"], False)


async def clone_snapshot(call: Call) -> Cloned:
    """Make a new session or service."""
    request = read_body(call, CloneRequest)
    made = await call.engine.snapshots.clone(call.owner, call.params["id"], request, _limits(call))
    return made.replace(url=call.service_url(made.name or "")) if made.service_id else made


async def _create(call: Call, request: SnapshotRequest) -> Snapshot:
    snapshot = await call.engine.snapshots.create(call.owner, request)
    return snapshot.replace(message="snapshot created")


def _limits(call: Call) -> dict[str, int | None]:
    return {"session": call.settings.sessions, "service": call.settings.services}


def _without_source(call: Call) -> SnapshotRequest:
    """Read the body where the path names the source: clients that repeat it in the body mean no second one."""
    request = read_body(call, SnapshotRequest)
    return request.replace(session_id=None, service_id=None, source_type=None, source_id=None)
