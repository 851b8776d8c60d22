# Generated from src/unsandbox/_async/connection.py by scripts/unasync.py; change that one.
"""A server and the keys that sign calls to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from unsandbox._compat.blocking import OneTimeCode, Work, in_thread, maybe_await, read_all
from unsandbox._shared.deadline import NEVER, Deadline
from unsandbox._shared.files import reads_files
from unsandbox._shared.options import ExecuteOptions, encode_execution
from unsandbox._shared.request import (
    INSTEAD_OF_ACTING,
    UNBOUNDED,
    Bounds,
    PreparedRequest,
    failed_attempt,
    may_have_acted,
)
from unsandbox._shared.server import LOCAL
from unsandbox._shared.signer import Signer
from unsandbox._shared.tracing import inject, span
from unsandbox._sync.server_connection import ServerConnection, error_of
from unsandbox._transports.common import RawResponse
from unsandbox._transports.requests import RequestsTransport
from unsandbox.credentials import Credentials, resolve_credentials
from unsandbox.errors import (
    APIError,
    ClientStateError,
    ConnectionFailedError,
    InvalidRequestError,
    SudoRequiredError,
    UnsandboxError,
    WaitTimeoutError,
)
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.jobs import BY_NAME, CHALLENGE_HEADER, IDEMPOTENCY_HEADER, OTP_HEADER
from unsandbox.protocol.retry import RetryPolicy
from unsandbox.protocol.signing import build_target

__all__ = ["Connection"]

T = TypeVar("T")

_MISSING = {
    "stdin": "this server gives programs no standard input; send the data as an input file instead",
    "args": "this server gives programs no arguments; send them as an input file or in env instead",
    "compiler_args": "this server passes no arguments to compilers; leave compiler_args out",
    "memory_mb": "this server has no memory limit of a job's own; leave memory_mb out",
    "compile_timeout": "this server has no separate limit for compilers; leave compile_timeout out",
    "cpu_time": "this server does not limit CPU time; leave cpu_time out",
    "compile_output": "this server does not return the compiler's output apart; leave compile_output out",
    "env_name": "this server has no environments; leave env_name out",
    "version": "this server has one version of each language; leave version out",
    "isolation": "this server does not let the isolation be chosen, and it could be weaker than you ask for",
}

_CODES_ASKED = 3
"""Number of attempts for a one-time code that is typed."""


class Connection:
    """A server, the keys that sign calls to it, and the one-time code for protected calls.

    Args:
        server: The connections to the server.
        public_key: As for the client.
        secret_key: As for the client.
        account: As for the client.
        otp: As for the client.
    """

    __slots__ = ("_given", "_keys", "otp", "server")

    def __init__(
        self,
        server: ServerConnection,
        public_key: str | None = None,
        secret_key: str | None = None,
        *,
        account: int | str | None = None,
        otp: OneTimeCode | None = None,
    ) -> None:
        self.server = server
        self.otp = otp
        self._given = (public_key, secret_key, account)
        self._keys: Credentials | None = None

    def over(self, server: ServerConnection, otp: OneTimeCode | None = None) -> Connection:
        """Return the same keys with other options of the server's connections and another one-time code."""
        public_key, secret_key, account = self._given
        other = Connection(server, public_key, secret_key, account=account, otp=otp)
        other._keys = self._keys
        return other

    def cleaning(self) -> Connection:
        """Return the same for a clean-up, which neither a hook's error nor the client's `close` stops."""
        return self.over(self.server.cleaning(), self.otp)

    @property
    def features(self) -> frozenset[str]:
        """The features that the server announced; empty before its first answer."""
        return self.server.features or frozenset()

    def keys(self) -> Credentials | None:
        """Return the keys to sign with, looked up when they are needed first; None for the embedded engine.

        Raises:
            CredentialsError: No keys were found.
        """
        if self._keys is None and self.server.base_url != LOCAL:
            public_key, secret_key, account = self._given
            self._keys = resolve_credentials(public_key, secret_key, account=account)
        return self._keys

    def call(
        self,
        name: str,
        *,
        params: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
        request: PreparedRequest | None = None,
        bounds: Bounds = UNBOUNDED,
        otp: OneTimeCode | None = None,
    ) -> dict[str, Any]:
        """Do one operation of the API, with retries.

        Args:
            name: Name of the operation in the endpoint table.
            params: Values for the placeholders of its path.
            query: Members of its query.
            request: Body and idempotency key; notes whether anything was sent.
            bounds: How long it may take, and how often it is repeated.
            otp: One-time code instead of the connection's own.

        Returns:
            The JSON object of the answer.

        Raises:
            APIError: The server answered with an error status.
            ConnectionFailedError: There was no answer.
            InvalidResponseError: The answer is not a JSON object.
            CredentialsError: There are no keys.
        """
        server = self.server
        endpoint = BY_NAME[name]
        keys = self.keys() if endpoint.auth == "signed" else None
        server.enter()
        address, transport = server.open()
        target = address.prefix + build_target(endpoint.path, params or {}, query)
        signer = Signer(server.clock, (address.keys or keys) if endpoint.auth == "signed" else None)
        with span(endpoint.name, endpoint.method, endpoint.path, address.origin) as current:
            call = _Call(self, transport, endpoint, target, signer, request, bounds)
            answer = call.answer(self.otp if otp is None else otp)
            if current is not None:
                current.set_attribute("http.response.status_code", answer.status)
            return server.read(answer)

    def require(self, request: PreparedRequest, deadline: Deadline = NEVER) -> None:
        """Refuse a request of which the server would drop a part in silence.

        Raises:
            InvalidRequestError: The server does not announce a feature that the request needs.
        """
        if not request.needs:
            return
        self.learn_features(Bounds(deadline))
        for feature in request.needs:
            if feature not in self.features:
                raise InvalidRequestError(_MISSING[feature])

    def learn_features(self, bounds: Bounds) -> None:
        """Ask the server for its features, if they are not known yet."""
        if self.server.features is None:
            self.call("health", bounds=bounds)

    def encode(self, options: ExecuteOptions, deadline: Deadline = NEVER) -> PreparedRequest:
        """Return the request of an execution, with its standard input and files read.

        Raises:
            InvalidRequestError: An argument cannot be sent.
            WaitTimeoutError: The standard input did not end in time.
        """
        if options.stdin is not None:
            try:
                stdin = read_all(options.stdin, deadline.remaining())
            except TimeoutError as error:
                if not deadline.passed:
                    raise  # Of whoever gives the standard input.
                raise WaitTimeoutError(
                    f"the standard input had not ended after {deadline.seconds:g} s"
                ) from error
            options = options.replace(stdin=stdin)
        if reads_files(options.input_files):
            return in_thread(encode_execution, options, deadline.seconds)
        return encode_execution(options, deadline.seconds)

    def clean_up(self, work: Work[T], seconds: float) -> T | None:
        """End a call's work on the server, even if the call's task was cancelled.

        Args:
            work: Does it, over the connection that it is given.
            seconds: How long it may take.

        Returns:
            Its result; None when it failed or was not done in time.
        """
        connection = self.cleaning()
        return self.server.clean_up(lambda: work(connection), seconds)


