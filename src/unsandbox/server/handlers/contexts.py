"""Contexts: interpreters in sessions that keep their state."""

from __future__ import annotations

from unsandbox.protocol.contexts import (
    CodeContext,
    CodeContextList,
    ContextRequest,
    RunOutput,
    RunOutputRequest,
    RunRequest,
    VariableList,
)
from unsandbox.server.call import Call, read_body


async def create_context(call: Call) -> CodeContext:
    """Start an interpreter."""
    return await call.engine.contexts.create(call.owner, call.params["id"], read_body(call, ContextRequest))


async def list_contexts(call: Call) -> CodeContextList:
    """List contexts."""
    return await call.engine.contexts.list_of(call.owner, call.params["id"])


async def get_context(call: Call) -> CodeContext:
    """Get a context."""
    return await call.engine.contexts.get(call.owner, *_names(call))


async def run_code(call: Call) -> RunOutput:
    """Run code."""
    request = read_body(call, RunRequest)
    request = request.replace(wait=min(request.wait, call.hold_s))
    return await call.engine.contexts.run(call.owner, *_names(call), request, call.connected)


async def run_output(call: Call) -> RunOutput:
    """Get events behind a position."""
    session, context_id = _names(call)
    names = context_id, call.params["run_id"]
    request = read_body(call, RunOutputRequest)
    return await call.engine.contexts.output(call.owner, session, names, request, call.connected)


async def interrupt_context(call: Call) -> CodeContext:
    """Interrupt its run."""
    return await call.engine.contexts.interrupt(call.owner, *_names(call))


async def restart_context(call: Call) -> CodeContext:
    """Replace the interpreter."""
    return await call.engine.contexts.restart(call.owner, *_names(call))


async def context_variables(call: Call) -> VariableList:
    """List the variables."""
    return await call.engine.contexts.variables(call.owner, *_names(call))


async def delete_context(call: Call) -> CodeContext:
    """End a context."""
    return await call.engine.contexts.delete(call.owner, *_names(call))


def _names(call: Call) -> tuple[str, str]:
    return call.params["id"], call.params["context_id"]
