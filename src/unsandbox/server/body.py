"""Bodies of requests: small ones are read at once, large ones checked and taken apart while they arrive."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from aiohttp import web

from unsandbox.engine import InvalidRequest, TooLarge
from unsandbox.protocol.contents import LARGE, Content
from unsandbox.protocol.signing import Verifier
from unsandbox.protocol.splitting import Splitter
from unsandbox.server.auth import Caller

_BATCH = 1 << 18
"""Bytes that are looked at together, in a thread."""
LARGE_AT_ONCE = 4
"""Large bodies for one key from one address that are read at a time: who signed is known only at their ends."""
_IDLE_S = 60.0
_LONGEST_S = 900.0
_turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request whose signature is right, where it needed one.

    Attributes:
        data: What is in memory of it.
        marks: Large files that are not in `data`, by what stands there in their places.
        digest: SHA-256 in hex of the body as it was sent, where that is not of `data`.
    """

    data: bytes
    marks: Mapping[str, Content] = field(default_factory=dict)
    digest: str | None = None


async def read_body(request: web.Request, caller: Caller | None, limit: int, *, has_files: bool) -> Body:
    """Read a body and check its signature. Of one that is refused, nothing is kept.

    Args:
        request: The request.
        caller: Who says to have signed it; None where no signature is needed.
        limit: Largest body in bytes.
        has_files: Whether it is JSON that may hold input files.

    Raises:
        TooLarge: It is larger; no more than that is read.
        InvalidRequest: It ends early, or does not come.
        Unauthorized: The signature does not fit.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    try:
        if has_files and request.can_read_body and (length is None or length > LARGE):
            # Of each address too: a stranger who knows a public key shall not use up its owner's turns.
            sender = f"{caller.public_key if caller is not None else ''} {request.remote}"
            turns = _turns.setdefault(sender, asyncio.Semaphore(LARGE_AT_ONCE))
            async with turns, asyncio.timeout(_LONGEST_S):
                return await _read_large(request, caller, limit)
        if length is not None:
            data = await request.read()
        else:
            data = b"".join([batch async for batch in _batches(request, limit)])
    except TimeoutError as error:
        raise InvalidRequest("the body did not come in time", code="incomplete") from error
    except ConnectionResetError as error:
        raise InvalidRequest("the connection closed before the body ended", code="incomplete") from error
    if caller is not None:
        caller.check_body(request.method, request.raw_path, data)
    return Body(data)


def too_large(limit: int) -> TooLarge:
    """Return the refusal of a body."""
    return TooLarge(f"the request body is larger than {limit >> 20} MiB")


async def _read_large(request: web.Request, caller: Caller | None, limit: int) -> Body:
    splitter, digest = Splitter(), hashlib.sha256()
    check = None if caller is None else caller.verifier(request.method, request.raw_path)
    try:
        async for piece in _batches(request, limit):
            # Decoding takes a processor, and a disk may be slow: other requests go on meanwhile.
            await asyncio.to_thread(_take, piece, splitter, digest, check)
        data = splitter.finish()
        if caller is not None and check is not None:
            if splitter.marks:
                caller.check_taken(check)
            else:
                caller.check_body(request.method, request.raw_path, data)
    except BaseException:
        splitter.drop()
        raise
    return Body(data, splitter.marks, digest.hexdigest())


async def _batches(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    batch: list[bytes] = []
    waiting = total = 0
    while True:
        async with asyncio.timeout(_IDLE_S):
            piece = await request.content.readany()
        if not piece:
            break
        total += len(piece)
        if total > limit:
            raise too_large(limit)
        batch.append(piece)
        waiting += len(piece)
        if waiting > _BATCH:
            yield b"".join(batch)
            batch, waiting = [], 0
    if batch:
        yield b"".join(batch)


def _take(piece: bytes, splitter: Splitter, digest: hashlib._Hash, check: Verifier | None) -> None:
    digest.update(piece)
    if check is not None:
        check.update(piece)
    splitter.feed(piece)
