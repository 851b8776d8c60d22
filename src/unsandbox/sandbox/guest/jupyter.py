"""Runs a Jupyter kernel inside a sandbox, for the server: one JSON object per line in, one per line out.

It runs as the sandbox's user, on the Python of the environment that has `ipykernel`. The kernel listens on
Unix sockets in a private folder, so it needs no network. The server trusts only the length of the lines.

Requests have a member `do`: `run` (with `id`, `code`, `env`, `silent`), `interrupt`, `restart`, `variables`
(with `id`). Answers have a `type`: `ready`, `started`, the events of a run (`stdout`, `stderr`, `result`,
`display`, `update`, `clear`, `error`), `done`, `variables`, `died`, `missing`.

Source: https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from typing import Any

try:
    import ipykernel  # noqa: F401 - the kernel needs it
    import zmq
except ImportError:
    sys.stdout.write('{"type": "missing"}\n')
    sys.exit(3)

MAX_TEXT = 1 << 18
"""Characters of a stream in one line."""
MAX_BUNDLE = 6 << 20
"""Characters of a MIME bundle; larger ones lose their largest members."""
MAX_TRACEBACK = 1 << 18
FONTS = os.path.join(sys.prefix, "share", "unsandbox", "matplotlib")
"""List of fonts, made when the environment was built, which takes seconds."""
_DELIMITER = b"<IDS|MSG>"
_READY_S = 60.0
_SETUP = r"""
def _unsandbox_setup():
    import json
    import sys
    from IPython import get_ipython
    shell = get_ipython()
    kind = "application/vnd.unsandbox.data+json"

    def table(frame):
        # At most 1,000 rows: it is for display, and the client can read files.
        return json.loads(frame.head(1000).to_json(orient="split", date_format="iso", default_handler=str))

    class Raw(type(shell.display_formatter.formatters["application/json"])):
        format_type = kind
        print_method = "_unsandbox_data_"
        _return_type = dict

    raw = Raw(parent=shell.display_formatter)
    raw.enabled = True
    raw.for_type_by_name("pandas.core.frame", "DataFrame", table)
    raw.for_type_by_name("pandas", "DataFrame", table)
    shell.display_formatter.formatters[kind] = raw
    if kind not in shell.display_formatter.active_types:
        shell.display_formatter.active_types = [*shell.display_formatter.active_types, kind]

    def variables():
        found = []
        hidden = shell.user_ns_hidden
        for name in sorted(shell.user_ns):
            value = shell.user_ns[name]
            if name.startswith("_") or hidden.get(name) is value:
                continue
            entry = {"name": name[:200], "type": type(value).__name__[:200]}
            if type(value) in (int, float, str, bytes, bool, type(None)):
                entry["value"] = repr(value[:200] if type(value) in (str, bytes) else value)[:200]
            shape = getattr(value, "shape", None)
            if type(shape) is tuple and all(type(one) is int for one in shape):
                entry["size"] = list(shape)
            elif isinstance(value, (str, bytes, list, tuple, dict, set)):
                entry["size"] = [len(value)]
            found.append(entry)
            if len(found) == 1000:
                break
        return json.dumps(found)

    def environment(changes, kept=[]):
        import os
        if changes is None:
            before = kept.pop()
            os.environ.clear()
            os.environ.update(before)
        else:
            kept[:] = [dict(os.environ)]
            os.environ.update(changes)

    sys._unsandbox_variables = variables
    sys._unsandbox_env = environment

