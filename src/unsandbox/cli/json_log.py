"""Log records as JSON, one object per line."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_ACCESS = re.compile(
    r"(?P<request_id>\S+) (?P<method>[A-Z]+) (?P<route>\S+) (?P<status>\d{3}) (?P<duration_ms>[\d.]+) ms\Z"
)


class JsonFormatter(logging.Formatter):
    """Formats time (UTC), level, logger and message; for requests also id, route, status and milliseconds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        message = record.getMessage()
        members: dict[str, str | int | float] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if record.name == "unsandbox.api" and (access := _ACCESS.match(message)):
            members |= access.groupdict()
            members |= {"status": int(access["status"]), "duration_ms": float(access["duration_ms"])}
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members, ensure_ascii=False)
