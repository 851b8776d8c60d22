"""Bodies of requests. Until its signature is proved, a body is held on disk but for a small part of it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from aiohttp import web

from unsandbox.engine import InvalidRequest, TooLarge
from unsandbox.engine.memory import trim_soon
from unsandbox.protocol.contents import LARGE, Content, Overflow
from unsandbox.protocol.signing import Verifier
from unsandbox.protocol.splitting import Splitter
from unsandbox.server.auth import Caller
from unsandbox.server.unproved import UnprovedBytes, sender_of

SMALL = 1 << 16
"""Bytes of a body that is read into memory at once."""
TEXT_BYTES = 64 << 20
"""Largest body without its files, which is parsed in memory."""
_BATCH = 1 << 18
"""Bytes that are hashed and decoded together, in a thread."""
LARGE_AT_ONCE = 4
"""Large bodies for one key from one address that are read at a time: who signed is known only at their ends."""
_GRACE_S = 30.0
_SLOWEST_BYTES_PER_S = 32 * 1024
"""A body that comes more slowly than this, after a grace time, is given up."""
_turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request whose signature is right, where it needed one.

    Attributes:
        data: The part in memory: all but large files.
        marks: Large files that are not in `data`, by the texts that stand in their places.
        digest: SHA-256 in hex of the body as it was sent, when it was large.
    """

    data: bytes
    marks: Mapping[str, Content] = field(default_factory=dict)
    digest: str | None = None


async def read_body(
    request: web.Request, caller: Caller | None, limit: int, unproved: UnprovedBytes, *, has_files: bool
) -> Body:
    """Read a body and check its signature. Of one that is refused, nothing is kept.

    Args:
        request: The request.
        caller: The key that it claims to be signed by; None where no signature is needed.
        limit: Largest body in bytes.
        unproved: Limits the bytes that are held before signatures are checked.
        has_files: Whether it is JSON that may hold input files.

    Raises:
        TooLarge: It is larger; no more than that is read.
        InvalidRequest: It ends early, or comes too slowly.
        Unauthorized: The signature does not fit.
        Busy: Too many bytes of other bodies wait for their signatures to be checked.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    try:
        if not request.can_read_body or (length is not None and length <= SMALL):
            async with unproved.memory(sender_of(request), length or 0):
                data = b"".join([batch async for batch in _batches(request, limit)])
                if caller is not None:
                    caller.check_body(request.method, request.raw_path, data)
                return Body(data)
        # For each address: a stranger who knows a public key must not use up its owner's turns.
        sender = f"{caller.public_key if caller is not None else ''} {sender_of(request)}"
        turns = _turns.setdefault(sender, asyncio.Semaphore(LARGE_AT_ONCE))
        # A body that is not so large needs no turn, which only keeps the disk free.
        if length is not None and length <= LARGE:
            return await _read_large(request, caller, limit, unproved, has_files=has_files)
        async with turns:
            return await _read_large(request, caller, limit, unproved, has_files=has_files)
    except TimeoutError as error:
        raise InvalidRequest("the body arrived too slowly", code="incomplete") from error
    except ConnectionResetError as error:
        raise InvalidRequest("the connection closed before the body ended", code="incomplete") from error


def too_large(limit: int) -> TooLarge:
    """Return the refusal of a body."""
    return TooLarge(f"the request body is larger than {limit >> 20} MiB")


class _Receiver:
    """Takes a body in pieces: hashes it, takes large files out, and keeps the rest. Called in threads."""

    def __init__(self, verifier: Verifier | None, *, has_files: bool) -> None:
        self._verifier = verifier
        self._digest = hashlib.sha256()
        self._text = Overflow(LARGE // 4)
        self._splitter = Splitter(self._text) if has_files else None

    def take(self, piece: bytes) -> None:
        self._digest.update(piece)
        if self._verifier is not None:
            self._verifier.update(piece)
        if self._splitter is not None:
            self._splitter.feed(piece)
        else:
            self._text += piece
        if len(self._text) > TEXT_BYTES:
            raise TooLarge(
                f"the request without its large files is larger than {TEXT_BYTES >> 20} MiB; send data as "
                "input files"
            )

    def finish(self) -> Body:
        """Return the body; only once its signature was checked, as its text is in memory then."""
        if self._splitter is None:
            return Body(bytes(self._text), digest=self._digest.hexdigest())
        data = self._splitter.finish()
        return Body(data, self._splitter.marks, self._digest.hexdigest())

    def drop(self) -> None:
        """Release everything."""
        if self._splitter is not None:
            self._splitter.drop()
        self._text.close()


async def _read_large(
    request: web.Request, caller: Caller | None, limit: int, unproved: UnprovedBytes, *, has_files: bool
) -> Body:
    verifier = None if caller is None else caller.verifier(request.method, request.raw_path)
    receiver = _Receiver(verifier, has_files=has_files)
    try:
        sender = sender_of(request)
        async with unproved.memory(sender, LARGE):
            with unproved.disk(sender) as charge:
                async for piece in _batches(request, limit):
                    charge(len(piece))
                    # Hashing takes a processor, and a disk may be slow: other requests go on meanwhile.
                    await asyncio.to_thread(receiver.take, piece)
                if caller is not None and verifier is not None:
                    caller.check_taken(verifier)
        return await asyncio.to_thread(receiver.finish)
    except BaseException:
        receiver.drop()
        raise
    finally:
        trim_soon()


async def _batches(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the body as it comes.

    Raises:
        TooLarge: It is larger than the limit.
        TimeoutError: It comes too slowly.
    """
    batch: list[bytes] = []
    waiting = total = 0
    began = asyncio.get_running_loop().time()
    while True:
        async with asyncio.timeout_at(began + _GRACE_S + total / _SLOWEST_BYTES_PER_S):
            piece = await request.content.readany()
        if not piece:
            break
        total += len(piece)
        if total > limit:
            raise too_large(limit)
        batch.append(piece)
        waiting += len(piece)
        if waiting > _BATCH:
            # The time that the server itself takes for a batch is not the sender's.
            busy_since = time.monotonic()
            yield b"".join(batch)
            began += time.monotonic() - busy_since
            batch, waiting = [], 0
    if batch:
        yield b"".join(batch)
