"""Sessions."""

from __future__ import annotations

from urllib.parse import parse_qsl

from unsandbox.engine.background import run_large
from unsandbox.engine.jobs.inputs import input_files
from unsandbox.engine.jobs.results import captured_size, command_result, wire_artifacts
from unsandbox.protocol.sessions import (
    BoostRequest,
    CommandRequest,
    CommandResult,
    ForkRequest,
    Session,
    SessionList,
    SessionMetrics,
    SessionRequest,
    TimeoutRequest,
)
from unsandbox.server.call import Call, read_body, read_flag


async def list_sessions(call: Call) -> SessionList:
    """List sessions."""
    wanted = call.query.get("metadata")
    found = call.engine.sessions.list_of(call.owner, dict(parse_qsl(wanted or "", keep_blank_values=True)))
    if wanted is None:
        # Historical clients search lists for braces.
        found = [session.replace(metadata=None) for session in found]
    sessions = [_with_address(call, session) for session in found]
    return SessionList(sessions=sessions, count=len(sessions))


async def create_session(call: Call) -> Session:
    """Start a session."""
    request = read_body(call, SessionRequest)
    if read_flag(call.query, "audit"):
        request = request.replace(audit=True)
    return _with_ticket(call, await call.engine.sessions.create(call.owner, request, call.settings.sessions))


async def get_session(call: Call) -> Session:
    """Get one session."""
    return _with_ticket(call, call.engine.sessions.get(call.owner, call.params["id"]))


async def delete_session(call: Call) -> Session:
    """End one session."""
    audit = read_flag(call.query, "audit")
    session, artifacts = await call.engine.sessions.delete(call.owner, call.params["id"], audit)
    return session.replace(
        message="session deleted",
        status="deleted",
        reason="deleted",
        artifacts=wire_artifacts(artifacts),
    )


async def freeze_session(call: Call) -> Session:
    """Stop its processes."""
    return _with_address(call, await call.engine.sessions.freeze(call.owner, call.params["id"]))


async def unfreeze_session(call: Call) -> Session:
    """Resume the processes."""
    return _with_address(call, await call.engine.sessions.unfreeze(call.owner, call.params["id"]))


async def fork_session(call: Call) -> SessionList:
    """Make copies of it."""
    request = read_body(call, ForkRequest)
    made = await call.engine.forks.make(call.owner, call.params["id"], request, call.settings.sessions)
    # Flat, as in lists.
    sessions = [_with_address(call, session.replace(metadata=None)) for session in made]
    return SessionList(sessions=sessions, count=len(sessions))


async def session_metrics(call: Call) -> SessionMetrics:
    """Get its use of resources."""
    return await call.engine.workspaces.metrics(call.owner, call.params["id"])


async def set_session_timeout(call: Call) -> Session:
    """Set its deadline."""
    timeout = read_body(call, TimeoutRequest).timeout
    return _with_address(call, await call.engine.sessions.set_timeout(call.owner, call.params["id"], timeout))


async def boost_session(call: Call) -> Session:
    """Give it more."""
    vcpu = read_body(call, BoostRequest).vcpu
    return _with_address(call, await call.engine.sessions.set_vcpu(call.owner, call.params["id"], vcpu))


async def unboost_session(call: Call) -> Session:
    """Return it to its original processors and memory."""
    return _with_address(call, await call.engine.sessions.set_vcpu(call.owner, call.params["id"], None))


async def session_command(call: Call) -> CommandResult:
    """Run a command in the live shell."""
    request = read_body(call, CommandRequest)
    outcome = await call.engine.sessions.command(
        call.owner,
        call.params["id"],
        request.command,
        min(request.timeout / 1000, call.hold_s) if request.timeout else call.hold_s,
        input_files(request.input_files or [], call.engine.config),
    )
    return await run_large(captured_size(outcome), command_result, outcome)


def _with_address(call: Call, session: Session) -> Session:
    """Say where the terminal is, as seen by this caller."""
    base = call.base_url.replace("http", "ws", 1)
    return session.replace(websocket_url=f"{base}/sessions/{session.session_id}/shell")


def _with_ticket(call: Call, session: Session) -> Session:
    """Say where the terminal is, with a ticket that opens it once: a browser cannot sign."""
    addressed = _with_address(call, session)
    ticket = call.engine.sessions.terminals.tickets.give(session.session_id or "")
    return addressed.replace(websocket_url=f"{addressed.websocket_url}?ticket={ticket}")
