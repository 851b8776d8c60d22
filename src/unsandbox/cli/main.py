"""The command `un`: runs a file or a subcommand. Modules load only when needed, which keeps help fast."""

from __future__ import annotations

import contextlib
import os
import sys

from unsandbox._compat.descriptors import open_standard_descriptors

# Importing `typing` for this constant would slow down `un --help`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_ERROR = 1
EXIT_ARGUMENTS = 2
EXIT_AUTHENTICATION = 3
EXIT_API = 4
EXIT_TIMEOUT = 5
EXIT_INTERRUPTED = 130

COMPLETE = "_UN_COMPLETE"
"""The variable by which a shell's completion script asks for completions."""
RUN = "run"
COMMANDS = {
    "accounts": ("unsandbox.cli.accounts", "accounts", "List the accounts files and their rows."),
    "audit": ("unsandbox.cli.audit", "audit", "Check or show the audit log of a server."),
    "backup": ("unsandbox.cli.backup", "backup", "Copy the data folder of a server."),
    "completion": ("unsandbox.cli.completion", "completion", "Print a completion script for your shell."),
    "cp": ("unsandbox.cli.workspace", "cp", "Copy files into a session or out of it."),
    "doctor": ("unsandbox.cli.doctor", "doctor", "Check what this machine can isolate and run."),
    "e2b": ("unsandbox.cli.e2b", "e2b", "Print the variables for the clients of E2B."),
    "env": ("unsandbox.cli.env", "env", "Build sets of packages for sandboxes."),
    "exec": ("unsandbox.cli.workspace", "exec_", "Run a program in a session."),
    "fork": ("unsandbox.cli.copies", "fork", "Create copies of a session."),
    "image": ("unsandbox.cli.image", "image", "Publish, share and start images."),
    "jobs": ("unsandbox.cli.jobs", "jobs", "List, read, wait for and cancel jobs."),
    "key": ("unsandbox.cli.accounts", "key", "Show whether your key is valid, and its limits."),
    "keys": ("unsandbox.cli.keys", "keys", "Create, list, change and revoke keys of a server."),
    "kill": ("unsandbox.cli.workspace", "kill", "End a process of a session."),
    "languages": ("unsandbox.cli.languages", "languages", "List languages; install toolchains."),
    "man": ("unsandbox.cli.man", "man", "Show the manual page."),
    "mcp": ("unsandbox.cli.mcp", "mcp", "Serve tools for models (Model Context Protocol)."),
    "restore": ("unsandbox.cli.backup", "restore", "Make a data folder from a backup."),
    "ls": ("unsandbox.cli.workspace", "ls", "List files of a session."),
    "port": ("unsandbox.cli.workspace", "port", "Let visitors reach a port of a session."),
    "ps": ("unsandbox.cli.workspace", "ps", "List the processes of a session."),
    RUN: ("unsandbox.cli.run", "run", "Run a program (the word `run` is optional)."),
    "serve": ("unsandbox.cli.serve", "serve", "Start a server on this machine."),
    "service": ("unsandbox.cli.service", "service", "Manage services: named, long-running programs."),
    "session": ("unsandbox.cli.session", "session", "Open terminals in sandboxes; manage sessions."),
    "snapshot": ("unsandbox.cli.snapshot", "snapshot", "Manage snapshots of sessions and services."),
    "systemd": ("unsandbox.cli.systemd", "systemd", "Print a systemd unit for a server."),
    "top": ("unsandbox.cli.copies", "top", "Show what a session uses."),
    "watch": ("unsandbox.cli.workspace", "watch", "Print changes of files in a session."),
}

WITH_VALUE = frozenset(
    {
        *("-s", "--shell", "-l", "--lang", "--lang-version", "-e", "--env", "--env-file", "-f", "--file"),
        *("-F", "--file-path", "-o", "--output", "-m", "--memory", "-n", "--network", "-v", "--vcpu"),
        *("-t", "--ttl", "--timeout", "--compile-timeout", "--cpu-time", "--compiler-arg", "--isolation"),
        *("--stdin", "-p", "--public-key", "-k", "--secret-key", "--account", "--api-base", "--ca-file"),
        *("--otp", "--env-name"),
    }
)
"""Options of `un run` that take a value, to distinguish an option's value from the name of a file."""

_HELP = """\
Usage: un [OPTIONS] FILE | -s LANG CODE | - | COMMAND ...

  Run code safely in many languages, on this machine or on a server.

    un script.py                   run a file; extension or #! line name its language
    un script.py -- one two        pass arguments
    un -s bash 'echo hello'        run inline code
    echo 'print(1)' | un -s python -
                                   run code from standard input
    un --local script.py           run on this machine; no account or network needed
    un session                     open a terminal in a sandbox

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
{commands}

`un run --help` lists the options for running a program. Every command has its
own --help.
"""


