"""The click group of `un`. A subcommand is imported when it is called, or when the whole tree is read."""

from __future__ import annotations

import importlib
import sys

import click

from unsandbox._version import __version__
from unsandbox.cli.main import COMMANDS, help_text
from unsandbox.errors import EngineError

_NEEDS_LINUX = frozenset({"audit", "backup", "doctor", "keys", "restore", "serve", "systemd"})
"""Commands of a server's operator."""
_ELSEWHERE = (
    "use a server on Linux: set UNSANDBOX_API_BASE or pass --api-base URL (on Windows, WSL 2 is a Linux)"
)


def load(name: str) -> click.Command:
    """Import a subcommand.

    Raises:
        EngineError: This system or installation lacks a requirement of the command.
    """
    module, attribute, _ = COMMANDS[name]
    if name in _NEEDS_LINUX and sys.platform != "linux":
        raise EngineError(f"`un {name}` needs Linux, and this is {_system()}; {_ELSEWHERE}")
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if name in _NEEDS_LINUX:
            raise EngineError(
                f"`un {name}` needs packages that are not installed ({error.name}); "
                "install them: pip install 'unsandbox[local]'"
            ) from error
        raise
    return command


def _system() -> str:
    return {"darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)


class _LazyGroup(click.Group):
    """Imports a subcommand only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            return load(cmd_name)
        except EngineError:
            if ctx.resilient_parsing:
                return None
            raise

    def get_help(self, ctx: click.Context) -> str:  # noqa: ARG002
        return help_text().rstrip("\n")


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="un")
def cli() -> None:
    """Run code safely in many languages, on this machine or on a server."""
