# Generated from src/unsandbox/_async/base.py by scripts/unasync.py; change that one.
"""What every part of the client stands on: one server, one pair of keys, and typed answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from unsandbox._compat.blocking import OneTimeCode
from unsandbox._shared.server import LOCAL
from unsandbox._sync.connection import ServerConnection
from unsandbox._sync.functions.context import LONG_S
from unsandbox._sync.operations import perform
from unsandbox.credentials import Credentials, resolve_credentials
from unsandbox.errors import UnsandboxError, WaitTimeoutError
from unsandbox.protocol import codec
from unsandbox.protocol.models import Job, WireModel

__all__ = ["LONG_S", "Connected", "type_partial", "typed"]

M = TypeVar("M", bound=WireModel)


class Connected:
    """A server, the keys to sign with, and the calls to it; the groups of methods inherit from this."""

    _link: ServerConnection
    _given: tuple[str | None, str | None, int | str | None]
    _keys: Credentials | None
    _otp: OneTimeCode | None

    def _signer(self) -> Credentials | None:
        if self._keys is None and self._link.base_url != LOCAL:
            public_key, secret_key, account = self._given
            self._keys = resolve_credentials(public_key, secret_key, account=account)
        return self._keys

    def _do(
        self,
        name: str,
        model: type[M],
        object_id: str | None = None,
        *,
        members: Mapping[str, Any] | None = None,
        text: bytes | None = None,
        query: Mapping[str, object] | None = None,
        timeout: float | None = None,
        otp: OneTimeCode | None = None,
    ) -> M:
        """Do one operation of the endpoint table; the arguments are those of `operations.perform`."""
        answer = perform(
            self._link,
            self._signer(),
            name,
            object_id,
            members=members,
            text=text,
            query=query,
            timeout=timeout,
            otp=self._otp if otp is None else otp,
        )
        return typed(answer, model)


def typed(answer: dict[str, Any], model: type[M]) -> M:
    """Return an answer as its type.

    Raises:
        InvalidResponseError: It does not fit.
    """
    return codec.response_from_wire(answer, model)


def type_partial(error: UnsandboxError) -> None:
    """Make of what a deadline left of a job its type."""
    if isinstance(error, WaitTimeoutError) and isinstance(error.partial, dict):
        error.partial = typed(error.partial, Job)
