"""The sandboxes that E2B's clients see: a session each, with what a session has no place for."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unsandbox.engine import Engine
from unsandbox.engine.background import Background
from unsandbox.engine.errors import RequestError, UnknownObject
from unsandbox.protocol.models import IsolationName, NetworkModeName
from unsandbox.protocol.sessions import ForkRequest, SessionMetrics, SessionRequest
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.layout import USER_HOME
from unsandbox.server.e2b.errors import E2bError, SandboxGoneError
from unsandbox.server.e2b.interpreter import Contexts

_MOST_TEXT = 64 << 10
"""Characters of the metadata of a sandbox, and of its environment."""

logger = logging.getLogger("unsandbox.server.e2b")

ENVD_VERSION = "0.5.7"
"""Tells the clients what to use: raw uploads and `close_stdin`, but no metadata of files."""
TEMPLATES = ("base", "code-interpreter-v1")
DEFAULT_TIMEOUT_S = 300
MAX_TIMEOUT_S = 30 * 86400


@dataclass(eq=False, slots=True)
class E2bSandbox:
    """A sandbox as E2B's clients know it.

    Attributes:
        sandbox_id: Its id, which may stand in a host name.
        owner: The key.
        session_id: The session behind it.
        template: The template that was asked for.
        metadata: Texts of the client, for `list`.
        env: Environment variables of all programs.
        started_at: Unix time of its start.
        end_at: Unix time of its end.
        pauses: Whether it is paused at its end, rather than killed.
        paused: Whether it is paused.
        contexts: Its code interpreters.
        tags: Tags of processes by their number.
        next_pid: Number of the next process.
        timer: Ends it.
        cpu_seen: Unix time of the last sample, and the processor time in it.
        lock: Held while it is paused or resumed.
    """

    sandbox_id: str
    owner: str
    session_id: str
    template: str
    metadata: dict[str, str]
    env: dict[str, str]
    started_at: float
    end_at: float
    pauses: bool
    contexts: Contexts
    paused: bool = False
    tags: dict[int, str] = field(default_factory=dict)
    next_pid: int = 1000
    timer: asyncio.TimerHandle | None = None
    cpu_seen: tuple[float, float] = (0.0, 0.0)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def new_pid(self) -> int:
        """Return a number for a process."""
        self.next_pid += 1
        return self.next_pid


@dataclass(frozen=True, slots=True)
class Usage:
    """The use of resources of a sandbox.

    Attributes:
        metrics: The values now.
        cpu_percent: Processor time since the last sample, in percent of the time that passed.
    """

    metrics: SessionMetrics
    cpu_percent: float


class E2bSandboxes:
    """Creates, finds and ends sandboxes.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._secret = engine.context.box.derived_key("e2b tokens")
        self._sandboxes: dict[str, E2bSandbox] = {}
        self._background = Background()

    async def create(
        self, owner: str, template: str, timeout_s: int, *, limit: int | None = None, **options: Any
    ) -> E2bSandbox:
        """Create a sandbox.

        Args:
            owner: The key.
            template: Name of the template.
            timeout_s: Seconds until its end.
            limit: Sessions that the key may have.
            options: `metadata`, `env`, `network`, `pauses`, `isolation`.

        Raises:
            E2bError: There is no such template.
        """
        if template not in TEMPLATES:
            raise E2bError("not_found", f"template '{template}' not found; there are {', '.join(TEMPLATES)}")
        for name in ("metadata", "env"):
            size = sum(len(key) + len(value) for key, value in (options.get(name) or {}).items())
            if size > _MOST_TEXT:
                raise E2bError(
                    "invalid_argument", f"{name} has {size} characters; at most {_MOST_TEXT} are allowed"
                )
        for known in list(self._sandboxes.values()):
            self.is_alive(known)  # Forgets those whose session was deleted elsewhere.
        network: NetworkModeName = "semitrusted" if options.get("network") else "zerotrust"
        isolation: IsolationName = options.get("isolation") or "auto"
        # They end at a time, not when they are idle. The `ttl` ends those that a crash of the server leaves.
        request = SessionRequest(network_mode=network, ttl=86400, isolation=isolation, name="e2b")
        session = await self.engine.sessions.create(owner, request, limit)
        return self._add(
            owner,
            session.session_id or "",
            timeout_s,
            template=template,
            metadata=options.get("metadata") or {},
            env={"HOME": USER_HOME, **(options.get("env") or {})},
            pauses=bool(options.get("pauses")),
        )

    async def fork(
        self, sandbox: E2bSandbox, count: int, timeout_s: int, limit: int | None = None
    ) -> list[E2bSandbox]:
        """Make copies of a sandbox: of its files, and on gVisor of its memory and processes.

        Args:
            sandbox: The sandbox.
            count: How many.
            timeout_s: Seconds until their end.
            limit: Sessions that the key may have.
        """
        session = self.engine.sessions.get(sandbox.owner, sandbox.session_id)
        request = ForkRequest(count=count, hot=session.isolation == "gvisor")
        made = await self.engine.forks.make(sandbox.owner, sandbox.session_id, request, limit)
        settings = {"template": sandbox.template, "metadata": dict(sandbox.metadata), "env": dict(sandbox.env)}
        return [
            self._add(sandbox.owner, copy.session_id or "", timeout_s, pauses=sandbox.pauses, **settings)
            for copy in made
        ]

    async def usage(self, sandbox: E2bSandbox) -> Usage:
        """Return the use of resources of a sandbox.

        Args:
            sandbox: The sandbox.
        """
        metrics = await self.engine.workspaces.metrics(sandbox.owner, sandbox.session_id)
        at, cpu_s = metrics.at or time.time(), (metrics.cpu_time_ms or 0) / 1000
        before_at, before_s = sandbox.cpu_seen if sandbox.cpu_seen[0] else (sandbox.started_at, 0.0)
        sandbox.cpu_seen = at, cpu_s
        return Usage(metrics, max(0.0, cpu_s - before_s) / max(0.001, at - before_at) * 100)

    def _add(self, owner: str, session_id: str, timeout_s: int, **settings: Any) -> E2bSandbox:
        now = time.time()
        sandbox = E2bSandbox(
            sandbox_id=f"i{secrets.token_hex(10)}",
            owner=owner,
            session_id=session_id,
            started_at=now,
            end_at=now + timeout_s,
            contexts=Contexts(self.engine, owner, session_id),
            **settings,
        )
        self._sandboxes[sandbox.sandbox_id] = sandbox
        self.set_timeout(sandbox, timeout_s)
        return sandbox

    def find(self, sandbox_id: str, owner: str | None = None) -> E2bSandbox:
        """Return a sandbox.

        Args:
            sandbox_id: Its id; older clients add `-` and a client id.
            owner: The key; None when a token proves the permission.

        Raises:
            SandboxGoneError: There is none.
        """
        sandbox = self._sandboxes.get(sandbox_id.partition("-")[0])
        if sandbox is None or (owner is not None and sandbox.owner != owner):
            raise SandboxGoneError(sandbox_id)
        return sandbox

    def by_token(self, fits: Callable[[str], bool]) -> E2bSandbox | None:
        """Return the sandbox with an access token that fits.

        Args:
            fits: Returns whether a token is the one of a request.
        """
        return next((found for found in self._sandboxes.values() if fits(self.token(found, "envd"))), None)

    def of(self, owner: str) -> list[E2bSandbox]:
        """Return the sandboxes of a key, newest first, without those whose session has ended."""
        newest = reversed(list(self._sandboxes.values()))
        return [sandbox for sandbox in newest if sandbox.owner == owner and self.is_alive(sandbox)]

    def is_alive(self, sandbox: E2bSandbox) -> bool:
        """Return whether its session exists; forget it otherwise."""
        try:
            self.engine.sessions.get(sandbox.owner, sandbox.session_id)
        except UnknownObject:
            self._forget(sandbox)
            return False
        return True

    def token(self, sandbox: E2bSandbox, purpose: str) -> str:
        """Return the secret that permits to use a sandbox.

        Args:
            sandbox: The sandbox.
            purpose: `envd` or `traffic`.
        """
        message = f"{purpose}:{sandbox.owner}:{sandbox.sandbox_id}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()

    def set_timeout(self, sandbox: E2bSandbox, timeout_s: float, *, extend_only: bool = False) -> None:
        """Let a sandbox end after some seconds from now.

        Args:
            sandbox: The sandbox.
            timeout_s: The seconds.
            extend_only: Whether not to bring the end forward.
        """
        timeout_s = min(max(timeout_s, 0), MAX_TIMEOUT_S)
        end_at = time.time() + timeout_s
        if extend_only and end_at < sandbox.end_at:
            return
        sandbox.end_at = end_at
        if sandbox.timer is not None:
            sandbox.timer.cancel()
        loop = asyncio.get_running_loop()
        sandbox.timer = loop.call_later(timeout_s, lambda: self._background.start(self._end(sandbox)))

    async def kill(self, sandbox: E2bSandbox) -> None:
        """End a sandbox."""
        self._forget(sandbox)
        await sandbox.contexts.close()
        await self.engine.sessions.delete(sandbox.owner, sandbox.session_id)

    async def pause(self, sandbox: E2bSandbox) -> None:
        """Suspend a sandbox; it then has no end.

        Raises:
            E2bError: It is paused.
        """
        async with sandbox.lock:
            if sandbox.paused:
                raise E2bError("failed_precondition", f"Sandbox {sandbox.sandbox_id} is already paused", 409)
            await self.engine.sessions.freeze(sandbox.owner, sandbox.session_id)
            sandbox.paused = True
            if sandbox.timer is not None:
                sandbox.timer.cancel()

    async def resume(self, sandbox: E2bSandbox, timeout_s: float) -> bool:
        """Let a sandbox go on; return whether it was paused.

        Args:
            sandbox: The sandbox.
            timeout_s: Seconds until its end.
        """
        async with sandbox.lock:
            was_paused = sandbox.paused
            if was_paused:
                await self.engine.sessions.unfreeze(sandbox.owner, sandbox.session_id)
                sandbox.paused = False
        self.set_timeout(sandbox, timeout_s, extend_only=not was_paused)
        return was_paused

    async def close(self) -> None:
        """Stop the timers, and end all sandboxes: their ids are not known after a restart."""
        await asyncio.gather(
            *(self.kill(sandbox) for sandbox in list(self._sandboxes.values())), return_exceptions=True
        )
        await self._background.finish()

    def _forget(self, sandbox: E2bSandbox) -> None:
        self._sandboxes.pop(sandbox.sandbox_id, None)
        if sandbox.timer is not None:
            sandbox.timer.cancel()

    async def _end(self, sandbox: E2bSandbox) -> None:
        try:
            if sandbox.pauses:
                await self.pause(sandbox)
            else:
                await self.kill(sandbox)
        except (RequestError, SandboxError, E2bError) as error:
            logger.warning("a sandbox could not be ended in time: %s", error)
