# Generated from src/unsandbox/_async/functions/sessions.py by scripts/unasync.py; change that one.
"""Functions for sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._sync.functions.context import connect

if TYPE_CHECKING:
    from unsandbox._compat.blocking import OneTimeCode
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


def list_sessions(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> list[SessionResult]:
    """Return the key's sessions, newest first.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("list[SessionResult]", caller.listed("list_sessions", "sessions"))


def create_session(
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
    """Create a session: a persistent sandbox with a shell, deleted on request or when idle for its `ttl`.

    Args:
        language: Language whose REPL to start, instead of `shell`. The default is bash.
        network_mode: `zerotrust` (no network) or `semitrusted` (outbound network only).
        ttl: Idle seconds after which the session is deleted.
        public_key: Public key.
        secret_key: Secret key.
        shell: Name of a shell or REPL, such as `bash`, `python3`, `node`.
        multiplexer: `tmux` or `screen`: the shell survives a disconnect of its terminal.
        vcpu: Processors, 1 to 8, with 2 GiB of memory each.
        input_files: Files for `/tmp/input/`.
        audit: Whether to record the shell history.
        name: Display name.
        isolation: `bubblewrap`, `gvisor`, or `hardened` (gVisor or a refusal). Not on the hosted service.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The session, with its `session_id`.

    Example:
        ```python
        session = create_session("python")
        result = shell_session(session["session_id"], "6 * 7")
        delete_session(session["session_id"])
        ```
    """
    caller = connect(public_key, secret_key, account, account_index)
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
    return cast("SessionResult", caller.call("create_session", body=members))


def get_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Return the current state of a session.

    Args:
        session_id: Id or container name of the session.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", caller.call("get_session", session_id))


def delete_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    audit: bool = False,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Delete a session.

    Args:
        session_id: Id or container name of the session.
        public_key: Public key.
        secret_key: Secret key.
        audit: Whether to return the shell history with the artifacts.
        otp: One-time code, or a function that returns it, if the server requires one.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The session, with the files of `/tmp/artifacts`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    query = {"audit": True} if audit else None
    return cast("SessionResult", caller.call("delete_session", session_id, query=query, otp=otp))


def freeze_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Suspend all processes of a session. Their memory is kept.

    Args:
        session_id: Id or container name of the session.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", caller.call("freeze_session", session_id))


def unfreeze_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Resume the processes of a frozen session.

    Args:
        session_id: Id or container name of the session.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", caller.call("unfreeze_session", session_id))


def boost_session(
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
        session_id: Id or container name of the session.
        public_key: Public key.
        secret_key: Secret key.
        vcpu: Processors, 1 to 8. Default 2.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", caller.call("boost_session", session_id, body={"vcpu": vcpu}))


def unboost_session(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Return a session to its original processors and memory.

    Args:
        session_id: Id or container name of the session.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("SessionResult", caller.call("unboost_session", session_id))


def shell_session(
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
    """Run one command in the session's shell. The shell's state is kept for the next command.

    Args:
        session_id: Id or container name of the session.
        command: The command; in a REPL, an expression or statements.
        public_key: Public key.
        secret_key: Secret key.
        timeout: Milliseconds the command may run; it then ends with exit code 124. 0 means no limit.
        input_files: Files for `/tmp/input/`.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        `stdout`, `stderr` and `exit_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    answer = caller.command("session_command", session_id, command, timeout, input_files)
    return cast("CommandOutcome", answer)
