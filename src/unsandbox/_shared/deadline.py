"""The deadline of a call, passed from layer to layer."""

from __future__ import annotations

import math
import time

from unsandbox.errors import InvalidRequestError

LONG_S = 600.0
"""Seconds for requests in which much is copied: snapshots, clones, images."""


class Deadline:
    """A point in time, made once from the caller's `timeout`.

    Args:
        seconds: Time from now; None means that there is no deadline.

    Raises:
        InvalidRequestError: It is not a number of seconds, zero or more.

    Example:
        >>> Deadline(None).remaining() is None, Deadline(0).passed
        (True, True)
    """

    __slots__ = ("expires", "seconds")

    def __init__(self, seconds: float | None = None) -> None:
        if seconds is None:
            self.expires: float | None = None
        else:
            try:
                sensible = seconds >= 0 and not math.isnan(seconds)
            except TypeError:
                sensible = False
            if not sensible:
                raise InvalidRequestError("timeout must be a number of seconds, zero or more, or None")
            self.expires = time.monotonic() + seconds
        self.seconds = seconds

    def remaining(self) -> float | None:
        """Return the seconds left, zero at the least; None without a deadline."""
        return None if self.expires is None else max(0.0, self.expires - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self.expires is not None and time.monotonic() >= self.expires


NEVER = Deadline()
"""No deadline."""
