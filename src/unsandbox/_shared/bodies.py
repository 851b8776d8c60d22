"""Request bodies of sessions, services, snapshots and images, validated by the types of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unsandbox._shared.files import encode_files
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol import codec
from unsandbox.protocol.contents import Pieces
from unsandbox.protocol.endpoints.endpoint import Endpoint
from unsandbox.protocol.services import VAULT_BYTES, vault_from_body, vault_to_text


def encode_members(endpoint: Endpoint, members: Mapping[str, Any]) -> bytes | Pieces:
    """Return the JSON body of a request. Members that are None are omitted, so the server's defaults apply.

    Small files in `input_files` are read here, large ones when they are sent.

    Raises:
        InvalidRequestError: A member is missing or invalid. The message names it, without its value.
    """
    given = {name: value for name, value in members.items() if value is not None}
    files = encode_files(found) if (found := given.pop("input_files", None)) else []
    if endpoint.request is not None:
        try:
            codec.from_wire(given, endpoint.request)
        except ValueError as error:
            raise InvalidRequestError(f"{endpoint.name}: {error}") from None
    if files:
        given["input_files"] = files
    return codec.encode_request(given) if given else b""


def bootstrap_members(bootstrap: str | None) -> dict[str, str]:
    """Return the members of a bootstrap as in the historical SDK: a URL, or any other text as a script.

    Example:
        >>> bootstrap_members("echo hello")
        {'bootstrap_content': 'echo hello'}
    """
    if not bootstrap:
        return {}
    is_url = bootstrap.startswith(("http://", "https://"))
    return {"bootstrap" if is_url else "bootstrap_content": bootstrap}


def encode_vault(env: Mapping[str, str] | str | bytes) -> bytes:
    r"""Return a vault as the lines that are sent.

    Args:
        env: Names and values, or lines `NAME=value` as an env file holds them.

    Raises:
        InvalidRequestError: It cannot be a vault; the message shows no value.

    Example:
        >>> encode_vault({"A": "1", "B": "x=y"})
        b'A=1\nB=x=y\n'
    """
    if isinstance(env, Mapping):
        if not all(isinstance(part, str) for pair in env.items() for part in pair):
            raise InvalidRequestError("names and values of a vault must be strings")
        if any("\n" in value or "\r" in value for value in env.values()):
            raise InvalidRequestError(
                "a value of the vault contains a line break; encode it, for example as base64"
            )
        env = vault_to_text(dict(env))
    try:
        body = env.encode() if isinstance(env, str) else bytes(env)
        vault_from_body(body)
    except UnicodeError:
        raise InvalidRequestError("the vault is not valid UTF-8") from None
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"invalid vault: {error}") from None
    if len(body) > VAULT_BYTES:
        raise InvalidRequestError(f"the vault is larger than {VAULT_BYTES >> 10} KiB")
    return body
