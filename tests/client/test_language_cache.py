"""The file that all clients of the API share."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from unsandbox._shared import language_cache

HOSTED = "https://api.unsandbox.com"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = tmp_path / ".unsandbox"
    folder.mkdir()
    return folder / "languages.json"


@pytest.mark.parametrize(
    "text",
    [
        '["python","c"]',
        '{"languages":["python","c"]}',
        '{"timestamp": "x", "languages": ["python", "c"], "aliases": {"a": 1}, "count": "2"}',
    ],
)
def test_what_other_clients_write_is_read(cache: Path, text: str) -> None:
    cache.write_text(text)
    assert language_cache.load(HOSTED) == ["python", "c"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "5",
        "[]",
        "[1]",
        '{"languages":[]}',
        '{"languages":"python"}',
        '{"x":1}',
        "[" * 10**5,
        "\x80",
    ],
)
def test_what_makes_no_sense_is_not_there(cache: Path, text: str) -> None:
    cache.write_bytes(text.encode("latin-1"))
    assert language_cache.load(HOSTED) is None


@pytest.mark.parametrize("age", [3600, 10**6, -60])
def test_what_is_old_or_from_the_future_is_not_there(cache: Path, age: int) -> None:
    cache.write_text('["python"]')
    os.utime(cache, (time.time() - age, time.time() - age))
    assert language_cache.load(HOSTED) is None


def test_what_is_written_can_be_read_by_others(cache: Path) -> None:
    cache.parent.rmdir()
    language_cache.store(HOSTED, ["python", "c"])
    assert '"languages":["python","c"]' in cache.read_text()
    assert json.loads(cache.read_text())["count"] == 2
    assert language_cache.load(HOSTED + "/") == ["python", "c"]
    assert [path.name for path in cache.parent.iterdir()] == ["languages.json"]


def test_each_server_has_its_own_list(cache: Path) -> None:
    language_cache.store("http://127.0.0.1:8787", ["bash"])
    assert not cache.exists()
    assert language_cache.load(HOSTED) is None
    assert language_cache.load("http://127.0.0.1:8788") is None
    assert language_cache.load("http://127.0.0.1:8787") == ["bash"]
    language_cache.store("local", ["bash"])
    assert language_cache.load("local") is None


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.rmdir()
    cache.parent.write_text("in the way")
    language_cache.store(HOSTED, ["python"])
    assert language_cache.load(HOSTED) is None


def test_a_failed_write_leaves_nothing_behind(cache: Path) -> None:
    cache.mkdir()
    language_cache.store(HOSTED, ["python"])
    assert [path.name for path in cache.parent.iterdir()] == ["languages.json"]
