"""Which host names are those of services and of ports of sessions, and a connection to the program of one."""

from __future__ import annotations

import logging

from unsandbox.engine import Conflict, RequestError, UnknownObject
from unsandbox.engine.services.router import ServiceRouter, Target, Unreachable
from unsandbox.engine.sessions.ports import ExposedPort
from unsandbox.engine.sessions.sessions import Sessions
from unsandbox.sandbox.errors import SandboxError
from unsandbox.server.call import SERVICE_DOMAIN
from unsandbox.server.hosts import label_of
from unsandbox.server.ingress.channel import NOT_A_SERVICE, Answer

logger = logging.getLogger("unsandbox.server.ingress")


class ServiceHosts:
    """The host names of services.

    Args:
        router: Knows the services.
        sessions: Knows the ports of sessions that visitors reach.
        domain: Services are reached at hosts below it, and below `localhost` in any case.
    """

    def __init__(self, router: ServiceRouter, sessions: Sessions, domain: str = SERVICE_DOMAIN) -> None:
        self._router = router
        self._sessions = sessions
        self._domains = tuple(dict.fromkeys((domain.lower(), SERVICE_DOMAIN)))

    def is_service(self, name: str) -> bool:
        """Whether a host name, lower-case and without a port, is for services, existing ones or not."""
        if self._router.is_reserved(name):
            return False
        return label_of(name, self._domains) is not None or self._router.is_domain(name)

    async def answer(
        self, number: int, name: str, token: str = "", *, connect: bool = True
    ) -> tuple[Answer, list[int]]:
        """Return what the ingress is told of a host name, and the connection to the service, if any."""
        if not self.is_service(name):
            return Answer(number, NOT_A_SERVICE), []
        if not connect:
            return Answer(number, "service_exists"), []
        if (exposed := self._port(name)) is not None:
            return await self._answer_for_port(number, exposed, token)
        target = self._target(name)
        if target is None:
            return Answer(number, "service_not_found"), []
        service, port = target.record.object_id, target.port
        try:
            descriptor = await self._router.connect(target)
        except Unreachable as reason:
            return Answer(number, reason.code, service, port, target.record.show_freeze_page), []
        except UnknownObject:
            return Answer(number, "service_not_found"), []
        except (RequestError, Conflict, SandboxError, OSError) as error:
            logger.warning("service %s cannot be reached: %s", service, error)
            return Answer(number, "service_unavailable", service, port), []
        return Answer(number, "", service, port), [descriptor]

    def service_of(self, name: str) -> str:
        """Return the id of the service of a host name; empty when there is none."""
        if (exposed := self._port(name)) is not None:
            return exposed.session
        target = self._target(name) if self.is_service(name) else None
        return "" if target is None else target.record.object_id

    async def _answer_for_port(self, number: int, exposed: ExposedPort, token: str) -> tuple[Answer, list[int]]:
        place = exposed.session, exposed.port
        if not exposed.admits(token):
            return Answer(number, "port_token_required", *place), []
        try:
            async with self._sessions.in_use(exposed.owner, exposed.session) as opened:
                descriptor = await opened.sandbox.connect(exposed.port)
        except ConnectionError:
            return Answer(number, "port_closed", *place), []
        except (RequestError, SandboxError, OSError) as error:
            code = getattr(error, "code", "")
            return Answer(number, code if code == "session_frozen" else "session_unavailable", *place), []
        return Answer(number, "", *place), [descriptor]

    def _port(self, name: str) -> ExposedPort | None:
        if self._router.is_reserved(name):
            return None
        label = label_of(name, self._domains)
        return None if label is None else self._sessions.ports.find(label)

    def _target(self, name: str) -> Target | None:
        label = label_of(name, self._domains)
        return self._router.with_domain(name) if label is None else self._router.named(label)
