"""The control plane: sandboxes are created, listed, prolonged, paused and killed."""

from __future__ import annotations

import urllib.parse
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web

from unsandbox.engine.accounts.keys import KeySettings
from unsandbox.server.e2b.errors import E2bError, SandboxGoneError, json_answer
from unsandbox.server.e2b.sandboxes import (
    DEFAULT_TIMEOUT_S,
    ENVD_VERSION,
    MAX_TIMEOUT_S,
    E2bSandbox,
    E2bSandboxes,
    Usage,
)

T = TypeVar("T")
Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIMEOUT_S)]
_CLIENT_ID = "unsandbox"
_PAGE = 100
_UNSUPPORTED = ("mcp", "volumeMounts", "iam")


class NewSandbox(msgspec.Struct, rename="camel"):
    """The body of a creation."""

    templateID: str  # noqa: N815 - the name on the wire
    timeout: Seconds = DEFAULT_TIMEOUT_S
    metadata: dict[str, str] | None = None
    envVars: dict[str, str] | None = None  # noqa: N815
    allow_internet_access: bool | None = msgspec.field(default=None, name="allow_internet_access")
    autoPause: bool = False  # noqa: N815
    mcp: Any = None
    volumeMounts: Any = None  # noqa: N815
    iam: Any = None


class Connection(msgspec.Struct):
    """The body of a connection or a resumption."""

    timeout: Seconds = DEFAULT_TIMEOUT_S


class Timeout(msgspec.Struct):
    """The body of a change of the timeout."""

    timeout: Seconds


class Refresh(msgspec.Struct):
    """The body of a refresh."""

    duration: Seconds = DEFAULT_TIMEOUT_S


class Fork(msgspec.Struct):
    """The body of a fork."""

    timeout: Seconds = DEFAULT_TIMEOUT_S
    count: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


