"""`un man`: the manual page, made from the commands themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator

import click

from unsandbox._version import __version__
from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import print_json

_EXIT_CODES = (
    ("0", "Success."),
    ("1", "A local error."),
    ("2", "Invalid arguments."),
    ("3", "No keys, wrong keys, or a one-time code is required."),
    ("4", "The API refused the request or could not be reached."),
    ("5", "A time limit passed."),
    ("130", "Ctrl-C; the job was cancelled."),
    ("other", "The exit code of a program that failed."),
)
_VARIABLES = (
    ("UNSANDBOX_API_BASE", 'URL of the server, or "local" for the embedded engine.'),
    ("UNSANDBOX_PUBLIC_KEY, UNSANDBOX_SECRET_KEY", "The keys."),
    ("UNSANDBOX_CA_FILE", "File or folder of trusted CAs."),
    ("NO_COLOR", "No colours when it is not empty."),
)
_FILES = (
    ("~/.unsandbox/accounts.csv", "Keys, one pair in a line: public key, secret key."),
    ("~/.local/share/unsandbox", "Data folder of `un serve`."),
)


@click.command()
@JSON_OPTION
def man(as_json: bool) -> None:
    """Show the manual page; in a pipe, print its source.

    To install it: un man > ~/.local/share/man/man1/un.1
    """
    from unsandbox.cli.reference import cli

    page = "\n".join(_page(cli)) + "\n"
    if as_json:
        print_json({"name": "un", "section": 1, "page": page})
    elif sys.stdout.isatty() and (viewer := shutil.which("man")):
        subprocess.run([viewer, "-l", "-"], input=page.encode(), check=False)
    else:
        click.echo(page, nl=False)


def _page(root: click.Group) -> Iterator[str]:
    yield f'.TH UN 1 "" "unsandbox {__version__}" "User Commands"'
    yield ".SH NAME"
    yield r"un \- run code safely in many languages"
    yield ".SH SYNOPSIS"
    yield ".nf"
    for line in ("[OPTIONS] FILE [-- ARGS...]", "-s LANG CODE", "-", "COMMAND ..."):
        yield rf".B un {_escaped(line)}"
    yield ".fi"
    yield ".SH DESCRIPTION"
    yield from _text(root.help or "")
    yield ".SH COMMANDS"
    yield from _commands(root, "un")
    for title, rows in (("EXIT STATUS", _EXIT_CODES), ("ENVIRONMENT", _VARIABLES), ("FILES", _FILES)):
        yield f".SH {title}"
        for name, text in rows:
            yield from _entry(name, text)


def _commands(group: click.Group, name: str) -> Iterator[str]:
    for word, command in sorted(group.commands.items()):
        yield f'.SS "{_escaped(f"{name} {word}")}"'
        ctx = click.Context(command, info_name=f"{name} {word}")
        yield f".B {_escaped(' '.join([f'{name} {word}', *command.collect_usage_pieces(ctx)]))}"
        yield ".PP"
        yield from _text(command.help or "")
        if command.epilog:
            yield ".PP"
            yield from _text(command.epilog)
        for parameter in command.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and "--help" not in parameter.opts:
                yield from _entry(*record)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name} {word}")


def _entry(name: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield rf"\fB{_escaped(name)}\fR"
    yield from _text(text)


def _text(text: str) -> Iterator[str]:
    r"""Yield paragraphs; those after `\b` keep their lines."""
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        lines = [line.strip() for line in paragraph.strip().splitlines()]
        kept = bool(lines) and lines[0] == "\b"
        if number:
            yield ".PP"
        if kept:
            yield ".nf"
        yield from map(_escaped, lines[kept:])
        if kept:
            yield ".fi"


def _escaped(text: str) -> str:
    """Return text without meaning to roff."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return rf"\&{text}" if text.startswith((".", "'")) else text
