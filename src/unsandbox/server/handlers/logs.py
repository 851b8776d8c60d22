"""Platform logs: one page of lines. Following them is in `unsandbox.server.streams`."""

from __future__ import annotations

from unsandbox.protocol.logs import DEFAULT_LINES, MAX_LINES, LogLine, LogPage, LogQuery
from unsandbox.server.call import Call, read_members, read_number, to_model


async def fetch_logs(call: Call) -> LogPage:
    """Read lines that concern this key."""
    query = log_query(call)
    text = {"lines": str(query.lines)} if query.lines is not None else {}
    lines = int(read_number(text, "lines", DEFAULT_LINES, 1, MAX_LINES))
    entries = call.engine.logbook.read(call.owner, query, lines)
    return LogPage(
        sources=sorted({entry.source for entry in entries}),
        count=len(entries),
        lines=[LogLine(source=entry.source, line=entry.line) for entry in entries],
    )


def log_query(call: Call) -> LogQuery:
    """Return the arguments of the request, in any of the historical styles: query, body or path."""
    members = dict(call.query) | read_members(call)
    named = call.path.removeprefix("/paas").removeprefix("/logs").removesuffix("/stream").strip("/")
    if named:
        members["source"] = named
    return to_model(members, LogQuery)
