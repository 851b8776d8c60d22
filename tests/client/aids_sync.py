"""What the shared tests of both clients do differently: here with threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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


class answering:  # noqa: N801 - used as a function
    """Something to ask for one-time codes: gives those it was made with, one after another."""

    def __init__(self, *codes: str | None) -> None:
        self._codes = list(codes)

    @property
    def left(self) -> int:
        return len(self._codes)

    def __call__(self, challenge_id: str) -> Any:
        return self._codes.pop(0)


def pieces(*items: Any) -> Iterator[Any]:
    """Yield items."""
    yield from items


def endless(item: Any) -> Iterator[Any]:
    """Yield an item again and again, with a pause."""
    while True:
        yield item
        time.sleep(0.01)


def noting(heard: list[Any]) -> Callable[[Any], None]:
    """Return a function that notes what it is called with."""
    return heard.append
