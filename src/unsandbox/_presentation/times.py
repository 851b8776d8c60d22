"""Times of the wire as `datetime`."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["as_datetime"]


def as_datetime(value: str | float | None) -> datetime | None:
    """Return a time of the wire in UTC: Unix seconds, also as text, or ISO 8601. None for any other value.

    Example:
        >>> as_datetime("1700000000").isoformat(), as_datetime("2024-01-02T03:04:05Z").hour, as_datetime(None)
        ('2023-11-14T22:13:20+00:00', 3, None)
    """
    if value is None:
        return None
    try:
        return datetime.fromtimestamp(float(value), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
