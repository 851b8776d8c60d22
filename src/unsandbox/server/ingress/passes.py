"""The tokens that visitors show to enter the ports of sessions.

A token comes in a header, in the query, or in a cookie, which the answer to a browser's first request sets. It
is not passed on: the program behind the port has no use for it. A cookie alone is not enough for a request that
another web page made, since browsers add cookies to these too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from unsandbox.protocol.processes import PORT_COOKIE, PORT_HEADER
from unsandbox.server.protocols import SERVER_NAME

_PORT_FIRST = re.compile(r"[1-9][0-9]{0,4}-")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class Pass:
    """What a visitor shows.

    Attributes:
        host: The `Host` header.
        target: Path and query, without the token.
        token: The token; empty for none.
        in_address: Whether it was in the query.
    """

    host: str
    target: str
    token: str = field(default="", repr=False)
    in_address: bool = False


def pass_of(request: web.BaseRequest, name: str, host: str) -> Pass:
    """Return what the visitor of a host shows.

    Args:
        request: The request.
        name: Its host name, lower-case and without a port.
        host: Its `Host` header.
    """
    if not _PORT_FIRST.match(name):
        return Pass(host, request.raw_path)
    target, in_query = _without_member(request.raw_path)
    for token, in_address in ((request.headers.get(PORT_HEADER, ""), False), (in_query, True)):
        if _TOKEN.match(token):
            return Pass(host, target, token, in_address)
    token = _in_cookies(request.headers.getall(hdrs.COOKIE, []))
    return Pass(host, target, token if _TOKEN.match(token) and _is_own(request, host) else "")


def wants_page(request: web.BaseRequest) -> bool:
    """Return whether a browser asks for a page, which it will ask for again after a redirection."""
    return request.method in {"GET", "HEAD"} and "text/html" in request.headers.get(hdrs.ACCEPT, "")


def with_cookie(request: web.BaseRequest, shown: Pass) -> web.Response:
    """Return an answer that lets a browser keep the token as a cookie, and takes it out of the address."""
    secure = "; Secure" if request.scheme == "https" else ""
    return web.Response(
        status=303,
        headers={
            # With the host: a path that begins with two slashes would lead elsewhere.
            hdrs.LOCATION: f"{request.scheme}://{shown.host}{shown.target}",
            hdrs.SET_COOKIE: f"{PORT_COOKIE}={shown.token}; Path=/; HttpOnly; SameSite=Lax{secure}",
            hdrs.CACHE_CONTROL: "no-store",
            "Referrer-Policy": "no-referrer",
            hdrs.SERVER: SERVER_NAME,
        },
    )


def without_token(headers: CIMultiDict[str]) -> None:
    """Remove a token from headers that are passed on."""
    headers.popall(PORT_HEADER, None)
    cookies = [part.strip() for line in headers.popall(hdrs.COOKIE, []) for part in line.split(";")]
    kept = [cookie for cookie in cookies if cookie.partition("=")[0].strip() != PORT_COOKIE]
    if kept:
        headers[hdrs.COOKIE] = "; ".join(kept)


def _without_member(target: str) -> tuple[str, str]:
    """Return path and query without the token, and the token in them."""
    path, _, query = target.partition("?")
    token, kept = "", []
    for member in query.split("&"):
        name, _, value = member.partition("=")
        if unquote(name) == PORT_COOKIE:
            token = unquote(value)
        else:
            kept.append(member)
    if not token:
        return target, ""
    return f"{path}?{'&'.join(kept)}" if kept else path, token


def _in_cookies(lines: list[str]) -> str:
    for part in ";".join(lines).split(";"):
        name, _, value = part.partition("=")
        if name.strip() == PORT_COOKIE:
            return value.strip()
    return ""


def _is_own(request: web.BaseRequest, host: str) -> bool:
    """Return whether a request was not made by the web page of another host.

    Source: Fetch Metadata Request Headers (W3C), and the `Origin` header (RFC 6454).
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        try:
            if URL(origin).authority.lower() != host.lower():
                return False
        except ValueError:
            return False
    opened = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.method in {"GET", "HEAD"}
    return opened or request.headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}
