"""The session behind an adapter: created at its first use, and usable from any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any, TypedDict, Unpack
from weakref import WeakKeyDictionary

from unsandbox._async.client import AsyncClient
from unsandbox._async.objects.session import AsyncLiveSession
from unsandbox._shared.server import BASE_VARIABLE, LOCAL
from unsandbox.errors import APIError, ClientStateError, NotFoundError, RemoteFileError
from unsandbox.protocol.models import IsolationName, NetworkModeName

SERVER_OPTIONS = ("base_url", "public_key", "secret_key")


class WorkspaceOptions(TypedDict, total=False):
    """Options of every adapter: the server, and the session that is created on it."""

    base_url: str | None
    """URL of a server, or `local` for the embedded engine. Default: `UNSANDBOX_API_BASE`, otherwise `local`."""
    public_key: str | None
    """Public key. By default the keys are looked up as described in `unsandbox.credentials`."""
    secret_key: str | None
    """Secret key."""
    isolation: IsolationName | None
    """`bubblewrap`, `gvisor`, or `hardened`."""
    network_mode: NetworkModeName | None
    """`zerotrust` (no network, the default) or `semitrusted` (outbound network only)."""
    vcpu: int | None
    """Processors, 1 to 8, with 2 GiB of memory each."""
    ttl: int | None
    """Idle seconds after which the session is deleted. Default 3600."""
    name: str | None
    """Display name of the session."""
    shell: str | None
    """Name of its shell or REPL. Default `bash`."""


def split_options(options: WorkspaceOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of a client and those of `create_session`.

    Args:
        options: The options of an adapter.
    """
    given: dict[str, Any] = {**options}
    server = {name: given.pop(name) for name in SERVER_OPTIONS if name in given}
    server["base_url"] = server.get("base_url") or os.environ.get(BASE_VARIABLE) or LOCAL
    return server, given


def is_gone(error: APIError) -> bool:
    """Return whether an error says that the session does not exist any more.

    Args:
        error: The error of an operation on a session.
    """
    return isinstance(error, NotFoundError) and not isinstance(error, RemoteFileError)


class AsyncWorkspace:
    """A session that is created at its first use, or an existing one, for any number of event loops.

    Args:
        session_id: Id of an existing session. Default: a new one.
        options: See `WorkspaceOptions`.

    Example:
        ```python
        workspace = AsyncWorkspace(isolation="gvisor")
        session = await workspace.session()
        await session.exec(["true"])
        await workspace.delete()
        ```
    """

    def __init__(self, session_id: str | None = None, **options: Unpack[WorkspaceOptions]) -> None:
        self._server, self._members = split_options(options)
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = WeakKeyDictionary()
        self._creation: asyncio.Task[None] | None = None
        self.session_id = session_id

    async def session(self) -> AsyncLiveSession:
        """Return the session for the running event loop; create it first if there is none.

        The session is created once, and its id is kept, even if the calls that wait for it are cancelled.
        """
        if self.session_id is None:
            loop = asyncio.get_running_loop()
            if self._creation is None or self._creation.done():
                self._creation = loop.create_task(self._create())
                self._creation.add_done_callback(_seen)
            if self._creation.get_loop() is not loop:
                raise ClientStateError("another event loop is creating this session; wait for it there")
            await asyncio.shield(self._creation)
        return self.client().attach_session(self.session_id or "")

    def client(self) -> AsyncClient:
        """Return the client for the running event loop."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = AsyncClient(**self._server)
        return client

    async def delete(self) -> None:
        """Delete the session, if there is one, and close the connections of this event loop."""
        if self._creation is not None and self.session_id is None:
            await self.session()
        if self.session_id is not None:
            # It may have been deleted elsewhere, or was idle for too long.
            with contextlib.suppress(NotFoundError):
                await self.client().delete_session(self.session_id)
        await self.close()

    async def close(self) -> None:
        """Close the connections of this event loop. The session stays."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    async def _create(self) -> None:
        created = await self.client().create_session(**self._members)
        self.session_id = created.session_id


def _seen(creation: asyncio.Task[None]) -> None:
    """Take notice of a failure that nobody may be waiting for."""
    if not creation.cancelled():
        creation.exception()
