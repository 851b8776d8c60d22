# Generated from src/unsandbox/_async/functions/logs.py by scripts/unasync.py; change that one.
"""Functions for platform logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._sync.functions.context import connect

if TYPE_CHECKING:
    from collections.abc import Generator

    from unsandbox._shared.results import LogLineResult, LogResult

__all__ = [
    "fetch_logs",
    "stream_logs",
]


def fetch_logs(
    source: str = "all",
    lines: int | None = None,
    since: str | None = None,
    grep: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    level: str | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> LogResult:
    """Return the last lines of the server's log about this key, oldest first.

    Args:
        source: `api`, `engine`, `portal`, `pool/NAME`, or `all`.
        lines: Maximum number of lines, 1 to 10000.
        since: Age of the oldest line, such as `37s`, `5m`, `1h` or `1d`.
        grep: Only lines that contain this text.
        public_key: Public key.
        secret_key: Secret key.
        level: Only lines of this level.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The lines, in `lines`, each with its `source` and `line`.
    """
    caller = connect(public_key, secret_key, account, account_index)
    query = {"source": source, "lines": lines, "since": since, "grep": grep, "level": level}
    return cast("LogResult", caller.call("fetch_logs", query=query))


def stream_logs(
    source: str = "all",
    grep: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    since: str | None = None,
    level: str | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> Generator[LogLineResult]:
    """Yield lines of the server's log as they are written, until you leave the loop.

    Args:
        source: `api`, `engine`, `portal`, `pool/NAME`, or `all`.
        grep: Only lines that contain this text.
        public_key: Public key.
        secret_key: Secret key.
        since: Age of the oldest line, such as `37s`, `5m`, `1h` or `1d`.
        level: Only lines of this level.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Example:
        ```python
        for entry in stream_logs("api"):
            print(entry["line"])
        ```
    """
    from unsandbox._compat.blocking import closing

    caller = connect(public_key, secret_key, account, account_index)
    query = {"source": source, "since": since, "grep": grep, "level": level}
    with closing(caller.log_lines(query)) as lines:
        for line in lines:
            yield cast("LogLineResult", line)
