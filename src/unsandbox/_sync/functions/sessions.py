# Generated from src/unsandbox/_async/functions/sessions.py by scripts/unasync.py; change that one.
"""Functions for sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._shared.deadline import LONG_S
from unsandbox._shared.options import metadata_query
from unsandbox._sync.functions.context import connect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unsandbox._compat.blocking import OneTimeCode
    from unsandbox._shared.files import InputFiles
    from unsandbox._shared.results import CommandOutcome, MetricsResult, SessionResult
    from unsandbox.protocol.models import IsolationName, NetworkModeName

__all__ = [
    "boost_session",
    "create_session",
    "delete_session",
    "fork_session",
    "freeze_session",
    "get_session",
    "list_sessions",
    "session_metrics",
    "set_session_timeout",
    "shell_session",
    "unboost_session",
    "unfreeze_session",
]


def list_sessions(
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> list[SessionResult]:
    """Return the key's sessions, newest first.

    Args:
        public_key: Public key.
        secret_key: Secret key.
        metadata: Names and values that the sessions have; `{}` for all sessions with their metadata. Default:
            all sessions, without their metadata.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("list[SessionResult]", caller.listed("list_sessions", "sessions", metadata_query(metadata)))


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
    metadata: Mapping[str, str] | None = None,
    timeout: int | None = None,
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
        metadata: Up to 64 names and values, by which `list_sessions` finds the session.
        timeout: Seconds after which the session is deleted, in use or not. With it, `ttl` does not count.
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
        "metadata": metadata,
        "timeout": timeout,
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


def fork_session(
    session_id: str,
    count: int = 1,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    hot: bool = False,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
    timeout: int | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> list[SessionResult]:
    """Create independent copies of a session, which goes on. All copies are made, or none.

    Args:
        session_id: Id or container name of the session.
        count: Number of copies, 1 to 16.
        public_key: Public key.
        secret_key: Secret key.
        hot: Whether to copy memory and running processes too. Requires gVisor. Otherwise the copies have the
            files of `/work`.
        name: Display name of the copies. Default: that of the session.
        metadata: Names and values of the copies. Default: those of the session.
        timeout: Seconds after which the copies are deleted. Default: at the deadline of the session, if it has
            one.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    body = {"count": count, "hot": hot or None, "name": name, "metadata": metadata, "timeout": timeout}
    answer = caller.call("fork_session", session_id, body=body, timeout=LONG_S)
    return cast("list[SessionResult]", answer.get("sessions", []))


def session_metrics(
    session_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> MetricsResult:
    """Return the use of a session's resources: processor time, memory, disk, processes.

    Args:
        session_id: Id or container name of the session.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    return cast("MetricsResult", caller.call("session_metrics", session_id))


def set_session_timeout(
    session_id: str,
    timeout: int | None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> SessionResult:
    """Set the end of a session's life, counted from now. It replaces an earlier one.

    Args:
        session_id: Id or container name of the session.
        timeout: Seconds until the session is deleted, in use or not, up to 30 days. None: no deadline; the
            session is deleted when it was idle for its `ttl`.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    body = {"timeout": timeout}
    return cast("SessionResult", caller.call("set_session_timeout", session_id, body=body))


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
