"""`un FILE`, `un -s LANG CODE`, `un -`: run a program and forward its output and exit code."""

from __future__ import annotations

import codecs
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.main import COMMANDS
from unsandbox.cli.options import (
    ENV_FILE_OPTION,
    ENV_OPTION,
    FILE,
    ISOLATION_OPTION,
    JSON_OPTION,
    NETWORK_OPTION,
    VCPU_OPTION,
)
from unsandbox.cli.output import exit_code_of, parse_env, pass_through, print_json, save_artifacts

if TYPE_CHECKING:
    from unsandbox import Client, Job


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Words after -- are the arguments of the program.",
)
@click.argument("source", metavar="FILE|CODE|-")
@click.argument("arguments", nargs=-1, metavar="[-- ARGS...]")
@click.option(
    "-s", "--shell", "language", metavar="LANG", help="Language; the first argument is then the code itself."
)
@click.option(
    "--guess",
    is_flag=True,
    help="Guess the language from the content when neither the file's extension nor a #! line names it.",
)
@ENV_OPTION
@ENV_FILE_OPTION
@click.option(
    "-f", "--file", "files", multiple=True, type=FILE, help="File to upload to /tmp/input (repeatable)."
)
@click.option(
    "-F",
    "--file-path",
    "paths",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="File or directory to upload to /tmp/input (repeatable).",
)
@click.option(
    "-a", "--artifacts", is_flag=True, help="Save the files that the program leaves in /tmp/artifacts."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the artifacts (default: the working folder); implies -a.",
)
@NETWORK_OPTION
@VCPU_OPTION
@click.option(
    "-t",
    "--ttl",
    type=click.IntRange(1, 900),
    metavar="S",
    help="Seconds the program may run, 1 to 900 (default 60); exit code 5 when exceeded.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds to wait for the result; then the job is cancelled, with exit code 5.",
)
@ISOLATION_OPTION
@click.option(
    "--stdin",
    "stdin_file",
    type=click.File("rb"),
    help="File to use as standard input; '-' forwards this command's standard input.",
)
@click.option("--exit-zero", is_flag=True, help="Exit with 0 even when the program fails.")
@JSON_OPTION
@connection_options
def run(
    source: str,
    arguments: tuple[str, ...],
    language: str | None,
    guess: bool,
    pairs: tuple[str, ...],
    env_file: Path | None,
    files: tuple[Path, ...],
    paths: tuple[Path, ...],
    artifacts: bool,
    output: Path | None,
    network: str | None,
    vcpu: int | None,
    ttl: int | None,
    timeout: float | None,
    isolation: str | None,
    stdin_file: Any,
    exit_zero: bool,
    as_json: bool,
) -> None:
    """Run a program, forwarding its output and exit code.

    The extension or the #! line of FILE names its language. With -s LANG the argument is the code itself. A
    single - reads the code from standard input.
    """
    language, code = _program(source, language, guess)
    stdin = None if stdin_file is None else stdin_file.read()
    options = {
        "env": parse_env(pairs, env_file) or None,
        "input_files": [*files, *paths] or None,
        "network_mode": network,
        "vcpu": vcpu,
        "ttl": ttl,
        "return_artifacts": artifacts or output is not None,
        "stdin": stdin,
        "args": list(arguments) or None,
        "isolation": isolation,
        "timeout": timeout,
    }
    with _ended_as_by_ctrl_c(), open_client() as client:
        job = _execute(
            client, language, code, as_json, {name: value for name, value in options.items() if value}
        )
    if as_json:
        from unsandbox.protocol.codec import to_wire

        print_json(to_wire(job))
    if artifacts or output is not None:
        save_artifacts(job.artifacts or (), output or Path())
        for skipped in job.artifacts_skipped or ():
            click.echo(f"un: artifact not returned: {skipped}", err=True)
    if job.output_cut and not as_json:
        click.echo("un: background processes that still held the output were killed", err=True)
    if job.error and not as_json:
        click.echo(f"un: {job.error}", err=True)
    sys.exit(0 if exit_zero else exit_code_of(job))


def _execute(client: Client, language: str, code: str, quiet: bool, options: dict[str, Any]) -> Job:
    with client.stream(language, code, **options) as events:
        job = pass_through(events, client, quiet)
    for stream in () if quiet else ("stdout", "stderr"):
        if dropped := getattr(job, f"{stream}_dropped_bytes"):
            click.echo(f"un: {stream} was cut at the limit; {dropped} bytes were dropped", err=True)
    return job


@contextlib.contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Cancel the job on SIGTERM and SIGHUP (a closed terminal) too, before this process ends."""
    before = []
    # Not under nohup, which ignores SIGHUP, and only in the main thread: Python allows no handlers elsewhere.
    with contextlib.suppress(ValueError):
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, lambda given, _: sys.exit(128 + given))
                before.append(number)
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)


def _program(source: str, language: str | None, guess: bool) -> tuple[str, str]:
    """Return the language and the code that the arguments name."""
    if source == "-":
        code = _text(sys.stdin.buffer.read())
        return language or _by_content(code, "standard input", guess), code
    if language is not None:
        return language, source
    path = Path(source)
    try:
        code = _text(path.read_bytes())
    except OSError as error:
        import difflib

        alike = difflib.get_close_matches(source, COMMANDS, 1)
        raise click.UsageError(
            f"cannot read {source!r}: {error.strerror}. "
            + (f"Did you mean `un {alike[0]}`?" if alike else "To run inline code: un -s LANG CODE")
        ) from error
    from unsandbox.protocol.languages import detect_language

    return detect_language(path.name) or _by_content(code, source, guess), code


def _text(data: bytes) -> str:
    """Return a program's text: UTF-8, or what its byte order mark says (PowerShell writes UTF-16)."""
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    for mark, encoding in marks.items():
        if data.startswith(mark):
            with contextlib.suppress(UnicodeDecodeError):
                return data.decode(encoding)
    return data.decode("utf-8", "surrogateescape")


def _by_content(code: str, what: str, guess: bool) -> str:
    from unsandbox.protocol.languages import detect_shebang

    language = detect_shebang(code)
    if language is None and guess:
        from unsandbox.protocol.guess import guess_language

        language = guess_language(code)
        if language is not None:
            click.echo(f"un: {what} looks like {language}", err=True)
    if language is None:
        raise click.UsageError(f"the language of {what} is unknown; name it: un -s LANG - < FILE")
    return language
