"""The functions of the seed: names, order of arguments, results and errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.client.aids_async import LIBRARY_ERROR
from tests.client.fake import JOB, PUBLIC, SECRET, FakeServer, reply

import un_async
import unsandbox
from un_async import (
    CredentialsError,
    cancel_job,
    detect_language,
    execute_async,
    execute_code,
    get_job,
    get_languages,
    health_check,
    list_jobs,
    validate_keys,
    wait_for_job,
)

KEYS = (PUBLIC, SECRET)


@pytest.fixture(autouse=True)
def api_base(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the functions at the scripted server, as their users may."""
    monkeypatch.setattr(un_async, "API_BASE", fake.url)


async def test_results_are_the_servers_dicts_as_they_came(fake: FakeServer) -> None:
    fake.script(reply(200, JOB | {"new_member": [1]}))
    assert await execute_code("python", "print(1)", *KEYS) == JOB | {"new_member": [1]}
    assert await get_job("j1", *KEYS) == JOB | {"new_member": [1]}
    assert await wait_for_job("j1", *KEYS) == JOB | {"new_member": [1]}
    assert await wait_for_job("j1", PUBLIC, SECRET, 5) == JOB | {"new_member": [1]}
    assert await cancel_job("j1", *KEYS) == JOB | {"new_member": [1]}
    assert all(request.signature_is_right() for request in fake.requests)


async def test_lists_ids_and_yes_or_no(fake: FakeServer) -> None:
    fake.routes(
        POST_execute_async=reply(202, {"job_id": "j1"}),
        GET_jobs=reply(200, {"jobs": [JOB], "count": 1}),
        POST_keys=reply(200, {"valid": True}),
        GET_health=reply(200, b"fine"),
    )
    assert await execute_async("python", "print(1)", *KEYS) == "j1"
    assert await list_jobs(*KEYS) == [JOB]
    assert await validate_keys(*KEYS) == {"valid": True}
    assert await health_check() is True
    fake.script(reply(500))
    assert await health_check() is False


async def test_further_options_travel(fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\x00\xff")
    await execute_code(
        "python",
        "print(1)",
        *KEYS,
        env={"A": "1"},
        input_files=[tmp_path / "data.bin"],
        network_mode="semitrusted",
        vcpu=2,
        ttl=7,
        return_artifacts=True,
    )
    assert fake.requests[0].json() == {
        "language": "python",
        "code": "print(1)",
        "env": {"A": "1"},
        "input_files": [{"filename": "data.bin", "content": "AP8="}],
        "network_mode": "semitrusted",
        "vcpu": 2,
        "ttl": 7,
        "return_artifacts": True,
    }


async def test_errors_are_those_of_the_seed(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CredentialsError) as missing:
        await execute_code("python", "print(1)")
    assert isinstance(missing.value, unsandbox.UnsandboxError)
    fake.script(reply(404, {"error": "not_found", "message": "no such job"}))
    with pytest.raises(LIBRARY_ERROR, match="no such job"):
        await get_job("j1", *KEYS)
    fake.script(reply(200, b"<html>"))
    with pytest.raises(ValueError, match="JSON"):
        await get_job("j1", *KEYS)
    fake.script(reply(200, {"status": "pending"}))
    with pytest.raises(ValueError, match="job id"):
        await execute_async("python", "print(1)", *KEYS)
    fake.script(reply(200, {"status": "running", "job_id": "j1"}))
    with pytest.raises(TimeoutError):
        await wait_for_job("j1", *KEYS, timeout=0.01)
    monkeypatch.setattr(un_async, "API_BASE", "http://127.0.0.1:1")
    with pytest.raises(LIBRARY_ERROR):
        await cancel_job("j1", *KEYS)


@pytest.mark.parametrize(
    "options",
    [
        {"language": ""},
        {"language": None},
        {"code": b"print(1)"},
        {"code": "\ud800"},
        {"env": {"A": "\ud800"}},
        {"env": {"A": "a\0b"}},
        {"env": {"A=B": "x"}},
        {"env": {"": "x"}},
        {"env": {"A": 1}},
        {"env": ["A"]},
        {"env": {f"V{number}": "" for number in range(257)}},
        {"input_files": {"..": b""}},
        {"input_files": {"a": b"", "a/x": b""}},
        {"input_files": {"x": 5}},
        {"input_files": {"x": "\ud800"}},
        {"input_files": "name.txt"},
        {"input_files": ["/does/not/exist"]},
        {"input_files": [5]},
        {"network_mode": "open"},
        {"vcpu": 0},
        {"vcpu": True},
        {"ttl": 901},
        {"ttl": "60"},
        {"stdin": 5},
    ],
)
async def test_what_cannot_be_sent_is_refused_here(fake: FakeServer, options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"language": "python", "code": "print('private')"} | options
    with pytest.raises(ValueError, match=r".") as caught:
        await execute_code(**arguments, public_key=PUBLIC, secret_key=SECRET)
    assert isinstance(caught.value, unsandbox.InvalidRequestError)
    assert "private" not in str(caught.value)
    assert fake.requests == []


async def test_the_account_may_be_chosen_per_call(fake: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / ".unsandbox"
    folder.mkdir()
    (folder / "accounts.csv").write_text("pk-0,sk-0\npk-1,sk-1\n")
    (folder / "accounts.csv").chmod(0o600)
    for options in ({}, {"account": 1}, {"account_index": "1"}):
        await get_job("j1", **options)
    sent = [request.headers["authorization"] for request in fake.requests]
    assert sent == ["Bearer pk-0", "Bearer pk-1", "Bearer pk-1"]
    with pytest.raises(ValueError, match="only one"):
        await get_job("j1", account=0, account_index=0)


async def test_the_environment_may_name_the_server_at_any_time(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("UNSANDBOX_API_BASE", fake.url)
    assert await health_check() is True
    assert fake.seen() == ["GET /health"]


async def test_all_calls_share_connections(fake: FakeServer) -> None:
    for number in range(5):
        await get_job("j1", f"pk-{number}", SECRET)
    assert fake.connections == 1


async def test_languages_are_kept_for_an_hour(fake: FakeServer, tmp_path: Path) -> None:
    fake.script(reply(200, {"languages": ["python", "c"], "count": 2}))
    assert await get_languages() == ["python", "c"]
    assert await get_languages(*KEYS) == ["python", "c"]
    assert len(fake.requests) == 1
    (kept,) = (tmp_path / ".unsandbox").iterdir()
    assert kept.name != "languages.json", "another server's list must not mask the hosted one's"
    assert json.loads(kept.read_text())["languages"] == ["python", "c"]
    old = kept.stat().st_mtime - 3601
    os.utime(kept, (old, old))
    assert await get_languages() == ["python", "c"]
    assert len(fake.requests) == 2


@pytest.mark.parametrize("answer", [{}, {"languages": "python"}, {"languages": [1]}])
async def test_a_list_of_languages_that_is_none_is_an_invalid_response(
    fake: FakeServer, answer: dict[str, Any]
) -> None:
    fake.script(reply(200, answer))
    with pytest.raises(ValueError, match="languages"):
        await get_languages()


async def test_detection_needs_no_network() -> None:
    assert detect_language("a/b.d/Script.PY") == "python"
    assert detect_language("Makefile") is None
