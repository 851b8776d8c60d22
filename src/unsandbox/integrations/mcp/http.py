"""MCP over streamable HTTP, as a part of a server: `/mcp`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Hashable, Sequence
from typing import Any

from aiohttp import web
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import Context
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from unsandbox.integrations.mcp.sandboxes import IDLE_S, McpSession, McpSessions
from unsandbox.integrations.mcp.tools import create_server
from unsandbox.integrations.workspace import WorkspaceOptions
from unsandbox.server import Server
from unsandbox.server.auth import Caller
from unsandbox.server.streaming.asgi import serve_asgi

PATH = "/mcp"
_CALLER = "unsandbox.caller"
_URL = "unsandbox.url"


@contextlib.asynccontextmanager
async def serve_mcp(server: Server, allowed_hosts: Sequence[str] = ()) -> AsyncIterator[dict[str, str]]:
    """Serve MCP on a server that has not been started yet, until the block ends.

    Every request needs a key, so a page in a browser cannot use it through a name of its own (DNS rebinding),
    and any `Host` is accepted unless `allowed_hosts` is given.

    Args:
        server: The server.
        allowed_hosts: Values of `Host` that are accepted; `name:*` means any port. Others get 421.
    """
    sessions = McpSessions()
    mcp = create_server(lambda context: _session_of(sessions, context))
    # Creates the session manager.
    mcp.streamable_http_app(
        session_idle_timeout=IDLE_S,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=bool(allowed_hosts),
            allowed_hosts=list(allowed_hosts),
            allowed_origins=[f"{scheme}://{host}" for host in allowed_hosts for scheme in ("http", "https")],
        ),
    )
    manager: StreamableHTTPSessionManager = mcp.session_manager

    async def answer(request: web.Request, caller: Caller) -> web.StreamResponse:
        user = AuthenticatedUser(AccessToken(token="", client_id=caller.public_key, scopes=[]))
        scope = {"user": user, _CALLER: caller, _URL: await server.loopback_url()}
        response = await serve_asgi(manager.handle_request, request, **scope)
        session_id = request.headers.get(MCP_SESSION_ID_HEADER)
        if request.method == "DELETE" and session_id and response.status < 300:
            sessions.end((caller.public_key, session_id))
        return response

    server.mount(PATH, answer)
    async with manager.run():
        try:
            yield {}
        finally:
            await sessions.close()


def _session_of(sessions: McpSessions, context: Context[Any, Any]) -> McpSession:
    """Return the MCP session of a call: by its id, or by the key for clients without sessions (2026-07-28)."""
    request: Any = context.request_context.request
    caller: Caller = request.scope[_CALLER]
    key: Hashable = (caller.public_key, request.headers.get(MCP_SESSION_ID_HEADER, ""))
    options: WorkspaceOptions = {
        "base_url": request.scope[_URL],
        "public_key": caller.public_key,
        "secret_key": caller.secret_key,
    }
    return sessions.get(key, options)