_unsandbox_setup()
del _unsandbox_setup
"""
_VARIABLES = "__import__('sys')._unsandbox_variables()"


def say(**members: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()


class Kernel:
    """One running kernel and the sockets to it."""

    def __init__(self, cwd: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="kernel-", dir="/tmp")
        self.session = uuid.uuid4().hex
        self.context = zmq.Context()
        names = ("shell", "iopub", "stdin", "control", "hb")
        ports = {f"{name}_port": number for number, name in enumerate(names, 1)}
        file = os.path.join(self.folder, "connection.json")
        with open(file, "w") as target:
            members = {"transport": "ipc", "ip": f"{self.folder}/socket", "key": "", **ports}
            json.dump(members, target)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", file], cwd=cwd, env=self._environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=os.setpgrp,
        )  # fmt: skip
        self.shell = self._connect(zmq.DEALER, 1)
        self.iopub = self._connect(zmq.SUB, 2)
        self.iopub.setsockopt(zmq.SUBSCRIBE, b"")

    def _environment(self) -> dict[str, str]:
        """Return the kernel's variables: the files of its libraries do not belong in the work folder."""
        fonts = os.path.join(self.folder, "matplotlib")
        if os.path.isdir(FONTS):
            shutil.copytree(FONTS, fonts)
        defaults = {"IPYTHONDIR": os.path.join(self.folder, "ipython"), "MPLCONFIGDIR": fonts}
        return {**defaults, **os.environ, "JPY_PARENT_PID": str(os.getpid())}

    def _connect(self, kind: int, number: int) -> Any:
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.RECONNECT_IVL, 5)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(f"ipc://{self.folder}/socket-{number}")
        return socket

    def send(self, kind: str, content: dict[str, Any]) -> str:
        """Send a message on the shell channel; return its id."""
        name = uuid.uuid4().hex
        header = {"msg_id": name, "session": self.session, "username": "sandbox", "msg_type": kind}
        header.update(version="5.3", date=time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()))
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        self.shell.send_multipart([_DELIMITER, b"", *parts])
        return name

    @staticmethod
    def receive(socket: Any) -> tuple[str, str, dict[str, Any]]:
        """Return kind, id of the request, and content of the next message."""
        parts = socket.recv_multipart()
        at = parts.index(_DELIMITER)
        header, parent, _, content = (
            json.loads(part.decode("utf-8", "replace")) for part in parts[at + 2 : at + 6]
        )
        return header["msg_type"], parent.get("msg_id", ""), content

    def wait_ready(self) -> None:
        """Wait until the kernel answers and its output arrives here."""
        ends = time.monotonic() + _READY_S
        answered = heard = False
        self.send("kernel_info_request", {})
        while not (answered and heard):
            if self.process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError("the kernel did not start")
            if self.shell.poll(0 if answered else 20):
                self.receive(self.shell)
                answered = True
            while self.iopub.poll(20 if answered else 0):
                self.receive(self.iopub)
                heard = True
            if answered and not heard:
                self.send("kernel_info_request", {})
        while self.shell.poll(0):
            self.receive(self.shell)

    def signal(self, number: int) -> None:
        """Send a signal to the kernel and its children in its process group."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, number)

    def close(self) -> int:
        """End the kernel; return its exit code."""
        self.signal(signal.SIGKILL)
        code = self.process.wait()
        self.shell.close()
        self.iopub.close()
        self.context.term()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code


class Driver:
    """Passes requests to the kernel, and its messages back."""

    def __init__(self, cwd: str) -> None:
        self.cwd = cwd
        self.kernel = Kernel(cwd)
        self.pending = bytearray()
        self.values: dict[str, Any] = {}

    def start(self) -> None:
        """Wait for the kernel and prepare it."""
        self.kernel.wait_ready()
        self.execute(_SETUP, silent=True, report=False)
        say(type="ready")

    def restart(self) -> int:
        """Replace the kernel; return the exit code of the old one."""
        code = self.kernel.close()
        self.kernel = Kernel(self.cwd)
        self.start()
        return code

    def serve(self) -> None:
        """Serve until standard input ends."""
        self.start()
        poller = zmq.Poller()
        poller.register(0, zmq.POLLIN)
        while True:
            poller.poll(1000)
            for request in self.requests():
                self.carry_out(request)
            if self.kernel.process.poll() is not None:
                say(type="died", exit_code=self.restart())

    def requests(self) -> list[dict[str, Any]]:
        """Return the complete lines of standard input."""
        data = b""
        if select_readable(0):
            data = os.read(0, 1 << 20)
            if not data:
                sys.exit(0)
        self.pending += data
        *lines, rest = bytes(self.pending).split(b"\n")
        self.pending = bytearray(rest)
        return [json.loads(line.decode("utf-8", "surrogatepass")) for line in lines if line]

    def carry_out(self, request: dict[str, Any]) -> None:
        """Carry out one request."""
        do, name = request["do"], request.get("id")
        if do == "restart":
            self.restart()
        elif do == "variables":
            self.variables(name)
        elif do == "run":
            say(type="started", id=name)
            status, count = self.run(request)
            say(type="done", id=name, status=status, execution_count=count)

    def run(self, request: dict[str, Any]) -> tuple[str, int | None]:
        """Run code with variables of its own in the environment."""
        env = request.get("env")
        if env:
            self.execute(f"__import__('sys')._unsandbox_env({env!r})", silent=True, report=False)
        answer = self.execute(request["code"], silent=bool(request.get("silent")), report=True)
        if env and answer[0] != "died":
            self.execute("__import__('sys')._unsandbox_env(None)", silent=True, report=False)
        return answer

    def variables(self, name: str | None) -> None:
        """Answer with the variables."""
        self.execute("", silent=True, report=False, expressions={"v": _VARIABLES})
        value = self.values.get("v", {})
        text = value.get("data", {}).get("text/plain", "'[]'") if value.get("status") == "ok" else "'[]'"
        say(type="variables", id=name, variables=json.loads(ast.literal_eval(text)))

    def execute(
        self, code: str, *, silent: bool, report: bool, expressions: dict[str, str] | None = None
    ) -> tuple[str, int | None]:
        """Execute code and report its output; return the status and the number of the execution."""
        kernel = self.kernel
        content = {
            "code": code, "silent": silent, "store_history": not silent, "user_expressions": expressions or {},
            "allow_stdin": False, "stop_on_error": True,
        }  # fmt: skip
        exchange = Exchange(kernel.send("execute_request", content), report)
        poller = zmq.Poller()
        for socket in (kernel.shell, kernel.iopub, 0):
            poller.register(socket, zmq.POLLIN)
        while not exchange.complete:
            ready = dict(poller.poll(200))
            if 0 in ready and self.told_while_busy():
                return "died", None
            while kernel.iopub.poll(0):
                exchange.take(*kernel.receive(kernel.iopub))
            while kernel.shell.poll(0):
                exchange.answer(*kernel.receive(kernel.shell))
            if not ready and kernel.process.poll() is not None:
                say(type="died", exit_code=self.restart())
                return "died", None
        reply = exchange.reply or {}
        self.values = reply.get("user_expressions", {})
        return ("ok" if reply.get("status") == "ok" else "error"), reply.get("execution_count")

    def told_while_busy(self) -> bool:
        """Handle requests that arrive during a run; return whether the kernel was replaced."""
        waiting = []
        replaced = False
        for request in self.requests():
            if request["do"] == "interrupt":
                self.kernel.signal(signal.SIGINT)
            elif request["do"] == "restart":
                self.restart()
                replaced = True
            else:
                waiting.append(json.dumps(request).encode() + b"\n")
        self.pending = bytearray(b"".join(waiting)) + self.pending
        return replaced


class Exchange:
    """One request to execute code, until its output and its answer are complete."""

    def __init__(self, name: str, report: bool) -> None:
        self.name = name
        self.reports = report
        self.idle = self.failed = False
        self.reply: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether all of it has arrived."""
        return self.idle and self.reply is not None

    def take(self, kind: str, parent: str, body: dict[str, Any]) -> None:
        """Take a message of the output channel."""
        if parent != self.name:
            return
        if kind == "status" and body.get("execution_state") == "idle":
            self.idle = True
        elif self.reports:
            self.failed = self.failed or kind == "error"
            report_message(kind, body)

    def answer(self, kind: str, parent: str, body: dict[str, Any]) -> None:
        """Take a message of the request channel."""
        if parent == self.name and kind == "execute_reply":
            self.reply = body
            if body.get("status") == "error" and self.reports and not self.failed:
                self.failed = True
                report_message("error", body)


