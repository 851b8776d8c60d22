"""Code that both sides of the pair share."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import TypeVar

from unsandbox.errors import InvalidRequestError

T = TypeVar("T")


class Nothing(Enum):
    """Replaces a missing item, because an item may be any value, including None."""

    NOTHING = "nothing"


NOTHING = Nothing.NOTHING


def in_time(pieces: Iterable[T], seconds: float | None) -> Iterator[T]:
    """Yield pieces for at most a number of seconds; waiting for a single piece is not interrupted.

    Raises:
        TimeoutError: The time is up.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    for piece in pieces:
        if ends is not None and time.monotonic() >= ends:
            raise TimeoutError
        yield piece


def joined(pieces: Iterable[str | bytes]) -> bytes:
    """Return pieces of text and bytes as bytes.

    Raises:
        InvalidRequestError: A piece is neither.
    """
    try:
        return b"".join(piece.encode() if isinstance(piece, str) else piece for piece in pieces)
    except (TypeError, UnicodeEncodeError):
        raise InvalidRequestError("stdin must be text, bytes or a file, or yield pieces of them") from None
