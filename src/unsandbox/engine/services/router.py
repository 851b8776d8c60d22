"""Routes requests from outside into services: finds the service of a host name, and connects to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from unsandbox.engine.background import run_uncancelled
from unsandbox.engine.config import EngineConfig
from unsandbox.engine.errors import RequestError
from unsandbox.engine.services.record import FROZEN, RUNNING, ServiceRecord
from unsandbox.engine.services.registry import ServiceRegistry
from unsandbox.engine.services.supervisor import ServiceSupervisor
from unsandbox.sandbox.errors import SandboxError

_PORT_AND_NAME = re.compile(r"([1-9][0-9]{0,4})-(.+)\Z")
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25
_SETTLED_WAIT_S = 1.0
"""How long a request waits for a port if the service has run for a while or listens on another port."""


class Unreachable(RequestError):
    """A request cannot be forwarded to a service; `code` has the reason."""

    code = "service_unreachable"


@dataclass(frozen=True, slots=True)
class Target:
    """A service and one of its ports."""

    record: ServiceRecord
    port: int


@dataclass(slots=True)
class _Silence:
    """A port without a listener, and the number of visitors that wait for it."""

    task: asyncio.Task[None]
    waiting: int = 0


class ServiceRouter:
    """Routes requests into services.

    Args:
        config: The bounds.
        registry: Where they run.
        wake: Unfreezes a service.
    """

    def __init__(
        self,
        config: EngineConfig,
        registry: ServiceRegistry,
        wake: Callable[[ServiceRecord], Coroutine[Any, Any, None]],
    ) -> None:
        self._config = config
        self._registry = registry
        self._wake = wake
        self._silent: dict[tuple[str, int], _Silence] = {}

    def named(self, label: str) -> Target | None:
        """Return the target of the first label of a host name: `name`, or `port-name` for a further port.

        Only ports that the service declares are led to.
        """
        record = self._registry.names.named(label)
        if record is not None:
            return _first_port(record)
        match = _PORT_AND_NAME.match(label)
        record = self._registry.names.named(match[2]) if match else None
        if match is None or record is None or int(match[1]) not in record.ports:
            return None
        return Target(record, int(match[1]))

    def with_domain(self, domain: str) -> Target | None:
        """Return the target of a whole host name, lower-case."""
        record = self._registry.names.with_domain(domain)
        return None if record is None else _first_port(record)

    def is_domain(self, domain: str) -> bool:
        """Return whether a host name belongs to a service, even to one without a port."""
        return self._registry.names.with_domain(domain) is not None

    def is_reserved(self, domain: str) -> bool:
        """Return whether a whole host name is reserved for the API, regardless of the services' names."""
        return domain in self._registry.names.reserved

    async def connect(self, target: Target) -> int:
        """Return a connected socket to the port; unfreeze the service on demand, and wait while it starts.

        Raises:
            Unreachable: It is frozen, its program has ended, or nothing listens there.
        """
        record = target.record
        self._registry.activity.touch(record)
        if record.state == FROZEN:
            if not record.unfreeze_on_demand:
                raise Unreachable(f"the service {record.name!r} is frozen", code="service_frozen")
            # A visitor that disconnects must not interrupt the unfreezing.
            await run_uncancelled(self._wake(record))
        with contextlib.suppress(ConnectionError, SandboxError):
            self._must_run(record)
            if (record.object_id, target.port) not in self._silent:
                return await self._try(self._registry.supervisor_of(record), target.port)
        with self._look_of(target) as look:
            return await self._patiently(target, look)

    def _must_run(self, record: ServiceRecord) -> None:
        if record.state != RUNNING:
            raise Unreachable(f"the service {record.name!r} is not running", code=f"service_{record.state}")

    async def _patiently(self, target: Target, look: asyncio.Task[None]) -> int:
        """Return a connected socket as soon as a program listens.

        Raises:
            Unreachable: It takes too long, or the program ends.
        """
        record, arrived = target.record, time.monotonic()
        while True:
            self._must_run(record)
            supervisor = self._registry.supervisor_of(record)
            if look.done():
                with contextlib.suppress(ConnectionError, SandboxError):
                    return await self._try(supervisor, target.port)
            patience = arrived + _SETTLED_WAIT_S
            if not supervisor.listened:
                # Do not wait for ever for a service that restarts again and again.
                starting = min(supervisor.starting_since, arrived) + self._config.service_start_s
                patience = max(patience, starting)
            if time.monotonic() >= patience:
                raise Unreachable(
                    f"nothing listens on port {target.port} of the service {record.name!r}",
                    code="nothing_listens",
                )
            if look.done():
                await asyncio.sleep(_LONGEST_PAUSE_S)
            else:
                await asyncio.wait({look}, timeout=_LONGEST_PAUSE_S)

    async def _try(self, supervisor: ServiceSupervisor, port: int) -> int:
        """Return a connected socket to a port.

        Raises:
            ConnectionError: Nothing listens there now.
            SandboxError: The sandbox has ended.
        """
        if supervisor.sandbox is None:
            raise ConnectionError("the service has no sandbox now")
        descriptor = await supervisor.sandbox.connect(port)
        supervisor.listened = True
        return descriptor

    @contextlib.contextmanager
    def _look_of(self, target: Target) -> Iterator[asyncio.Task[None]]:
        """Return the task that ends when a program listens on a port.

        All who wait for a port share it: the visitors of a service that does not listen cost as much as one.
        """
        key = (target.record.object_id, target.port)
        silence = self._silent.get(key)
        if silence is None:
            silence = self._silent[key] = _Silence(asyncio.create_task(self._look(target)))
            silence.task.add_done_callback(lambda task: self._heard(key, task))
        silence.waiting += 1
        try:
            yield silence.task
        finally:
            silence.waiting -= 1
            if not silence.waiting:
                silence.task.cancel()

    def _heard(self, key: tuple[str, int], look: asyncio.Task[None]) -> None:
        self._silent.pop(key, None)
        if not look.cancelled():
            # The visitors get the same error from their own attempts.
            look.exception()

    async def _look(self, target: Target) -> None:
        """Return when a program listens on a port, or the service does not run any more."""
        pause = _FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, pause * 1.5)
            if target.record.state != RUNNING:
                return
            with contextlib.suppress(ConnectionError, SandboxError):
                os.close(await self._try(self._registry.supervisor_of(target.record), target.port))
                return


def _first_port(record: ServiceRecord) -> Target | None:
    return Target(record, record.ports[0]) if record.ports else None
