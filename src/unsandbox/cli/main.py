"""The command `un` and its subcommands; each is imported when it is used."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from unsandbox._version import __version__
from unsandbox.errors import CredentialsError, UnsandboxError

EXIT_ERROR = 1
EXIT_AUTHENTICATION = 3

_COMMANDS = {
    "audit": ("unsandbox.cli.audit", "audit", "Check or show the audit log of a server."),
    "doctor": ("unsandbox.cli.doctor", "doctor", "Tell what this machine can enforce and run."),
    "keys": ("unsandbox.cli.keys", "keys", "Make, list and revoke the keys of a server."),
    "serve": ("unsandbox.cli.serve", "serve", "Serve the API from this machine."),
}


class _LazyGroup(click.Group):
    """Imports a subcommand only when it is called: `un --help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in sorted(_COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="un")
def cli() -> None:
    """Run code in many languages, safely: on this machine or on a server."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; exit codes: 0 ok, 1 error, 2 wrong arguments, 3 authentication."""
    try:
        return cli.main(args=arguments, prog_name="un")
    except CredentialsError as error:
        click.echo(f"un: {error}", err=True)
        sys.exit(EXIT_AUTHENTICATION)
    except UnsandboxError as error:
        click.echo(f"un: {error}", err=True)
        sys.exit(EXIT_ERROR)
