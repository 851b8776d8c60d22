"""Pydantic AI: its conformance suite of workspace backends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.support import FRAMEWORKS

pytest.importorskip("pydantic_ai", reason=FRAMEWORKS)

from pydantic_ai.workspaces import WorkspaceRef
from pydantic_ai.workspaces.conformance import WorkspaceBackendSuite

from unsandbox.integrations.pydantic_ai import UnsandboxBackend
from unsandbox.integrations.workspace import WorkspaceOptions


class TestConformance(WorkspaceBackendSuite):
    @pytest.fixture
    async def backends(self) -> AsyncIterator[list[UnsandboxBackend]]:
        """What the fixtures made; the sessions are deleted at the end."""
        made: list[UnsandboxBackend] = []
        yield made
        for backend in made:
            await backend.delete()

    @pytest.fixture
    def fresh_backend(
        self, options: WorkspaceOptions, backends: list[UnsandboxBackend]
    ) -> Callable[[], UnsandboxBackend]:
        def make() -> UnsandboxBackend:
            backends.append(UnsandboxBackend(**options))
            return backends[-1]

        return make

    @pytest.fixture
    def backend(self, fresh_backend: Callable[[], UnsandboxBackend]) -> UnsandboxBackend:
        return fresh_backend()

    @pytest.fixture
    def attach_backend(
        self, options: WorkspaceOptions, backends: list[UnsandboxBackend]
    ) -> Callable[[WorkspaceRef], UnsandboxBackend]:
        def attach(ref: WorkspaceRef) -> UnsandboxBackend:
            backends.append(UnsandboxBackend(ref, **options))
            return backends[-1]

        return attach

    @pytest.fixture
    def destroy_environment(self) -> Callable[[UnsandboxBackend], Awaitable[None]]:
        return UnsandboxBackend.delete
