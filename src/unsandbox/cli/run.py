"""`un FILE`, `un -s LANG CODE`, `un -`: run a program and forward its output and exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.options import (
    ENV_FILE_OPTION,
    ENV_OPTION,
    FILE,
    ISOLATION_OPTION,
    JSON_OPTION,
    NETWORK_OPTION,
    VCPU_OPTION,
)
from unsandbox.cli.output import exit_code_of, pass_through, print_json, save_artifacts
from unsandbox.cli.program_input import parse_env, piped_input, program

if TYPE_CHECKING:
    from unsandbox import Client, Job


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Words after -- are the arguments of the program.",
)
@click.argument("source", metavar="FILE|CODE|-", shell_complete=suggest.source)
@click.argument("arguments", nargs=-1, metavar="[-- ARGS...]", shell_complete=suggest.files)
@click.option(
    "-s",
    "--shell",
    "inline",
    metavar="LANG",
    shell_complete=suggest.languages,
    help="Language; the first argument is then the code itself.",
)
@click.option(
    "-l",
    "--lang",
    "language",
    metavar="LANG",
    shell_complete=suggest.languages,
    help="Language of FILE, whatever its name.",
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
    type=click.FloatRange(0, 900, min_open=True),
    metavar="S",
    help="Seconds the program may run, at most 900 (default 60); exit code 5 when exceeded.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds to wait for the result; then the job is cancelled, with exit code 5.",
)
@click.option(
    "-m", "--memory", "memory_mb", type=click.IntRange(min=16), metavar="MIB", help="Memory limit in MiB."
)
@click.option(
    "--compiler-arg",
    "compiler_args",
    multiple=True,
    metavar="ARG",
    help="Argument of the compiler (repeatable).",
)
@click.option(
    "--compile-timeout",
    type=click.FloatRange(0, 900, min_open=True),
    metavar="S",
    help="Seconds the compiler may run; --ttl then counts from the start of the program.",
)
@click.option(
    "--cpu-time",
    type=click.FloatRange(0, 900, min_open=True),
    metavar="S",
    help="Seconds of CPU time the program may use; exit code 5 when exceeded.",
)
@click.option(
    "--compile-output",
    is_flag=True,
    help="Print the compiler's output at the end, apart from the program's (with --json: as its own field).",
)
@click.option(
    "--lang-version", "version", metavar="V", help="Version of the language, where several are installed."
)
@click.option(
    "--env-name", metavar="NAME", help="Environment of packages; `un env list` lists those of this machine."
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
    inline: str | None,
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
    ttl: float | None,
    timeout: float | None,
    memory_mb: int | None,
    compiler_args: tuple[str, ...],
    compile_timeout: float | None,
    cpu_time: float | None,
    compile_output: bool,
    version: str | None,
    env_name: str | None,
    isolation: str | None,
    stdin_file: Any,
    exit_zero: bool,
    as_json: bool,
) -> None:
    """Run a program, forwarding its output and exit code.

    The extension or the #! line of FILE names its language, unless -l does. With -s LANG the argument is the
    code itself. A single - reads the code from standard input. A pipe or file on standard input is the
    program's.
    """
    if inline is not None and language is not None:
        raise click.UsageError("-s names the language of inline code and -l that of a file; give one of them")
    language, code = program(source, inline, language, guess)
    if stdin_file is not None and stdin_file.isatty():
        click.echo("un: type the program's standard input, and end it with Ctrl-D", err=True)
    stdin = stdin_file.read() if stdin_file is not None else b"" if source == "-" else piped_input()
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
        "memory_mb": memory_mb,
        "compiler_args": list(compiler_args) or None,
        "compile_timeout": compile_timeout,
        "cpu_time": cpu_time,
        "compile_output": compile_output,
        "version": version,
        "env_name": env_name,
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
    if job.compile_output and not as_json:
        click.echo(job.compile_output_bytes, err=True, nl=False)
    if job.output_cut and not as_json:
        click.echo("un: background processes that still held the output were killed", err=True)
    if job.signal and not as_json:
        click.echo(f"un: the program was killed by {job.signal}", err=True)
    if job.error and not as_json:
        click.echo(f"un: {job.error}", err=True)
    sys.exit(0 if exit_zero else exit_code_of(job))


def _execute(client: Client, language: str, code: str, quiet: bool, options: dict[str, Any]) -> Job:
    with client.stream(language, code, **options) as events:
        job = pass_through(events, client, quiet)
    for stream in () if quiet else ("stdout", "stderr", "compile_output"):
        if dropped := getattr(job, f"{stream}_dropped_bytes"):
            said = f"{stream.replace('_', ' ')} was cut at the limit; {dropped} bytes were dropped"
            click.echo(f"un: {said}", err=True)
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
