"""The API: signatures, names that lead out, patterns that never end, lines in the log."""

from __future__ import annotations

import importlib
import pkgutil
import re
import threading
import time
import urllib.parse
from typing import Any

from tests.abuse.served import Result, Target, add, attack, refused
from tests.support import signature_headers

import unsandbox
from unsandbox.protocol.endpoints.jobs import ENDPOINTS

FORGED = "FORGED-LINE"
SIGNING, NAMES, PATTERNS = "signatures", "names that lead out", "patterns that never end"
HMAC = "HMAC over time, method, path and body"

BAD_NAMES = {
    "climbing": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "with a zero byte": "a\0b",
    "with a line end": f"a\n{FORGED}",
    "with an escape": "a\x1b[2J",
    "with a slash": "a/b",
    "of a dot": ".",
    "of two dots": "..",
    "with a percent": "%2e%2e%2f",
    "of 10,000 letters": "a" * 10_000,
    "with direction marks": "a\u202eb",
    "with a lone surrogate": "a\ud800b",
}
"""For names that must be host names; display names may hold some of them."""


def declare() -> None:
    """Declare the families."""
    for kind, name in BAD_NAMES.items():
        add(
            f"service name {kind}",
            NAMES,
            repr(name[:30]),
            "a host name's letters only",
            _create("/services", {"name": name}),
        )
        add(f"custom domain {kind}", NAMES, repr(name[:30]), "a host name's letters only",
            _create("/services", {"name": "ok", "custom_domains": [name], "network": "zerotrust"}))  # fmt: skip
    for name in ("localhost", "api.localhost", "127.0.0.1", "echo.localhost"):
        add(f"custom domain {name}", NAMES, "a name that is the server's or another's", "kept for the server, or taken",
            _create("/services", {"name": "ok", "custom_domains": [name], "network": "zerotrust"}))  # fmt: skip
    for field, value in {
        "language": "../../bin/sh", "isolation": "none", "network_mode": "host", "ttl": -1, "vcpu": 10**9,
    }.items():  # fmt: skip
        body = {"language": "bash", "code": "true", field: value}
        add(
            f"{field} that there is not",
            NAMES,
            repr(value),
            "checked against a list or bounds",
            _create("/execute", body),
        )
    for name in ("A=B", "A\0B", ""):
        body = {"language": "bash", "code": "true", "env": {name: "x"}}
        add(f"variable named {name!a}", NAMES, repr(name), "refused", _create("/execute", body))


def check_harmless(target: Target) -> None:
    """The same requests with nothing wrong in them must be taken, or the refusals would prove nothing."""
    service = {"name": "ok", "custom_domains": ["shop.example.com"], "network": "zerotrust"}
    job = {"language": "bash", "code": "true", "env": {"A": "x"}, "ttl": 5, "vcpu": 1}
    assert [
        target.call("POST", path, body)[0] for path, body in (("/services", service), ("/execute", job))
    ] == [200, 200]
    target.call("DELETE", "/services/ok")
    body = b'{"language":"bash","code":"id"}'
    requests = [target.signed("GET", "/jobs", b""), target.signed("POST", "/execute", body)]
    assert [target.status(request) for request in requests] == [200, 200]
    plain = f"POST /outer HTTP/1.1\r\nHost: {target.host}\r\nContent-Length: 2\r\n\r\nab"
    assert target.status(plain.encode()) == 200


def _create(path: str, body: dict[str, object]) -> object:
    def go(target: Target) -> Result:
        status, answer = target.call("POST", path, body)
        if status == 200:
            target.call("DELETE", f"/services/{answer.get('id', 'ok')}")
        return refused(status, (400, 403, 404, 409, 422))

    return go


@attack(NAMES, "ids that climb, in every path of the API", "ids are looked up, never joined to a path")
def ids_that_climb(target: Target) -> Result:
    for endpoint in ENDPOINTS:
        if "{" not in endpoint.path:
            continue
        for bad in ("..", "../../etc/passwd", "%00", "a\n" + FORGED, "a" * 5000, "'; DROP TABLE jobs; --"):
            path = re.sub(r"\{\w+\}", urllib.parse.quote(bad, safe=""), endpoint.path)
            status, answer = target.call(endpoint.method, path, {} if endpoint.method != "GET" else None)
            if status < 400 or status >= 500 or "root:" in str(answer):
                return f"{endpoint.method} {path[:80]}: {status} {str(answer)[:80]}", ""
    return None, "400 to 405"


@attack(NAMES, "input files that climb out of /tmp/input", "only the base name counts")
def input_files_that_climb(target: Target) -> Result:
    bad = ["../../work/main.sh", "/work/x", "../../../usr/x", "a/../../b"]
    body = {
        "language": "bash",
        "code": "find /tmp /work -type f; ls /usr/x",
        "input_files": [{"filename": n, "content": "x"} for n in bad],
    }
    status, answer = target.call("POST", "/execute", body)
    out = [
        line
        for line in str(answer.get("stdout", "")).split()
        if not line.startswith("/tmp/input/") and "main" not in line
    ]
    return (f"{out}" if out else None), f"status {status}; all below /tmp/input"


@attack(NAMES, "programs and sessions of another key", "found only by the key that owns them")
def objects_of_another_key(target: Target) -> Result:
    _, job = target.call("POST", "/execute", {"language": "bash", "code": "echo private"})
    other = ("unsb-pk-aaaa-bbbb-cccc-dddd", "unsb-sk-aaaaa-bbbbb-ccccc-ddddd")
    status, answer = target.serve.call(other, "GET", f"/jobs/{job['job_id']}")
    return ("its output" if "private" in str(answer) else None), f"status {status}"


