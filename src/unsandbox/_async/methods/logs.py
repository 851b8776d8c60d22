"""The server's log lines about a key, as a page or as a stream."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType

from unsandbox._async.base import Connected
from unsandbox._async.connection import Connection
from unsandbox._async.opening import open_stream
from unsandbox._compat.aio import closing
from unsandbox._shared.request import failed_attempt
from unsandbox._shared.streaming import LOGS, StreamEndpoint
from unsandbox.errors import APIError, ConnectionFailedError
from unsandbox.protocol.logs import LogLine, LogPage
from unsandbox.protocol.retry import RetryPolicy
from unsandbox.protocol.sse import EventReader

_PATIENCE = RetryPolicy(max_retries=10, base_s=0.5, cap_s=30.0)
_KEEPALIVE = ":keepalive"
"""Data that the hosted service sends as a keep-alive, where the format has comments."""


class LogMethods(Connected):
    """Methods of a client for the server's log."""

    async def fetch_logs(
        self,
        source: str | None = None,
        *,
        lines: int | None = None,
        since: str | None = None,
        grep: str | None = None,
        level: str | None = None,
    ) -> LogPage:
        """Return the last lines of the server's log about this key, oldest first.

        Args:
            source: `api`, `engine`, `portal`, `pool/NAME`, or `all` (the default).
            lines: Maximum number of lines, 1 to 10000. Default 100.
            since: Age of the oldest line, such as `37s`, `5m`, `1h` or `1d`. Default `5m`.
            grep: Only lines that contain this text.
            level: Only lines of this level: `debug`, `info`, `warning` or `error`.
        """
        query = {"source": source, "lines": lines, "since": since, "grep": grep, "level": level}
        return await self._do("fetch_logs", LogPage, query=query)

    async def stream_logs(
        self,
        source: str | None = None,
        *,
        since: str | None = None,
        grep: str | None = None,
        level: str | None = None,
    ) -> AsyncGenerator[LogLine]:
        """Yield lines of the server's log as they are written, until you leave the loop.

        A broken connection is reopened where it broke, as far as the server still has the lines.

        Args:
            source: See `fetch_logs`.
            since: Age of the first line. Default: only new lines.
            grep: See `fetch_logs`.
            level: See `fetch_logs`.

        Example:
            ```python
            async for entry in client.stream_logs(level="error"):
                print(entry.source, entry.line)
            ```
        """
        query = {"source": source, "since": since, "grep": grep, "level": level}
        async with closing(follow_logs(self._connection, query)) as lines:
            async for line in lines:
                yield line


async def follow_logs(
    connection: Connection,
    query: dict[str, str | None],
    endpoint: StreamEndpoint = LOGS,
    params: Mapping[str, str] = MappingProxyType({}),
) -> AsyncGenerator[LogLine]:
    """Yield lines as they are written. Reconnects after failures, and raises when the retries are used up."""
    last_id: str | None = None
    failures = 0
    while True:
        asked = dict(query)
        began = time.monotonic()
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        error: ConnectionFailedError | APIError | None = None
        try:
            stream = await open_stream(connection, endpoint, params, query=asked, headers=headers)
            try:
                reader = EventReader()
                while piece := await stream.read():
                    failures = 0
                    began = time.monotonic()
                    for event in reader.feed(piece):
                        last_id = event.id or last_id
                        if event.data != _KEEPALIVE:
                            yield _line(event.data)
            finally:
                await stream.close()
        except (ConnectionFailedError, APIError) as caught:
            error = caught
        failures += 1
        broken = error or ConnectionFailedError("the log stream ends again and again")
        failed = failed_attempt("GET", failures, broken)
        await connection.server.pause(endpoint.name, failed, broken, _PATIENCE)
        if last_id is None:
            # Lines written in between are selected by time; one at the boundary may be repeated.
            query = query | {"since": f"{int(time.monotonic() - began) + 1}s"}


def _line(data: str) -> LogLine:
    with contextlib.suppress(ValueError, AttributeError):
        members = json.loads(data)
        return LogLine(source=members.get("source"), line=members.get("line"))
    return LogLine(line=data)
