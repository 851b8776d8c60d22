"""Which program the `#!` line of a script asks for."""

from __future__ import annotations

import posixpath
import re
import shlex

_LONGEST_LINE = 1024
_MOST_STEPS = 8
_VERSION = re.compile(r"-?[0-9]+(\.[0-9]+)*\Z")
_ENV_WITH_VALUE = frozenset({"-u", "--unset", "-C", "--chdir", "-a", "--argv0"})
_RUNNERS = frozenset({"busybox", "toybox", "npx", "bunx", "pnpx", "uvx", "pipx", "sudo", "nohup"})
"""Programs whose first non-option word is the program that they run."""
_RUN_PYTHON = frozenset({"uv", "poetry", "pdm", "hatch", "rye", "pipenv", "conda", "pixi"})
"""Programs that run Python with `run` and any further words."""


def shebang_program(source: str) -> str | None:
    r"""Return the name of the program that the `#!` line asks for, lower case, or None without such a line.

    It is the last part of the path, after `env` and its options and after programs that only run another one
    (`uv run`, `npx`, `busybox`). A line of more than 1024 characters names none (Linux reads 256 bytes of it).

    Example:
        >>> shebang_program("#!/usr/bin/env -S FOO=1 python3.12 -u\n")
        'python3.12'
        >>> shebang_program("#!/usr/bin/env -S uv run --script\n"), shebang_program("print(1)")
        ('python', None)
    """
    start = source[: _LONGEST_LINE + 2].removeprefix("\ufeff")
    first_line, end, _ = start.partition("\n")
    if not first_line.startswith("#!") or (not end and len(start) > _LONGEST_LINE):
        return None
    words = first_line[2:].split()
    for _ in range(_MOST_STEPS):
        if not words:
            return None
        name = posixpath.basename(words[0]).lower()
        if name == "env":
            words = _after_env(words[1:])
        elif name in _RUN_PYTHON and "run" in words:
            return "python"
        elif name in _RUNNERS:
            words = [word for word in words[1:] if not word.startswith("-") and word != "run"]
        else:
            return name
    return None


def without_version(program: str) -> str:
    """Return the name of a program without the version at its end.

    Example:
        >>> without_version("python3.12"), without_version("lua-5.4")
        ('python', 'lua')
    """
    return _VERSION.sub("", program)


def _after_env(words: list[str]) -> list[str]:
    """Return the command that env(1) would run, without its options, their arguments and assignments."""
    while words:
        word = words[0]
        option, equals, value = word.partition("=")
        if option in ("--split-string", "--split"):
            words = [*_split(value if equals else ""), *words[1:]]
        elif word in _ENV_WITH_VALUE:
            words = words[2:]
        elif re.match(r"-[a-zA-Z0]*S", word):
            words = [*_split(word.partition("S")[2]), *words[1:]]
        elif word.startswith("-") or equals:
            words = words[1:]
        else:
            # `env -S "python3 -u"`: the kernel hands over the quotes.
            return [*_split(word), *words[1:]] if word[0] in "\"'" else words
    return words


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.strip("\"'").split()
