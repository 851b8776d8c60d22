"""Processes and files of sessions."""

from __future__ import annotations

from unsandbox.protocol import codec
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.workspace import FILES
from unsandbox.protocol.models import WireModel
from unsandbox.protocol.processes import (
    ExecResult,
    OutputRequest,
    Process,
    ProcessList,
    ProcessOutput,
    ProcessRequest,
    SignalRequest,
    StdinRequest,
    TerminalSize,
)
from unsandbox.sandbox.errors import SandboxError
from unsandbox.server.call import Call, Handler, read_body, read_number

_LONGEST_WAIT_S = 90.0


async def session_exec(call: Call) -> ExecResult:
    """Run a program to its end."""
    request = read_body(call, ProcessRequest)
    return await call.engine.workspaces.run(call.owner, call.params["id"], request, call.hold_s, call.connected)


async def start_process(call: Call) -> Process:
    """Start a program."""
    request = read_body(call, ProcessRequest)
    return await call.engine.workspaces.start(call.owner, call.params["id"], request)


async def list_processes(call: Call) -> ProcessList:
    """List processes."""
    return await call.engine.workspaces.list(call.owner, call.params["id"])


async def get_process(call: Call) -> ExecResult:
    """Get a process, with its output if it has ended."""
    wait_s = read_number(call.query, "wait", 0, 0, min(call.hold_s, _LONGEST_WAIT_S))
    return await call.engine.workspaces.result(call.owner, *_names(call), wait_s, call.connected)


async def process_output(call: Call) -> ProcessOutput:
    """Get output behind a position."""
    request = read_body(call, OutputRequest)
    return await call.engine.workspaces.output(call.owner, *_names(call), request, call.connected)


async def write_process(call: Call) -> Process:
    """Write to its standard input."""
    return await call.engine.workspaces.write(call.owner, *_names(call), read_body(call, StdinRequest))


async def signal_process(call: Call) -> Process:
    """Send a signal."""
    return await call.engine.workspaces.signal(call.owner, *_names(call), read_body(call, SignalRequest))


async def resize_process(call: Call) -> Process:
    """Set the size of its terminal."""
    return await call.engine.workspaces.resize(call.owner, *_names(call), read_body(call, TerminalSize))


async def end_process(call: Call) -> Process:
    """Kill it with its children, and forget it."""
    return await call.engine.workspaces.end(call.owner, *_names(call))


def _names(call: Call) -> tuple[str, str]:
    return call.params["id"], call.params["process_id"]


def _file_handler(endpoint: Endpoint) -> Handler:
    """Return the handler of an operation on files: its members are those of the program inside the session."""
    operation = endpoint.name.removeprefix("file_")
    request_type = endpoint.request or WireModel

    async def handle(call: Call) -> WireModel:
        members = {name: value for name, value in _members(read_body(call, request_type)) if value is not None}
        answer = await call.engine.workspaces.file(call.owner, call.params["id"], operation, members)
        try:
            return codec.from_wire(answer, endpoint.response)
        except ValueError as error:
            # The program inside runs as the tenant, who can replace it.
            raise SandboxError("the file helper of the session sent an invalid answer") from error

    return handle


def _members(request: WireModel) -> list[tuple[str, object]]:
    return [(name, getattr(request, name)) for name in request.__struct_fields__]


FILE_HANDLERS: dict[str, Handler] = {endpoint.name: _file_handler(endpoint) for endpoint in FILES}
"""Name of an endpoint to its handler."""
