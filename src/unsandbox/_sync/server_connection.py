# Generated from src/unsandbox/_async/server_connection.py by scripts/unasync.py; change that one.
"""The connections to one server: its address, transports and features."""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from unsandbox._compat.blocking import CleanUps, Lock, Work, current_loop, in_thread, sleep
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.hooks import NO_HOOKS, Hooks
from unsandbox._shared.request import PreparedRequest, library_error
from unsandbox._shared.server import LOCAL, ServerAddress, parse_base
from unsandbox._shared.signer import ServerClock
from unsandbox._sync.events import Observer
from unsandbox._transports.common import MAX_CONNECTIONS, RawResponse
from unsandbox._transports.requests import RequestsTransport, load, loaded
from unsandbox._transports.requests_live import LIBRARY
from unsandbox.credentials import Credentials
from unsandbox.errors import APIError, ClientStateError, ConnectionFailedError, UnsandboxError
from unsandbox.protocol.answers import api_error, read_object
from unsandbox.protocol.endpoints.jobs import FEATURES_HEADER
from unsandbox.protocol.retry import Attempt, RetryPolicy, retry_delay
from unsandbox.protocol.splitting import restored

if TYPE_CHECKING:
    from unsandbox.engine import EngineConfig

__all__ = ["DEFAULT_TIMEOUT_S", "Opened", "ServerConnection"]

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 120.0
"""Seconds for one HTTP request."""


class Opened(NamedTuple):
    """The address of the server, and the transport to it."""

    address: ServerAddress
    transport: RequestsTransport


class _State:
    """The state that copies of a `ServerConnection` share."""

    __slots__ = (
        "address",
        "announced",
        "clean_ups",
        "clock",
        "closed",
        "features",
        "loop",
        "opening",
        "pid",
        "transport",
    )

    def __init__(self, address: ServerAddress | None) -> None:
        self.address = address
        self.transport: RequestsTransport | None = None
        self.features: frozenset[str] | None = None
        self.announced: str | None = None
        self.loop: object = None
        self.opening = Lock()
        self.clock = ServerClock()
        self.clean_ups = CleanUps()
        self.pid = os.getpid()
        self.closed = False


