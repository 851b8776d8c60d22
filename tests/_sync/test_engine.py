# Generated from tests/_async/test_engine.py by scripts/unasync.py; change that one.
# ruff: noqa: SIM117 - what `async with` kept apart
"""Both clients against the real engine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.client.aids_sync import gather

import un
from unsandbox import (
    AuthenticationError,
    BadRequestError,
    Client,
    Credentials,
    InputFile,
    JobStatus,
    NotFoundError,
    WaitTimeoutError,
)
from unsandbox.local import LocalServer


def test_a_program_runs_and_its_result_is_typed(real: Client) -> None:
    job = real.execute("python", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (job.status, job.exit_code, job.ok) == (JobStatus.COMPLETED, 3, False)
    assert (job.stdout, job.stderr, job.stdout_bytes) == ("out\n", "err\n", b"out\n")
    assert (job.total_time_ms or 0) > 0


def test_options_reach_the_program(real: Client, tmp_path: Path) -> None:
    (tmp_path / "from disk.bin").write_bytes(bytes(range(256)))
    code = """
import os, sys, pathlib, hashlib
print(os.environ['GREETING'], sys.stdin.read())
for path in sorted(pathlib.Path('/tmp/input').iterdir()):
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest()[:8])
pathlib.Path('/tmp/artifacts/made').write_bytes(b'\\x00\\xff')
"""
    job = real.execute(
        "python",
        code,
        env={"GREETING": "grüß"},
        stdin="dich",
        input_files=[tmp_path / "from disk.bin", InputFile.of("given", b"x")],
        return_artifacts=True,
        ttl=20,
        vcpu=1,
        network_mode="zerotrust",
    )
    assert job.stdout == "grüß dich\nfrom disk.bin 40aff2e9\ngiven 2d711642\n"
    assert job.artifacts is not None
    assert [(made.filename, made.data) for made in job.artifacts] == [("made", b"\x00\xff")]


def test_bytes_that_are_not_text_come_back_as_they_were(real: Client) -> None:
    job = real.execute(
        "python", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", stdin=b"\xff\0a"
    )
    assert job.stdout_bytes == b"\xff\0a"


def test_submit_look_wait_list_cancel(real: Client) -> None:
    job = real.submit("bash", "read line; echo $line", stdin="hello\n")
    assert job.job_id is not None
    done = real.wait(job.job_id, timeout=20)
    assert done.stdout == "hello\n"
    assert (real.get_job(job.job_id)).stdout == "hello\n"
    assert (real.cancel(job.job_id)).status == "completed"
    assert job.job_id in [listed.job_id for listed in (real.list_jobs(limit=50)).jobs]


def test_cancel_keeps_the_output_so_far(real: Client) -> None:
    job = real.submit("python", "import time; print('half', flush=True); time.sleep(60)")
    assert job.job_id is not None
    with pytest.raises(WaitTimeoutError):
        real.wait(job.job_id, timeout=0.5, keep=True)
    ended = real.cancel(job.job_id)
    assert (ended.status, ended.stdout) == ("cancelled", "half\n")


def test_the_deadline_ends_the_job_and_brings_its_output(real: Client) -> None:
    began = time.monotonic()
    with pytest.raises(WaitTimeoutError) as caught:
        real.execute("python", "import time; print('half', flush=True); time.sleep(60)", timeout=1)
    assert time.monotonic() - began < 4
    assert (caught.value.partial.status, caught.value.partial.stdout) == ("cancelled", "half\n")


def test_the_programs_own_limit_is_a_status(real: Client) -> None:
    job = real.execute("python", "import time; print('half', flush=True); time.sleep(60)", ttl=1)
    assert (job.status, job.stdout) == ("timeout", "half\n")


def test_what_the_server_refuses(real: Client, engine: LocalServer) -> None:
    with pytest.raises(BadRequestError, match="python"):
        real.execute("pyhton", "print(1)")
    with pytest.raises(NotFoundError):
        real.get_job("nö/such?job")
    for keys in ((engine.public_key, "unsb-sk-wrong"), ("unsb-pk-wrong", engine.secret_key)):
        with Client(*keys, base_url=engine.url) as stranger:
            with pytest.raises(AuthenticationError):
                stranger.validate_keys()


def test_keys_languages_health(real: Client, engine: LocalServer) -> None:
    info = real.validate_keys()
    assert (info.valid, info.public_key) == (True, engine.public_key)
    assert "python" in (real.languages()).languages
    assert (real.health()).status


def test_many_at_once_each_with_its_own_output(real: Client) -> None:
    jobs = gather(*(lambda number=number: real.execute("bash", f"echo {number}") for number in range(40)))
    assert [job.stdout for job in jobs] == [f"{number}\n" for number in range(40)]


def test_local_needs_no_keys_and_ignores_those_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client.local() as client:
        assert (client.execute("bash", "echo local")).stdout == "local\n"
    with Client("unsb-pk-x", "unsb-sk-x", base_url="local") as client:
        assert (client.execute("bash", "echo local")).stdout == "local\n"
    monkeypatch.setenv("UNSANDBOX_API_BASE", "local")
    assert (un.execute_code("bash", "echo local"))["stdout"] == "local\n"
    job_id = un.execute_async("bash", "echo local", "unsb-pk-x", "unsb-sk-x")
    assert (un.wait_for_job(job_id))["stdout"] == "local\n"
    assert "bash" in un.get_languages()


def test_credentials_show_nothing() -> None:
    assert "unsb" not in repr(Credentials("unsb-pk-1", "unsb-sk-1"))
