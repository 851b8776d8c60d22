"""The configuration of a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unsandbox.sandbox.spec import MIB
from unsandbox.server.call import HOLD_S, SERVICE_DOMAIN


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificate chain and private key lie (PEM)."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The settings of a server.

    Attributes:
        host: Address to bind.
        port: Port to bind; 0 picks a free one.
        tls: Serve https with this.
        body_bytes: Largest request body; a larger one is answered with 413.
        hold_s: Seconds that `/execute` holds its answer before it says `running`.
        idle_s: Seconds within which a connection must have sent the headers of its next request.
        watchdog_s: Seconds for which a callback may hold the event loop before that is logged and counted; None
            to watch nothing.
        service_domain: Services are reached at hosts below it, and below `localhost` in any case.
        public_url: Scheme, host and port at which clients reach this server through a proxy; empty to use the
            scheme and `Host` of each request.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    tls: TlsFiles | None = None
    body_bytes: int = 192 * MIB
    hold_s: float = HOLD_S
    idle_s: float = 75.0
    watchdog_s: float | None = None
    service_domain: str = SERVICE_DOMAIN
    public_url: str = ""
