"""`un fork` and `un top`: copies of a session, and the use of its resources."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.options import JSON_OPTION, METADATA_OPTION, parse_metadata
from unsandbox.cli.output import print_json, show_list

if TYPE_CHECKING:
    from unsandbox import LiveSession

_SESSION = click.argument("session", metavar="SESSION", shell_complete=suggest.ids("session"))
_COLUMNS = ("session_id", "container_name", "status", "remaining_ttl")
_MIB = 1 << 20
_CLEAR = "\x1b[H\x1b[2J"


@click.command()
@_SESSION
@click.option("-c", "--count", type=click.IntRange(1, 16), default=1, show_default=True, help="Copies.")
@click.option("--hot", is_flag=True, help="Copy memory and running processes too (gVisor).")
@click.option("--name", help="Display name of the copies.")
@METADATA_OPTION
@click.option("--timeout", type=click.IntRange(min=1), metavar="S", help="Seconds before they are deleted.")
@JSON_OPTION
@connection_options
def fork(
    session: str,
    count: int,
    hot: bool,
    name: str | None,
    metadata: tuple[str, ...],
    timeout: int | None,
    as_json: bool,
) -> None:
    """Create independent copies of a session and print their ids. The session goes on.

    Copies have the files of /work; with --hot also memory and running processes.
    """
    with open_client() as client:
        made = client.fork_session(
            session, count=count, hot=hot or None, name=name, metadata=parse_metadata(metadata), timeout=timeout
        )
    if as_json:
        show_list(made.sessions, as_json, _COLUMNS, "sessions")
        return
    for copy in made:
        click.echo(copy.session_id)


@click.command()
@_SESSION
@click.option(
    "-d", "--delay", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds between."
)
@JSON_OPTION
@connection_options
def top(session: str, delay: float, as_json: bool) -> None:
    """Show what a session uses, and its processes. On a terminal the table is live; Ctrl-C ends it."""
    with open_client() as client:
        live = client.attach_session(session)
        if as_json:
            metrics, processes = live.metrics(), live.processes()
            print_json({**metrics.to_dict(), "started": [process.to_dict() for process in processes]})
            return
        used: float | None = None
        while True:
            began = time.monotonic()
            lines, used = _table(live, used, delay)
            if not sys.stdout.isatty():
                click.echo("\n".join(lines))
                return
            click.echo(_CLEAR + "\n".join(lines))
            time.sleep(max(0.0, delay - (time.monotonic() - began)))


def _table(live: LiveSession, used_before: float | None, delay: float) -> tuple[list[str], float | None]:
    """Return the lines of the table, and the processor time for the next one."""
    metrics, processes = live.metrics(), live.processes()
    used = metrics.cpu_time_ms
    share = "-"
    if used is not None and used_before is not None:
        share = f"{max(0.0, used - used_before) / 10 / delay:.0f}%"
    lines = [
        f"cpu     {share} of {metrics.vcpu or 1} vCPU, {_seconds(used)} in total",
        f"memory  {_of(metrics.memory_bytes, metrics.memory_limit_bytes)}",
        f"peak    {_mib(metrics.peak_memory_bytes)}",
        f"disk    {_of(metrics.disk_bytes, metrics.disk_limit_bytes)}",
        f"tasks   {_text(metrics.processes)} of {_text(metrics.process_limit)}",
        "",
        f"{'PROCESS':<28}{'STATUS':<10}{'CPU':>9}{'PEAK':>11}  PROGRAM",
    ]
    for process in processes:
        # A tenant's words may hold control characters.
        words = " ".join(repr(word)[1:-1] for word in process.argv or [])
        lines.append(
            f"{(process.process_id or '')[:27]:<28}{process.status or '':<10}"
            f"{_seconds(process.cpu_time_ms):>9}{_mib(process.peak_memory_bytes):>11}  {words[:60]}"
        )
    return lines, used


def _of(value: int | None, limit: int | None) -> str:
    return f"{_mib(value)} of {_mib(limit)}"


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / _MIB:.1f} MiB"


def _seconds(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds / 1000:.2f} s"


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
