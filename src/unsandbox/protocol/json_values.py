"""Counts the values of a JSON text before it is parsed, which takes time and memory for each of them."""

from __future__ import annotations

import re

REGION_BYTES = 1 << 18
"""Bytes that are looked at in one step, between which other threads have their turn."""
_IN_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SEPARATORS = (b",", b"[", b"{")


def has_more_values(text: bytes, most: int) -> bool:
    """Return whether a JSON text has more than `most` values and names.

    Linear in the length of the text; for invalid JSON the answer is arbitrary.

    Example:
        >>> has_more_values(b'{"a": [1, 2, ",,,,,,"]}', 7), has_more_values(b"[0,0,0,0]", 3)
        (False, True)
    """
    # Separators in strings count here too, but most texts have so few that this is the whole answer.
    if _separators(text, 0, len(text)) + text.count(b'"') <= most:
        return False
    count = at = 0
    while count <= most:
        quote = text.find(b'"', at)
        count += 1 + _separators(text, at, len(text) if quote < 0 else quote)
        if quote < 0:
            return count > most
        at = _end_of_string(text, quote + 1)
    return True


def _separators(text: bytes, start: int, end: int) -> int:
    return sum(
        text.count(separator, region, min(region + REGION_BYTES, end))
        for region in range(start, end, REGION_BYTES)
        for separator in _SEPARATORS
    )


def _end_of_string(text: bytes, at: int) -> int:
    """Return the place behind the quote that ends a string."""
    while at < len(text):
        match = _IN_TEXT.match(text, at, at + REGION_BYTES)
        at = match.end() if match else at
        if at >= len(text):
            break
        if text[at] == ord('"'):
            return at + 1
        if text[at] == ord("\\") and (at + 1 == len(text) or match is None or match.end() == match.start()):
            return len(text)
    return len(text)
