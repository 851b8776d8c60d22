"""A client's connection on its way to the other process, when a later request on it is for the other one.

The first request on a connection decides which process serves it. Proxies and scripts may send later ones
for the other process.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from unsandbox.server.ingress.pages import ingress_answer
from unsandbox.server.protocols import ConnectionHandler


class HandedOver(web.StreamResponse):
    """Stands for the answer that the other process gives."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        """Send nothing."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


def hand_over(request: web.BaseRequest, give: Callable[[int, bytes], bool]) -> web.StreamResponse | None:
    """Give the connection of a request to the other process, the request included.

    Args:
        request: Nothing of its body was read.
        give: Takes the connection's descriptor and what has come of the request; returns False when it cannot.

    Returns:
        What the handler returns; None when the connection cannot be handed over, as one that is encrypted.
    """
    transport, raw = request.transport, settle(request)
    if raw is None or transport is None or transport.get_extra_info("ssl_object") is not None:
        return None
    transport.pause_reading()
    if not give(os.dup(transport.get_extra_info("socket").fileno()), raw):
        return None
    # The other process has a descriptor of its own: this closes nothing but ours.
    transport.abort()
    response = HandedOver()
    response.force_close()
    return response


def settle(request: web.BaseRequest) -> bytes | None:
    """Return all bytes of a request that have come so far, if they are known. Called again, it does nothing."""
    return request.protocol.settle(request) if isinstance(request.protocol, ConnectionHandler) else None


def misdirected(request: web.BaseRequest) -> web.StreamResponse:
    """Return the answer to a request on a connection that is for the other process (RFC 9110, 15.5.20)."""
    response = ingress_answer(
        request,
        421,
        "misdirected_request",
        "This connection serves another host",
        "Send the request again on a connection of its own.",
    )
    response.force_close()
    return response
