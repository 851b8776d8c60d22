"""Options that select the server and the keys, and the client built from them."""

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
    """Add `-p -k --account --api-base --ca-file --local --otp` to a command; `open_client` reads them."""
    options = (
        click.option(
            "-p", "--public-key", metavar="KEY", help="Public key.", expose_value=False, callback=_keep
        ),
        click.option(
            "-k",
            "--secret-key",
            metavar="KEY",
            help="Secret key. Other users can see arguments; prefer UNSANDBOX_SECRET_KEY.",
            expose_value=False,
            callback=_keep,
        ),
        click.option(
            "--account",
            metavar="N",
            help="Row of the accounts file, from 0.",
            expose_value=False,
            callback=_keep,
        ),
        click.option(
            "--api-base", metavar="URL", help="URL of the server.", expose_value=False, callback=_keep
        ),
        click.option(
            "--ca-file",
            type=click.Path(exists=True),
            metavar="PATH",
            help="File or folder of trusted CAs in PEM format, for a server with a private CA.",
            expose_value=False,
            callback=_keep,
        ),
        click.option(
            "--local",
            is_flag=True,
            help="Use the embedded engine: no account or network needed.",
            expose_value=False,
            callback=_keep,
        ),
        click.option(
            "--otp",
            metavar="CODE",
            help="One-time code, if the server requires one.",
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
    """Return whether options or environment name a server rather than the embedded engine."""
    return _base() not in ("", "local")


def is_embedded() -> bool:
    """Return whether options or environment select the embedded engine."""
    return _base() == "local"


def warn_of_the_end(what: str) -> None:
    """Warn that an object on the embedded engine ends with this command."""
    if is_embedded():
        click.echo(
            f"un: with --local the {what} ends when this command ends; use a server (`un serve`) to keep it",
            err=True,
        )


def _base() -> str:
    given = click.get_current_context().meta.get(_KEY, {})
    if given.get("local"):
        return "local"
    base = str(given.get("api_base") or os.environ.get("UNSANDBOX_API_BASE", "")).strip()
    return "local" if base.lower() == "local" else base


def open_client(**options: Any) -> Client:
    """Return the client that the options of the running command select.

    Args:
        options: Further arguments of `Client`.
    """
    from unsandbox import Client

    return _make(Client, options)


def open_async_client(**options: Any) -> AsyncClient:
    """Return the same client for asyncio."""
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
        ca_file=given.get("ca_file"),
        **options,
    )


def one_time_code() -> Any:
    """Return the client's `otp` argument: the code from the command line, or a prompt on a terminal."""
    given = click.get_current_context().meta.get(_KEY, {}).get("otp")
    if given or not sys.stdin.isatty():
        return given
    return lambda _challenge: click.prompt("One-time code", err=True)
