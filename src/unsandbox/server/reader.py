"""Turns HTTP requests into calls: authenticated, within their rate, and read."""

from __future__ import annotations

import time
from contextvars import ContextVar

from aiohttp import web

from unsandbox.engine import Engine
from unsandbox.engine.accounts.keys import KeyRing, KeySettings
from unsandbox.protocol.bounds import SMALL_BODY
from unsandbox.protocol.endpoints.jobs import IDEMPOTENCY_HEADER
from unsandbox.server.auth import Caller, Unauthorized, check_headers, check_token
from unsandbox.server.body import read_body
from unsandbox.server.call import Call, parse_large
from unsandbox.server.config import ServerConfig
from unsandbox.server.hosts import from_this_machine, host_name, is_address
from unsandbox.server.protocols import ConnectionHandler
from unsandbox.server.rate import Rates
from unsandbox.server.streaming.file_content import check_url
from unsandbox.server.unproved import UnprovedBytes, sender_of


def terminal_sender(request: web.Request) -> str:
    """Return the address that a request comes from, as far as it permits to open terminals."""
    # A client that connects to `localhost` takes either address of it.
    return "" if from_this_machine(request) else sender_of(request)


signer: ContextVar[str] = ContextVar("signer", default="")
"""Public key that signed the request that this task serves, for the log."""


class RequestReader:
    """Reads requests.

    Args:
        engine: The engine that calls are for.
        keys: The lookup of secrets.
        config: The settings of the server.

    Attributes:
        unproved: Bytes that are held before signatures are checked.
    """

    def __init__(self, engine: Engine, keys: KeyRing, config: ServerConfig) -> None:
        self._engine = engine
        self._keys = keys
        self._config = config
        self._rates = Rates()
        self.unproved = UnprovedBytes()

    def check_host(self, request: web.Request) -> None:
        """Refuse an unsigned request from a browser on this machine that a foreign name was resolved for.

        Otherwise a web page could read answers that are only for this machine (DNS rebinding). A proxy in
        front of the server says whom it forwards for; its hosts are its own matter.

        Raises:
            HTTPMisdirectedRequest: The `Host` is not this server's.
        """
        name = host_name(request.headers.get("Host", "localhost"))
        own = name is not None and (
            is_address(name)
            or name in {self._config.host.lower(), self._config.service_domain.lower()}
            or self._engine.services.router.is_reserved(name)
        )
        if from_this_machine(request) and not own:
            raise web.HTTPMisdirectedRequest(reason="Misdirected Request")

    def read_token(self, request: web.Request, token: str) -> Caller:
        """Authenticate a request of another protocol, which has a key pair as one text.

        Args:
            request: The request.
            token: The text.

        Raises:
            Unauthorized: It is not a valid key.
            LimitReached: The key has sent too many requests.
        """
        caller = check_token(token, self._keys)
        self._admit(request, caller)
        return caller

    def admit(self, request: web.Request, public_key: str) -> None:
        """Let a request pass that something else proves to be of a key: charge its rate.

        Args:
            request: The request.
            public_key: The key.

        Raises:
            Unauthorized: The key was revoked, or has expired.
            LimitReached: The key has sent too many requests.
        """
        known = self._keys.find(public_key)
        if known is None:
            raise Unauthorized("invalid_key", "the key of this sandbox was revoked")
        self._admit(request, Caller(public_key, known.secret_key, known.settings, "", ""))

    def _admit(self, request: web.Request, caller: Caller) -> None:
        caller.check_expiry(time.time())
        signer.set(caller.public_key)
        if isinstance(request.protocol, ConnectionHandler):
            request.protocol.accepting.prove(request.protocol)
        self._rates.take(caller.public_key, caller.settings)

    def read_signed_url(self, request: web.Request) -> str:
        """Return the key that signed the URL of a request.

        Raises:
            Unauthorized: None did, or the URL has ended.
            LimitReached: The key has sent too many requests.
        """
        caller = check_url(request, self._keys)
        signer.set(caller.public_key)
        self._rates.take(caller.public_key, caller.settings)
        return caller.public_key

    async def read(
        self,
        request: web.Request,
        *,
        signed: bool = True,
        is_json: bool = True,
        has_files: bool = False,
        most: int | None = SMALL_BODY,
    ) -> Call:
        """Authenticate a request and read its body.

        Args:
            request: The request.
            signed: Whether it must be signed.
            is_json: Whether its body is JSON.
            has_files: Whether its body may hold input files.
            most: Bytes that its body may have; None for the limit of the server.

        Raises:
            Unauthorized: It must be signed by a valid key and is not.
            TooLarge: The body is larger than the limit.
            LimitReached: The key has sent too many requests.
        """
        if not signed:
            self.check_host(request)
        caller = check_headers(request, self._keys, time.time()) if signed else None
        limit = self._config.body_bytes if most is None else min(most, self._config.body_bytes)
        body = await read_body(request, caller, limit, self.unproved, has_files=has_files)
        if caller is not None:
            self._admit(request, caller)
            self._engine.sessions.terminals.tickets.note_sender(caller.public_key, terminal_sender(request))
        return Call(
            engine=self._engine,
            owner=caller.public_key if caller else "",
            settings=caller.settings if caller else KeySettings(),
            params=request.match_info,
            query=request.query,
            body=body.data,
            marks=body.marks,
            members=await parse_large(body.data, body.marks) if is_json else None,
            digest=body.digest,
            idempotency_key=request.headers.get(IDEMPOTENCY_HEADER),
            hold_s=self._config.hold_s,
            path=request.path,
            base_url=self._config.public_url or f"{request.scheme}://{request.host}",
            service_domain=self._config.service_domain,
            connected=lambda: request.transport is not None and not request.transport.is_closing(),
        )
