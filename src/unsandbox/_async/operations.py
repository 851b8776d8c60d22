"""One operation of the endpoint table, from its arguments to the server's answer.

What is made by a call that is broken off is found again by its idempotency key and deleted, so that nothing
stays behind that nobody knows of.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from unsandbox._async.connection import ServerConnection
from unsandbox._compat.aio import Interrupted, OneTimeCode, finish, in_thread
from unsandbox._shared.bodies import encode_members
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.files import reads_files
from unsandbox._shared.request import PreparedRequest
from unsandbox.credentials import Credentials
from unsandbox.errors import ConnectionFailedError, UnavailableError, UnsandboxError
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.jobs import BY_NAME

__all__ = ["CLEAN_UP_S", "perform"]

CLEAN_UP_S = 10.0
"""How long a caller who leaves early is held up at most, so that what was being made can be deleted."""

_UNCERTAIN = (ConnectionFailedError, UnavailableError)
"""Errors after which something may have been made all the same."""

_UNDONE_BY = {
    "session_id": "delete_session",
    "service_id": "delete_service",
    "snapshot_id": "delete_snapshot",
    "image_id": "delete_image",
}
"""Member of an answer that names what was made, and what deletes that."""


async def perform(
    link: ServerConnection,
    keys: Credentials | None,
    name: str,
    object_id: str | None = None,
    *,
    members: Mapping[str, Any] | None = None,
    text: bytes | None = None,
    query: Mapping[str, object] | None = None,
    timeout: float | None = None,  # noqa: ASYNC109
    otp: OneTimeCode | None = None,
) -> dict[str, Any]:
    """Do one operation and return the JSON object of the answer.

    Args:
        link: The server.
        keys: What to sign with.
        name: Name of the operation in the endpoint table.
        object_id: Which session, service, snapshot or image, where the path names one.
        members: Members of the JSON body; those that are None are left out.
        text: The body, where it is plain text.
        query: Members of the query.
        timeout: Seconds for one HTTP request instead of the link's own.
        otp: The one-time code for a protected call, or what returns it.

    Raises:
        InvalidRequestError: An argument cannot be sent.
    """
    endpoint = BY_NAME[name]
    order = None
    if text is not None:
        order = PreparedRequest(text, "text/plain", creates=endpoint.creates)
    elif members is not None or endpoint.creates:
        given = members or {}
        if reads_files(given.get("input_files")):
            body = await in_thread(encode_members, endpoint, given)
        else:
            body = encode_members(endpoint, given)
        needs = ("isolation",) if given.get("isolation") not in (None, "auto") else ()
        order = PreparedRequest(body, creates=endpoint.creates, needs=needs)
        await link.require(order)
    params = None if object_id is None else {"id": object_id}
    try:
        return await link.call(keys, name, params=params, query=query, order=order, timeout=timeout, otp=otp)
    except (Exception, Interrupted) as error:
        # Of other errors of ours, the server has said that it made nothing; all others are a hook's.
        uncertain = not isinstance(error, UnsandboxError) or isinstance(error, _UNCERTAIN)
        undone_by = _undone_by(endpoint)
        if uncertain and endpoint.creates and order is not None and order.sent and undone_by:
            await finish(partial(_undo, link, keys, name, params, query, order, otp, undone_by), CLEAN_UP_S)
        raise


def _undone_by(endpoint: Endpoint) -> dict[str, str]:
    """Return those members of an endpoint's answer that may name what it made; others name what was there."""
    members = endpoint.response.__struct_fields__
    return {member: deletion for member, deletion in _UNDONE_BY.items() if member in members}


async def _undo(
    link: ServerConnection,
    keys: Credentials | None,
    name: str,
    params: Mapping[str, str] | None,
    query: Mapping[str, object] | None,
    order: PreparedRequest,
    otp: OneTimeCode | None,
    undone_by: Mapping[str, str],
) -> None:
    """Delete what a request may have made; nothing can be done where the server does not know its key again."""
    link, deadline = link.cleaning(), Deadline(CLEAN_UP_S)
    if link.features is None:
        await link.call(None, "health", deadline=deadline, urgent=True)
    if "idempotency" not in (link.features or ()):
        return
    # The same request with the same key is answered with what was made the first time.
    made = await link.call(keys, name, params=params, query=query, order=order, deadline=deadline, urgent=True)
    for member, deletion in undone_by.items():
        made_id = made.get(member)
        if isinstance(made_id, str) and made_id:
            await link.call(
                keys,
                deletion,
                params={"id": made_id},
                deadline=deadline,
                urgent=True,
                otp=otp if isinstance(otp, str) else None,
            )
            return
