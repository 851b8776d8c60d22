"""Files, ports and watches of a session: signed URLs, tokens of ports, directories of others."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from tests.abuse.served import Result, Target, add, attack, refused

from unsandbox.protocol.file_urls import file_url

URLS, TOKENS, WATCHES = "signed URLs of files", "tokens of ports", "watches"
HMAC = "HMAC over method, session, path and end"
_session: dict[str, Any] = {}

CHANGES: dict[str, Callable[[str], str]] = {
    "another path": lambda url: url.replace("mine", "other"),
    "a path twice": lambda url: f"{url}&path=other",
    "a path before": lambda url: url.replace("path=", "path=other&path="),
    "a path with a line end": lambda url: url.replace("mine", "mine%0Aother"),
    "a later end": lambda url: re.sub(r"expires=\d+", "expires=9999999999", url),
    "a negative end": lambda url: re.sub(r"expires=\d+", "expires=-1", url),
    "an end in other digits": lambda url: re.sub(r"expires=\d+", "expires=%D9%A1%D9%A2", url),
    "no signature": lambda url: re.sub(r"&signature=\w+", "", url),
    "an empty signature": lambda url: re.sub(r"signature=\w+", "signature=", url),
    "a signature in capitals": lambda url: re.sub(r"signature=\w+", lambda found: found[0].upper(), url),
    "a signature that is no text": lambda url: re.sub(r"signature=\w+", "signature=%ff%fe", url),
    "a key that does not exist": lambda url: re.sub(r"key=[^&]+", "key=unsb-pk-0000-0000-0000-0000", url),
    "a key that is no text": lambda url: re.sub(r"key=[^&]+", "key=%ff", url),
    "another operation": lambda url: url.replace("/files/content", "/files/read"),
    "the session itself": lambda url: url.replace("/files/content", ""),
}
SHOWN = {
    "no token": "",
    "an empty token": "X-Unsandbox-Token: \r\n",
    "a wrong token": f"X-Unsandbox-Token: {'a' * 32}\r\n",
    "a long token": f"X-Unsandbox-Token: {'a' * 5000}\r\n",
    "a cookie without a value": "Cookie: unsandbox_token\r\n",
    "a wrong cookie": f"Cookie: a=1; unsandbox_token={'a' * 32}\r\n",
    "a foreign key": "Authorization: Bearer unsb-pk-0000-0000-0000-0000\r\n",
    "a WebSocket": "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
}


def declare() -> None:
    """Declare the families."""
    for what, change in CHANGES.items():
        add(f"signed URL with {what}", URLS, what, HMAC, _changed_url(change))
    for what, headers in SHOWN.items():
        add(f"port with {what}", TOKENS, what, "the token, compared in constant time", _port_with(headers))


def session_of(target: Target) -> dict[str, Any]:
    """Return a session with two files and an exposed port; it is made once for a server."""
    if _session.get("at") != target.serve.url:
        status, made = target.call("POST", "/sessions", {"network_mode": "zerotrust"})
        assert status == 200, made
        _session.update(at=target.serve.url, id=made["session_id"])
        for name in ("mine", "other"):
            members = {"path": name, "content": "secret"}
            assert target.call("POST", f"/sessions/{_session['id']}/files/write", members)[0] == 200
        status, port = target.call("POST", f"/sessions/{_session['id']}/ports", {"port": 8000})
        assert status == 200, port
        _session.update(host=port["url"].removeprefix("http://"), token=port["token"])
    return _session


def link(target: Target, *, seconds: int = 600, write: bool = False) -> str:
    """Return path and query of the signed URL of a file."""
    session = session_of(target)
    ends = int(time.time()) + seconds
    return file_url("", target.keys, session["id"], "mine", expires_at=ends, write=write)


def ask(target: Target, method: str, place: str, headers: str = "", host: str = "x") -> int:
    """Send a request; return the status of the answer."""
    return target.status(
        f"{method} {place} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: 0\r\n\r\n".encode()
    )


def _own(target: Target) -> str:
    return f"127.0.0.1:{target.address[1]}"


def _changed_url(change: Callable[[str], str]) -> Callable[[Target], Result]:
    def function(target: Target) -> Result:
        place = link(target)
        if ask(target, "GET", place, host=_own(target)) != 200:
            return "the URL does not work", ""
        return refused(ask(target, "GET", change(place), host=_own(target)))

    return function


def _port_with(headers: str) -> Callable[[Target], Result]:
    def function(target: Target) -> Result:
        return refused(ask(target, "GET", "/", headers, session_of(target)["host"]))

    return function


@attack(URLS, "PUT with a URL that is for GET, and the reverse", HMAC)
def signed_url_of_another_method(target: Target) -> Result:
    for method, place in (("PUT", link(target)), ("GET", link(target, write=True)), ("DELETE", link(target))):
        gained, saw = refused(ask(target, method, place, host=_own(target)))
        if gained:
            return gained, saw
    return None, "refused"


@attack(URLS, "a URL that has ended, and one that never ends", "the end is signed, and at most a week away")
def signed_url_out_of_time(target: Target) -> Result:
    for seconds in (-1, 30 * 86400):
        gained, saw = refused(ask(target, "GET", link(target, seconds=seconds), host=_own(target)))
        if gained:
            return gained, saw
    return None, "refused"


@attack(
    URLS, "content that a browser would run as a page of the server", "an attachment in a sandbox, not sniffed"
)
def page_behind_a_signed_url(target: Target) -> Result:
    request = f"GET {link(target)} HTTP/1.1\r\nHost: {_own(target)}\r\n\r\n"
    head = target.send(request.encode()).partition(b"\r\n\r\n")[0].lower()
    safe = (b"application/octet-stream", b"attachment", b"nosniff", b"sandbox")
    return (None if all(word in head for word in safe) else "a page"), "attachment"


@attack(TOKENS, "a host name of the attacker that leads to this machine", "hosts of the server's domains alone")
def port_under_a_foreign_name(target: Target) -> Result:
    session = session_of(target)
    name, _, number = session["host"].partition(":")
    shown = f"X-Unsandbox-Token: {session['token']}\r\n"
    for host in (f"{name}.evil.example:{number}", f"evil.example:{number}", f"x.{name}:{number}"):
        gained, saw = refused(ask(target, "GET", "/", shown, host))
        if gained:
            return gained, saw
    return None, "refused"


@attack(TOKENS, "a port that is not exposed, with the token of one that is", "each port has its own token")
def token_of_another_port(target: Target) -> Result:
    session = session_of(target)
    shown = f"X-Unsandbox-Token: {session['token']}\r\n"
    return refused(ask(target, "GET", "/", shown, session["host"].replace("8000-", "8001-")))


@attack(TOKENS, "a cookie that a browser adds to the request of another page", "the origin of the request")
def cookie_of_another_page(target: Target) -> Result:
    session = session_of(target)
    shown = f"Cookie: unsandbox_token={session['token']}\r\nOrigin: http://evil.example\r\n"
    return refused(ask(target, "GET", "/", shown, session["host"]))


@attack(WATCHES, "a hundred watches", "sixteen for a session")
def many_watches(target: Target) -> Result:
    place = f"/sessions/{session_of(target)['id']}/files/watch"
    statuses = [target.call("POST", place, {"path": ".", "watch": f"w{number}"})[0] for number in range(20)]
    allowed = statuses.count(200)
    for number in range(20):
        target.call("POST", place.replace("watch", "unwatch"), {"watch": f"w{number}"})
    return (None if allowed <= 16 else f"{allowed} watches"), f"{allowed} watches"


@attack(WATCHES, "a watch of a directory that only root may read", "the session's user watches")
def watch_of_the_systems_directories(target: Target) -> Result:
    place = f"/sessions/{session_of(target)['id']}/files/watch"
    status, _ = target.call("POST", place, {"path": "/proc/1/root/root", "watch": "secret"})
    return refused(status, (400, 403, 404, 409))
