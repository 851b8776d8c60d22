"""The text of programs in languages that look like C: what is neither comment nor string."""

from __future__ import annotations

import re

# In linear time: repetitions never give back what they took (`*+`), and a string or comment without an end
# goes on to the end of its line or of the file.
_NOISE = re.compile(
    r"//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)"
    r'|"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\Z)'
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'(?:[^'\\\n]|\\.)*+'?",
    re.DOTALL,
)
_NOT_LINE_END = re.compile(r"[^\n]")


def without_noise(code: str) -> str:
    """Return the text with spaces in place of comments and strings; every other character stays where it is.

    Example:
        >>> without_noise('a /* b */ = "c";')
        'a         =    ;'
    """
    return _NOISE.sub(lambda found: _NOT_LINE_END.sub(" ", found[0]), code)
