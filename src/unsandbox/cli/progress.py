"""A status line on standard error while a run is silent: on a terminal only, and erased before any output."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

_FIRST_S = 0.5
"""Shorter runs show no status line."""
_AGAIN_S = 0.5
_JOIN_S = 2.0
_ERASE = "\r\x1b[K"


class StatusLine:
    """Shows the current phase and its duration until `end` is called or the block ends.

    Args:
        look: Returns the current phase. Called repeatedly in a separate thread.

    Example:
        ```python
        with StatusLine(lambda: "running") as status:
            ...
            status.end()
            print("output")
        ```
    """

    def __init__(self, look: Callable[[], str]) -> None:
        self._look = look
        self._ended = threading.Event()
        self._drawing = threading.Lock()
        self._drawn = False
        self._thread = threading.Thread(target=self._run, name="un-status", daemon=True)

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    def end(self) -> None:
        """Erase the line for good; further calls have no effect."""
        with self._drawing:
            self._ended.set()
            if self._drawn:
                self._write(_ERASE)
                self._drawn = False

    def _run(self) -> None:
        since, before = time.monotonic(), ""
        wait_s = _FIRST_S
        while not self._ended.wait(wait_s):
            what = self._look()
            if what != before and before:
                since = time.monotonic()
            before, wait_s = what, _AGAIN_S
            with self._drawing:
                if not self._ended.is_set():
                    self._write(f"{_ERASE}{what} {time.monotonic() - since:.0f} s")
                    self._drawn = True

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