def report_message(kind: str, body: dict[str, Any]) -> None:
    """Report one message of the kernel."""
    if kind == "stream":
        text = str(body.get("text", ""))
        for start in range(0, len(text), MAX_TEXT):
            say(type=str(body.get("name")), text=text[start : start + MAX_TEXT])
    elif kind in ("execute_result", "display_data", "update_display_data"):
        name = {"execute_result": "result", "display_data": "display"}.get(kind, "update")
        say(type=name, data=bounded(body.get("data", {})), metadata=body.get("metadata", {}),
            display_id=body.get("transient", {}).get("display_id"))  # fmt: skip
    elif kind == "clear_output":
        say(type="clear", wait=bool(body.get("wait")))
    elif kind == "error":
        lines = [str(line) for line in body.get("traceback", [])]
        say(type="error", name=str(body.get("ename"))[:1000], value=str(body.get("evalue"))[:MAX_TRACEBACK],
            traceback=cut(lines))  # fmt: skip


def bounded(data: dict[str, Any]) -> dict[str, Any]:
    """Return a MIME bundle without the members that are too large."""
    sizes = {
        kind: len(value) if isinstance(value, str) else len(json.dumps(value)) for kind, value in data.items()
    }
    total = sum(sizes.values())
    for kind in sorted(sizes, key=lambda kind: -sizes[kind]):
        if total <= MAX_BUNDLE:
            break
        total -= sizes[kind]
        data.pop(kind)
        text = f"<{kind} of {sizes[kind]} characters: too large to show; write it to a file>"
        data.setdefault("text/plain", text)
    return data


def cut(lines: list[str]) -> list[str]:
    """Return the lines of a traceback, the last ones if there are too many."""
    kept: list[str] = []
    size = 0
    for line in reversed(lines):
        size += len(line)
        if size > MAX_TRACEBACK:
            kept.append(line[-MAX_TRACEBACK // 2 :])
            break
        kept.append(line)
    return kept[::-1]


def select_readable(fd: int) -> bool:
    """Return whether a descriptor has bytes, or its end."""
    return bool(select.select([fd], [], [], 0)[0])


def main() -> None:
    """Start the kernel and serve."""
    driver = Driver(os.getcwd())
    try:
        driver.serve()
    finally:
        driver.kernel.close()


if __name__ == "__main__":
    main()
