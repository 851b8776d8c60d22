"""Runs programs one after the other, each in a fork of a process that has already imported what they need.

As a program it takes orders, a line of JSON each, and answers with the exit code. A fork ends as any interpreter
does, with all that is reported only then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Self

REPO = Path(__file__).resolve().parents[2]


class Forks:
    """The process that forks, seen from a test."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            # -W error: an unclosed session or socket would show as a warning.
            [sys.executable, "-W", "error", __file__],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def run(
        self, code: str, name: str, environment: dict[str, str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """Run a program."""
        outputs = [folder / "stdout", folder / "stderr"]
        order = {"code": code, "name": name, "environment": environment, "folder": str(folder)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(
            json.dumps(order | {"outputs": [str(path) for path in outputs]}),
            file=self._process.stdin,
            flush=True,
        )
        exit_code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(name, exit_code, *(path.read_text() for path in outputs))


def _become(order: dict[str, Any]) -> None:
    """Run the program in this process, which was forked for it."""
    for number, path in enumerate(["/dev/null", *order["outputs"]]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [order["name"]]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    main.__file__ = order["name"]
    exec(compile(order["code"], order["name"], "exec"), main.__dict__)


def _serve() -> None:
    for line in sys.stdin:
        if not (child := os.fork()):
            _become(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    import asyncio

    import aiohttp
    import requests

    import un
    import un_async
    import unsandbox.engine
    import unsandbox.server

    _loaded = (asyncio, aiohttp, requests, un, un_async, unsandbox)
    for name in unsandbox.__all__:
        getattr(unsandbox, name)
    _serve()
