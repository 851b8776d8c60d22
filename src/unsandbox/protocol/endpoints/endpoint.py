"""One row of the endpoint table."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from unsandbox.protocol.bounds import SMALL_BODY, takes_data
from unsandbox.protocol.models import WireModel

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Body = Literal["none", "json", "text"]
Auth = Literal["signed", "none"]


@dataclass(frozen=True, slots=True)
class Query:
    """One member of the query: name, JSON type, meaning."""

    name: str
    type: Literal["string", "integer", "number", "boolean"]
    summary: str


@dataclass(frozen=True)
class Endpoint:
    """One operation of the API.

    Attributes:
        name: Its name everywhere: server handler, client call, OpenAPI operation id.
        method: HTTP method.
        path: Template with `{placeholders}`.
        response: Type of the answer.
        summary: One line for people.
        request: Type of the JSON body, if there is one.
        body: Format of the body.
        auth: `signed`, or `none` for public endpoints.
        query: Members of the query.
        aliases: Further method and path pairs that historical clients use for the same thing.
        creates: Whether it creates an object; the client then sends an `Idempotency-Key`.
        status: Status of a success.
        protected: Whether a server may ask for a one-time code first (428).
        text_bytes: Largest body, where it is text.
        safe: Whether it changes nothing although its method is not a safe one (RFC 9110, 9.2.1).
        idempotent: Whether it may be repeated although its method is not idempotent (RFC 9110, 9.2.2).
    """

    name: str
    method: Method
    path: str
    response: type[WireModel]
    summary: str
    request: type[WireModel] | None = None
    body: Body = "none"
    auth: Auth = "signed"
    query: tuple[Query, ...] = ()
    aliases: tuple[tuple[Method, str], ...] = ()
    creates: bool = False
    status: int = 200
    protected: bool = False
    idempotent: bool = False
    safe: bool = False
    text_bytes: int = 0

    @property
    def repeatable(self) -> bool:
        """Whether it may be repeated."""
        return self.safe or self.idempotent

    @functools.cached_property
    def body_bytes(self) -> int | None:
        """Largest body; None where it holds code, scripts or files: the server's own limit is the bound."""
        if self.body == "text":
            return self.text_bytes
        return None if takes_data(self.request) else SMALL_BODY
