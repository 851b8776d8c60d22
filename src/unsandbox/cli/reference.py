"""The command line with every subcommand loaded, for the reference pages of the documentation."""

from __future__ import annotations

import importlib

import click

from unsandbox.cli.main import COMMANDS


def _commands() -> dict[str, click.Command]:
    return {
        name: getattr(importlib.import_module(module), attribute)
        for name, (module, attribute, _) in sorted(COMMANDS.items())
    }


cli = click.Group("un", _commands(), help="Run code safely in many languages, on this machine or on a server.")
