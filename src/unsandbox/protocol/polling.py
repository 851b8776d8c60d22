"""How long to wait between two looks at a job, when the server cannot tell by itself."""

from __future__ import annotations

from collections.abc import Iterator

POLL_DELAYS_MS = (300, 450, 700, 900, 650, 1600, 2000)
"""Milliseconds before each poll, as all clients of this API use them; the last one repeats for ever."""

LONG_POLL_S = 20.0
"""Seconds that one `GET /jobs/{id}?wait=` asks the server to hold, where the server announces `wait`."""


def poll_delays() -> Iterator[float]:
    """Yield the seconds to wait before each poll, without end.

    Example:
        >>> from itertools import islice
        >>> list(islice(poll_delays(), 8))
        [0.3, 0.45, 0.7, 0.9, 0.65, 1.6, 2.0, 2.0]
    """
    for delay in POLL_DELAYS_MS:
        yield delay / 1000
    while True:
        yield POLL_DELAYS_MS[-1] / 1000
