"""`un session`: open a terminal in a sandbox, and manage sessions."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import (
    connection_options,
    one_time_code,
    open_async_client,
    open_client,
    warn_of_the_end,
)
from unsandbox.cli.historical import COMMON, verbs
from unsandbox.cli.options import (
    ISOLATION_OPTION,
    JSON_OPTION,
    METADATA_OPTION,
    NETWORK_OPTION,
    VCPU_OPTION,
    YES_OPTION,
    parse_metadata,
)
from unsandbox.cli.output import confirm, print_result, save_artifacts, show, show_list
from unsandbox.cli.progress import StatusLine
from unsandbox.cli.verbs import add_get, add_run, add_snapshot, add_verb
from unsandbox.errors import ConnectionFailedError, EngineError, NotFoundError

if TYPE_CHECKING:
    from unsandbox import AsyncClient
    from unsandbox._async.objects.terminal import AsyncTerminal

_IDS = suggest.ids("session")
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
@click.option(
    "-s", "--shell", metavar="NAME", shell_complete=suggest.shells, help="Shell or REPL (default bash)."
)
@click.option(
    "--tmux", is_flag=True, help="Keep the shell after a disconnect; `un session attach ID` reconnects."
)
@click.option("--screen", is_flag=True, help="Same as --tmux.")
@NETWORK_OPTION
@VCPU_OPTION
@click.option(
    "-t",
    "--ttl",
    type=click.IntRange(min=1),
    metavar="S",
    help="Idle seconds before the session is deleted (default 3600).",
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=_FILE,
    help="File or directory to upload to /tmp/input (repeatable).",
)
@click.option("-a", "--audit", is_flag=True, help="Save the shell history when the session ends.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for saved files."
)
@ISOLATION_OPTION
@click.option("--name", help="Display name.")
@METADATA_OPTION
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    metavar="S",
    help="Seconds before the session is deleted, in use or not.",
)
@click.option(
    "-d", "--detach", is_flag=True, help="Create the session, print its id and do not open a terminal."
)
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
    metadata: tuple[str, ...],
    timeout: int | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Open a terminal in a new sandbox, or manage sessions.

    Without a subcommand, opens a terminal. The session is deleted when its shell ends, and this command exits
    with the shell's exit code. After a disconnect the session is kept; `un session attach ID` reconnects. With
    --json the terminal is on standard error, and the session is printed on standard output at the end.
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
        "metadata": parse_metadata(metadata),
        "timeout": timeout,
    }
    if detach:
        with open_client() as client:
            made = client.create_session(**wanted)
        print_result(made, as_json, str(made.session_id))
        warn_of_the_end("session")
        return
    sys.exit(asyncio.run(_new(wanted, audit, output, as_json)))


def _terminal() -> Callable[[AsyncClient, str, TextIO], Awaitable[AsyncTerminal]]:
    """Return the object that shows a terminal, before anything is created for it.

    Raises:
        EngineError: This system has no terminals of the Unix kind.
    """
    try:
        from unsandbox.cli.terminal import show_terminal
    except ModuleNotFoundError as error:
        raise EngineError(
            "terminals need Linux, macOS or WSL 2; elsewhere, `un session -d` creates a session and "
            "`un session run ID COMMAND` runs commands in it"
        ) from error
    return show_terminal


async def _new(wanted: dict[str, Any], audit: bool, output: Path | None, as_json: bool) -> int:
    """Return the exit code of the shell."""
    show_terminal = _terminal()
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
                click.echo(f"disconnected; reconnect with: un session attach {session_id}", err=True)
            if as_json:
                show(last, as_json)
    return code & 0xFF


@session.command("list")
@METADATA_OPTION
@JSON_OPTION
@connection_options
def list_(metadata: tuple[str, ...], as_json: bool) -> None:
    """List your sessions; with --metadata those that have these names and values."""
    with open_client() as client:
        found = client.list_sessions(parse_metadata(metadata) or {})
    show_list(found.sessions, as_json, _COLUMNS, "sessions")


@session.command()
@click.argument("session_id", shell_complete=_IDS)
@JSON_OPTION
@connection_options
def attach(session_id: str, as_json: bool) -> None:
    """Open the terminal of an existing session. The session is kept when the terminal closes.

    With --json the terminal is on standard error, and the session is printed on standard output at the end.
    """
    show_terminal = _terminal()

    async def join() -> int:
        async with open_async_client() as client:
            # Checked first, because a refused WebSocket does not say why.
            if (await client.get_session(session_id)).status == "frozen":
                raise click.ClickException(
                    f"the session is frozen; run `un session unfreeze {session_id}` first"
                )
            terminal = await show_terminal(client, session_id, sys.stderr if as_json else sys.stdout)
            if as_json:
                show(await client.get_session(session_id), as_json)
        return (terminal.exit_code or 0) & 0xFF

    sys.exit(asyncio.run(join()))


add_run(session, "session_command", "Run one command in a session's shell")


@session.command()
@click.argument("session_ids", nargs=-1, required=True, shell_complete=_IDS)
@click.option("-a", "--audit", is_flag=True, help="Save the shell history before deleting.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for saved files."
)
@YES_OPTION
@JSON_OPTION
@connection_options
def delete(session_ids: tuple[str, ...], audit: bool, output: Path | None, yes: bool, as_json: bool) -> None:
    """Delete sessions with all their files. --output saves their /tmp/artifacts first."""
    confirm(yes, f"Delete {len(session_ids)} session(s) and all their files?")
    with open_client() as client:
        for session_id in session_ids:
            gone = client.delete_session(session_id, audit=audit or None, otp=one_time_code())
            if audit or output is not None:
                save_artifacts(gone.artifacts or (), output or Path())
            print_result(gone, as_json, f"deleted {gone.session_id}")


add_get(session, "get_session", "session by id or container name")
for _name, _method, _summary, _done in (
    ("freeze", "freeze_session", "Suspend all processes of a session.", "frozen"),
    ("pause", "freeze_session", "Same as freeze.", "frozen"),
    ("unfreeze", "unfreeze_session", "Resume the processes of a frozen session.", "running"),
    ("resume", "unfreeze_session", "Same as unfreeze.", "running"),
):
    add_verb(session, _name, _method, _summary, _done)
add_verb(
    session,
    "unboost",
    "unboost_session",
    "Return a session to its original processors and memory.",
    "unboosted",
)


@session.command()
@click.argument("session_id", shell_complete=_IDS)
@click.argument("seconds", type=click.IntRange(0, 30 * 86400))
@JSON_OPTION
@connection_options
def timeout(session_id: str, seconds: int, as_json: bool) -> None:
    """Delete a session in SECONDS from now, in use or not; 0 takes the deadline away."""
    with open_client() as client:
        changed = client.set_session_timeout(session_id, seconds or None)
        print_result(changed, as_json, f"{session_id} ends in {changed.remaining_ttl} s")


@session.command()
@click.argument("session_id", shell_complete=_IDS)
@click.option("-v", "--vcpu", type=click.IntRange(1, 8), help="Processors (default 2).")
@JSON_OPTION
@connection_options
def boost(session_id: str, vcpu: int | None, as_json: bool) -> None:
    """Give a session more processors and memory."""
    with open_client() as client:
        boosted = client.boost_session(session_id, vcpu=vcpu)
        print_result(boosted, as_json, f"{session_id} has {boosted.vcpu} vCPU, {boosted.memory_mb} MB")


add_snapshot(session, "session_snapshot", "session")
