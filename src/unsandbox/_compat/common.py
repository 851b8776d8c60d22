"""What both sides of a pair are made of."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from unsandbox.errors import InvalidRequestError


class Nothing(Enum):
    """What is given where there is no item: an item itself may be anything, None included."""

    NOTHING = "nothing"


NOTHING = Nothing.NOTHING


def joined(pieces: Iterable[str | bytes]) -> bytes:
    """Return pieces of text and bytes as bytes.

    Raises:
        InvalidRequestError: A piece is neither.
    """
    try:
        return b"".join(piece.encode() if isinstance(piece, str) else piece for piece in pieces)
    except (TypeError, UnicodeEncodeError):
        raise InvalidRequestError("stdin must be text, bytes or a file, or yield pieces of them") from None
