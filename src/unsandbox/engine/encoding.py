"""Answers as JSON, made beside the event loop when they are large, and then in a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from unsandbox.engine.background import LARGE_BYTES, run_large
from unsandbox.engine.late_text import LateText
from unsandbox.protocol import codec
from unsandbox.protocol.contents import Content, Pieces, Spool, Written, chunks_of
from unsandbox.protocol.models import WireModel

_STEP = 1 << 16
"""Characters of a text that are encoded in one step: the encoder holds the interpreter as long."""

M = TypeVar("M", bound=WireModel)


async def encode_answer(model: WireModel) -> bytes | Pieces:
    """Return a model as JSON. A large one comes in pieces, and other requests go on while it is encoded.

    Large texts lie in a temporary file then: as JSON they take up to six times the memory, until the last
    byte is sent.

    Raises:
        InvalidRequestError: A text holds a lone surrogate.
    """
    texts = _Texts()
    marked = texts.taken_out(model)
    return await run_large(texts.size, texts.encode, marked)


def whole(body: bytes | Pieces) -> bytes:
    """Return a body in one piece."""
    return body if isinstance(body, bytes) else b"".join(chunks_of(body))


class _Texts:
    """The large texts of a model, which are encoded apart and in steps; marks stand in their places."""

    def __init__(self) -> None:
        # A random mark, which the texts cannot contain.
        self._mark = f"text-{os.urandom(16).hex()}-"
        self._taken: list[str] = []
        self._spool: Spool | None = None
        self._files: dict[int, Written] = {}

    @property
    def size(self) -> int:
        """Characters in them."""
        return sum(map(len, self._taken))

    def taken_out(self, model: M) -> M:
        """Return a model without its large texts and those of the models that it lists."""
        changes: dict[str, Any] = {}
        for name in model.__struct_fields__:
            if name == model.LAZY_FIELD:
                continue
            value = getattr(model, name)
            if isinstance(value, str) and (len(value) > LARGE_BYTES or isinstance(value, LateText)):
                changes[name] = f"{self._mark}{len(self._taken)}-"
                self._taken.append(value)
            elif isinstance(value, list) and value and isinstance(value[0], WireModel):
                items = [self.taken_out(item) if isinstance(item, WireModel) else item for item in value]
                if any(new is not old for new, old in zip(items, value, strict=True)):
                    changes[name] = items
        return model.replace(**changes) if changes else model

    def encode(self, model: WireModel) -> bytes | Pieces:
        """Return a model whose large texts were taken out as JSON, with them."""
        encoded = codec.encode_pieces(model)
        if not self._taken:
            return encoded
        place = re.compile(re.escape(self._mark.encode()) + rb"(\d+)-")
        parts: list[bytes | Content] = []
        for part in (encoded,) if isinstance(encoded, bytes) else encoded.parts:
            if not isinstance(part, bytes):
                parts.append(part)
                continue
            # Between the parts that are JSON already stand the numbers of the texts.
            for number, piece in enumerate(place.split(part)):
                parts.append(self._written(int(piece)) if number % 2 else piece)
        return Pieces(parts)

    def _written(self, number: int) -> Written:
        """Return a text as a JSON string without its quotes, in a file."""
        known = self._files.get(number)
        if known is None:
            self._spool = spool = self._spool or Spool()
            begin, text = spool.size, self._taken[number]
            for piece in _pieces(text):
                spool.write(codec.encode_text(piece)[1:-1])
            known = self._files[number] = Written(spool.since(begin))
        return known


def _pieces(text: str) -> Iterator[str]:
    """Yield a large text in pieces that are quickly encoded."""
    if isinstance(text, LateText):
        yield from text.pieces()
    else:
        for start in range(0, len(text), _STEP):
            yield text[start : start + _STEP]
