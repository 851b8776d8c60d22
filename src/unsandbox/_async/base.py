"""The base of the client's groups of methods: one connection, and typed answers."""

# ruff: noqa: ASYNC109 - `timeout` also limits the work on the server, which `asyncio.timeout` cannot do

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from unsandbox._async.connection import Connection
from unsandbox._async.operations import perform
from unsandbox._compat.aio import OneTimeCode
from unsandbox.errors import UnsandboxError, WaitTimeoutError
from unsandbox.protocol import codec
from unsandbox.protocol.models import Job, WireModel

__all__ = ["Connected", "type_partial", "typed"]

M = TypeVar("M", bound=WireModel)


class Connected:
    """A connection to a server, and typed calls over it; the groups of methods inherit from this."""

    _connection: Connection

    async def _do(
        self,
        name: str,
        model: type[M],
        object_id: str | None = None,
        *,
        body: Mapping[str, Any] | bytes | None = None,
        query: Mapping[str, object] | None = None,
        timeout: float | None = None,
        otp: OneTimeCode | None = None,
    ) -> M:
        """Do one operation of the endpoint table; the arguments are those of `operations.perform`."""
        answer = await perform(
            self._connection, name, object_id, body=body, query=query, timeout=timeout, otp=otp
        )
        return typed(answer, model)


def typed(answer: dict[str, Any], model: type[M]) -> M:
    """Return an answer as its type.

    Raises:
        InvalidResponseError: It does not fit.
    """
    return codec.response_from_wire(answer, model)


def type_partial(error: UnsandboxError) -> None:
    """Return a typed version of the partial result in a deadline's error."""
    if isinstance(error, WaitTimeoutError) and isinstance(error.partial, dict):
        error.partial = typed(error.partial, Job)
