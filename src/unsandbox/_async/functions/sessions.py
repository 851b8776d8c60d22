"""Functions for sessions."""

# ruff: noqa: ASYNC109 - `timeout` reaches the server, which `asyncio.timeout` cannot do

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._async.functions.context import connect

if TYPE_CHECKING:
    from unsandbox._compat.aio import OneTimeCode
    from unsandbox._shared.files import InputFiles
    from unsandbox._shared.results import CommandOutcome, SessionResult
    from unsandbox.protocol.models import IsolationName, NetworkModeName

__all__ = [
    "boost_session",
    "create_session",
    "delete_session",
    "freeze_session",
    "get_session",
    "list_sessions",
    "shell_session",
    "unboost_session",
    "unfreeze_session",
]


async def list_sessions(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> list[SessionResult]:
    """Return the sessions of this key, newest first.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("list[SessionResult]", await caller.listed("list_sessions", "sessions"))


async def create_session(
    language: str | None = None,
    network_mode: NetworkModeName = "zerotrust",
    ttl: int = 3600,
    public_key: str | None = None,
    secret_key: str | None = None,
    shell: str | None = None,
    multiplexer: str | None = None,
    vcpu: int = 1,
    *,
    input_files: InputFiles | None = None,
    audit: bool = False,
    name: str | None = None,
    isolation: IsolationName | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Start a session: a sandbox with a shell that stays until it is deleted, or idle for its `ttl`.

    Args:
        language: A language whose REPL is meant; without it and without `shell`, the shell is bash.
        network_mode: `zerotrust` for no network or `semitrusted` for outbound only.
        ttl: Seconds without traffic after which the session is deleted.
        public_key: Public key.
        secret_key: Secret key.
        shell: Name of a shell or REPL, such as `bash`, `python3`, `node`.
        multiplexer: `tmux` or `screen`: the terminal survives a disconnect.
        vcpu: Processors, 1 to 8; memory goes with them.
        input_files: Files, found in `/tmp/input/` by name.
        audit: Keep the shell history for the end.
        name: A name for people.
        isolation: On servers of this project: `bubblewrap`, `gvisor` or `hardened`.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The session, with its `session_id`.

    Example:
        ```python
        session = await create_session("python")
        result = await shell_session(session["session_id"], "6 * 7")
        await delete_session(session["session_id"])
        ```
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {
        "language": language,
        "network_mode": network_mode,
        "ttl": ttl,
        "shell": shell,
        "multiplexer": multiplexer,
        "vcpu": vcpu,
        "input_files": input_files,
        "audit": audit or None,
        "name": name,
        "isolation": isolation,
    }
    return cast("SessionResult", await caller.call("create_session", body=members))


async def get_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Return a session as it is now.

    Args:
        session_id: Which session, by id or container name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", await caller.call("get_session", session_id))


async def delete_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    audit: bool = False,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """End a session.

    Args:
        session_id: Which session, by id or container name.
        public_key: Public key.
        secret_key: Secret key.
        audit: Return the shell history with the artifacts.
        otp: One-time code, or what returns it, where the server wants one.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        The session, with what lay in `/tmp/artifacts`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    query = {"audit": True} if audit else None
    return cast("SessionResult", await caller.call("delete_session", session_id, query=query, otp=otp))


async def freeze_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Stop all processes of a session where they are; their memory stays.

    Args:
        session_id: Which session, by id or container name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", await caller.call("freeze_session", session_id))


async def unfreeze_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Let the processes of a session go on where they were stopped.

    Args:
        session_id: Which session, by id or container name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", await caller.call("unfreeze_session", session_id))


async def boost_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    vcpu: int | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Give a session more processors and memory.

    Args:
        session_id: Which session, by id or container name.
        public_key: Public key.
        secret_key: Secret key.
        vcpu: How many processors it shall have, 1 to 8; 2 when not given.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", await caller.call("boost_session", session_id, body={"vcpu": vcpu}))


async def unboost_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Return a session to one processor.

    Args:
        session_id: Which session, by id or container name.
        public_key: Public key.
        secret_key: Secret key.
        account: As for `execute_code`.
        account_index: As for `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", await caller.call("unboost_session", session_id))


async def shell_session(
    session_id: str,
    command: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    timeout: int = 30000,
    input_files: InputFiles | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> CommandOutcome:
    """Run one command in the live shell of a session: what it changes is there for the next one.

    Args:
        session_id: Which session, by id or container name.
        command: The command; in a REPL, an expression or statements.
        public_key: Public key.
        secret_key: Secret key.
        timeout: Milliseconds that it may run; then it ends with exit code 124. 0 for no limit.
        input_files: Files for it, found in `/tmp/input/`.
        account: As for `execute_code`.
        account_index: As for `execute_code`.

    Returns:
        `stdout`, `stderr` and `exit_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    answer = await caller.command("session_command", session_id, command, timeout, input_files)
    return cast("CommandOutcome", answer)
