"""Where the functions find their server and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unsandbox._async.functions.caller import Caller

_base_url: list[Callable[[], str]] = [lambda: ""]


def tell_base_url(base_url: Callable[[], str]) -> None:
    """Say what returns the base URL: the module that users see, where they may assign it."""
    _base_url[0] = base_url


async def connect(
    public_key: str | None,
    secret_key: str | None,
    account: int | str | None,
    account_index: int | str | None,
) -> Caller:
    """Return what makes the calls of one function."""
    # Imported here: what a call needs would more than double the time that importing this module takes.
    from unsandbox._async.functions import caller

    return await caller.connect(_base_url[0](), public_key, secret_key, account, account_index)
