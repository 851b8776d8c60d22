"""Processes and files of sessions."""

from __future__ import annotations

from unsandbox.engine.sessions import ports
from unsandbox.protocol import codec
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.workspace import FILES
from unsandbox.protocol.files import FileEvents, FileUnwatchRequest, FileWatchRequest
from unsandbox.protocol.models import WireModel
from unsandbox.protocol.processes import (
    ExecResult,
    ExposedPort,
    ExposedPorts,
    OutputRequest,
    PortRequest,
    Process,
    ProcessList,
    ProcessOutput,
    ProcessRequest,
    SignalRequest,
    StdinRequest,
    TerminalSize,
)
from unsandbox.sandbox.errors import SandboxError
from unsandbox.server.call import Call, Handler, read_body, read_number, read_port

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


async def expose_port(call: Call) -> ExposedPort:
    """Let visitors reach a port."""
    request = read_body(call, PortRequest)
    sessions = call.engine.sessions
    record = sessions.record(call.owner, call.params["id"])
    return _described(call, sessions.ports.expose(record, request.port, public=request.public))


async def list_ports(call: Call) -> ExposedPorts:
    """List the ports that visitors reach."""
    sessions = call.engine.sessions
    record = sessions.record(call.owner, call.params["id"])
    return ExposedPorts(ports=[_described(call, exposed) for exposed in sessions.ports.of(record)])


async def close_port(call: Call) -> ExposedPort:
    """Let visitors no longer reach a port."""
    sessions = call.engine.sessions
    record = sessions.record(call.owner, call.params["id"])
    port = read_port(call.params["port"])
    sessions.ports.close(record, port)
    return ExposedPort(port=port)


def _described(call: Call, exposed: ports.ExposedPort) -> ExposedPort:
    """Return an exposed port with its address, as seen by this caller."""
    return ExposedPort(
        port=exposed.port,
        url=call.service_url(exposed.label),
        public=exposed.public,
        token=None if exposed.public else exposed.token,
    )


async def file_watch(call: Call) -> FileEvents:
    """Get changes of the files in a directory."""
    request = read_body(call, FileWatchRequest)
    return await call.engine.workspaces.watch(call.owner, call.params["id"], request, call.connected)


async def file_unwatch(call: Call) -> FileEvents:
    """End a watch."""
    request = read_body(call, FileUnwatchRequest)
    return await call.engine.workspaces.unwatch(call.owner, call.params["id"], request)


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
