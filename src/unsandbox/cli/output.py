"""Output of commands: JSON for scripts, tables on a terminal, tab-separated columns in a pipe."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unsandbox.cli.main import EXIT_ERROR, EXIT_TIMEOUT
from unsandbox.cli.progress import StatusLine

if TYPE_CHECKING:
    from unsandbox import Client, Job, JobStream
    from unsandbox.protocol.models import Artifact, WireModel

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STATES = {
    "green": {"active", "completed", "ready", "running", "valid"},
    "yellow": {"cancelled", "creating", "frozen", "pending", "starting", "stopped"},
    "red": {"crashed", "expired", "failed", "revoked", "timeout"},
}
"""Colours of states in tables."""


def print_json(members: Mapping[str, Any]) -> None:
    """Print one object as a single line of JSON."""
    click.echo(json.dumps(members, ensure_ascii=False))


def show(model: WireModel, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Print one object as JSON, or with one line per member.

    Args:
        model: The object.
        as_json: Whether to print JSON.
        columns: The members to show, in this order. By default all of them.
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
    """Print a list as JSON, as a table on a terminal, or as tab-separated lines in a pipe.

    Args:
        models: The objects.
        as_json: Whether to print JSON.
        columns: The members to show.
        kind: The name of the list in the JSON, a plural such as `jobs`.
        nothing: The message on standard error when the list is empty.
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
    """Print rows: aligned, with column names and coloured states on a terminal; tab-separated in a pipe.

    Cells are never broken or shortened: ids and URLs are copied into the next command.
    """
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    from rich.cells import cell_len

    lines = [[_printable(cell) for cell in row] for row in ([*columns], *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
        padded[-1] = line[-1]
        if number == 0:
            click.secho("  ".join(padded).rstrip(), bold=True)
        else:
            styled = (
                click.style(cell, fg=_colour(name, cell)) for cell, name in zip(padded, columns, strict=True)
            )
            click.echo("  ".join(styled).rstrip())


def _printable(text: str) -> str:
    """Return a text without characters that move the cursor or change colours."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _colour(column: str, cell: str) -> str | None:
    """Return the colour of a cell that tells a state."""
    if column not in {"state", "status"}:
        return None
    word = cell.strip().partition(" ")[0]
    return next((colour for colour, words in _STATES.items() if word in words), None)


def human_size(size: float) -> str:
    """Return a number of bytes for people.

    Example:
        >>> human_size(512), human_size(1536), human_size(3 << 30)
        ('512 B', '1.5 KiB', '3.0 GiB')
    """
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def human_duration(seconds: float) -> str:
    """Return a duration for people, in its two largest units.

    Example:
        >>> human_duration(0.0123), human_duration(59.6), human_duration(3700), human_duration(200_000)
        ('12 ms', '60 s', '1 h 2 min', '2 d 8 h')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours == 0:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"


def print_result(model: WireModel, as_json: bool, text: str, end: str = "\n") -> None:
    """Print the result of a command: the server's answer as JSON, or a short text."""
    if as_json:
        show(model, as_json)
    else:
        click.echo(text + end, nl=False)


def confirm(yes: bool, question: str) -> None:
    """Ask for confirmation before a destructive action; without a terminal `--yes` is required.

    Raises:
        click.UsageError: Standard input is not a terminal and `--yes` was not passed.
        click.ClickException: The answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Standard input is not a terminal; pass --yes to confirm.")
    if not click.confirm(question, err=True):
        raise click.ClickException("cancelled; nothing was changed")


def pass_through(events: JobStream, client: Client, quiet: bool = False) -> Job:
    """Copy a program's output to standard output and error, byte for byte; return the finished job.

    Args:
        events: The job's events.
        client: The client that reads the job's state for the status line, shown until the first output.
        quiet: Whether to discard the output.
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
    """Return a function that names the job's phase; it queries the server until the job runs."""
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
    """Return the exit code of a command that ran a program."""
    if job.status == "timeout":
        return EXIT_TIMEOUT
    if job.exit_code is not None:
        return job.exit_code & 0xFF
    return EXIT_ERROR if job.error or job.status not in {None, "completed"} else 0


def save_artifacts(artifacts: Sequence[Artifact], folder: Path) -> None:
    """Write artifacts into a folder under their names, replacing existing files, and print each path."""
    for artifact in artifacts:
        click.echo(f"wrote {artifact.save(folder)}", err=True)


def _cell(name: str, value: Any) -> str:
    """Return a value as text; on a terminal, times, durations and sizes are for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(_cell(name, each) for each in value)
    if sys.stdout.isatty() and (human := _human(name, str(value))):
        return human
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def _human(name: str, value: str) -> str:
    """Return a number for people, by the name of its member; an empty text for other members."""
    try:
        number = float(value)
    except ValueError:
        return ""
    if name.endswith("_at"):
        at = dt.datetime.fromtimestamp(number, dt.UTC)
        return f"{at:%Y-%m-%d %H:%M:%S} UTC ({human_duration(max(1, int(time.time() - number)))} ago)"
    if name.endswith("_bytes"):
        return human_size(number)
    if name.endswith("_ms"):
        return human_duration(number / 1000)
    return human_duration(number) if name in {"remaining_ttl", "ttl"} else ""
