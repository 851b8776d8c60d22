"""Options that say where a command goes and with which keys, and the client that they make."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from unsandbox import AsyncClient, Client

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", "AsyncClient", "Client")

_KEY = "unsandbox.connection"


def connection_options(command: F) -> F:
    """Add `-p -k --account --api-base --local --otp` to a command; `open_client` reads them."""
    options = (
        click.option(
            "-p", "--public-key", metavar="KEY", help="Public key.", expose_value=False, callback=_keep
        ),
        click.option(
            "-k",
            "--secret-key",
            metavar="KEY",
            help="Secret key; others on this machine can see it: UNSANDBOX_SECRET_KEY hides it.",
            expose_value=False,
            callback=_keep,
        ),
        click.option(
            "--account", metavar="N", help="Row of the accounts file.", expose_value=False, callback=_keep
        ),
        click.option("--api-base", metavar="URL", help="Server to use.", expose_value=False, callback=_keep),
        click.option(
            "--local",
            is_flag=True,
            help="On this machine, in this process: no account, no network.",
            expose_value=False,
            callback=_keep,
        ),
        click.option(
            "--otp",
            metavar="CODE",
            help="One-time code, where the server asks for one.",
            expose_value=False,
            callback=_keep,
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    ctx.meta.setdefault(_KEY, {})[param.name] = value
    return value


def asks_for_server() -> bool:
    """Whether options or environment name a server, other than the engine of this process."""
    return _base() not in ("", "local")


def warn_of_the_end(what: str) -> None:
    """Say so when what was made ends with this command, as the engine of this process does."""
    if _base() == "local":
        click.echo(f"un: this {what} ends with this command; on a server it stays: un serve", err=True)


def _base() -> str:
    given = click.get_current_context().meta.get(_KEY, {})
    if given.get("local"):
        return "local"
    return given.get("api_base") or os.environ.get("UNSANDBOX_API_BASE", "")


def open_client(**options: Any) -> Client:
    """Return the client that the options of the running command ask for.

    Args:
        options: Further arguments of `Client`.
    """
    from unsandbox import Client

    return _make(Client, options)


def open_async_client(**options: Any) -> AsyncClient:
    """Return the same for asyncio."""
    from unsandbox import AsyncClient

    return _make(AsyncClient, options)


def _make(kind: type[C], options: dict[str, Any]) -> C:
    given = click.get_current_context().meta.get(_KEY, {})
    if given.get("local"):
        return kind.local(**options)
    return kind(
        given.get("public_key"),
        given.get("secret_key"),
        account=given.get("account"),
        base_url=given.get("api_base"),
        **options,
    )


def one_time_code() -> Any:
    """Return what clients take as `otp`: the code of the command line, or a question on a terminal."""
    given = click.get_current_context().meta.get(_KEY, {}).get("otp")
    if given or not sys.stdin.isatty():
        return given
    return lambda _challenge: click.prompt("One-time code", err=True)
