"""What each operation does: from a checked call to a model. One function per endpoint, found by its name."""

from __future__ import annotations

from types import ModuleType

from unsandbox.protocol.endpoints import ENDPOINTS
from unsandbox.server.call import Handler
from unsandbox.server.handlers import jobs, logs

_MODULES: tuple[ModuleType, ...] = (jobs, logs)


def _find(name: str) -> Handler:
    for module in _MODULES:
        handler: Handler | None = getattr(module, name, None)
        if handler is not None:
            return handler
    raise LookupError(f"no handler serves the endpoint {name!r}")


HANDLERS: dict[str, Handler] = {endpoint.name: _find(endpoint.name) for endpoint in ENDPOINTS}
"""Endpoint name to what serves it; an endpoint without a handler fails at import."""