def help_text() -> str:
    """Return the text of `un --help`."""
    commands = "\n".join(f"  {name:10}  {summary}" for name, (_, _, summary) in sorted(COMMANDS.items()))
    return _HELP.format(commands=commands)


def with_command(words: Sequence[str]) -> list[str]:
    """Return the words with the subcommand first; words that name no subcommand are a run.

    Options before a subcommand are moved behind it, where they mean the same.

    Example:
        >>> with_command(["-n", "zerotrust", "a.py"]), with_command(["--local", "session", "list"])
        (['run', '-n', 'zerotrust', 'a.py'], ['session', 'list', '--local'])
    """
    if words and words[0] in ("version", "-V"):
        return ["--version"]
    if words and words[0] == "help":
        return [*words[1:], "--help"]
    before: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--" or word == "-":
            return [RUN, *words]
        if not word.startswith("-"):
            # With inline code, the first bare word is always code.
            inline = any(option.startswith(("-s", "--shell")) for option in before)
            after = list(rest)
            return [word, *_behind(after, before)] if word in COMMANDS and not inline else [RUN, *words]
        before.append(word)
        if word in WITH_VALUE:
            before.extend(value for value in [next(rest, None)] if value is not None)
    alone = not words or any(word in words for word in ("-h", "--help", "--version"))
    return list(words) if alone else [RUN, *words]


def _behind(after: list[str], before: list[str]) -> list[str]:
    """Append options to the words of a subcommand, before the arguments of a program."""
    at = after.index("--") if "--" in after else len(after)
    return [*after[:at], *before, *after[at:]]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 success, 1 local error, 2 invalid arguments, 3 authentication, 4 API error or no connection,
    5 time limit; the program's own exit code when the program failed.
    """
    words = sys.argv[1:] if arguments is None else arguments
    open_standard_descriptors()
    try:
        if words in ([], ["-h"], ["--help"]) and COMPLETE not in os.environ:
            # Without click, which takes longer to import than everything else together.
            stream = sys.stdout if words else sys.stderr
            stream.write(help_text())
            stream.flush()
            sys.exit(0 if words else EXIT_ARGUMENTS)
        try:
            _dispatch(words)
        finally:
            # Here, where an error is one line, and not when the interpreter ends.
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("un: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader closed the pipe. Without this the interpreter reports the error again when it exits.
        _forget_output()
        sys.exit(EXIT_ERROR)
    except OSError as error:
        # A full disk, no more processes or descriptors: nothing that a traceback would help with.
        _forget_output()
        place = "" if error.filename is None else f"{error.filename}: "
        sys.stderr.write(f"un: {place}{error.strerror or error}\n")
        sys.exit(EXIT_ERROR)
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        sys.stderr.write("un: the system allows no more threads (ulimit -u)\n")
        sys.exit(EXIT_ERROR)


def _forget_output() -> None:
    """Prevent the interpreter from writing the pending output again at its exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(words: Sequence[str]) -> None:
    import click

    from unsandbox.cli.group import cli

    if COMPLETE in os.environ:
        from unsandbox.cli.completion import register

        register()
    try:
        # https://no-color.org: any non-empty value turns colours off.
        color = False if os.environ.get("NO_COLOR") else None
        words = list(words) if COMPLETE in os.environ else with_command(words)
        sys.exit(cli.main(args=words, prog_name="un", standalone_mode=False, color=color))
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
    """Return a command that helps with an error; an empty string if there is none."""
    from unsandbox import errors

    code = getattr(error, "code", None) or ""
    if isinstance(error, errors.CredentialsError):
        return "without an account, `un --local ...` runs programs on this machine"
    if isinstance(error, errors.AuthenticationError):
        return "`un accounts` shows which keys are used"
    if isinstance(error, errors.SudoRequiredError):
        return "pass the one-time code with --otp"
    if isinstance(error, errors.ConnectionFailedError):
        return "`un serve` starts a server on this machine; --api-base URL selects another one"
    if code == "unknown_language":
        return "`un languages` lists the available languages"
    kind = code.removesuffix("_not_found")
    listed = next((name for name in (kind, f"{kind}s") if name in COMMANDS), None) if kind != code else None
    return f"`un {listed} list` lists existing ones" if listed else ""


def _exit_code(error: Exception) -> int | None:
    """Return the exit code for an `UnsandboxError`; None for any other error."""
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
