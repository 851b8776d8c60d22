"""The command line with every subcommand in place, for what reads it as a whole: the documents."""

from __future__ import annotations

import importlib

import click

from unsandbox.cli.main import COMMANDS


def _commands() -> dict[str, click.Command]:
    return {
        name: getattr(importlib.import_module(module), attribute)
        for name, (module, attribute, _) in sorted(COMMANDS.items())
    }


cli = click.Group("un", _commands(), help="Run code in many languages, safely: on this machine or on a server.")
