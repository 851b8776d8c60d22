"""`un exec`, `cp`, `ls`, `watch`, `port`, `ps` and `kill`: processes and files of a session."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.options import ENV_OPTION, JSON_OPTION
from unsandbox.cli.output import print_json, print_result, show, show_list
from unsandbox.cli.program_input import parse_env
from unsandbox.errors import UnsandboxError

if TYPE_CHECKING:
    from unsandbox import LiveProcess, LiveSession

_SESSION = click.argument("session", metavar="SESSION", shell_complete=suggest.ids("session"))
_PROCESS_COLUMNS = ("process_id", "status", "exit_code", "reason", "wall_ms", "argv")
_FILE_COLUMNS = ("type", "mode", "size", "modified_at", "name")
_PORT_COLUMNS = ("port", "url", "public", "token")
_READ_BYTES = 1 << 16


@click.command("exec")
@_SESSION
@click.argument("program", metavar="-- PROGRAM [ARGUMENT]...", nargs=-1, required=True)
@click.option("-w", "--cwd", metavar="PATH", help="Working directory (default /work).")
@ENV_OPTION
@click.option("-t", "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Time limit.")
@click.option("-d", "--detach", is_flag=True, help="Start the program, print its id and leave it running.")
@JSON_OPTION
@connection_options
def exec_(
    session: str,
    program: tuple[str, ...],
    cwd: str | None,
    pairs: tuple[str, ...],
    timeout: float | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Run a program in a session, beside its shell.

    Its output is passed on while it is written. Standard input is the program's if it is a pipe or a file. This
    command exits with the program's exit code. Ctrl-C ends the program and all of its children.

    \b
      un exec SESSION -- ls -l
      un exec SESSION -- bash -c 'echo $HOME'
      echo hello | un exec SESSION -- cat
    """  # noqa: D301 - click reads this backslash
    variables = parse_env(pairs, None) or None
    with open_client() as client:
        live = client.attach_session(session)
        if detach:
            process = live.start(program, cwd=cwd, env=variables, stdin=b"", timeout=timeout, detach=True)
            print_result(process.info, as_json, process.id)
            return
        if as_json:
            stdin = None if _stdin_is_terminal() else sys.stdin.buffer
            result = live.exec(program, cwd=cwd, env=variables, stdin=stdin, timeout=timeout)
            show(result, as_json=True)
            sys.exit(result.exit_code or 0)
        stdin_open = None if not _stdin_is_terminal() else b""
        with live.start(program, cwd=cwd, env=variables, stdin=stdin_open, timeout=timeout) as process:
            if stdin_open is None:
                threading.Thread(target=_feed, args=(process,), daemon=True).start()
            for event in process:
                stream = sys.stdout if event.stream == "stdout" else sys.stderr
                stream.buffer.write(event.data)
                stream.buffer.flush()
            ended = process.wait()
        if ended.reason is not None:
            click.echo(f"un: the program was ended: {ended.reason}", err=True)
        sys.exit(ended.exit_code or 0)


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@JSON_OPTION
@connection_options
def cp(source: str, target: str, as_json: bool) -> None:
    """Copy files into a session or out of it. Directories are copied with their content.

    \b
      un cp data.csv SESSION:data.csv
      un cp SESSION:/work/results ./results
    """  # noqa: D301 - click reads this backslash
    (from_session, here), (to_session, there) = _place(source), _place(target)
    if (from_session is None) == (to_session is None):
        raise click.UsageError("one of the two must be in a session: SESSION:PATH")
    with open_client() as client:
        if from_session is not None:
            client.attach_session(from_session).files.download(here, there)
        elif to_session is not None:
            local = Path(here)
            if not local.exists():
                raise click.UsageError(f"{here} does not exist")
            _upload(client.attach_session(to_session), local, there)
    if as_json:
        print_json({"source": source, "target": target})


