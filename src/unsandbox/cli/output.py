"""What commands print: JSON for scripts, a table on a terminal, plain columns in a pipe."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unsandbox.cli.main import EXIT_ERROR, EXIT_TIMEOUT
from unsandbox.cli.progress import StatusLine

if TYPE_CHECKING:
    from unsandbox import Client, Job, JobStream
    from unsandbox.protocol.models import Artifact, WireModel


def print_json(members: Mapping[str, Any]) -> None:
    """Print one object on a line of its own."""
    click.echo(json.dumps(members, ensure_ascii=False))


def show(model: WireModel, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Print one object: as JSON, or a line for each of its members.

    Args:
        model: The object.
        as_json: Whether as JSON.
        columns: The members to show, in this order; all of them when not given.
    """
    from unsandbox.protocol.codec import to_wire

    members = to_wire(model)
    if as_json:
        print_json(members)
        return
    twins = {twin for names in model.WRITE_ALIASES.values() for twin in names}
    shown = [name for name in (columns or members) if name in members and name not in twins]
    width = max((len(name) for name in shown), default=0)
    for name in shown:
        click.echo(f"{name:{width}}  {_cell(name, members[name])}")


def show_list(
    models: Sequence[WireModel], as_json: bool, columns: Sequence[str], kind: str, nothing: str = ""
) -> None:
    """Print a list: as JSON, as a table on a terminal, else a line each with tabs between the columns.

    Args:
        models: The objects.
        as_json: Whether as JSON.
        columns: The members to show.
        kind: What they are, in the plural, as the JSON names them.
        nothing: What to say on standard error when there are none.
    """
    from unsandbox.protocol.codec import to_wire

    rows = [to_wire(model) for model in models]
    if as_json:
        print_json({kind: rows, "count": len(rows)})
    elif not rows:
        click.echo(nothing or f"no {kind}", err=True)
    else:
        table([[_cell(name, row.get(name)) for name in columns] for row in rows], columns)


def table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """Print rows under their column names on a terminal; in a pipe without names, tabs between the cells."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="" if os.environ.get("NO_COLOR") else "bold")
    for name in columns:
        # What is copied into the next command stays in one piece.
        drawn.add_column(name, overflow="fold", no_wrap=name.endswith("_id"))
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def said(model: WireModel, as_json: bool, text: str, end: str = "\n") -> None:
    """Print what was done: the server's answer as JSON, or a sentence."""
    if as_json:
        show(model, as_json)
    else:
        click.echo(text + end, nl=False)


def confirm(yes: bool, question: str) -> None:
    """Ask before something is lost; without a terminal `--yes` is needed.

    Raises:
        click.UsageError: Nobody can be asked.
        click.ClickException: The answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here: say --yes.")
    if not click.confirm(question, err=True):
        raise click.ClickException("nothing was done")


def parse_env(pairs: Sequence[str], env_file: Path | None) -> dict[str, str]:
    """Return variables from `K=V` words and a file of such lines; words win over the file.

    Raises:
        click.BadParameter: A word or line has no `=` or no name, or the file is not UTF-8 text.
    """
    found: dict[str, str] = {}
    try:
        lines = env_file.read_text("utf-8").splitlines() if env_file else []
    except UnicodeDecodeError:
        raise click.BadParameter(f"{env_file} is not UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            if not (equals and name.strip()):
                raise click.BadParameter(f"line {number} of {env_file} is not NAME=VALUE")
            found[name.strip()] = value
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name):
            raise click.BadParameter("--env takes NAME=VALUE")
        found[name] = value
    return found


def pass_through(events: JobStream, client: Client, quiet: bool = False) -> Job:
    """Write a program's output to ours as it comes, byte for byte; return the job at its end.

    Args:
        events: The job's events.
        client: What asks for the job's state, for the line that a terminal shows until output comes.
        quiet: Whether to write no output.
    """
    from unsandbox import InvalidResponseError, OutputEvent

    with StatusLine(_phases(events, client)) as status:
        for event in events:
            if not isinstance(event, OutputEvent):
                return event.job
            if not quiet:
                status.end()
                stream = sys.stdout if event.stream == "stdout" else sys.stderr
                stream.buffer.write(event.data)
                stream.buffer.flush()
    raise InvalidResponseError("the stream of the job ended without its result")


def _phases(events: JobStream, client: Client) -> Callable[[], str]:
    """Return what tells whether a job runs yet; the server is asked until it does."""
    from unsandbox import UnsandboxError

    phase = "starting"

    def look() -> str:
        nonlocal phase
        if events.job_id is not None and phase != "running":
            with contextlib.suppress(UnsandboxError):
                phase = "waiting" if client.get_job(events.job_id).status == "pending" else "running"
        return phase

    return look


def exit_code_of(job: Job) -> int:
    """Return what a command that was a program exits with."""
    if job.status == "timeout":
        return EXIT_TIMEOUT
    if job.exit_code is not None:
        return job.exit_code & 0xFF
    return EXIT_ERROR if job.error or job.status not in {None, "completed"} else 0


def save_artifacts(artifacts: Sequence[Artifact], folder: Path) -> None:
    """Write artifacts into a folder, each under its name; what exists is overwritten. Says where."""
    for artifact in artifacts:
        click.echo(f"wrote {artifact.save(folder)}", err=True)


def _cell(name: str, value: Any) -> str:
    """Return a value as people read it; a time is one of the calendar on a terminal only."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(_cell(name, each) for each in value)
    if name.endswith("_at") and sys.stdout.isatty() and str(value).isdecimal():
        return dt.datetime.fromtimestamp(int(value), dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)