# Signatures


def _with(target: Target, **changed: str) -> int:
    method, path, body = "GET", "/jobs", b""
    headers = signature_headers(*target.keys, method, path, body) | {
        k.replace("_", "-"): v for k, v in changed.items()
    }
    text = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\n"
        + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        + "\r\n"
    )
    return target.status(text.encode())


@attack(SIGNING, "no signature", "required")
def unsigned(target: Target) -> Result:
    return refused(target.status(b"GET /jobs HTTP/1.1\r\nHost: x\r\n\r\n"), (401,))


@attack(SIGNING, "the public key alone, as the hosted service once took it", "required")
def public_key_alone(target: Target) -> Result:
    return refused(_with(target, **{"X-Signature": ""}), (401,))


@attack(SIGNING, "a signature of another body", HMAC)
def signature_of_another_body(target: Target) -> Result:
    request = target.signed("POST", "/execute", b'{"language":"bash","code":"id"}').replace(b'"id"', b'"ls"')
    return refused(target.status(request), (401,))


@attack(SIGNING, "a signature of another path", HMAC)
def signature_of_another_path(target: Target) -> Result:
    return refused(target.status(target.signed("GET", "/jobs", b"").replace(b"/jobs", b"/sessions", 1)), (401,))


@attack(SIGNING, "a signature of another method", HMAC)
def signature_of_another_method(target: Target) -> Result:
    return refused(target.status(target.signed("GET", "/jobs", b"").replace(b"GET", b"DELETE", 1)), (401, 405))


@attack(SIGNING, "a signature of yesterday", "five minutes")
def signature_of_yesterday(target: Target) -> Result:
    headers = signature_headers(*target.keys, "GET", "/jobs", b"", str(int(time.time()) - 86400))
    return refused(_with(target, **headers), (401,))


@attack(SIGNING, "a time that is no number, or of a million digits", "checked before anything is computed")
def strange_times(target: Target) -> Result:
    for text in ("nan", "1e9", "-1", "9" * 4000, "0x10", "١٢٣"):
        if _with(target, **{"X-Timestamp": text}) not in (0, 400, 401):
            return text[:20], ""
    return None, "status 401"


@attack(SIGNING, "two Authorization headers", "one key or none")
def two_keys(target: Target) -> Result:
    request = target.signed("GET", "/jobs", b"", "Authorization: Bearer unsb-pk-aaaa-bbbb-cccc-dddd\r\n")
    status = target.status(request)
    # The first is what was signed; the second must not be anybody's.
    return (None if status in (200, 400, 401) else f"status {status}"), f"status {status}"


# Patterns and logs


PIECES = ("a", "0", " ", "a.", "-", "a-", "/", "../", "\t\n", "=", "a=", "\\", '"', "<", "1:", ".")


@attack(
    PATTERNS, "every pattern of the package, on texts made to be tried again and again", "no nested repetition"
)
def patterns_that_never_end(target: Target) -> Result:
    found: dict[re.Pattern[Any], str] = {}
    for module in pkgutil.walk_packages(unsandbox.__path__, "unsandbox."):
        if any(part in module.name for part in (".migrations", ".integrations.", "__main__")):
            continue
        names = vars(importlib.import_module(module.name)).items()
        found |= {value: f"{module.name}.{name}" for name, value in names if isinstance(value, re.Pattern)}
    slow: list[str] = []

    def try_all() -> None:
        for pattern, name in found.items():
            for piece in PIECES:
                # A search begins anew at each letter: the square of the length is what it takes at best.
                for way, length in ((pattern.match, 5_000), (pattern.search, 300)):
                    text = piece * length + "!"
                    began = time.thread_time()
                    way(text if isinstance(pattern.pattern, str) else text.encode())
                    if time.thread_time() - began > 1:
                        slow.append(f"{name} on {piece!r}")

    thread = threading.Thread(target=try_all, daemon=True)
    thread.start()
    thread.join(50)
    if thread.is_alive():
        return "a search that does not end", ""
    return (f"{slow}" if slow or len(found) < 20 else None), f"{len(found)} patterns, {len(PIECES)} texts each"


@attack(PATTERNS, "names and programs made for a language's detection", "no nested repetition; bounded")
def detection_that_never_ends(target: Target) -> Result:
    began = time.monotonic()
    for code in ("#!" + "/" * 500_000, "#!/usr/bin/env " + " " * 500_000, "a" * 1_000_000):
        target.call("POST", "/run", {"code": code})
        target.call("POST", "/services", {"name": "a-" * 100_000 + "!"})
    return (None if time.monotonic() - began < 30 else "half a minute"), "at once"


@attack("log injection", "line ends and escapes in paths, headers and keys", "what was sent is not logged")
def lines_for_the_log(target: Target) -> Result:
    for text in (
        f"GET /%0a{FORGED} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /jobs/%0a{FORGED}%1b[2J HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: a%0a{FORGED}\r\n\r\n",
        f"GET /health HTTP/1.1\r\nHost: x\r\nUser-Agent: \x1b[2J{FORGED}\r\n\r\n",
        f"GET /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \x1b{FORGED}\r\nX-Timestamp: 1\r\nX-Signature: a\r\n\r\n",
        f"\n{FORGED}\r\n\r\n",
    ):
        target.send(text.encode())
    return None, "see: forged lines in the log"
