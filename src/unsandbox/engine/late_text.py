"""Large texts that are made from bytes when they are encoded: whole, they would take many times the memory."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Iterator
from typing import Self

_STEP = 3 << 14
"""Bytes at a time; base64 needs a multiple of three."""


class LateText(str):
    """The text of bytes that are not UTF-8, or their base64.

    `encode_answer` alone reads it. As a string it is empty, and other encoders refuse it.

    Args:
        data: The bytes.
        size: How many of them, from the first one on.
        exact: Whether it is their base64. Otherwise each bad byte is U+FFFD.
    """

    __slots__ = ("_data", "_exact", "_size")

    _data: bytes
    _size: int
    _exact: bool

    def __new__(cls, data: bytes, size: int, *, exact: bool) -> Self:  # noqa: D102
        text = super().__new__(cls)
        text._data, text._size, text._exact = data, size, exact
        return text

    def __len__(self) -> int:
        return self._size

    def __sizeof__(self) -> int:
        # Text and base64 share the bytes.
        return 0 if self._exact else len(self._data)

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for start in range(0, self._size, _STEP):
            piece = self._data[start : min(start + _STEP, self._size)]
            if self._exact:
                yield base64.b64encode(piece).decode("ascii")
            else:
                yield decoder.decode(piece, start + _STEP >= self._size)