class Control:
    """The handlers. Each gets the request, the key and the settings of the key.

    Args:
        sandboxes: The sandboxes.
    """

    def __init__(self, sandboxes: E2bSandboxes) -> None:
        self._sandboxes = sandboxes

    async def create(self, request: web.Request, owner: str, settings: KeySettings) -> web.Response:
        """Create a sandbox."""
        wanted = await body_of(request, NewSandbox)
        for name in _UNSUPPORTED:
            if getattr(wanted, name):
                raise E2bError("invalid_argument", f"{name} is not supported by this server")
        sandbox = await self._sandboxes.create(
            owner,
            wanted.templateID,
            wanted.timeout,
            limit=settings.sessions,
            metadata=wanted.metadata,
            env=wanted.envVars,
            network=wanted.allow_internet_access is not False,
            pauses=wanted.autoPause,
        )
        return json_answer(self._opened(sandbox), 201)

    async def connect(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """Return a sandbox for use, resumed if it is paused."""
        timeout = (await body_of(request, Connection)).timeout
        sandbox = self._find(request, owner)
        resumed = await self._sandboxes.resume(sandbox, timeout)
        return json_answer(self._opened(sandbox), 201 if resumed else 200)

    async def resume(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """Resume a paused sandbox, for the oldest clients."""
        timeout = (await body_of(request, Connection)).timeout
        sandbox = self._find(request, owner)
        if not await self._sandboxes.resume(sandbox, timeout):
            raise E2bError("failed_precondition", f"Sandbox {sandbox.sandbox_id} is already running", 409)
        return json_answer(self._opened(sandbox), 201)

    async def get(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """Describe one sandbox."""
        return json_answer(self._described(self._find(request, owner)))

    async def list(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """List sandboxes, filtered by metadata and state."""
        query = request.query
        wanted = dict(urllib.parse.parse_qsl(query.get("metadata", "")))
        wanted = {urllib.parse.unquote(name): urllib.parse.unquote(value) for name, value in wanted.items()}
        states = [state for value in query.getall("state", []) for state in value.split(",")]
        found = [
            sandbox
            for sandbox in self._sandboxes.of(owner)
            if wanted.items() <= sandbox.metadata.items() and (not states or _state(sandbox) in states)
        ]
        start, size = _number(query.get("nextToken"), 0), min(_number(query.get("limit"), _PAGE), _PAGE)
        answer = json_answer([self._described(sandbox) for sandbox in found[start : start + size]])
        if start + size < len(found):
            answer.headers["x-next-token"] = str(start + size)
        return answer

    async def kill(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """End a sandbox."""
        await self._sandboxes.kill(self._find(request, owner))
        return web.Response(status=204)

    async def set_timeout(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """Set the end of a sandbox."""
        timeout = (await body_of(request, Timeout)).timeout
        self._sandboxes.set_timeout(self._find(request, owner), timeout)
        return web.Response(status=204)

    async def refresh(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """Prolong a sandbox."""
        duration = (await body_of(request, Refresh)).duration
        self._sandboxes.set_timeout(self._find(request, owner), duration, extend_only=True)
        return web.Response(status=204)

    async def pause(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """Suspend a sandbox."""
        await self._sandboxes.pause(self._find(request, owner))
        return web.Response(status=204)

    async def fork(self, request: web.Request, owner: str, settings: KeySettings) -> web.Response:
        """Make copies of a sandbox."""
        wanted = await body_of(request, Fork)
        made = await self._sandboxes.fork(
            self._find(request, owner), wanted.count, wanted.timeout, settings.sessions
        )
        return json_answer([{"sandbox": self._opened(sandbox)} for sandbox in made], 201)

    async def metrics(self, request: web.Request, owner: str, _settings: KeySettings) -> web.Response:
        """Return the use of resources now, as the only sample."""
        sandbox = self._find(request, owner)
        return json_answer([metrics_of(await self._sandboxes.usage(sandbox))])

    async def unsupported(self, request: web.Request, _owner: str, _settings: KeySettings) -> web.Response:
        """Refuse a call that this server does not have."""
        raise E2bError("unimplemented", f"{request.method} {request.path} is not supported by this server")

    def _find(self, request: web.Request, owner: str) -> E2bSandbox:
        sandbox_id = request.match_info["id"]
        try:
            sandbox = self._sandboxes.find(sandbox_id, owner)
        except SandboxGoneError:
            sandbox = None
        if sandbox is None or not self._sandboxes.is_alive(sandbox):
            raise E2bError("not_found", f"Sandbox {sandbox_id} not found")
        return sandbox

    def _opened(self, sandbox: E2bSandbox) -> dict[str, Any]:
        return {
            "templateID": sandbox.template,
            "sandboxID": sandbox.sandbox_id,
            "clientID": _CLIENT_ID,
            "envdVersion": ENVD_VERSION,
            "envdAccessToken": self._sandboxes.token(sandbox, "envd"),
            "trafficAccessToken": self._sandboxes.token(sandbox, "traffic"),
            "alias": sandbox.template,
        }

    def _described(self, sandbox: E2bSandbox) -> dict[str, Any]:
        session = self._sandboxes.engine.sessions.get(sandbox.owner, sandbox.session_id)
        return {
            "templateID": sandbox.template,
            "alias": sandbox.template,
            "sandboxID": sandbox.sandbox_id,
            "clientID": _CLIENT_ID,
            "startedAt": _iso(sandbox.started_at),
            "endAt": _iso(sandbox.end_at),
            "envdVersion": ENVD_VERSION,
            "cpuCount": session.vcpu or 1,
            "memoryMB": session.memory_mb or 0,
            "diskSizeMB": self._sandboxes.engine.config.work_bytes >> 20,
            "state": _state(sandbox),
            "metadata": sandbox.metadata,
        }


ROUTES: tuple[tuple[str, str, str], ...] = (
    ("POST", "/v2/sandboxes", "create"),
    ("POST", "/sandboxes", "create"),
    ("GET", "/v2/sandboxes", "list"),
    ("GET", "/sandboxes", "list"),
    ("GET", "/sandboxes/{id}", "get"),
    ("DELETE", "/sandboxes/{id}", "kill"),
    ("POST", "/v2/sandboxes/{id}/connect", "connect"),
    ("POST", "/sandboxes/{id}/connect", "connect"),
    ("POST", "/sandboxes/{id}/resume", "resume"),
    ("POST", "/sandboxes/{id}/timeout", "set_timeout"),
    ("POST", "/sandboxes/{id}/refreshes", "refresh"),
    ("POST", "/sandboxes/{id}/pause", "pause"),
    ("POST", "/sandboxes/{id}/fork", "fork"),
    ("GET", "/sandboxes/{id}/metrics", "metrics"),
    ("*", "/sandboxes/{id}/{rest:.+}", "unsupported"),
    ("*", "/snapshots", "unsupported"),
    ("*", "/templates{rest:.*}", "unsupported"),
    ("*", "/v2/templates{rest:.*}", "unsupported"),
    ("*", "/v3/templates{rest:.*}", "unsupported"),
    ("*", "/volumes{rest:.*}", "unsupported"),
    ("*", "/secrets{rest:.*}", "unsupported"),
)
"""Method, path and handler. The first that fits counts."""


def metrics_of(usage: Usage) -> dict[str, Any]:
    """Return a sample as the control plane sends it.

    Args:
        usage: The use of resources.
    """
    now = usage.metrics
    return {
        "timestamp": _iso(now.at or 0),
        "timestampUnix": int(now.at or 0),
        "cpuCount": now.vcpu or 1,
        "cpuUsedPct": round(usage.cpu_percent, 2),
        "memUsed": now.memory_bytes or 0,
        "memTotal": now.memory_limit_bytes or 0,
        "memCache": 0,
        "diskUsed": now.disk_bytes or 0,
        "diskTotal": now.disk_limit_bytes or 0,
    }


async def body_of(request: web.Request, model: type[T]) -> T:
    """Return the JSON body of a request.

    Args:
        request: The request.
        model: Its type.

    Raises:
        E2bError: It is not JSON, or a member is missing or of the wrong type.
    """
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise E2bError("invalid_argument", str(error)) from error


def _state(sandbox: E2bSandbox) -> str:
    return "paused" if sandbox.paused else "running"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default
