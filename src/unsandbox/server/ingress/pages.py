"""The ingress's own answers: pages for browsers, JSON for programs."""

from __future__ import annotations

import html
from dataclasses import dataclass

from aiohttp import web

from unsandbox.protocol import codec
from unsandbox.server.ingress.html_page import html_page
from unsandbox.server.protocols import SERVER_NAME


def ingress_answer(
    request: web.BaseRequest,
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
    if as_page is None:
        as_page = "text/html" in request.headers.get("Accept", "")
    if as_page:
        body = f"<p>{html.escape(text)}</p>\n<p><code>{status} {html.escape(code)}</code></p>\n"
        response = html_page(title, body, status=status, refresh_s=retry_s)
    else:
        response = web.Response(
            status=status,
            body=codec.encode({"error": code, "message": f"{title}. {text}"}),
            content_type="application/json",
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        )
    response.headers["Server"] = SERVER_NAME
    if retry_s is not None:
        response.headers["Retry-After"] = str(retry_s)
    return response


@dataclass(frozen=True, slots=True)
class Refusal:
    """What visitors are told when a service is not reached; `{port}` is the port that was meant."""

    status: int
    title: str
    text: str
    retry_s: int | None = None


REFUSALS = {
    "service_not_found": Refusal(
        404,
        "There is no such service",
        "No service has this name, or it has no port that could be reached under it.",
    ),
    "service_frozen": Refusal(
        503, "This service is frozen", "It is paused and uses no resources. Its owner can resume it.", 60
    ),
    "nothing_listens": Refusal(
        502,
        "The service does not listen",
        "Nothing answers on its port {port}. It may still be starting; its log says more.",
        5,
    ),
    "port_token_required": Refusal(
        401,
        "This port needs a token",
        "Send it in the header X-Unsandbox-Token, or as unsandbox_token in a cookie or in the query.",
    ),
    "port_closed": Refusal(
        502, "The program does not listen", "Nothing listens on port {port} of the session.", 5
    ),
    "session_frozen": Refusal(503, "This session is frozen", "Its owner can resume it.", 60),
    "session_unavailable": Refusal(502, "The session cannot be reached right now", "Try again later.", 5),
    "service_unavailable": Refusal(502, "The service cannot be started right now", "Its log may say why.", 5),
    "service_busy": Refusal(503, "This service is busy", "It serves as many visitors as it may.", 5),
}
_ENDED = Refusal(503, "This service is not running", "Its program has ended; its log says why.")


def refusal_of(
    request: web.BaseRequest, code: str, port: int = 0, freeze_page: bool | None = None
) -> web.Response:
    """Return the answer to a visitor of a service that is not reached.

    Args:
        request: What is answered.
        code: Why: one of `REFUSALS`, or that its program has ended.
        port: Port that was meant.
        freeze_page: HTML or JSON for a frozen service; None: as the request wants it.
    """
    refusal = REFUSALS.get(code, _ENDED)
    text = refusal.text.format(port=port)
    return ingress_answer(
        request, refusal.status, code, refusal.title, text, retry_s=refusal.retry_s, as_page=freeze_page
    )
