"""The input of `un run`: the program's code, its standard input and its environment."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import shlex
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from unsandbox.cli.main import COMMANDS

INPUT_WAIT_S = 2.0
"""Seconds that a pipe may stay silent before the program runs without standard input."""
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def program(source: str, inline: str | None, language: str | None, guess: bool) -> tuple[str, str]:
    """Return the language and the code that the arguments name.

    Args:
        source: A file, code, or `-` for standard input.
        inline: The language, where `source` is code.
        language: The language, where `source` is a file.
        guess: Whether to guess the language from the content.

    Raises:
        click.UsageError: The file cannot be read, or its language is not known.
    """
    if source == "-":
        code = text(sys.stdin.buffer.read())
        return inline or language or _by_content(code, "standard input", guess, "un -l LANG -"), code
    if inline is not None:
        with contextlib.suppress(OSError, ValueError):
            if Path(source).is_file():
                from unsandbox.protocol.languages import detect_language

                named = "" if detect_language(source) else f"-l {shlex.quote(inline)} "
                run = f"un {named}{shlex.quote(source)}"
                click.echo(
                    f"un: {source} is run as code; to run the file of this name: {run}",
                    err=True,
                )
        return inline, source
    path = Path(source)
    try:
        code = text(path.read_bytes())
    except (OSError, ValueError) as error:
        import difflib

        alike = difflib.get_close_matches(source, [*COMMANDS, "help", "run", "version"], 1)
        raise click.UsageError(
            f"cannot read {source!r}: {getattr(error, 'strerror', None) or error}. "
            + (f"Did you mean `un {alike[0]}`?" if alike else "To run inline code: un -s LANG CODE")
        ) from error
    from unsandbox.protocol.languages import detect_language

    known = language or detect_language(path.name)
    return known or _by_content(code, source, guess, f"un -l LANG {shlex.quote(source)}"), code


def text(data: bytes) -> str:
    """Return a program's text: UTF-8, or what its byte order mark says (PowerShell writes UTF-16)."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            with contextlib.suppress(UnicodeDecodeError):
                return data.decode(encoding)
    return data.decode("utf-8", "surrogateescape")


def _by_content(code: str, what: str, guess: bool, how: str) -> str:
    from unsandbox.protocol.languages import detect_shebang

    if (named := detect_shebang(code)) is not None:
        return named
    from unsandbox.protocol.guess import guess_language

    likely = guess_language(code)
    if likely is None:
        raise click.UsageError(f"the language of {what} is unknown; name it: {how} (`un languages` lists them)")
    if not guess:
        how = how.replace("LANG", likely)
        raise click.UsageError(f"the language of {what} is unknown; it looks like {likely}: {how}")
    click.echo(f"un: {what} looks like {likely}", err=True)
    return likely


def piped_input() -> bytes:
    """Return the content of a pipe or file on standard input; nothing if it is a terminal.

    A pipe that stays silent for two seconds without being closed is ignored: the program that holds it open may
    never write to it.
    """
    try:
        fd = sys.stdin.fileno()
        mode = os.fstat(fd).st_mode
    except (AttributeError, OSError, ValueError):
        # Closed, or not a file at all.
        return b""
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return b""
    if not stat.S_ISREG(mode) and not select.select([fd], [], [], INPUT_WAIT_S)[0]:
        click.echo(
            f"un: no data on standard input for {INPUT_WAIT_S:g} s; running without it (--stdin - waits)",
            err=True,
        )
        return b""
    return sys.stdin.buffer.read()


def parse_env(pairs: Sequence[str], env_file: Path | None) -> dict[str, str]:
    """Return variables from `K=V` words and from a file of such lines; words override the file.

    A line of the file may begin with `export`. Quotes around a value are taken away, `#` after a blank begins a
    comment, and nothing is expanded.

    Raises:
        click.BadParameter: A word or line has no `=` or no name, or the file is not UTF-8 text.
    """
    found: dict[str, str] = {}
    try:
        lines = env_file.read_text("utf-8-sig").splitlines() if env_file else []
    except UnicodeDecodeError:
        raise click.BadParameter(f"{env_file} is not UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            if not (equals and name.strip()):
                raise click.BadParameter(f"line {number} of {env_file} is not NAME=VALUE")
            found[name.strip()] = _unquoted(value.strip())
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name):
            raise click.BadParameter("--env takes NAME=VALUE")
        found[name] = value
    return found


def _unquoted(value: str) -> str:
    """Return a value of an env file without its quotes or comment."""
    if value[:1] in {"'", '"'}:
        with contextlib.suppress(ValueError):
            words = shlex.split(value, comments=True)
            if len(words) == 1:
                return words[0]
        return value
    return value.partition(" #")[0].rstrip() if not value.startswith("#") else ""
