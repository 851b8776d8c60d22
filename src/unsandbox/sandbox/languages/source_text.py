"""Removes comments and strings from programs in languages with a syntax like C's, and from Haskell."""

from __future__ import annotations

import re

# Comments and strings are read by searches for single marks, not by one pattern: Python before 3.11.5 misreads
# groups that are repeated possessively (gh-106052), and other repetitions keep memory for every character.
_OPEN = re.compile(r'//|/\*|"""|["\']')
_OPEN_HASKELL = re.compile(r"--|\{-")
_CLOSE = {
    "//": re.compile(r"(?=\n)"),
    "--": re.compile(r"(?=\n)"),
    "/*": re.compile(r"\*/"),
    "{-": re.compile(r"-\}"),
    '"""': re.compile(r'\\.|"""', re.DOTALL),
    '"': re.compile(r'\\.|"|(?=\n)', re.DOTALL),
    "'": re.compile(r"\\.|'|(?=\n)", re.DOTALL),
}
_NOT_LINE_END = re.compile(r"[^\n]")


def without_noise(code: str, *, haskell: bool = False) -> str:
    """Replace comments and strings by spaces; every other character keeps its position.

    A string without an end extends to the end of its line, a comment or text block without one to the end of
    the file. The time is linear in the length of the code.

    Args:
        code: The program.
        haskell: Whether the comments are those of Haskell; its strings are kept.

    Example:
        >>> without_noise('a /* b */ = "c";')
        'a         =    ;'
    """
    pieces, at = [], 0
    while (opened := (_OPEN_HASKELL if haskell else _OPEN).search(code, at)) is not None:
        end = _end(code, opened)
        pieces += [code[at : opened.start()], _NOT_LINE_END.sub(" ", code[opened.start() : end])]
        at = end
    return "".join([*pieces, code[at:]])


def _end(code: str, opened: re.Match[str]) -> int:
    """Return the place behind a comment or string."""
    for found in _CLOSE[opened[0]].finditer(code, opened.end()):
        if not found[0].startswith("\\"):
            return found.end()
    return len(code)