@click.command()
@click.argument("place", metavar="SESSION[:PATH]")
@click.option("-R", "--depth", type=click.IntRange(1, 1000), default=1, help="Levels to list (default 1).")
@JSON_OPTION
@connection_options
def ls(place: str, depth: int, as_json: bool) -> None:
    """List files of a session."""
    session, _, path = place.partition(":")
    with open_client() as client:
        entries = client.attach_session(session).files.list(path or ".", depth=depth)
    if as_json:
        show_list(entries, as_json, _FILE_COLUMNS, "files")
        return
    for entry in entries:
        mark = {"directory": "/", "symlink": "@"}.get(entry.type or "", "")
        if sys.stdout.isatty():
            click.echo(f"{entry.mode or 0:04o}  {entry.size or 0:>12,}  {entry.name}{mark}")
        else:
            click.echo(f"{entry.mode or 0:04o}\t{entry.size or 0}\t{entry.name}{mark}")


@click.command()
@click.argument("place", metavar="SESSION[:PATH]")
@click.option("-r", "--recursive", is_flag=True, help="Watch directories below it too.")
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="End after N changes.")
@JSON_OPTION
@connection_options
def watch(place: str, recursive: bool, count: int | None, as_json: bool) -> None:
    """Print changes of the files in a directory of a session as they happen: create, write, remove, rename."""
    session, _, path = place.partition(":")
    with (
        open_client() as client,
        client.attach_session(session).files.watch(path or ".", recursive=recursive) as changes,
    ):
        for event in itertools.islice(changes, count):
            if as_json:
                show(event, as_json=True)
            else:
                click.echo("\t".join(filter(None, (event.type, event.name, event.old_path))))
            sys.stdout.flush()


@click.command()
@_SESSION
@click.argument("number", metavar="[PORT]", type=click.IntRange(1, 65535), required=False)
@click.option("--public", is_flag=True, help="Let visitors in without a token.")
@click.option("-x", "--close", is_flag=True, help="Let visitors no longer reach the port.")
@JSON_OPTION
@connection_options
def port(session: str, number: int | None, public: bool, close: bool, as_json: bool) -> None:
    """Let visitors reach a port of a session, and print its address; without PORT, list these ports.

    A browser opens the address with the token once and keeps the token as a cookie.
    """
    with open_client() as client:
        ports = client.attach_session(session).ports
        if number is None:
            show_list(ports.list().ports, as_json, _PORT_COLUMNS, "ports")
        elif close:
            ports.close(number)
            if as_json:
                print_json({"port": number})
        else:
            exposed = ports.expose(number, public=public)
            print_result(exposed, as_json, exposed.url_with_token)


@click.command()
@_SESSION
@JSON_OPTION
@connection_options
def ps(session: str, as_json: bool) -> None:
    """List the processes that `un exec` and clients started in a session."""
    with open_client() as client:
        processes = client.attach_session(session).processes()
    show_list(processes, as_json, _PROCESS_COLUMNS, "processes")


@click.command()
@_SESSION
@click.argument("process", metavar="PROCESS")
@click.option("-s", "--signal", type=click.IntRange(0, 64), metavar="N", help="Send a signal instead.")
@JSON_OPTION
@connection_options
def kill(session: str, process: str, signal: int | None, as_json: bool) -> None:
    """End a process of a session with all of its children."""
    with open_client() as client:
        found = client.attach_session(session).attach_process(process)
        if signal is None:
            found.kill()
        else:
            found.send_signal(signal)
        if as_json:
            print_json({"process_id": found.id, "status": found.info.status, "exit_code": found.exit_code})


def _upload(session: LiveSession, source: Path, target: str) -> None:
    files = session.files
    if not source.is_dir() and (not target or target.endswith("/")):
        target = f"{target}{source.name}"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not source.is_dir() and files.stat(target).is_dir:
            target = f"{target.rstrip('/')}/{source.name}"
    files.upload(source, target or ".")


def _place(text: str) -> tuple[str | None, str]:
    """Split `SESSION:PATH`; a text without a session is a path here."""
    session, colon, path = text.partition(":")
    if colon and session and "/" not in session and not Path(text).exists():
        return session, path
    return None, text


def _feed(process: LiveProcess) -> None:
    """Pass standard input on until it ends or the program reads no more."""
    with contextlib.suppress(UnsandboxError, OSError, ValueError):
        # Not through `sys.stdin`, whose lock an interpreter that ends would wait for.
        while data := os.read(sys.stdin.fileno(), _READ_BYTES):
            process.write(data)
        process.close_stdin()


def _stdin_is_terminal() -> bool:
    return sys.stdin is None or sys.stdin.isatty()
