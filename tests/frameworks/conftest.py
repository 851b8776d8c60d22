"""The suites that frameworks ship for providers of sandboxes, on each backend, embedded and on a server.

`make test-frameworks` installs the frameworks into an environment of their own and runs this folder there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import Serve

from unsandbox.integrations.workspace import WorkspaceOptions
from unsandbox.protocol.models import IsolationName


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A real server in a process of its own."""
    with Serve(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="session", params=["embedded", "served"])
def place(request: pytest.FixtureRequest) -> WorkspaceOptions:
    """The server: in this process, or `un serve`."""
    if request.param == "embedded":
        return WorkspaceOptions(base_url="local")
    server: Serve = request.getfixturevalue("served")
    public_key, secret_key = server.keys()
    return WorkspaceOptions(base_url=server.url, public_key=public_key, secret_key=secret_key)


@pytest.fixture(scope="session", params=["bubblewrap", pytest.param("gvisor", marks=pytest.mark.gvisor)])
def options(request: pytest.FixtureRequest, place: WorkspaceOptions) -> WorkspaceOptions:
    """The options of an adapter: a server and a backend."""
    isolation: IsolationName = request.param
    return WorkspaceOptions(**place, isolation=isolation)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop that this project's clients run in."""
    return "asyncio"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what the frameworks write out of the folder of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
