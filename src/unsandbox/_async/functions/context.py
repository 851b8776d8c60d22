"""The lookup of server and keys for the functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unsandbox._async.functions.caller import Caller

_base_url: list[Callable[[], str]] = [lambda: ""]


def tell_base_url(base_url: Callable[[], str]) -> None:
    """Set the function that returns the base URL; the public module, where users can assign it, calls this."""
    _base_url[0] = base_url


async def connect(
    public_key: str | None,
    secret_key: str | None,
    account: int | str | None,
    account_index: int | str | None,
) -> Caller:
    """Return a caller with the server and keys of one function call."""
    # Imported here, because the dependencies of a call would more than double the import time of `un_async`.
    from unsandbox._async.functions import caller

    return await caller.connect(_base_url[0](), public_key, secret_key, account, account_index)
