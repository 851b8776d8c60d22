"""`AsyncClient`: the API as methods with typed results."""

from __future__ import annotations

import copy
import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from unsandbox._async.connection import Connection
from unsandbox._async.methods.execution import ExecutionMethods
from unsandbox._async.methods.images import ImageMethods
from unsandbox._async.methods.jobs import JobMethods
from unsandbox._async.methods.logs import LogMethods
from unsandbox._async.methods.services import ServiceMethods
from unsandbox._async.methods.sessions import SessionMethods
from unsandbox._async.methods.snapshots import SnapshotMethods
from unsandbox._async.server_connection import DEFAULT_TIMEOUT_S, ServerConnection
from unsandbox._compat.aio import OneTimeCode
from unsandbox._shared.given import NOT_GIVEN, NotGiven, limit_s
from unsandbox._shared.hooks import NO_HOOKS, Hooks
from unsandbox._shared.server import LOCAL, choose_base
from unsandbox._transports.common import MAX_CONNECTIONS
from unsandbox.protocol.models import Health, KeyInfo, Languages
from unsandbox.protocol.retry import RetryPolicy

if TYPE_CHECKING:
    from unsandbox.engine import EngineConfig


class AsyncClient(
    ExecutionMethods, JobMethods, SessionMethods, ServiceMethods, SnapshotMethods, ImageMethods, LogMethods
):
    """A client of the hosted service, of your own server, or of the embedded engine.

    The constructor sends nothing: keys are looked up at the first signed call, and connections are opened when
    needed and kept until `close`. A client belongs to the event loop that first uses it. Any number
    of tasks may share it.

    Args:
        public_key: Public key. By default the keys are looked up as described in `unsandbox.credentials`.
        secret_key: Secret key. It never leaves this process.
        account: Row of the accounts file with the keys.
        base_url: URL of the server. Default: `UNSANDBOX_API_BASE`, otherwise the hosted service. `local`
            selects the embedded engine, which needs no keys.
        timeout: Seconds for one HTTP request, from connecting to the end of the answer; None means no limit.
        retry: Number and timing of retries.
        max_connections: Maximum number of connections; further requests wait for a free one.
        otp: One-time code for protected calls, or a function that takes the id of the server's challenge and
            returns the code.
        hooks: Functions that are called for requests, answers, retries and polls.
        ca_file: File or folder of trusted CAs in PEM format, for servers with a private CA. Without it,
            `UNSANDBOX_CA_FILE`, `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE` or `SSL_CERT_FILE`, else the system's.

    Example:
        ```python
        async with AsyncClient() as client:
            job = await client.execute("python", "print(6 * 7)")
            print(job.stdout)
        ```
    """

    __module__ = "unsandbox"

    def __init__(
        self,
        public_key: str | None = None,
        secret_key: str | None = None,
        *,
        account: int | str | None = None,
        base_url: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        max_connections: int = MAX_CONNECTIONS,
        otp: OneTimeCode | None = None,
        hooks: Hooks = NO_HOOKS,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        server = ServerConnection(
            choose_base(base_url),
            timeout=limit_s(timeout),
            retry=retry,
            max_connections=max_connections,
            hooks=hooks,
            ca_file=ca_file,
        )
        self._connection = Connection(server, public_key, secret_key, account=account, otp=otp)
        self._shares_connections = False

    @classmethod
    def local(
        cls,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        max_connections: int = MAX_CONNECTIONS,
        config: EngineConfig | None = None,
        otp: OneTimeCode | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Self:
        """Return a client of the embedded engine, which starts at the first call.

        Args:
            timeout: Seconds for one HTTP request; None means no limit.
            retry: Number and timing of retries.
            max_connections: Maximum number of connections.
            config: The engine's configuration. Only the first use in a process can set it.
            otp: See the class.
            hooks: See the class.

        Example:
            ```python
            async with AsyncClient.local() as client:
                job = await client.execute("bash", "echo hello")
            ```
        """
        client = cls(base_url=LOCAL)
        server = ServerConnection(
            LOCAL,
            timeout=limit_s(timeout),
            retry=retry,
            max_connections=max_connections,
            engine_config=config,
            hooks=hooks,
        )
        client._connection = Connection(server, otp=otp)
        return client

    async def __aenter__(self) -> Self:
        self._connection.server.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._connection.server.base_url}>"

    async def close(self) -> None:
        """Close all connections. The client cannot be used any more. Further calls have no effect.

        A client returned by `with_options` shares the connections of another client and does not close them.
        """
        if not self._shares_connections:
            await self._connection.server.close()

    def with_options(
        self,
        *,
        timeout: float | NotGiven | None = NOT_GIVEN,
        retry: RetryPolicy | None = None,
        otp: OneTimeCode | NotGiven | None = NOT_GIVEN,
        hooks: Hooks | None = None,
    ) -> Self:
        """Return a client with other options on the same connections. This is cheap.

        Options that are not passed stay as they are.

        Args:
            timeout: Seconds for one HTTP request; None means no limit.
            retry: Number and timing of retries.
            otp: See the class; None removes it.
            hooks: See the class; `Hooks()` removes them.

        Example:
            ```python
            job = await client.with_options(retry=RetryPolicy(max_retries=0)).execute("python", "print(1)")
            ```
        """
        other = copy.copy(self)
        mine = self._connection
        server = mine.server.with_options(None if timeout is NOT_GIVEN else limit_s(timeout), retry, hooks)
        other._connection = mine.over(server, mine.otp if otp is NOT_GIVEN else otp)  # noqa: SLF001 - a copy of this
        other._shares_connections = True  # noqa: SLF001 - as above
        return other

    async def languages(self) -> Languages:
        """Return the languages that the server can run. Needs no keys; not cached."""
        return await self._do("languages", Languages)

    async def validate_keys(self) -> KeyInfo:
        """Return the validity and the limits of the key pair.

        Raises:
            AuthenticationError: The server does not know the key, or the secret is wrong.
        """
        return await self._do("validate_keys", KeyInfo)

    async def health(self) -> Health:
        """Return the health of the server. Needs no keys.

        Raises:
            APIError: The server reports that it is unhealthy.
            ConnectionFailedError: The server cannot be reached.
        """
        return await self._do("health", Health)
