"""Performs one operation of the endpoint table, from its arguments to the server's answer.

If a call that creates an object is interrupted, the object is found by the idempotency key and deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from unsandbox._async.connection import Connection
from unsandbox._compat.aio import Interrupted, OneTimeCode, in_thread
from unsandbox._shared.bodies import encode_members
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.files import reads_files
from unsandbox._shared.request import Bounds, PreparedRequest
from unsandbox.errors import ClientStateError, ConnectionFailedError, UnavailableError, UnsandboxError
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.jobs import BY_NAME

__all__ = ["CLEAN_UP_S", "perform"]

CLEAN_UP_S = 10.0
"""Seconds for deleting an object whose creation was interrupted."""

_UNCERTAIN = (ConnectionFailedError, UnavailableError, ClientStateError)
"""Errors after which something may have been made all the same."""

_UNDONE_BY = {
    "session_id": "delete_session",
    "service_id": "delete_service",
    "snapshot_id": "delete_snapshot",
    "image_id": "delete_image",
}
"""Member of an answer that names the new object, and the operation that deletes it."""


class _Making(NamedTuple):
    """A request that makes an object."""

    name: str
    params: Mapping[str, str] | None
    query: Mapping[str, object] | None
    request: PreparedRequest
    undone_by: Mapping[str, str]
    otp: OneTimeCode | None


async def perform(
    connection: Connection,
    name: str,
    object_id: str | None = None,
    *,
    body: Mapping[str, Any] | bytes | None = None,
    query: Mapping[str, object] | None = None,
    timeout: float | None = None,  # noqa: ASYNC109
    otp: OneTimeCode | None = None,
) -> dict[str, Any]:
    """Do one operation and return the JSON object of the answer.

    Args:
        connection: The server.
        name: Name of the operation in the endpoint table.
        object_id: Which session, service, snapshot or image, where the path names one.
        body: Members of the JSON body, of which those that are None are left out; or plain text.
        query: Members of the query.
        timeout: Seconds for one HTTP request instead of the client's own.
        otp: One-time code instead of the connection's own.

    Raises:
        InvalidRequestError: An argument cannot be sent.
    """
    endpoint = BY_NAME[name]
    request = None
    if isinstance(body, bytes):
        request = PreparedRequest(body, "text/plain", creates=endpoint.creates)
    elif body is not None or endpoint.creates:
        request = await _prepare(endpoint, body or {})
        await connection.require(request)
    params = None if object_id is None else {"id": object_id}
    bounds = Bounds(timeout=timeout)
    try:
        return await connection.call(name, params=params, query=query, request=request, bounds=bounds, otp=otp)
    except (Exception, Interrupted) as error:
        # With this project's other errors the server has created nothing; all remaining errors come from hooks.
        uncertain = not isinstance(error, UnsandboxError) or isinstance(error, _UNCERTAIN)
        undone_by = _undone_by(endpoint)
        if uncertain and endpoint.creates and request is not None and request.sent and undone_by:
            making = _Making(name, params, query, request, undone_by, otp)
            await connection.clean_up(partial(_undo, making), CLEAN_UP_S)
        raise


async def _prepare(endpoint: Endpoint, members: Mapping[str, Any]) -> PreparedRequest:
    if reads_files(members.get("input_files")):
        body = await in_thread(encode_members, endpoint, members)
    else:
        body = encode_members(endpoint, members)
    needs = ("isolation",) if members.get("isolation") not in (None, "auto") else ()
    return PreparedRequest(body, creates=endpoint.creates, needs=needs)


def _undone_by(endpoint: Endpoint) -> dict[str, str]:
    """Return those members of an endpoint's answer that may name a new object."""
    if endpoint.name == "fork_session":
        return {"session_id": "delete_session"}
    members = endpoint.response.__struct_fields__
    return {member: deletion for member, deletion in _UNDONE_BY.items() if member in members}


async def _undo(making: _Making, connection: Connection) -> None:
    """Delete the object that a request may have made, where the server knows the request's key again."""
    bounds = Bounds(Deadline(CLEAN_UP_S), urgent=True)
    await connection.learn_features(bounds)
    if "idempotency" not in connection.features:
        return
    # The same request with the same key is answered with the object that was made the first time.
    made = await connection.call(
        making.name, params=making.params, query=making.query, request=making.request, bounds=bounds
    )
    several = made.get("sessions")
    for one in several if isinstance(several, list) else [made]:
        for member, deletion in making.undone_by.items():
            made_id = one.get(member) if isinstance(one, Mapping) else None
            if isinstance(made_id, str) and made_id:
                otp = making.otp if isinstance(making.otp, str) else None
                await connection.call(deletion, params={"id": made_id}, bounds=bounds, otp=otp)
                break
