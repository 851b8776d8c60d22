"""The command `un`: runs a file, or a subcommand. What is not needed for it is not imported: help is quick."""

from __future__ import annotations

import os
import sys

# As `typing` has it, without its cost.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_ERROR = 1
EXIT_ARGUMENTS = 2
EXIT_AUTHENTICATION = 3
EXIT_API = 4
EXIT_TIMEOUT = 5
EXIT_INTERRUPTED = 130

RUN = "run"
COMMANDS = {
    "accounts": ("unsandbox.cli.accounts", "accounts", "List the accounts files and their rows."),
    "audit": ("unsandbox.cli.audit", "audit", "Check or show the audit log of a server."),
    "completion": ("unsandbox.cli.completion", "completion", "Print what completes `un` in your shell."),
    "doctor": ("unsandbox.cli.doctor", "doctor", "Tell what this machine can enforce and run."),
    "image": ("unsandbox.cli.image", "image", "Publish, share and spawn images."),
    "jobs": ("unsandbox.cli.jobs", "jobs", "List, read, wait for and cancel jobs."),
    "key": ("unsandbox.cli.accounts", "key", "Tell whether your key is valid, and its limits."),
    "keys": ("unsandbox.cli.keys", "keys", "Make, list, change and revoke the keys of a server."),
    "languages": ("unsandbox.cli.languages", "languages", "List languages, and bring toolchains here."),
    RUN: ("unsandbox.cli.run", "run", "Run a file; the word may be left out."),
    "serve": ("unsandbox.cli.serve", "serve", "Serve the API from this machine."),
    "service": ("unsandbox.cli.service", "service", "Long-running programs with a name."),
    "session": ("unsandbox.cli.session", "session", "Sandboxes with a terminal."),
    "snapshot": ("unsandbox.cli.snapshot", "snapshot", "Saved states of sessions and services."),
}

WITH_VALUE = frozenset(
    {
        *("-s", "--shell", "-e", "--env", "--env-file", "-f", "--file", "-F", "--file-path", "-o", "--output"),
        *("-p", "--public-key", "-k", "--secret-key", "--account", "--api-base", "--otp", "-n", "--network"),
        *("-v", "--vcpu", "-t", "--ttl", "--timeout", "--isolation", "--stdin"),
    }
)
"""Options that take the next word: tells a file's name from an option's value without importing more."""

_HELP = """\
Usage: un [OPTIONS] FILE | -s LANG CODE | - | COMMAND ...

  Run code in many languages, safely: on this machine or on a server.

    un script.py                   run a file; its language by extension or #! line
    un script.py -- one two        with arguments
    un -s bash 'echo hello'        inline code
    echo 'print(1)' | un -s python -
                                   standard input as code
    un --local script.py           on this machine, without account or network
    un session                     a terminal in a sandbox

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
{commands}

`un run --help` lists the options of a run; every command has a --help of its
own.
"""


def help_text() -> str:
    """Return what `un --help` prints."""
    commands = "\n".join(f"  {name:10}  {summary}" for name, (_, _, summary) in sorted(COMMANDS.items()))
    return _HELP.format(commands=commands)


def with_command(words: Sequence[str]) -> list[str]:
    """Return the words with the subcommand first: what names none is a run.

    Options that stand before a subcommand go behind it, where they mean the same.

    Example:
        >>> with_command(["-n", "zerotrust", "a.py"]), with_command(["--local", "session", "list"])
        (['run', '-n', 'zerotrust', 'a.py'], ['session', 'list', '--local'])
    """
    before: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--" or word == "-":
            return [RUN, *words]
        if not word.startswith("-"):
            # With inline code the first bare word is code, whatever it says.
            inline = any(option.startswith(("-s", "--shell")) for option in before)
            after = list(rest)
            return [word, *_behind(after, before)] if word in COMMANDS and not inline else [RUN, *words]
        before.append(word)
        if word in WITH_VALUE:
            before.extend(value for value in [next(rest, None)] if value is not None)
    alone = not words or any(word in words for word in ("-h", "--help", "--version"))
    return list(words) if alone else [RUN, *words]


def _behind(after: list[str], before: list[str]) -> list[str]:
    """Put options behind the words of a subcommand, but not among the arguments of a program."""
    at = after.index("--") if "--" in after else len(after)
    return [*after[:at], *before, *after[at:]]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 ok, 1 error, 2 wrong arguments, 3 authentication, 4 the API refused or could not be reached,
    5 a deadline passed; that of the program when it ran and failed.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words in ([], ["-h"], ["--help"]) and "_UN_COMPLETE" not in os.environ:
            # Without the library that reads command lines, which takes longer to import than all else together.
            stream = sys.stdout if words else sys.stderr
            stream.write(help_text())
            stream.flush()
            sys.exit(0 if words else EXIT_ARGUMENTS)
        _dispatch(words)
    except KeyboardInterrupt:
        sys.stderr.write("un: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not complain about that at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)


def _dispatch(words: Sequence[str]) -> None:
    import click

    from unsandbox.cli.group import cli

    try:
        # https://no-color.org: set to anything but nothing.
        color = False if os.environ.get("NO_COLOR") else None
        sys.exit(cli.main(args=with_command(words), prog_name="un", standalone_mode=False, color=color))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        click.echo(f"un: {error}", err=True)
        if hint := _hint(error):
            click.echo(f"    {hint}", err=True)
        sys.exit(code)


def _hint(error: Exception) -> str:
    """Return which command helps against an error, where there is one."""
    from unsandbox import errors

    code = getattr(error, "code", None) or ""
    if isinstance(error, errors.CredentialsError):
        return "un --local ... runs it on this machine, without an account"
    if isinstance(error, errors.AuthenticationError):
        return "un accounts tells which keys are used"
    if isinstance(error, errors.SudoRequiredError):
        return "give the one-time code with --otp"
    if isinstance(error, errors.ConnectionFailedError):
        return "un serve starts a server on this machine; --api-base URL names another"
    if code == "unknown_language":
        return "un languages lists what can run"
    kind = code.removesuffix("_not_found")
    listed = next((name for name in (kind, f"{kind}s") if name in COMMANDS), None) if kind != code else None
    return f"un {listed} list shows what there is" if listed else ""


def _exit_code(error: Exception) -> int | None:
    """Return the exit code for one of our errors, None for any other."""
    from unsandbox import errors

    by_class: tuple[tuple[type[Exception], int], ...] = (
        (errors.CredentialsError, EXIT_AUTHENTICATION),
        (errors.AuthenticationError, EXIT_AUTHENTICATION),
        (errors.SudoRequiredError, EXIT_AUTHENTICATION),
        (errors.InvalidRequestError, EXIT_ARGUMENTS),
        (errors.WaitTimeoutError, EXIT_TIMEOUT),
        (errors.APIError, EXIT_API),
        (errors.ConnectionFailedError, EXIT_API),
        (errors.InvalidResponseError, EXIT_API),
        (errors.UnsandboxError, EXIT_ERROR),
    )
    return next((code for kind, code in by_class if isinstance(error, kind)), None)
