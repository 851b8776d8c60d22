"""What several test folders need: a signature made without our code, and a real `un serve` process."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

REPO = Path(__file__).resolve().parent.parent
SOURCE = REPO / "src"
OPTIONAL = "a toolchain that only make test-languages installs"
"""Why a test is skipped, for the budget of skips (tests/conftest.py)."""
ABSENT = "a program that scripts/bootstrap does not install"
"""The same, for programs that run as services, and interpreters of the system."""

ENVIRONMENT = "an environment that `un env build data` makes"
"""The same for tests of contexts; scripts/bootstrap --full builds it."""

FRAMEWORKS = "a framework that only make test-frameworks installs"
"""The same for the folder tests/frameworks."""
CLIENTS = "a foreign client that only make test-clients installs"
"""The same for the folder tests/clients."""

UN = [sys.executable, "-m", "unsandbox.cli"]


def signature_headers(
    public_key: str, secret_key: str, method: str, target: str, body: bytes, timestamp: str | None = None
) -> dict[str, str]:
    """Sign: HMAC-SHA256 of `timestamp:METHOD:path:body`."""
    timestamp = timestamp or str(int(time.time()))
    message = f"{timestamp}:{method}:{target}:".encode() + body
    return {
        "Authorization": f"Bearer {public_key}",
        "X-Timestamp": timestamp,
        "X-Signature": hmac.new(secret_key.encode(), message, hashlib.sha256).hexdigest(),
        "Content-Type": "application/json",
    }


def default_signals() -> None:
    """Between fork and exec: hear what `nohup`, or a script that starts the tests with `&`, ignores for them."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def un(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run([*UN, *arguments], capture_output=True, text=True, check=check, timeout=60)


SERVERS: list[Serve] = []
"""Those whose log is still to be looked at (tests/loop_time.py)."""


def _content(file: int, offset: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size - offset, offset)


class Serve:
    """A real `un serve` process."""

    def __init__(self, data: Path, *arguments: str, program: Sequence[str] = UN) -> None:
        self.data = data
        # A file and no pipe, which nobody would read while the server runs: a full one would stop it.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `wait`
        self.process = subprocess.Popen(
            [*program, "serve", "--port", "0", "--data", str(data), *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self.log = ""
        self._log_seen = 0
        SERVERS.append(self)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.wait()
            raise AssertionError(f"un serve did not start: {self.log}")
        self.first_line: dict[str, Any] = json.loads(line)
        self.url: str = self.first_line["url"]

    def keys(self) -> tuple[str, str]:
        """Return the pair that the server made at its first start."""
        public, secret = (self.data / "accounts.csv").read_text().strip().split(",")
        return public, secret

    def call(
        self,
        keys: tuple[str, str],
        method: str,
        target: str,
        body: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[int, dict[str, Any]]:
        """Send one signed request."""
        data = b"" if body is None else json.dumps(body).encode()
        headers = signature_headers(*keys, method, target, data)
        request = urllib.request.Request(self.url + target, data or None, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60, **options) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def stop(self) -> int:
        """SIGTERM, and wait."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """SIGKILL the server process alone."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.wait()

    def new_log(self) -> str:
        """Return the whole lines that the log has got since the last call."""
        closed = self._log.closed
        new = self.log.encode()[self._log_seen :] if closed else _content(self._log.fileno(), self._log_seen)
        whole = new[: new.rfind(b"\n") + 1]
        self._log_seen += len(whole)
        return whole.decode(errors="replace")

    def wait(self) -> int:
        """Wait for the end and keep the log."""
        self.process.communicate(timeout=60)
        if not self._log.closed:
            with self._log as log:
                log.seek(0)
                self.log = log.read()
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.kill()
        self.wait()


def self_signed(folder: Path) -> tuple[str, str]:
    """Make a certificate for this machine, which is its own CA; return the paths of it and of its key."""
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:*.localhost",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def eventually(condition: Any, seconds: float = 10.0) -> Any:
    """Return the first true value of `condition()`; fail when it does not come in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"did not become true within {seconds} s")
        time.sleep(0.01)
    return value
