"""The scripted server for tests that are about one client only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.client.fake import FakeServer


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server that does what the test tells it."""
    server = FakeServer()
    yield server
    server.close()
