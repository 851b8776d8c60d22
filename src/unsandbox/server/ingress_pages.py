"""The ingress's own answers: pages for browsers, JSON for programs."""

from __future__ import annotations

import html

from aiohttp import web

from unsandbox.protocol import codec

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 34em; margin: 15vh auto; padding: 0 1em;
color: #222; background: #fafafa }}
h1 {{ font-size: 1.4em }} code {{ color: #666 }}
@media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #181818 }} }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
<p><code>{status} {code}</code></p>
</body>
</html>
"""


def ingress_answer(
    request: web.Request,
    status: int,
    code: str,
    title: str,
    text: str,
    *,
    retry_s: int | None = None,
    as_page: bool | None = None,
) -> web.Response:
    """Return an answer of the ingress.

    Args:
        request: What is answered.
        status: HTTP status.
        code: Short name for programs.
        title: The problem, for people.
        text: The remedy, for people.
        retry_s: When it makes sense to ask again; a page then loads itself again.
        as_page: HTML or JSON; by default as the request wants it.
    """
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if retry_s is not None:
        headers["Retry-After"] = str(retry_s)
    if as_page is None:
        as_page = "text/html" in request.headers.get("Accept", "")
    if not as_page:
        body = codec.encode({"error": code, "message": f"{title}. {text}"})
        return web.Response(status=status, body=body, content_type="application/json", headers=headers)
    headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    refresh = f'<meta http-equiv="refresh" content="{retry_s}">\n' if retry_s is not None else ""
    page = _PAGE.format(
        refresh=refresh, title=html.escape(title), text=html.escape(text), status=status, code=html.escape(code)
    )
    return web.Response(status=status, text=page, content_type="text/html", headers=headers)
