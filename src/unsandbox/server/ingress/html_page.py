"""Pages for browsers: plain, without scripts, images or anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html

from aiohttp import web

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 34em; margin: 15vh auto; padding: 0 1em;
color: #222; background: #fafafa }
h1 { font-size: 1.4em } code { color: #666 } a { color: #06c }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } code { color: #999 }
a { color: #6af } }
"""
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
%(head)s<title>%(title)s</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>%(title)s</h1>
%(body)s</body>
</html>
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
FRONT_TITLE = "unsandbox"
FRONT_PAGE = """<p>This server runs programs in sandboxes. It has an API and no pages beside this one.</p>
<p>Use it with the Python package <code>unsandbox</code> or its command <code>un</code>: set
<code>UNSANDBOX_API_BASE</code> to the address of this page, and ask the operator of this server for a key.</p>
<p><a href="/openapi.json">/openapi.json</a> describes the API; <a href="/health">/health</a> tells whether
the server works.</p>
"""
"""What `GET /` tells a browser."""


def html_page(title: str, body: str, *, status: int = 200, refresh_s: int | None = None) -> web.Response:
    """Return a page.

    Args:
        title: Title and heading; text.
        body: HTML.
        status: HTTP status.
        refresh_s: Seconds after which the browser loads the page again.
    """
    head = f'<meta http-equiv="refresh" content="{refresh_s}">\n' if refresh_s is not None else ""
    return web.Response(
        status=status,
        text=_PAGE % {"head": head, "title": html.escape(title), "body": body},
        content_type="text/html",
        headers={
            "Cache-Control": "no-store",
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )
