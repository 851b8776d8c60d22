"""Runs Python code in one namespace, for the server: a request in JSON on each line of standard input.

It answers with events in JSON, one a line, on what was its standard output. Programs that the code starts write
to pipes, which become events as well. Python 3.7 or newer, standard library only; pictures of matplotlib and
representations of objects (`_repr_html_` and the like) are returned if the code has them.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import contextlib
import inspect
import json
import os
import secrets
import signal
import sys
import threading
import traceback
import types
from typing import Any

_REPRESENTATIONS = (
    ("_repr_html_", "html"),
    ("_repr_markdown_", "markdown"),
    ("_repr_svg_", "svg"),
    ("_repr_png_", "png"),
    ("_repr_jpeg_", "jpeg"),
    ("_repr_latex_", "latex"),
    ("_repr_json_", "json"),
    ("_repr_javascript_", "javascript"),
)
_CHUNK = 1 << 16


class Events:
    """Sends events, one a line."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        self._lock = threading.Lock()

    def send(self, **event: Any) -> None:
        """Send an event."""
        data = json.dumps(event, default=repr).encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]


class Output:
    """One of the standard streams: a pipe whose bytes become events."""

    def __init__(self, events: Events, fd: int, name: str) -> None:
        self._events, self._fd, self._name = events, fd, name
        self._marker = b""
        self._reached = threading.Event()
        reading, writing = os.pipe()
        os.dup2(writing, fd)
        os.close(writing)
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()

    def flush(self) -> None:
        """Wait until everything that was written is sent."""
        self._reached.clear()
        self._marker = b"\0" + secrets.token_bytes(16)
        os.write(self._fd, self._marker)
        self._reached.wait(5)

    def _read(self, fd: int) -> None:
        waiting = b""
        while True:
            data = os.read(fd, _CHUNK)
            if not data:
                return
            waiting += data
            if self._marker and self._marker in waiting:
                before, _, waiting = waiting.partition(self._marker)
                self._marker = b""
                self._send(before)
                self._reached.set()
            keep = self._cut(waiting)
            self._send(waiting[: len(waiting) - keep])
            waiting = waiting[len(waiting) - keep :]

    def _cut(self, data: bytes) -> int:
        """Return how many bytes at the end may be the begin of a marker, or of a character."""
        if self._marker:
            at = data.rfind(b"\0")
            if at >= 0 and self._marker.startswith(data[at:]):
                return len(data) - at
        for back in range(1, min(4, len(data) + 1)):
            byte = data[-back]
            if byte >= 0xC0:
                return back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else 0
            if byte < 0x80:
                break
        return 0

    def _send(self, data: bytes) -> None:
        if data:
            self._events.send(type=self._name, text=data.decode("utf-8", "replace"))


def representations(value: Any) -> dict[str, Any]:
    """Return the forms of a value by their names on the wire."""
    forms: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        forms["text"] = str(value) if isinstance(value, str) else repr(value)
    if isinstance(value, type):
        return forms
    for method, name in _REPRESENTATIONS:
        try:
            form = getattr(value, method)()
        except Exception:  # noqa: BLE001, S112 - of the code, which need not have it
            continue
        if isinstance(form, tuple):
            form = form[0]
        if isinstance(form, bytes):
            form = base64.b64encode(form).decode()
        if form is not None:
            forms[name] = form
    return forms


class Kernel:
    """A namespace, and what runs code in it."""

    def __init__(self) -> None:
        self.events = Events()
        self._outputs = [Output(self.events, 1, "stdout"), Output(self.events, 2, "stderr")]
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._module = types.ModuleType("__main__")
        self._module.__dict__.update(__builtins__=__builtins__, display=self.display)
        sys.modules["__main__"] = self._module
        sys.path.insert(0, "")
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        sys.stdin = open(os.devnull)  # noqa: SIM115 - until the end
        os.environ.setdefault("MPLBACKEND", "agg")

    def display(self, *values: Any) -> None:
        """Show values."""
        for value in values:
            self.events.send(type="result", is_main_result=False, **representations(value))

    def run(self, code: str, env: dict[str, str]) -> None:
        """Run code and send what comes of it."""
        self._count += 1
        self.events.send(type="number_of_executions", execution_count=self._count)
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        try:
            self._run(code)
        except BaseException as error:  # noqa: BLE001 - whatever the code raises is its result
            self._finish()
            lines = traceback.format_exception(type(error), error, error.__traceback__)
            self.events.send(
                type="error", name=type(error).__name__, value=str(error), traceback="".join(lines)
            )
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            self._finish()

    def _run(self, code: str) -> None:
        tree = ast.parse(code, f"<cell {self._count}>")
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        flags = getattr(ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0)
        space = self._module.__dict__
        name = f"<cell {self._count}>"
        if tree.body:
            self._await(eval(compile(tree, name, "exec", flags), space))  # noqa: S307 - what this is for
        value = None
        if isinstance(last, ast.Expr):
            value = self._await(eval(compile(ast.Expression(last.value), name, "eval", flags), space))  # noqa: S307
        self._finish()
        self._show_figures()
        if value is not None and not code.rstrip().endswith(";"):
            space["_"] = value
            self.events.send(type="result", is_main_result=True, **representations(value))

    def _await(self, value: Any) -> Any:
        return self._loop.run_until_complete(value) if inspect.iscoroutine(value) else value

    def _show_figures(self) -> None:
        """Send the open figures of matplotlib, and close them, as notebooks do."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        import io

        for number in pyplot.get_fignums():
            figure, data = pyplot.figure(number), io.BytesIO()
            figure.savefig(data, format="png", bbox_inches="tight")
            png = base64.b64encode(data.getvalue()).decode()
            self.events.send(type="result", is_main_result=False, text=repr(figure), png=png)
        pyplot.close("all")

    def _finish(self) -> None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        for output in self._outputs:
            output.flush()


def main() -> None:
    """Serve until standard input ends."""
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    kernel = Kernel()
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            line = requests.readline()
            if not line:
                return
            signal.signal(signal.SIGINT, signal.default_int_handler)
            request = json.loads(line)
            kernel.run(request["code"], request.get("env") or {})
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        kernel.events.send(type="end_of_execution")


if __name__ == "__main__":
    main()
