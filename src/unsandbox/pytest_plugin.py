"""Fixtures and markers of pytest for tests that run code in sandboxes; active wherever unsandbox is installed.

Nothing is imported or started until a test asks for a fixture.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from unsandbox import AsyncClient, Client, Job, LiveSession

_MARKERS = (
    "unsandbox_language(name): skip the test where the language cannot run",
    "unsandbox_isolation(name): isolation of the fixtures `unsandbox_session` and `unsandbox_execute`",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this plugin."""
    group = parser.getgroup("unsandbox", "code in sandboxes")
    group.addoption("--unsandbox-base", metavar="URL", help="server instead of the embedded engine")
    group.addoption(
        "--unsandbox-record", metavar="DIR", type=Path, help="write the results of unsandbox_execute to files"
    )
    group.addoption(
        "--unsandbox-replay", metavar="DIR", type=Path, help="take the results from these files; nothing is run"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and check the options."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("--unsandbox-record") and config.getoption("--unsandbox-replay"):
        raise pytest.UsageError("give either --unsandbox-record or --unsandbox-replay")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests with the marker of languages look for these first."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("unsandbox_language") is not None:
            item.fixturenames.insert(0, "_look_for_languages")


def _replayed(config: pytest.Config) -> Path | None:
    folder: Path | None = config.getoption("--unsandbox-replay")
    return folder


def _isolation(request: pytest.FixtureRequest) -> Any:
    marker = request.node.get_closest_marker("unsandbox_isolation")
    return marker.args[0] if marker is not None and marker.args else None


@pytest.fixture(scope="session")
def unsandbox_base(pytestconfig: pytest.Config) -> str:
    """URL of the server, or `local` for the embedded engine; skips the test where there is none."""
    from unsandbox import EngineError, local

    if _replayed(pytestconfig) is not None:
        pytest.skip("results are replayed, and this test needs an engine")
    given = pytestconfig.getoption("--unsandbox-base")
    if given:
        return str(given)
    if sys.platform != "linux":
        pytest.skip("the embedded engine needs Linux; name a server with --unsandbox-base")
    try:
        local.ensure_started()
    except EngineError as error:
        pytest.skip(f"the embedded engine cannot run here: {error}")
    return "local"


@pytest.fixture(scope="session")
def unsandbox_client(unsandbox_base: str) -> Iterator[Client]:
    """A `Client` of the embedded engine, or of the server in `--unsandbox-base`."""
    from unsandbox import Client

    with Client(base_url=unsandbox_base) as client:
        yield client


@pytest.fixture
def unsandbox_async_client(unsandbox_base: str) -> AsyncClient:
    """An `AsyncClient` for one `async with` block of the test."""
    from unsandbox import AsyncClient

    return AsyncClient(base_url=unsandbox_base)


@pytest.fixture
def unsandbox_session(request: pytest.FixtureRequest, unsandbox_client: Client) -> Iterator[LiveSession]:
    """A session for one test, deleted at its end."""
    with unsandbox_client.session(isolation=_isolation(request)) as session:
        yield session


@pytest.fixture
def unsandbox_execute(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Callable[..., Job]:
    """A function that runs a program without network and returns its `Job`; arguments as of `Client.execute`.

    With `--unsandbox-record DIR` each result is written to a file, with `--unsandbox-replay DIR` it is read.
    """
    isolation = _isolation(request)

    def execute(language: str, code: str, **options: Any) -> Job:
        options = {"isolation": isolation, **options, "network_mode": "zerotrust"}
        replay, record = _replayed(pytestconfig), pytestconfig.getoption("--unsandbox-record")
        name = _name(language, code, options)
        if replay is not None:
            return _read(replay / name, language)
        job: Job = request.getfixturevalue("unsandbox_client").execute(language, code, **options)
        if record is not None:
            record.mkdir(parents=True, exist_ok=True)
            (record / name).write_text(json.dumps(job.to_dict(), indent=1, sort_keys=True) + "\n")
        return job

    return execute


@pytest.fixture
def _look_for_languages(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("unsandbox_language")
    if marker is None or _replayed(request.config) is not None:
        return
    languages = request.getfixturevalue("unsandbox_client").languages()
    missing = [
        name for name in marker.args if name not in languages.languages and name not in languages.aliases
    ]
    if missing:
        pytest.skip(f"cannot run {', '.join(missing)} here")


def _name(language: str, code: str, options: dict[str, Any]) -> str:
    """Return the file name for a program: the same program with the same options has the same one."""
    try:
        text = json.dumps([language, code, options], sort_keys=True)
    except TypeError as error:
        raise TypeError("unsandbox_execute takes plain values: text, numbers, lists and dicts") from error
    return f"{language}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def _read(path: Path, language: str) -> Job:
    from unsandbox import Job
    from unsandbox.protocol import codec

    try:
        members = json.loads(path.read_text())
    except FileNotFoundError:
        pytest.fail(
            f"no recorded result for this {language} program ({path}); run the test with "
            f"--unsandbox-record {path.parent}",
            pytrace=False,
        )
    return codec.response_from_wire(members, Job)
