"""The default of arguments for which None has a meaning."""

from __future__ import annotations

from enum import Enum
from typing import Literal

__all__ = ["NOT_GIVEN", "NO_LIMIT_S", "NotGiven", "limit_s"]

NO_LIMIT_S = 365 * 86400.0
"""Replaces a missing time limit where a number is needed: practically for ever, but valid for clocks."""


class NotGiven(Enum):
    """The type of `NOT_GIVEN`, the default of arguments for which None has a meaning.

    Example:
        ```python
        client.with_options(timeout=None)  # no time limit
        client.with_options()  # the client's own
        ```
    """

    NOT_GIVEN = "not given"

    def __repr__(self) -> str:
        return self.name

    def __bool__(self) -> Literal[False]:
        return False


NOT_GIVEN = NotGiven.NOT_GIVEN
"""The argument was omitted."""


def limit_s(timeout: float | None) -> float:
    """Return a time limit as a number."""
    return NO_LIMIT_S if timeout is None else timeout
