"""The OpenAPI description of the API, built from the endpoint table and the types."""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

from unsandbox._version import __version__
from unsandbox.protocol import models
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.endpoints.jobs import ENDPOINTS, IDEMPOTENCY_HEADER

_SIGNED: list[dict[str, list[str]]] = [{"key": [], "timestamp": [], "signature": []}]
_ERRORS = {
    "400": "The request is invalid.",
    "401": "Unknown key, wrong signature, or a clock more than five minutes off.",
    "403": "This key may not do this.",
    "404": "No such object of this key.",
    "409": "Contradicts an earlier request.",
    "413": "Larger than this server takes.",
    "428": "The call needs a one-time code.",
    "429": "The key is at one of its limits; see `Retry-After`.",
    "501": "Only the hosted service does this.",
    "503": "The server is stopping; see `Retry-After`.",
    "507": "The disk is full, or the key stores as much as it may.",
}


@functools.cache
def openapi_document() -> bytes:
    """Return the document (OpenAPI 3.1.0) as JSON.

    Example:
        >>> b'"/execute"' in openapi_document()
        True
    """
    types: set[type[models.WireModel]] = {models.ErrorBody}
    for endpoint in ENDPOINTS:
        types |= {endpoint.response} | ({endpoint.request} if endpoint.request else set())
    ordered = sorted(types, key=lambda model: model.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        for number, (method, path) in enumerate(((endpoint.method, endpoint.path), *endpoint.aliases)):
            operation = _operation(endpoint, path, schema_of)
            if number:
                operation["operationId"] += f"_{number + 1}"
            paths.setdefault(path, {})[method.lower()] = operation
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "unsandbox",
                "version": __version__,
                "description": "Run code in many languages, safely, in one call.",
            },
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "key": {"type": "http", "scheme": "bearer", "description": "The public key."},
                    "timestamp": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "X-Timestamp",
                        "description": "Unix time in whole seconds, at most 300 s off.",
                    },
                    "signature": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "X-Signature",
                        "description": "Lower-case hex HMAC-SHA256, keyed with the secret key, of "
                        "`timestamp:METHOD:path:body`.",
                    },
                },
            },
        }
    )


def _operation(
    endpoint: Endpoint, path: str, schema_of: dict[type[models.WireModel], dict[str, Any]]
) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    parameters += [
        {
            "name": member.name,
            "in": "query",
            "required": False,
            "description": member.summary,
            "schema": {"type": member.type},
        }
        for member in endpoint.query
    ]
    if endpoint.creates:
        parameters.append(
            {
                "name": IDEMPOTENCY_HEADER,
                "in": "header",
                "required": False,
                "description": "The same key with the same request gives the same job.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        )
    error = {"content": {"application/json": {"schema": schema_of[models.ErrorBody]}}}
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "Done.",
                "content": {"application/json": {"schema": schema_of[endpoint.response]}},
            }
        }
        | {status: {"description": text, **error} for status, text in _ERRORS.items()},
        "security": _SIGNED if endpoint.auth == "signed" else [],
    }
    if endpoint.request is not None:
        content = {"application/json": {"schema": schema_of[endpoint.request]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif endpoint.body == "text":
        operation["requestBody"] = {
            "required": True,
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    return operation
