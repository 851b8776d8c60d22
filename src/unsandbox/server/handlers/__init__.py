"""Handlers of the operations: one function per endpoint, found by its name."""

from __future__ import annotations

from types import ModuleType

from unsandbox.engine import NotImplementedHere
from unsandbox.protocol.endpoints.jobs import ENDPOINTS
from unsandbox.protocol.models import WireModel
from unsandbox.server.call import Call, Handler
from unsandbox.server.handlers import contexts, images, jobs, logs, services, sessions, snapshots, workspace

_MODULES: tuple[ModuleType, ...] = (jobs, sessions, workspace, contexts, services, snapshots, images, logs)


async def _not_yet(call: Call) -> WireModel:
    raise NotImplementedHere(f"this server does not serve {call.path} yet")


def _find(name: str) -> Handler:
    for module in _MODULES:
        handler: Handler | None = getattr(module, name, None)
        if handler is not None:
            return handler
    return workspace.FILE_HANDLERS.get(name, _not_yet)


HANDLERS: dict[str, Handler] = {endpoint.name: _find(endpoint.name) for endpoint in ENDPOINTS}
"""The handlers by endpoint name."""
