"""Results of code as HTML for notebooks."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def bundle_html(stdout: str, stderr: str, results: Sequence[Mapping[str, Any]], error: object | None) -> str:
    """Return output and results as HTML. HTML and SVG of results are framed, so that scripts cannot act.

    Args:
        stdout: Standard output.
        stderr: Standard error.
        results: The representations of each result by MIME type.
        error: The exception; None if there was none.
    """
    parts = [_pre(stdout), _pre(stderr, "color: #b00")]
    for data in results:
        if "image/png" in data or "image/jpeg" in data:
            kind = "image/png" if "image/png" in data else "image/jpeg"
            parts.append(f'<img src="data:{kind};base64,{html.escape(str(data[kind]))}">')
        elif rich := data.get("text/html") or data.get("image/svg+xml"):
            framed = html.escape(str(rich))
            parts.append(f'<iframe sandbox style="width: 100%; border: 0" srcdoc="{framed}"></iframe>')
        else:
            parts.append(_pre(str(data.get("text/plain", ""))))
    if error is not None:
        parts.append(_pre(str(error), "color: #b00"))
    return "".join(parts)


def plain(text: str) -> str:
    """Return a text without terminal colours."""
    return _COLOURS.sub("", text)


def _pre(text: str, style: str = "") -> str:
    return f'<pre style="{style}">{html.escape(plain(text))}</pre>' if text else ""
