"""A real engine for what it can show, and a scripted server for what it never does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.client.fake import PUBLIC, SECRET, FakeServer
from tests.support import Serve

from unsandbox import AsyncClient, AsyncLiveSession, RetryPolicy, local
from unsandbox.cli.keys import open_keys
from unsandbox.engine.accounts.keys import KeySettings
from unsandbox.local import LocalServer

AT_ONCE = RetryPolicy(max_retries=2, base_s=0.001)


def new_key(server: Serve, otp_secret: str | None = None, **settings: int) -> tuple[str, str]:
    """Make a key that the server takes at once."""
    with open_keys(server.data) as ring:
        pair = ring.create("", otp_secret, KeySettings(**settings))
    return pair.public_key, pair.secret_key


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keep the keys, caches and proxies of whoever runs the tests out of them."""
    for name in ("PUBLIC_KEY", "SECRET_KEY", "ACCOUNT", "API_BASE"):
        monkeypatch.delenv(f"UNSANDBOX_{name}", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server that does what the test tells it."""
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
async def client(fake: FakeServer) -> AsyncIterator[AsyncClient]:
    """A client of the scripted server that does not dawdle between retries."""
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, retry=AT_ONCE) as made:
        yield made


@pytest.fixture(scope="session")
def engine() -> LocalServer:
    """The embedded engine of this process."""
    return local.ensure_started()


@pytest.fixture(params=["bubblewrap", pytest.param("gvisor", marks=pytest.mark.gvisor)])
async def workspace(real: AsyncClient, request: pytest.FixtureRequest) -> AsyncIterator[AsyncLiveSession]:
    """A session of the embedded engine on each backend."""
    async with real.session(isolation=request.param) as made:
        yield made


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A real server in a process of its own, with a data folder in which `new_key` makes keys."""
    with Serve(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
async def real(engine: LocalServer) -> AsyncIterator[AsyncClient]:
    """A client of the embedded engine that knows it as any server: by URL and keys."""
    async with AsyncClient(engine.public_key, engine.secret_key, base_url=engine.url) as made:
        yield made
