"""`un session`: a terminal in a sandbox, and sessions that stay."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from unsandbox.cli.connection import (
    connection_options,
    one_time_code,
    open_async_client,
    open_client,
    warn_of_the_end,
)
from unsandbox.cli.historical import COMMON, verbs
from unsandbox.cli.options import ISOLATION_OPTION, JSON_OPTION, NETWORK_OPTION, VCPU_OPTION, YES_OPTION
from unsandbox.cli.output import confirm, said, save_artifacts, show
from unsandbox.cli.progress import StatusLine
from unsandbox.cli.verbs import add_get, add_list, add_run, add_snapshot, add_verb
from unsandbox.errors import ConnectionFailedError, NotFoundError

_COLUMNS = ("session_id", "container_name", "shell", "status", "remaining_ttl", "vcpu")
_HISTORICAL = COMMON | {
    "--attach": "attach",
    "--kill": "delete",
    "--freeze": "freeze",
    "--unfreeze": "unfreeze",
    "--boost": "boost",
    "--unboost": "unboost",
    "--snapshot": "snapshot",
}
_FILE = click.Path(exists=True, path_type=Path)


@click.group(cls=verbs(_HISTORICAL), invoke_without_command=True)
@click.option("-s", "--shell", metavar="NAME", help="Shell or REPL (bash).")
@click.option(
    "--tmux", is_flag=True, help="The shell survives a disconnect; `un session attach ID` comes back."
)
@click.option("--screen", is_flag=True, help="As --tmux.")
@NETWORK_OPTION
@VCPU_OPTION
@click.option(
    "-t",
    "--ttl",
    type=click.IntRange(min=1),
    metavar="S",
    help="Seconds without traffic until it is deleted (3600).",
)
@click.option("-f", "--file", "files", multiple=True, type=_FILE, help="File for it, in /tmp/input.")
@click.option("-a", "--audit", is_flag=True, help="Save the shell history at the end.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for what is saved."
)
@ISOLATION_OPTION
@click.option("--name", help="A name for people.")
@click.option("-d", "--detach", is_flag=True, help="Make it, print its id, open no terminal.")
@JSON_OPTION
@connection_options
@click.pass_context
def session(
    ctx: click.Context,
    shell: str | None,
    tmux: bool,
    screen: bool,
    network: str | None,
    vcpu: int | None,
    ttl: int | None,
    files: tuple[Path, ...],
    audit: bool,
    output: Path | None,
    isolation: str | None,
    name: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Open a terminal in a new sandbox; with a verb, work with sessions that stay.

    The session is deleted when its shell ends, whose exit code becomes that of this command. After a disconnect
    it stays: `un session attach ID`. With --json the terminal is on standard error, and standard output says at
    the end which session it was.
    """
    if ctx.invoked_subcommand is not None:
        return
    wanted: dict[str, Any] = {
        "shell": shell,
        "multiplexer": "tmux" if tmux else "screen" if screen else None,
        "network_mode": network,
        "vcpu": vcpu,
        "ttl": ttl,
        "input_files": list(files) or None,
        "audit": audit or None,
        "name": name,
        "isolation": isolation,
    }
    if detach:
        with open_client() as client:
            made = client.create_session(**wanted)
        said(made, as_json, str(made.session_id))
        warn_of_the_end("session")
        return
    sys.exit(asyncio.run(_new(wanted, audit, output, as_json)))


async def _new(wanted: dict[str, Any], audit: bool, output: Path | None, as_json: bool) -> int:
    """Return the exit code of the shell."""
    from unsandbox.cli.terminal import show_terminal

    async with open_async_client() as client:
        with StatusLine(lambda: "starting"):
            last = await client.create_session(**wanted)
        session_id = str(last.session_id)
        ended, code = True, 0
        try:
            terminal = await show_terminal(client, session_id, sys.stderr if as_json else sys.stdout)
            ended, code = terminal.exited, terminal.exit_code or 0
        except ConnectionFailedError:
            ended = False
            raise
        finally:
            if ended:
                with contextlib.suppress(NotFoundError):
                    last = await client.delete_session(session_id, audit=audit or None, otp=one_time_code())
                    save_artifacts(last.artifacts or (), output or Path())
            else:
                click.echo(f"the session stays; come back with: un session attach {session_id}", err=True)
            if as_json:
                show(last, as_json)
    return code & 0xFF


add_list(session, "list_sessions", "sessions", _COLUMNS, "List your sessions.")


@session.command()
@click.argument("session_id")
@JSON_OPTION
@connection_options
def attach(session_id: str, as_json: bool) -> None:
    """Open the terminal of a session; it stays when the terminal closes.

    With --json the terminal is on standard error, and standard output tells at the end how the session is.
    """
    from unsandbox.cli.terminal import show_terminal

    async def join() -> int:
        async with open_async_client() as client:
            # Asked first, as a refused terminal does not say why.
            if (await client.get_session(session_id)).status == "frozen":
                raise click.ClickException(f"the session is frozen; first: un session unfreeze {session_id}")
            terminal = await show_terminal(client, session_id, sys.stderr if as_json else sys.stdout)
            if as_json:
                show(await client.get_session(session_id), as_json)
        return (terminal.exit_code or 0) & 0xFF

    sys.exit(asyncio.run(join()))


add_run(session, "session_command", "Run one command in the live shell of a session")


@session.command()
@click.argument("session_ids", nargs=-1, required=True)
@click.option("-a", "--audit", is_flag=True, help="Save the shell history.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for what is saved."
)
@YES_OPTION
@JSON_OPTION
@connection_options
def delete(session_ids: tuple[str, ...], audit: bool, output: Path | None, yes: bool, as_json: bool) -> None:
    """End sessions; what lies in their /tmp/artifacts is saved with --output."""
    confirm(yes, f"Delete {len(session_ids)} session(s) with all files?")
    with open_client() as client:
        for session_id in session_ids:
            gone = client.delete_session(session_id, audit=audit or None, otp=one_time_code())
            if audit or output is not None:
                save_artifacts(gone.artifacts or (), output or Path())
            said(gone, as_json, f"deleted {gone.session_id}")


add_get(session, "get_session", "session, by id or container name")
add_verb(session, "freeze", "freeze_session", "Stop all processes of a session where they are.", "frozen")
add_verb(session, "unfreeze", "unfreeze_session", "Let the processes of a session go on.", "running")
add_verb(session, "unboost", "unboost_session", "Return a session to what it began with.", "unboosted")


@session.command()
@click.argument("session_id")
@click.option("-v", "--vcpu", type=click.IntRange(1, 8), help="Processors (2).")
@JSON_OPTION
@connection_options
def boost(session_id: str, vcpu: int | None, as_json: bool) -> None:
    """Give a session more processors and memory."""
    with open_client() as client:
        boosted = client.boost_session(session_id, vcpu=vcpu)
        said(boosted, as_json, f"{session_id} has {boosted.vcpu} vCPU, {boosted.memory_mb} MB")


add_snapshot(session, "session_snapshot", "session")
