"""The click group of `un`. A subcommand is imported when it is called, or when the whole tree is read."""

from __future__ import annotations

import importlib

import click

from unsandbox._version import __version__
from unsandbox.cli.main import COMMANDS, help_text


class _LazyGroup(click.Group):
    """Imports a subcommand only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def get_help(self, ctx: click.Context) -> str:  # noqa: ARG002
        return help_text().rstrip("\n")


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="un")
def cli() -> None:
    """Run code safely in many languages, on this machine or on a server."""
