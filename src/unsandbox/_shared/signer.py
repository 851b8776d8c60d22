"""Signing the attempts of one call, with a clock that may be wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from unsandbox._shared.request import clock_offset
from unsandbox.credentials import Credentials
from unsandbox.protocol.contents import Pieces
from unsandbox.protocol.signing import CLOCK_TOLERANCE_S, signed_headers

__all__ = ["ServerClock", "Signer"]

logger = logging.getLogger("unsandbox.client")

_WORST_CLOCK_S = 86400.0
"""A `Date` farther away is not believed: a signature for a later day could be kept, and used then."""


class ServerClock:
    """The server's clock, shared by all calls to it.

    Attributes:
        offset: Seconds that it is ahead of this machine's clock, as far as a signature had to know.
    """

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset = 0.0


class Signer:
    """Signs the attempts of one call, and notes once how wrong this machine's clock is.

    Args:
        clock: The server's clock.
        keys: The keys to sign with; None where nothing is signed.
    """

    __slots__ = ("_clock", "_corrected", "_keys", "_offset")

    def __init__(self, clock: ServerClock, keys: Credentials | None) -> None:
        self._clock = clock
        self._keys = keys
        self._offset = 0.0
        self._corrected = False

    def headers(self, method: str, target: str, body: bytes | Pieces = b"") -> dict[str, str]:
        """Return the headers that sign one attempt, now."""
        keys = self._keys
        if keys is None:
            return {}
        self._offset = self._clock.offset
        timestamp = int(time.time() + self._offset)
        return signed_headers(keys.public_key, keys.secret_key, timestamp, method, target, body)

    def clock_was_wrong(self, status: int, headers: Mapping[str, str]) -> bool:
        """Return whether a request was refused because of its time; if so, use the server's clock from now on.

        Another call may have found out meanwhile: the time of this signature was wrong all the same.
        """
        if status != 401 or "Date" not in headers:
            return False
        offset = clock_offset(headers)
        wrong = abs(offset - self._offset) > CLOCK_TOLERANCE_S and abs(offset) < _WORST_CLOCK_S
        if not wrong or self._corrected:
            return False
        self._corrected = True
        if self._clock.offset == self._offset:
            logger.warning(
                "this machine's clock differs from the server's by %.0f s; using the server's time", -offset
            )
        self._clock.offset = offset
        return True
