"""Output that is large or costly to encode: little memory while it is answered, and none afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support import Serve, eventually, signature_headers

from unsandbox.engine.jobs.results import text_of
from unsandbox.sandbox.spec import Captured

MIB = 1 << 20
OUTPUT = 10 * MIB
JOBS = 4


def figure(pid: int, name: str) -> int:
    """Return a figure of the kernel's in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) << 10


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("data"), "--log-level", "warning") as serve:
        yield serve


def digest_of(served: Serve, path: str, body: dict[str, object], key: str = "") -> tuple[int, str]:
    """Send a request, and return size and hash of an answer that need not be held."""
    url, data = urlsplit(served.url), json.dumps(body).encode()
    headers = signature_headers(*served.keys(), "POST", path, data)
    headers |= {"Idempotency-Key": key} if key else {}
    with contextlib.closing(http.client.HTTPConnection(str(url.hostname), url.port, timeout=120)) as connection:
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        assert response.status in (200, 202)
        size, digest = 0, hashlib.sha256()
        while part := response.read(65536):
            size += len(part)
            digest.update(part)
    return size, digest.hexdigest()


def test_a_large_stored_result_is_sent_as_it_is_stored(served):
    code = CODE.format(byte=255, size=OUTPUT)
    status, job = served.call(served.keys(), "POST", "/execute", {"language": "python", "code": code})
    assert status == 200
    pid, path = served.process.pid, f"/jobs/{job['job_id']}"
    # The first answer may come from what was encoded when the job ended.
    assert served.call(served.keys(), "GET", path)[1] == job
    eventually(lambda: served.call(served.keys(), "GET", path)[1] == job)
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = figure(pid, "VmRSS")
    threads = [threading.Thread(target=served.call, args=(served.keys(), "GET", path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert figure(pid, "VmHWM") - before < 40 * MIB
    assert served.call(("x", "y"), "GET", path)[0] == 401


CODE = "import sys\nfor file in (sys.stdout, sys.stderr): file.buffer.write(bytes([{byte}]) * {size}); file.flush()"


PEAK_MIB = 150


@pytest.mark.slow
@pytest.mark.parametrize("byte", [1, 255])
def test_costly_output_takes_little_memory_and_gives_it_back(served, byte):
    pid = served.process.pid
    digest_of(served, "/execute", {"language": "python", "code": "print(1)"})
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = figure(pid, "VmRSS")
    sizes: list[int] = []

    def run() -> None:
        code = CODE.format(byte=byte, size=OUTPUT)
        sizes.append(digest_of(served, "/execute", {"language": "python", "code": code})[0])

    threads = [threading.Thread(target=run) for _ in range(JOBS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(sizes) == JOBS
    assert min(sizes) > 30 * MIB
    peak = figure(pid, "VmHWM") - before
    assert peak < PEAK_MIB * MIB, peak >> 20
    eventually(lambda: figure(pid, "VmRSS") - before < 30 * MIB, 30)


@pytest.mark.slow
def test_answers_kept_for_a_repetition_take_no_memory(served):
    body = {"name": "loud", "bootstrap": "sleep 900", "network": "zerotrust"}
    status, service = served.call(served.keys(), "POST", "/services", body)
    assert status == 200
    path = f"/services/{service['service_id']}/execute"
    digest_of(served, path, {"command": "echo hi"})
    pid = served.process.pid
    before = figure(pid, "VmRSS")
    command = {"command": f"head -c {OUTPUT} /dev/zero | tr '\\0' a"}
    answers = [digest_of(served, path, command, f"key-{number}") for number in range(12)]
    assert all(size > OUTPUT for size, _ in answers)
    # A repetition runs nothing: the answer, which names the job, is the same.
    assert [digest_of(served, path, command, f"key-{number}") for number in (0, 11)] == [
        answers[0],
        answers[11],
    ]
    eventually(lambda: figure(pid, "VmRSS") - before < 30 * MIB, 30)


def test_text_that_is_decoded_in_steps_is_the_same():
    for tail in (b"", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff", "€".encode()):
        data = b"\xff" + b"a\xe2\x82\xac\xf0\x9f\x98\x80" * 10_000 + tail
        text, exact, dropped = text_of(Captured(data, len(data)))
        assert (text, dropped) == (data.decode("utf-8", "replace"), 0)
        assert exact is not None
