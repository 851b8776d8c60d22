"""Subcommands that call one method of the client with an id."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import connection_options, one_time_code, open_client
from unsandbox.cli.options import JSON_OPTION, YES_OPTION
from unsandbox.cli.output import confirm, print_result, show, show_list


def add_list(
    group: click.Group,
    method: str,
    kind: str,
    columns: Sequence[str],
    summary: str,
    *choices: Callable[[Any], Any],
) -> None:
    """Add the subcommand `list`.

    Args:
        group: The group to extend.
        method: Name of the client's method.
        kind: Name of the list in the answer, a plural such as `jobs`.
        columns: The members to show.
        summary: Help text.
        choices: Further options and arguments, passed to the method by name.
    """

    def verb(as_json: bool, **chosen: Any) -> None:
        with open_client() as client:
            answer = getattr(client, method)(**chosen)
        show_list(getattr(answer, kind), as_json, columns, kind)

    decorate = (group.command("list", help=summary), *choices, JSON_OPTION, connection_options)
    for decorator in reversed(decorate):
        verb = decorator(verb)


def add_verb(group: click.Group, name: str, method: str, summary: str, done: str) -> None:
    """Add a subcommand that calls `method` with an id.

    Args:
        group: The group to extend.
        name: Name of the subcommand.
        method: Name of the client's method.
        summary: Help text.
        done: Printed before the id on success.
    """

    @group.command(name, help=summary)
    @click.argument("id_", metavar="ID", shell_complete=suggest.ids(str(group.name)))
    @JSON_OPTION
    @connection_options
    def verb(id_: str, as_json: bool) -> None:
        with open_client() as client:
            print_result(getattr(client, method)(id_), as_json, f"{done} {id_}")


def add_get(group: click.Group, method: str, what: str) -> None:
    """Add the subcommand `get`, which shows one object."""

    @group.command("get", help=f"Show one {what}.")
    @click.argument("id_", metavar="ID", shell_complete=suggest.ids(str(group.name)))
    @JSON_OPTION
    @connection_options
    def verb(id_: str, as_json: bool) -> None:
        with open_client() as client:
            show(getattr(client, method)(id_), as_json)


def add_protected(
    group: click.Group, name: str, method: str, summary: str, done: str, question: str | None = None
) -> None:
    """Add a subcommand that may need a one-time code; with a question it asks for confirmation first."""

    @group.command(name, help=summary)
    @click.argument(
        "ids", nargs=-1, required=True, metavar="ID...", shell_complete=suggest.ids(str(group.name))
    )
    @YES_OPTION
    @JSON_OPTION
    @connection_options
    def verb(ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
        if question is not None:
            confirm(yes, question)
        with open_client() as client:
            for id_ in ids:
                print_result(getattr(client, method)(id_, otp=one_time_code()), as_json, f"{done} {id_}")


def add_snapshot(group: click.Group, method: str, what: str) -> None:
    """Add the subcommand `snapshot`, which saves the state of one object and prints the snapshot's id."""

    @group.command("snapshot", help=f"Save the state of a {what} and print the snapshot's id.")
    @click.argument("id_", metavar="ID", shell_complete=suggest.ids(str(group.name)))
    @click.option("--name", help="Name of the snapshot.")
    @click.option("--hot", is_flag=True, help="Include memory and running processes.")
    @JSON_OPTION
    @connection_options
    def verb(id_: str, name: str | None, hot: bool, as_json: bool) -> None:
        with open_client() as client:
            saved = getattr(client, method)(id_, name=name, hot=hot or None)
        print_result(saved, as_json, str(saved.snapshot_id))


def add_run(group: click.Group, method: str, summary: str) -> None:
    """Add the subcommand `run`, which forwards the output and exit code of one command."""

    @group.command("run", help=f"{summary}, forwarding its output and exit code.")
    @click.argument("id_", metavar="ID", shell_complete=suggest.ids(str(group.name)))
    @click.argument("command")
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        default=30.0,
        show_default=True,
        help="Seconds until the command is stopped.",
    )
    @JSON_OPTION
    @connection_options
    def verb(id_: str, command: str, timeout: float, as_json: bool) -> None:
        with open_client() as client:
            result = getattr(client, method)(id_, command, timeout=timeout)
        if as_json:
            show(result, as_json)
        else:
            for stream, data in ((sys.stdout, result.stdout_bytes), (sys.stderr, result.stderr_bytes)):
                stream.buffer.write(data)
                stream.flush()
        sys.exit((result.exit_code or 0) & 0xFF)
