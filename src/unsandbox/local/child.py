"""The embedded engine in a child process, for programs whose threads cannot run it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from unsandbox._interpreter import interpreter
from unsandbox.errors import EngineError
from unsandbox.local.address import LocalServer

if TYPE_CHECKING:
    from unsandbox.engine import EngineConfig

__all__ = ["EngineProcess"]

_MAIN = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from unsandbox.local.child import main; main()"
)
_STOP_S = 20.0


class EngineProcess:
    """An engine in a child process, which ends when its standard input does: with this process at the latest.

    Args:
        config: Bounds of the engine; None for the defaults.

    Attributes:
        config: As given.
        address: Address that the engine listens on.

    Raises:
        EngineError: It did not start; the message says why.
    """

    def __init__(self, config: EngineConfig | None) -> None:
        self.config = config
        self._process = subprocess.Popen(
            [interpreter(), "-c", _MAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is this process's.
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise EngineError("the process of the embedded engine has no pipes")
        try:
            self._process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(config))
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = b""
        self.address: LocalServer = _address(line)

    def stop(self) -> None:
        """End the process, and the jobs with it."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr] # a pipe, as asked for
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr] # a pipe, as asked for

    def abandon_jobs(self) -> None:
        """Do nothing: the process never waits for jobs when it ends."""

    def e2b_url(self) -> str:
        """Refuse: the child has no such port."""
        raise EngineError(
            "programs with gevent or eventlet need a server for E2B's clients: un serve --e2b-port 3000"
        )

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close."""
        return [pipe.fileno() for pipe in (self._process.stdin, self._process.stdout) if pipe is not None]


def _address(line: bytes) -> LocalServer:
    try:
        members = json.loads(line)
    except ValueError:
        raise EngineError("the process of the embedded engine ended before it served") from None
    if "error" in members:
        raise EngineError(members["error"])
    return LocalServer(**members)


def main() -> None:
    """Be the child: serve until standard input ends."""
    from unsandbox import local

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = pickle.load(sys.stdin.buffer)  # noqa: S301 - our parent wrote it
    try:
        server = local.ensure_started(config)
        told = {name: getattr(server, name) for name in ("url", "public_key", "secret_key")}
    except EngineError as error:
        told = {"error": str(error)}
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(told).encode() + b"\n")
        while "error" not in told and sys.stdin.buffer.read(1):
            pass
