"""One endpoint of the table as a request handler of aiohttp."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from aiohttp import web

from unsandbox.engine import Engine, RequestError, UnknownJob, UnknownObject
from unsandbox.engine.accounts.audit import code_hash
from unsandbox.engine.encoding import encode_answer
from unsandbox.engine.memory import trim_soon
from unsandbox.protocol.contents import LARGE, Pieces
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.jobs import JOBS
from unsandbox.protocol.models import Job, WireModel
from unsandbox.protocol.services import ServiceJob
from unsandbox.server.call import Call, read_flag
from unsandbox.server.handlers import HANDLERS
from unsandbox.server.reader import RequestReader
from unsandbox.server.responses import json_response, status_of
from unsandbox.server.streams import stream_service_log

_STORED = ("get_job", "wait_job")
"""Endpoints whose answer for an ended job is the stored result."""

CodeCheck = Callable[[str, web.Request], None]
"""Raises unless a request of a key, given first, may do without a one-time code or has one."""


class Operation:
    """Serves an endpoint: reads the request, asks for a one-time code, calls the handler, answers, audits.

    Args:
        endpoint: The row of the table.
        engine: The engine.
        reader: Authenticates and reads requests.
        check_code: Asks for one-time codes where they are needed.
    """

    def __init__(
        self, endpoint: Endpoint, engine: Engine, reader: RequestReader, check_code: CodeCheck
    ) -> None:
        self._endpoint = endpoint
        self._handler = HANDLERS[endpoint.name]
        self._engine = engine
        self._reader = reader
        self._check_code = check_code
        self._has_files = endpoint.request is not None and "input_files" in endpoint.request.__struct_fields__
        is_job = endpoint in JOBS  # The engine audits jobs, and their rows hold the idempotency key.
        self._audited = endpoint.method != "GET" and not endpoint.safe and not is_job
        self._once_per_key = endpoint.creates and not is_job

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        endpoint = self._endpoint
        call = await self._reader.read(
            request,
            signed=endpoint.auth == "signed",
            is_json=endpoint.body == "json",
            has_files=self._has_files,
            most=endpoint.body_bytes,
        )
        if endpoint.name == "service_logs" and read_flag(call.query, "follow"):
            return await stream_service_log(request, call)
        if not self._audited:
            return await self._answer(call, request)
        status = 500
        try:
            response = await self._answer(call, request)
            status = response.status
        except RequestError as refusal:
            status = status_of(refusal)
            raise
        else:
            return response
        finally:
            self._audit(call, status)

    async def _answer(self, call: Call, request: web.Request) -> web.Response:
        if self._endpoint.protected:
            self._check_code(call.owner, request)
        body: bytes | Pieces = b""
        try:
            if self._once_per_key and call.idempotency_key:
                body = await self._answer_once(call, request, call.idempotency_key)
            else:
                body = await self._stored(call) or await self._encoded(await self._handler(call))
        finally:
            if max(len(body), len(call.body)) > LARGE:
                trim_soon()
        return json_response(self._endpoint.status, body)

    async def _answer_once(self, call: Call, request: web.Request, key: str) -> bytes | Pieces:
        """Return the answer of the first request with this key; the handler runs for that one alone."""

        async def make() -> bytes | Pieces:
            return await self._encoded(await self._handler(call))

        async def describe(kind: str, object_id: str) -> bytes | Pieces | None:
            return await _describe(call, kind, object_id)

        # Of a large body the part in memory says nothing of its files.
        content = call.body_sha256.encode() if call.marks else call.body
        fingerprint = hashlib.sha256(request.raw_path.encode() + b"\0" + content).hexdigest()
        return await self._engine.replies.once(call.owner, key, fingerprint, make, describe)

    async def _stored(self, call: Call) -> Pieces | None:
        """Return an answer that is stored as it is sent."""
        if self._endpoint.name not in _STORED:
            return None
        return await self._engine.jobs.stored_answer(call.owner, call.params["id"])

    async def _encoded(self, answer: WireModel) -> bytes | Pieces:
        is_job = type(answer) in (Job, ServiceJob)
        return await (self._engine.jobs.encoded(cast("Job", answer)) if is_job else encode_answer(answer))

    def _audit(self, call: Call, status: int) -> None:
        if self._engine.audit is None:
            return
        self._engine.audit.note(
            self._endpoint.name,
            owner=call.owner,
            **{name: _logged(value) for name, value in call.params.items()},
            # The hash of a short secret is as revealing as the secret, because it can be guessed.
            body_sha256=None if self._endpoint.name == "set_vault" else call.body_sha256,
            status=status,
        )


async def _describe(call: Call, kind: str, object_id: str) -> bytes | Pieces | None:
    """Return the answer for an object that exists; None when it does not."""
    handler = HANDLERS.get("wait_job" if kind == "job" else f"get_{kind}")
    if handler is None:
        return None
    try:
        answer = await handler(replace(call, params={"id": object_id}, query={}))
    except (UnknownObject, UnknownJob):
        return None
    return await encode_answer(answer)


def _logged(name: str) -> str:
    """Return an id as logs have it: of a session's, which opens its terminal, only a hash."""
    return f"session_sha256:{code_hash(name)[:16]}" if name.startswith("session_") else name
