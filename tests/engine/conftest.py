"""For the tests of the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.engine.saving import World


@pytest.fixture
async def open_world(tmp_path: Path) -> AsyncIterator[Callable[..., World]]:
    worlds: list[World] = []

    def open_world(backend: str = "bubblewrap", **config: int) -> World:
        worlds.append(World(tmp_path / "data", backend, **config))
        return worlds[-1]

    yield open_world
    for world in worlds:
        await world.store.close()


@pytest.fixture
def world(open_world: Callable[..., World]) -> World:
    return open_world()
