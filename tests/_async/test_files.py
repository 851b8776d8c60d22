"""Large files, in and out: streamed, exact, repeated as a whole, and never more in memory than there must be."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from tests._async.conftest import new_key
from tests.client.proxy import PASS, Fate, Proxy
from tests.support import Serve

import un_async
from unsandbox import AsyncClient, Hooks, InputFile, InvalidRequestError, ResultEvent, RetryPolicy

LARGE = os.urandom(2_000_003)
SUMS = "cd /tmp/input && sha256sum -- * | cut -c1-64,67-"


def sums(**files: bytes) -> str:
    """Return what `SUMS` prints."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}{name}\n" for name, data in sorted(files.items()))


async def test_large_files_arrive_whatever_they_are_given_as(real: AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "path"
    path.write_bytes(LARGE)
    with path.open("rb") as opened:
        opened.seek(1000)
        given = {
            "path": path,
            "bytes": LARGE,
            "opened": opened,
            "memory": io.BytesIO(LARGE[5:]),
            "small": b"s",
            "edge": LARGE[: 1 << 16],
        }
        job = await real.execute("bash", SUMS, input_files=given)
        assert opened.read() == b"", "an open file is read to its end"
    assert job.stdout == sums(
        path=LARGE, bytes=LARGE, opened=LARGE[1000:], memory=LARGE[5:], small=b"s", edge=LARGE[: 1 << 16]
    )
    job = await real.execute("bash", SUMS, input_files=[path, InputFile.of("made", LARGE)])
    assert job.stdout == sums(path=LARGE, made=LARGE)


async def test_a_folder_keeps_its_folders_both_ways(real: AsyncClient, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "a.txt").write_text("a")
    (top / "sub" / "a.txt").write_text("another")
    (top / "sub" / "deep" / "large").write_bytes(LARGE)
    files: list[Any] = [top, InputFile.of("given/x", b"x")]
    code = "cd /tmp/input && find . -type f | sort && cp -r sub given /tmp/artifacts && ln -s / /tmp/artifacts/root"
    job = await real.execute("bash", code, input_files=files, return_artifacts=True)
    assert (job.stdout or "").split() == ["./a.txt", "./given/x", "./sub/a.txt", "./sub/deep/large"]
    assert job.artifacts_skipped == ["root: symbolic link"]
    saved = {artifact.save(tmp_path / "out") for artifact in job.artifacts or ()}
    assert {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in saved} == {
        "given/x": b"x",
        "sub/a.txt": b"another",
        "sub/deep/large": LARGE,
    }


async def test_names_that_exclude_each_other_are_refused(real: AsyncClient) -> None:
    for files in ({"a": b"", "a/b": b""}, {"/x/a": b"", "../a": b""}, {"..": b""}, {"a/" * 40: b""}):
        with pytest.raises(InvalidRequestError):
            await real.execute("bash", "true", input_files=files)


async def test_a_session_takes_large_files_too(real: AsyncClient) -> None:
    session = await real.create_session(input_files={"large": LARGE, "sub/small": b"small"})
    assert session.session_id is not None
    try:
        code = f"cat /tmp/input/*/*; mkdir -p /tmp/artifacts; mv /tmp/input/sub /tmp/artifacts; {SUMS}"
        assert (await real.session_command(session.session_id, code)).stdout == "small" + sums(large=LARGE)
        await real.session_command(session.session_id, "mv /tmp/input/large /tmp/artifacts")
    finally:
        deleted = await real.delete_session(session.session_id)
    left = {artifact.filename: artifact.data for artifact in deleted.artifacts or ()}
    assert left == {"large": LARGE, "sub/small": b"small"}


async def test_a_file_that_changes_while_it_is_sent_is_an_error(served: Serve, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LARGE)

    def grow(_: object) -> None:
        path.write_bytes(LARGE + b"more")

    async with AsyncClient(*new_key(served), base_url=served.url, hooks=Hooks(request=grow)) as client:
        with pytest.raises(InvalidRequestError, match="'log' changed while it was being sent"):
            await client.execute("bash", "echo ran", input_files=[path])
        assert (await client.list_jobs()).count == 0


async def test_an_upload_that_is_cut_is_sent_again_and_runs_once(served: Serve, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    fates = [Fate(cut_within=1_000_000), Fate(cut_after=0), Fate(cut_within=10)]
    proxy = Proxy(served.url)
    try:
        retry = RetryPolicy(max_retries=5, base_s=0.001, cap_s=0.01)
        async with AsyncClient(*new_key(served), base_url=proxy.url, retry=retry) as client:
            await client.health()
            proxy.rule = lambda name: fates.pop() if fates and "execute" in name else PASS
            job = await client.execute("bash", SUMS, input_files=[path])
            assert job.stdout == sums(large=LARGE)
            assert (await client.list_jobs()).count == 1
    finally:
        proxy.close()
    assert not fates


MAKE = (
    "head -c 2000003 /tmp/input/large > /tmp/artifacts/made; head -c 9 /tmp/input/large > /tmp/artifacts/small"
)


async def test_large_artifacts_come_back_by_every_way(served: Serve, tmp_path: Path) -> None:
    async with AsyncClient(*new_key(served), base_url=served.url) as client:
        options: dict[str, Any] = {"input_files": {"large": LARGE}, "return_artifacts": True}
        job = await client.execute("bash", MAKE, **options)
        assert job.job_id is not None
        async with client.stream("bash", MAKE, **options) as events:
            results = [event.job async for event in events if isinstance(event, ResultEvent)]
        jobs = [job, await client.get_job(job.job_id), await client.cancel(job.job_id), *results]
        jobs += [
            outcome.result() async for outcome in client.map([{"language": "bash", "code": MAKE, **options}])
        ]
    assert len(jobs) == 5
    for number, job in enumerate(jobs):
        assert job.artifacts is not None
        made, small = sorted(job.artifacts, key=lambda artifact: artifact.filename)
        assert (made.filename, made.size, small.data) == ("made", len(LARGE), LARGE[:9])
        assert made.save(tmp_path / str(number)).read_bytes() == LARGE
        assert base64.b64decode(made.content_base64) == made.data == LARGE
        assert pickle.loads(pickle.dumps(made)).data == LARGE
        assert len(repr(job)) < 1000


async def test_the_functions_send_large_files_and_return_plain_text(
    served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, secret = new_key(served)
    monkeypatch.setenv("UNSANDBOX_API_BASE", served.url)
    files = [InputFile.of("large", LARGE)]
    result = await un_async.execute_code(
        "bash", f"{SUMS}; {MAKE}", public, secret, input_files=files, return_artifacts=True
    )
    assert result["stdout"] == sums(large=LARGE)
    json.dumps(result)
    contents = {artifact["filename"]: artifact["content_base64"] for artifact in result["artifacts"]}
    assert base64.b64decode(contents["made"]) == LARGE
