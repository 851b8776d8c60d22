"""What the shared tests of both clients do differently: here with threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

LIBRARY_ERROR = requests.RequestException


def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    """Call it."""
    return work(*args)


def gather(*calls: Callable[[], Any]) -> list[Any]:
    """Make all calls at once and return their results."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call(), calls))
