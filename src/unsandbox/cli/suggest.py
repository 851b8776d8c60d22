"""Completion of arguments: languages, shells, files, and ids of objects on the server."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click

    Suggest = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[Any]]"]

_TIMEOUT_S = 2.0
"""For the list of ids: who presses Tab does not wait longer."""
_LISTS = {
    "image": ("list_images", "images", ("image_id",), "name"),
    "jobs": ("list_jobs", "jobs", ("job_id",), "language"),
    "service": ("list_services", "services", ("name", "service_id"), "state"),
    "session": ("list_sessions", "sessions", ("session_id",), "shell"),
    "snapshot": ("list_snapshots", "snapshots", ("snapshot_id",), "name"),
}
"""For each kind of object: the client's method, the list in its answer, its names, its description."""


def languages(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Suggest names of languages."""
    from unsandbox.protocol.languages import NAMES

    return _beginning(incomplete, ((name, None) for name in NAMES))


def shells(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Suggest names of shells and of languages with a REPL."""
    if sys.platform != "linux":
        return []
    from unsandbox.sandbox.languages.shells import available_shells

    return _beginning(incomplete, ((name, None) for name in available_shells()))


def source(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Suggest files, unless the argument is code."""
    return [] if ctx.params.get("inline") else [CompletionItem(incomplete, type="file")]


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Suggest files."""
    return [CompletionItem(incomplete, type="file")]


def ids(kind: str) -> Suggest:
    """Return a function that suggests the ids of objects on the server; nothing without a server.

    Args:
        kind: `image`, `jobs`, `service`, `session` or `snapshot`.
    """

    def suggest(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        from unsandbox import RetryPolicy, UnsandboxError
        from unsandbox.cli.connection import is_embedded, open_client

        method, listed, names, about = _LISTS[kind]
        # With the embedded engine there is nothing yet, and starting it takes too long.
        with contextlib.suppress(UnsandboxError), ctx.scope(cleanup=False):
            if not is_embedded():
                with open_client(timeout=_TIMEOUT_S, retry=RetryPolicy(max_retries=0)) as client:
                    objects = getattr(getattr(client, method)(), listed)
                found = ((getattr(each, name), getattr(each, about)) for each in objects for name in names)
                return _beginning(incomplete, found)
        return []

    return suggest


def _beginning(incomplete: str, found: Iterable[tuple[str | None, Any]]) -> list[CompletionItem[Any]]:
    return [
        CompletionItem(value, help=about and str(about))
        for value, about in found
        if value and value.startswith(incomplete)
    ]
