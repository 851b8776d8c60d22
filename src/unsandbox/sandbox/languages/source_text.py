"""Removes comments and strings from programs in languages with a syntax like C's."""

from __future__ import annotations

import re

# In linear time: repetitions are possessive (`*+`), and a string or comment without an end extends to the end
# of its line or of the file.
_NOISE = re.compile(
    r"//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)"
    r'|"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\Z)'
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'(?:[^'\\\n]|\\.)*+'?",
    re.DOTALL,
)
_NOT_LINE_END = re.compile(r"[^\n]")


def without_noise(code: str) -> str:
    """Replace comments and strings by spaces; every other character keeps its position.

    Example:
        >>> without_noise('a /* b */ = "c";')
        'a         =    ;'
    """
    return _NOISE.sub(lambda found: _NOT_LINE_END.sub(" ", found[0]), code)