class ServerConnection:
    """The connections to one server, for any number of key pairs.

    Args:
        base_url: Base URL, or `local` for the engine inside this process.
        timeout: Seconds for one HTTP request.
        retry: How often a failed request is repeated.
        max_connections: Connections at a time; further requests wait for one.
        engine_config: Bounds of the embedded engine.
        hooks: Functions to call with each request.
        whole: Whether answers hold large files as text; else those lie on disk, and marks stand for them.
        ca_file: File or folder of trusted CAs.

    Attributes:
        base_url: As given.
        timeout: As given.
        retry: As given.
        observer: Reports events to hooks, logger and OpenTelemetry.
    """

    def __init__(  # noqa: PLR0913 - the options of the client
        self,
        base_url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        max_connections: int = MAX_CONNECTIONS,
        engine_config: EngineConfig | None = None,
        hooks: Hooks = NO_HOOKS,
        whole: bool = False,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.base_url = base_url
        self.timeout = timeout
        self.retry = retry or RetryPolicy()
        self.observer = Observer(hooks)
        self._whole = whole
        self._max_connections = max_connections
        self._engine_config = engine_config
        self._ca_file = None if ca_file is None else os.fspath(ca_file)
        self._cleaning = False
        self._state = _State(None if base_url == LOCAL else parse_base(base_url))

    @property
    def features(self) -> frozenset[str] | None:
        """The features that the server announced; None before its first answer."""
        return self._state.features

    @property
    def clock(self) -> ServerClock:
        """The server's clock."""
        return self._state.clock

    @property
    def origin(self) -> str:
        """Scheme, host and port of the server; empty before it is known."""
        address = self._state.address
        return "" if address is None else address.origin

    @property
    def closed(self) -> bool:
        """Whether no further request may be sent."""
        return self._state.closed and not self._cleaning

    def with_options(
        self, timeout: float | None = None, retry: RetryPolicy | None = None, hooks: Hooks | None = None
    ) -> ServerConnection:
        """Return the same connections with some options changed."""
        other = copy.copy(self)
        other.timeout = self.timeout if timeout is None else timeout
        other.retry = retry or self.retry
        other.observer = self.observer if hooks is None else Observer(hooks)
        return other

    def cleaning(self) -> ServerConnection:
        """Return the same connections for a clean-up, which neither a hook's error nor `close` stops."""
        other = copy.copy(self)
        other.observer = Observer(self.observer.hooks, cleaning=True)
        other._cleaning = True  # noqa: SLF001 - a copy of this
        return other

    def enter(self) -> None:
        """Belong to the running event loop from now on.

        Raises:
            ClientStateError: It is closed, belongs to another event loop, or no event loop is running.
        """
        if self.closed:
            raise ClientStateError("this client is closed; create a new one")
        running = current_loop()
        if self._state.loop is None:
            self._state.loop = running
        elif self._state.loop is not running:
            raise ClientStateError("this client belongs to another event loop; create a client in each loop")

    def open(self) -> Opened:
        """Return the server's address and the transport; start the embedded engine if necessary."""
        state = self._state
        if self.base_url == LOCAL and state.pid != os.getpid():
            # After a fork: the engine lives in the parent only.
            state.pid, state.address, state.transport = os.getpid(), None, None
        if state.address is not None and state.transport is not None:
            return Opened(state.address, state.transport)
        with state.opening:
            if not loaded():
                in_thread(load)
            address = state.address
            if address is None:
                from unsandbox import local

                engine = in_thread(local.ensure_started, self._engine_config)
                address = parse_base(engine.url)._replace(
                    keys=Credentials(engine.public_key, engine.secret_key, "the embedded engine")
                )
            if self.closed:
                raise ClientStateError("this client was closed in the meantime; create a new one")
            if state.transport is None:
                state.transport = RequestsTransport(address.origin, self._max_connections, self._ca_file)
            state.address = address
            return Opened(address, state.transport)

    def close(self) -> None:
        """Wait for the clean-ups that are under way, and close the connections. Closing twice does no harm.

        Calls that still wait for an answer fail, and the jobs that they run are cancelled first.
        """
        self._state.closed = True
        self._state.clean_ups.close(self._shut)

    def clean_up(self, work: Work[T], seconds: float) -> T | None:
        """End a call's work on the server, even if the call's task was cancelled; see `CleanUps.run`.

        Args:
            work: Does it, over a connection that `cleaning` returned.
            seconds: How long it may take.
        """
        state = self._state

        def clean() -> T:
            try:
                return work()
            finally:
                if state.closed and state.clean_ups.count <= 1:
                    # Begun by a call that noticed only now that the client was closed.
                    self._shut()

        return state.clean_ups.run(clean, seconds)

    def _shut(self) -> None:
        transport, self._state.transport = self._state.transport, None
        if transport is not None:
            transport.close()

    def pause(
        self,
        operation: str,
        failed: Attempt,
        error: UnsandboxError,
        policy: RetryPolicy,
        *,
        at_once: bool = False,
    ) -> None:
        """Wait until it is time for the next attempt; raise the error if there is none.

        Args:
            operation: Its name for hooks.
            failed: The attempt that failed.
            error: How it failed.
            policy: The bounds.
            at_once: Not to wait, if there is to be another attempt.
        """
        delay = None
        fatal = isinstance(error, ConnectionFailedError) and not error.retryable
        if not (self.closed or fatal):
            delay = retry_delay(failed, policy, random.random())  # noqa: S311 - spreads retries, guards nothing
        if delay is None:
            raise error
        delay = 0.0 if at_once else delay
        self.observer.repeats(operation, failed.number, delay, error)
        sleep(delay)

    def time_for(self, deadline: Deadline, timeout: float | None = None) -> float:
        """Return the seconds that one request may take."""
        remaining = deadline.remaining()
        usual = timeout or self.timeout
        return usual if remaining is None else max(0.001, min(usual, remaining))

    def honours_key(self, request: PreparedRequest | None) -> bool:
        """Return whether the server is known to execute a request once if it arrives twice with the same key.

        Another server might run the program again: there, a request that may have arrived is not repeated.
        """
        return request is not None and request.key is not None and "idempotency" in (self.features or ())

    def note_features(self, headers: Mapping[str, str], status: int) -> None:
        """Record the features that the server announces in an answer."""
        state = self._state
        announced = headers.get(FEATURES_HEADER)
        if announced is not None:
            if announced != state.announced:
                state.announced = announced
                state.features = frozenset(announced.replace(",", " ").split())
        elif state.features is None and status < 300:
            # Only a success tells: an error may come from a proxy on the way.
            state.features = frozenset()

    def read(self, answer: RawResponse) -> dict[str, Any]:
        """Return the JSON object of an answer.

        Raises:
            InvalidResponseError: It is not one.
        """
        found = read_object(answer.status, answer.headers, answer.body, 0.0)
        return restored(found, answer.marks, whole=self._whole) if answer.marks else found


def error_of(answer: RawResponse) -> APIError:
    """Return the error of an answer, which is also an error of the HTTP library."""
    status, headers = answer.status, answer.headers
    return library_error(api_error(status, headers, answer.body, time.time()), LIBRARY, headers)