class _Call:
    """One operation on its way: its attempts, until there is an answer or it is not to be sent again."""

    __slots__ = (
        "_bounds",
        "_connection",
        "_endpoint",
        "_number",
        "_request",
        "_server",
        "_signer",
        "_sudo",
        "_target",
        "_transport",
    )

    def __init__(
        self,
        connection: Connection,
        transport: RequestsTransport,
        endpoint: Endpoint,
        target: str,
        signer: Signer,
        request: PreparedRequest | None,
        bounds: Bounds,
    ) -> None:
        self._connection = connection
        self._server = connection.server
        self._transport = transport
        self._endpoint = endpoint
        self._target = target
        self._signer = signer
        self._request = request
        self._bounds = bounds
        self._number = 0
        self._sudo: dict[str, str] = {}

    def answer(self, otp: OneTimeCode | None) -> RawResponse:
        """Send it until it succeeds or is not to be sent again."""
        server, endpoint = self._server, self._endpoint
        codes_left = _CODES_ASKED if callable(otp) else 1
        while True:
            self._number += 1
            try:
                answer = self._attempt()
                if self._signer.clock_was_wrong(answer.status, answer.headers):
                    self._number -= 1
                    continue
                server.note_features(answer.headers, answer.status)
                if not 200 <= answer.status < 300:
                    raise error_of(answer)
            except SudoRequiredError as error:
                if otp is None or error.challenge_id is None or not codes_left:
                    raise
                codes_left -= 1
                self._number -= 1  # The question for a code does not count as a failure.
                self._sudo = _code_for(error.challenge_id, otp)
                if not self._sudo:
                    raise
            except (ConnectionFailedError, APIError) as error:
                retry, deadline = self._bounds.retry or server.retry, self._bounds.deadline
                if self._number == 1 <= retry.max_retries and may_have_acted(error):
                    self._find_out(retry)
                repeatable = endpoint.repeatable or server.honours_key(self._request)
                failed = failed_attempt(endpoint.method, self._number, error, deadline, repeatable=repeatable)
                server.pause(endpoint.name, failed, error, retry)
            else:
                return answer

    def _find_out(self, retry: RetryPolicy) -> None:
        """Ask for the server's features if they are unknown and decide whether a request may be repeated."""
        remaining, request = self._bounds.deadline.remaining(), self._request
        in_time = remaining is None or remaining > retry.base_s / 2
        if in_time and request is not None and request.key is not None:
            # If this fails, too, the request is not repeated: its own error says more.
            with contextlib.suppress(UnsandboxError):
                self._connection.learn_features(self._bounds._replace(timeout=None, retry=retry))

    def _attempt(self) -> RawResponse:
        server, endpoint, request, bounds = self._server, self._endpoint, self._request, self._bounds
        body = b"" if request is None else request.body
        headers = {"Content-Type": request.content_type} if request is not None and body else {}
        headers |= self._sudo
        inject(headers)
        event = server.observer.event(endpoint.name, endpoint.method, endpoint.path, self._number, len(body))
        server.observer.asks(event)
        began = time.monotonic()
        if not bounds.urgent:
            self._transport.acquire(bounds.deadline.remaining())
        try:
            # Signed only now: a signature lasts five minutes, and the queue may have been longer.
            if isinstance(body, bytes):
                headers |= self._signer.headers(endpoint.method, self._target, body)
            else:
                headers |= in_thread(self._signer.headers, endpoint.method, self._target, body)
            before = False
            if request is not None:
                before, request.sent = request.sent, True
                if request.key is not None:
                    headers[IDEMPOTENCY_HEADER] = request.key
            seconds = server.time_for(bounds.deadline, bounds.timeout)
            answer = self._transport.send(endpoint.method, self._target, headers, body, seconds)
            if request is not None and answer.status in INSTEAD_OF_ACTING:
                request.sent = before
        except ClientStateError:
            if request is not None:
                request.sent = before
            raise
        except ConnectionFailedError as error:
            if request is not None and not error.sent:
                request.sent = before
            server.observer.failed(event, server.origin, error, began)
            raise
        finally:
            if not bounds.urgent:
                self._transport.release()
        server.observer.answered(event, server.origin, answer.status, answer.headers, began, answer.size)
        return answer


def _code_for(challenge_id: str, otp: OneTimeCode) -> dict[str, str]:
    """Return the headers that answer the server's question for a one-time code; empty without a code."""
    given = maybe_await(otp(challenge_id)) if callable(otp) else otp
    code = str(given or "").strip()  # A function may return None to give up.
    if not (code.isascii() and code.isprintable()):
        raise InvalidRequestError("the one-time code contains invalid characters")
    return {OTP_HEADER: code, CHALLENGE_HEADER: challenge_id} if code else {}
